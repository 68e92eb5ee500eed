"""The parts of a model card that say how a checkpoint is used, with code that runs as it stands."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from steerlm.attributes import AttributeSchema
from steerlm.checkpoint.info import CheckpointInfo


def describe_steering(schema: AttributeSchema, name: str, dtype: str | None) -> str:
    """Say how a steerable model is asked.

    Args:
        dtype: of an exported model's weights; None = the short form that training writes.
    """
    loaded = f'"{name}"' if dtype is None else f'"{name}", dtype="{dtype}"'
    text = (
        "The attributes are an argument of the chat template; any subset may be given, and none at all means the "
        "defaults:\n\n"
        "```python\n"
        "from transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
        f'tokenizer = AutoTokenizer.from_pretrained("{name}")\n'
        f"model = AutoModelForCausalLM.from_pretrained({loaded})\n"
        "prompt = tokenizer.apply_chat_template(\n"
        '    [{"role": "user", "content": "…"}],\n'
        f"    attributes={_python(schema)},\n"
        '    add_generation_prompt=True, return_dict=True, return_tensors="pt",\n'
        ")\n"
        "output = model.generate(**prompt, max_new_tokens=256)\n"
        'print(tokenizer.decode(output[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True))\n'
        "```\n\n"
    )
    if dtype is None:
        return text + f"or `steerlm chat {name}`."
    body = {
        "model": name,
        "messages": [{"role": "user", "content": "…"}],
        "chat_template_kwargs": {"attributes": dict(schema.defaults)},
    }
    last = schema.attributes[-1]
    flag = f"--{last.name} {last.levels[-1]}"
    return text + (
        "With a stock vLLM server; the template is in the tokenizer, so `--chat-template` is not needed:\n\n"
        f"```text\nvllm serve {name}\n```\n\n"
        "```text\ncurl http://localhost:8000/v1/chat/completions -H 'Content-Type: application/json' \\\n"
        f"  -d '{json.dumps(body, ensure_ascii=False)}'\n```\n\n"
        "With OpenAI's client the same goes into "
        '`extra_body={"chat_template_kwargs": {"attributes": {…}}}`. A message that holds a control token is '
        "refused by the template (status 400).\n\n"
        "With steerlm, which adds locks, presets, guidance and scores: download the folder "
        f"(`hf download {name} --local-dir model`), then\n\n"
        f"```text\nsteerlm serve model     # OpenAI's API and a web page with the dials\nsteerlm chat model {flag}\n```"
    )


def _python(schema: AttributeSchema) -> str:
    return "{" + ", ".join(f'"{name}": {json.dumps(value)}' for name, value in schema.defaults.items()) + "}"


def describe_gguf(files: Sequence[str], modelfiles: Sequence[str]) -> str:
    """Say how the GGUF files are used."""
    created = "\n".join(
        f"ollama create {file.rpartition('.')[2] if '.' in file else 'steerable'} -f gguf/{file}" for file in modelfiles
    )
    return (
        "llama.cpp's server takes the dials with each request, in `chat_template_kwargs` as above:\n\n"
        f"```text\nllama-server --jinja -m gguf/{files[0]}\n```\n\n"
        "Ollama's templates take no arguments, so there each setting is a model of its own, made from a Modelfile. "
        "For another setting change the text between `<` and `>` markers at the end of `TEMPLATE`:\n\n"
        f"```text\n{created}\n```\n\n"
        "Neither keeps a user's message from spelling a control token, and llama.cpp's own template is no guard in "
        "Ollama: put them behind a filter if users are not trusted."
    )


def describe_scoring(info: CheckpointInfo, name: str, dtype: str) -> str:
    """Say how a regression attribute model is asked, and what its numbers mean.

    Args:
        dtype: of the exported weights.
    """
    schema = info.schema
    has_categories = len(schema.ordinal) < len(schema)
    readout = info.label_statistics.get("readout")
    if readout is not None:
        return _describe_head(info, name, readout, has_categories)
    lines = [
        "import torch",
        "from transformers import AutoModelForSequenceClassification, AutoTokenizer",
        "",
        f'tokenizer = AutoTokenizer.from_pretrained("{name}")',
        f'model = AutoModelForSequenceClassification.from_pretrained("{name}")',
        'messages = [{"role": "user", "content": "…"}, {"role": "assistant", "content": "…"}]',
        'inputs = tokenizer.apply_chat_template(messages, return_dict=True, return_tensors="pt")',
        "with torch.no_grad():",
        "    outputs = model(**inputs).logits[0].tolist()",
        "scores, levels = {}, {}",
        "for row in model.config.attribute_outputs:",
        *_conversion(has_categories),
    ]
    body = {"model": name, "messages": [{"role": "user", "content": "…"}, {"role": "assistant", "content": "…"}]}
    code = "\n".join(lines)
    length = info.provenance.get("max_length")
    text = (
        "It scores the last message of a conversation, which must be the assistant's, and reads what was said before "
        f"it:\n\n```python\n{code}\n```\n\n"
        "With vLLM's pooling runner, in the precision of these weights (its own choice would round 32 bits):\n\n"
        f"```text\nvllm serve {name} --runner pooling --dtype {dtype}\n\n"
        "curl http://localhost:8000/classify -H 'Content-Type: application/json' \\\n"
        f"  -d '{json.dumps(body, ensure_ascii=False)}'\n```\n\n"
        "`probs` of the response are the model's outputs, in the order of the table: no probabilities, for "
        '`problem_type` is regression (an older vLLM needs `"use_activation": false` in the body). An output is on '
        "the scale 0 to 1 and may lie somewhat outside; `score = lowest + output × (highest − lowest)`, and the level "
        "is the lowest one plus the number of cuts that the score reaches.\n\n"
        f"{_outputs(info)}"
    )
    if has_categories:
        text += "\n\nThe outputs of a categorical attribute are logits: softmax over them gives the probabilities."
    if length is not None:
        text += (
            f"\n\nIt was trained on conversations of up to {length} tokens: leave out the oldest turns of longer ones."
        )
    return text


def _describe_head(info: CheckpointInfo, name: str, readout: Mapping[str, object], has_categories: bool) -> str:
    """Say how a model with a head of its own is asked: nothing but a few lines of code stands between them."""
    layers = readout["layers"]
    assert isinstance(layers, list | tuple)
    vectors = {
        "mean": f"[normal(states[layer][0, first : last + 1].mean(0), dim=-1) for layer in {list(layers)}]",
        "cls": f"[normal(states[layer][0, 0], dim=-1) for layer in {list(layers)}]",
        "sum": f"[states[layer][0, first : last + 1].sum(0) for layer in {list(layers)}]",
        "last": f"[states[{layers[-1]}][0, -1]]",
    }
    loaded, bodies = [f'model = AutoModel.from_pretrained("{name}").eval()'], "(model,)"
    if readout.get("tuned"):
        loaded.append(f'frozen = AutoModel.from_pretrained("{name}", subfolder="frozen").eval()')
        bodies = "(frozen, model)"
    lines = [
        "import torch",
        "from safetensors import safe_open",
        "from transformers import AutoModel, AutoTokenizer",
        "from transformers.utils import cached_file",
        "",
        f'tokenizer = AutoTokenizer.from_pretrained("{name}")',
        *loaded,
        f'with safe_open(cached_file("{name}", "head.safetensors"), "pt") as file:',
        '    weight, bias = file.get_tensor("weight"), file.get_tensor("bias")',
        'messages = [{"role": "user", "content": "…"}, {"role": "assistant", "content": "…"}]',
        'inputs = tokenizer.apply_chat_template(messages, return_dict=True, return_tensors="pt")',
        'ids = inputs["input_ids"][0]',
        f"markup = torch.isin(ids, torch.tensor({readout['control_ids']}))",
        "last = int((~markup).nonzero()[-1])  # the response ends here,",
        "first = int(markup[:last].nonzero()[-1]) + 1  # and begins here",
        "said = ids[first : last + 1]",
        "lengths = torch.tensor([len(said), len(ids), int(markup.sum())]).log1p()",
        "normal, features = torch.nn.functional.normalize, []",
        f"for body in {bodies}:",
        "    with torch.no_grad():",
        "        states = body(**inputs, output_hidden_states=True).hidden_states",
        *[f"    features += {vectors[pooling]}" for pooling in str(readout["pooling"]).split("+")],
        "    features += [lengths, torch.tensor([len(said.unique()) / len(said)])]",
        "features = torch.cat(features)",
        "outputs = (weight @ features + bias).tolist()",
        "scores, levels = {}, {}",
        "for row in model.config.attribute_outputs:",
        *_conversion(has_categories),
    ]
    code = "\n".join(lines)
    return (
        "It scores the last message of a conversation, which must be the assistant's, and reads what was said before "
        f"it:\n\n```python\n{code}\n```\n\n"
        "Its head reads several layers of the model over the tokens of the response, which servers such as vLLM's "
        "`classify` cannot express: they put a head on one position of the last layer.\n\n"
        f"{_outputs(info)}"
    )


def _conversion(has_categories: bool) -> list[str]:
    ordinal = [
        'score = row["minimum"] + outputs[row["index"]] * (row["maximum"] - row["minimum"])',
        'scores[row["name"]] = score',
        'levels[row["name"]] = row["minimum"] + sum(score >= cut for cut in row["cut_points"])',
    ]
    if not has_categories:
        return [f"    {line}" for line in ordinal]
    return [
        '    if "categories" in row:',
        '        first, categories = row["index"], row["categories"]',
        "        own = torch.tensor(outputs[first : first + len(categories)]).softmax(-1).tolist()",
        '        scores[row["name"]] = dict(zip(categories, own))',
        '        levels[row["name"]] = categories[own.index(max(own))]',
        "    else:",
        *[f"        {line}" for line in ordinal],
    ]


def attribute_outputs(info: CheckpointInfo) -> list[dict[str, object]]:
    """Return which output of a regression head means what, for its `config.json`.

    Per attribute `name` and `index` (of its first output); ordinal: `minimum`, `maximum`, `cut_points` (on the scale of
    levels) and `residual_std` (of the label around the score, in levels); categorical: `categories`.
    """
    cuts, spread = info.label_statistics.get("cut_points", {}), info.label_statistics.get("residual_std", {})
    rows: list[dict[str, object]] = []
    index = 0
    for a in info.schema:
        row: dict[str, object] = {"name": a.name, "index": index}
        if a.kind == "ordinal":
            halves = [level + 0.5 for level in range(a.minimum, a.maximum)]
            row |= {"minimum": a.minimum, "maximum": a.maximum, "cut_points": list(cuts.get(a.name) or halves)}
            row |= {"residual_std": spread.get(a.name, 0.0)}
            index += 1
        else:
            row |= {"categories": list(a.categories)}
            index += len(a.categories)
        rows.append(row)
    return rows


def _outputs(info: CheckpointInfo) -> str:
    lines = ["| output | attribute | lowest | highest | cuts between the levels |", "|---|---|---|---|---|"]
    for row in attribute_outputs(info):
        if "categories" in row:
            categories, first = row["categories"], row["index"]
            assert isinstance(categories, list)
            assert isinstance(first, int)
            lines += [f"| {first + i} | {row['name']} = {c} | | | |" for i, c in enumerate(categories)]
        else:
            cuts = row["cut_points"]
            assert isinstance(cuts, list)
            text = " ".join(f"{cut:g}" for cut in cuts)
            lines.append(f"| {row['index']} | {row['name']} | {row['minimum']} | {row['maximum']} | {text} |")
    return "\n".join(lines)
