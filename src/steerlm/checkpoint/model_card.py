"""The model card of a checkpoint: what it is, how to use it, the attributes, the data, the recipe and the results.

A card is a pure function of what it shows, so that equal runs write equal files.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from steerlm.attributes import AttributeSchema
from steerlm.checkpoint.models import CheckpointInfo

_WHAT = {
    "sft": "A language model steered by attributes (attribute-conditioned SFT, SteerLM, arXiv 2310.05344).",
    "plain": "A plain SFT baseline: trained on the same data as a steerable model, but without attributes.",
    "regression": "An attribute model (SteerLM, arXiv 2310.05344): it rates a response on every attribute at once.",
    "generative": "An attribute model in the paper's generative form (SteerLM, arXiv 2310.05344): it writes the label "
    "of a response.",
}


def model_card(info: CheckpointInfo, data: Mapping[str, Any], results: Mapping[str, Any]) -> str:
    """Return the text of a checkpoint's `README.md`.

    Args:
        info: of the checkpoint; its provenance names the base model (`base_model`) and the recipe section (`recipe`).
        data: what it was trained on, as name and value.
        results: what came out, as name and value (numbers are shown with four digits).
    """
    steerable = info.kind == "sft" and info.conditioning
    base = str(info.provenance.get("base_model", "?"))
    meta: dict[str, Any] = {
        "library_name": "transformers",
        "pipeline_tag": "text-classification" if info.kind == "regression" else "text-generation",
        "tags": ["steerlm"],
    }
    if base.count("/") == 1 and not base.startswith((".", "/", "~")):
        meta["base_model"] = base
    parts = [
        f"---\n{yaml.safe_dump(meta, sort_keys=False)}---",
        f"# {base.rstrip('/').rsplit('/', 1)[-1]}: {_title(info)}",
        _WHAT[info.kind if info.kind != "sft" or info.conditioning else "plain"],
    ]
    if steerable:
        parts += ["## Use", _usage(info.schema)]
    parts += ["## Attributes", _attributes(info.schema)] if steerable or info.kind != "sft" else []
    parts += ["## Data", _table(("", ""), data)]
    parts += ["## Results", _table(("", ""), results)]
    recipe = info.provenance.get("recipe")
    if recipe is not None:
        text = yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True)
        parts += ["## Recipe section", f"```yaml\n{text}```"]
    return "\n\n".join(parts) + "\n"


def _title(info: CheckpointInfo) -> str:
    if info.kind == "sft":
        return "steerable by attributes" if info.conditioning else "plain SFT"
    return f"attribute model ({info.kind})"


def _usage(schema: AttributeSchema) -> str:
    setting = ", ".join(f'"{name}": {value!r}' for name, value in schema.defaults.items())
    return (
        "The attributes are an argument of the chat template; any subset may be given, and none at all means the "
        "defaults:\n\n"
        "```python\n"
        "from transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
        'tokenizer = AutoTokenizer.from_pretrained("path/of/this/folder")\n'
        'model = AutoModelForCausalLM.from_pretrained("path/of/this/folder")\n'
        "prompt = tokenizer.apply_chat_template(\n"
        '    [{"role": "user", "content": "…"}],\n'
        f"    attributes={{{setting}}},\n"
        '    add_generation_prompt=True, return_dict=True, return_tensors="pt",\n'
        ")\n"
        "output = model.generate(**prompt, max_new_tokens=256)\n"
        "```\n\n"
        "or `steerlm chat path/of/this/folder`."
    )


def _attributes(schema: AttributeSchema) -> str:
    rows = ["| attribute | values | default | what it means |", "|---|---|---|---|"]
    for a in schema:
        values = f"{a.minimum}..{a.maximum}" if a.kind == "ordinal" else ", ".join(a.categories)
        rows.append(f"| {a.name} | {values} | {a.default_value} | {a.description} |")
    return "\n".join(rows)


def _table(head: tuple[str, str], rows: Mapping[str, Any]) -> str:
    lines = [f"| {head[0]} | {head[1]} |", "|---|---|"]
    lines += [f"| {name.replace('_', ' ')} | {_cell(value)} |" for name, value in rows.items()]
    return "\n".join(lines)


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, int):
        return f"{value:,}"
    return str(value).replace("|", "\\|")
