"""Annotation with a regression model: ours against loops and the pipeline of Hugging Face.

    python -m benchmarks.annotate [--quick] [--pairs 5] [--cases 80m] [--device cuda]

80 M parameters with random weights and, in the cases `270m`, Gemma with a head (`benchmarks.real_model`). The case
`80m-head` has the head that `train-attribute-model` fits in closed form over several layers, beside a plain one.

Everyone scores conversations with the same weights. Ours starts from messages and encodes them while the clock runs;
the peers start from rendered text. Counted are real tokens (no padding, a shared prompt as often as it occurs). The
slow peers get the first conversations only, and everyone's scores are compared on those. Everyone has scored as many
other conversations before the clock runs, so that nobody pays for memory that is touched for the first time.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerFast

from benchmarks import real_model
from benchmarks.harness import Benchmark, Case, Contestant, Job, Measurement, main
from benchmarks.synthetic import (
    SIZES,
    Size,
    conversations,
    make_tokenizer,
    save_attribute_model,
    save_base_model,
)
from steerlm.attributes import AttributeSchema
from steerlm.config import TrainAttributeModelConfig
from steerlm.conversation import Conversation, read_conversations, write_conversations

SCHEMA = AttributeSchema.preset("helpsteer")
CONVERSATIONS, SLOW_CONVERSATIONS = 64, 16
US = "steerlm annotate's scorer, bf16"
LOOP = "loop in arrival order, batch 8, padded, fp32"
PIPELINE = "transformers pipeline, batch 8, fp32"
SORTED = "sorted by length, fastest batch size, bf16 weights, inference mode"


def _case(
    description: str,
    loop: float | None,
    best: float,
    pipeline: bool = False,
    devices: tuple[str, ...] = ("cpu", "cuda"),
) -> Case:
    contestants = {"steerlm": Contestant(US)}
    if loop is not None:
        contestants["loop"] = Contestant(LOOP, loop)
    if pipeline:
        contestants["pipeline"] = Contestant(PIPELINE)
    contestants["sorted"] = Contestant(SORTED, best, ("8", "16", "32"))
    return Case(description, contestants, devices)


HEAD = "80m-head"

CASES = {
    "80m-8": _case("80 M parameters, 8 responses per prompt", 10.0, 1.8, pipeline=True),
    "80m": _case("80 M parameters, one response per prompt", 8.0, 1.3),
    HEAD: Case(
        "80 M parameters, head in closed form over several layers",
        {
            "steerlm": Contestant(f"{US}, that head"),
            "plain": Contestant(f"{US}, a linear head on the last token", 1.0),
        },
    ),
    "270m": _case(f"{real_model.DESCRIPTION}, one response per prompt", None, 1.8, devices=()),
    "270m-8": _case(f"{real_model.DESCRIPTION}, 8 responses per prompt", None, 1.8, devices=()),
}


def _model_name(case: str) -> str:
    """Return the model of a case."""
    return case.removesuffix("-8").removesuffix("-head")


def prepare(folder: Path, cases: Sequence[str], quick: bool, device: str) -> None:
    """Write the model, the conversations and their rendered text."""
    count = (32 if quick else CONVERSATIONS) * (8 if device == "cuda" and not quick else 1)
    for model in dict.fromkeys(_model_name(name) for name in cases):
        if model == "270m":
            tokenizer = real_model.save_checkpoint(folder / model, SCHEMA, "regression")
            text = real_model.conversations
        else:
            size = SIZES["tiny" if quick else model]
            tokenizer = made = make_tokenizer(size.vocab_size, SCHEMA)
            save_attribute_model(folder / model, size, made, SCHEMA, "regression")
            text = conversations
        for name in (case for case in cases if _model_name(case) == model):
            responses = 8 if name.endswith("-8") else 1
            for file, seed in ((f"{name}.jsonl", 0), (f"{name}-warmup.jsonl", 1)):
                rows = list(text(tokenizer, SCHEMA, count // responses, responses, seed))
                write_conversations(folder / file, rows, SCHEMA)
        if HEAD in cases and model == _model_name(HEAD):
            _fit_head(folder, size, made)


def _fit_head(folder: Path, size: Size, tokenizer: PreTrainedTokenizerFast) -> None:
    """Write the model whose head is fitted in closed form to labels drawn at random."""
    from steerlm.stages.train_attribute_model.stage import train_attribute_model

    base, out = folder / f"{HEAD}-base", folder / HEAD
    save_base_model(base, size, tokenizer)
    config = TrainAttributeModelConfig(base_model=str(base), head_only=True, max_length=2048)
    files = folder / f"{HEAD}.jsonl", folder / f"{HEAD}-warmup.jsonl"
    train_attribute_model(config, *files, SCHEMA, out, 0)


def measure(job: Job) -> Measurement:
    """Score conversations for warming up, then as many others for the clock."""
    rows = list(read_conversations(job.folder / f"{job.case}.jsonl", SCHEMA))
    warmup = list(read_conversations(job.folder / f"{job.case}-warmup.jsonl", SCHEMA))
    if job.contestant in ("loop", "pipeline") or job.round < 0:
        # the choice of a batch size needs no more than the slow ones get
        count = SLOW_CONVERSATIONS * (2 if job.round < 0 else 1)
        rows, warmup = rows[:count], warmup[:count]
    model = job.folder / _model_name(job.case)
    texts, lengths = _rendered(model, rows)
    warm_texts, _ = _rendered(model, warmup)
    if job.contestant == "steerlm":
        seconds, scores = _ours(job.folder / HEAD / "model" if job.case == HEAD else model, warmup, rows)
    elif job.contestant == "plain":
        seconds, scores = _ours(model, warmup, rows)
    elif job.contestant == "pipeline":
        seconds, scores = _pipeline(model, job.device, warm_texts, texts)
    else:
        seconds, scores = _loop(job, model, warm_texts, texts)
    facts = {"conversations": len(rows), "tokens": sum(lengths), "threads": torch.get_num_threads()}
    return Measurement(sum(lengths) / seconds, facts, scores)


def _rendered(model: Path, rows: Sequence[Conversation]) -> tuple[list[str], list[int]]:
    """Return the text that a user of Hugging Face's tools would score, and its lengths in tokens."""
    from steerlm.checkpoint.models import load_tokenizer
    from steerlm.scorers.attribute_models import encode_for_scoring
    from steerlm.template.conversation_encoder import ConversationEncoder

    tokenizer = load_tokenizer(model)
    encoder = ConversationEncoder(tokenizer, SCHEMA)
    encoded = [encode_for_scoring(encoder, row.messages, 2048) for row in rows]
    texts = [tokenizer.decode(ids) for ids in encoded]
    again = tokenizer(texts, add_special_tokens=False)["input_ids"]
    assert again == encoded, "the rendered text is not tokenized as our encoder does"
    return texts, [len(ids) for ids in again]


def _ours(
    model: Path, warmup: Sequence[Conversation], rows: Sequence[Conversation]
) -> tuple[float, list[list[float]]]:  # fmt: skip
    from steerlm.scorers.attribute_models import load_attribute_model

    scorer = load_attribute_model(model, "bf16")
    scorer.score([row.messages for row in warmup])
    began = time.perf_counter()
    found = scorer.score([row.messages for row in rows])
    seconds = time.perf_counter() - began
    assert None not in found
    return seconds, [[scores[a.name].mean for a in SCHEMA] for scores in found if scores is not None]


def _load(folder: Path, device: str, dtype: torch.dtype) -> tuple[Any, Any]:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=dtype)
    return model.to(device).eval(), AutoTokenizer.from_pretrained(folder)


def _levels(outputs: torch.Tensor) -> list[list[float]]:
    """Return outputs of the head on the schema's scale."""
    return [
        [a.from_unit(value) for a, value in zip(SCHEMA, row, strict=True)] for row in outputs.double().cpu().tolist()
    ]


def _loop(job: Job, folder: Path, warmup: Sequence[str], texts: Sequence[str]) -> tuple[float, list[list[float]]]:
    """Score in batches: in arrival order and fp32, or sorted and in bf16."""
    best = job.contestant == "sorted"
    model, tokenizer = _load(folder, job.device, torch.bfloat16 if best else torch.float32)
    rows = int(job.variant) if best else 8

    def score(these: Sequence[str]) -> torch.Tensor:
        order = sorted(range(len(these)), key=lambda i: -len(these[i])) if best else list(range(len(these)))
        outputs = torch.empty(len(these), len(SCHEMA))
        for start in range(0, len(order), rows):
            batch = order[start : start + rows]
            encoded = tokenizer(
                [these[i] for i in batch], padding=True, padding_side="right", add_special_tokens=False,
                return_tensors="pt",
            )  # fmt: skip
            inputs = {key: encoded[key].to(job.device) for key in ("input_ids", "attention_mask")}
            outputs[batch] = model(**inputs).logits.float().cpu()
        return outputs

    with torch.inference_mode() if best else torch.no_grad():
        score(warmup)
        began = time.perf_counter()
        outputs = score(texts)
        return time.perf_counter() - began, _levels(outputs)


def _pipeline(
    folder: Path, device: str, warmup: Sequence[str], texts: Sequence[str]
) -> tuple[float, list[list[float]]]:
    from transformers import pipeline

    model, tokenizer = _load(folder, device, torch.float32)
    classify = pipeline("text-classification", model=model, tokenizer=tokenizer, device=device)
    how = {"batch_size": 8, "top_k": None, "function_to_apply": "none", "add_special_tokens": False}
    classify(list(warmup), **how)
    began = time.perf_counter()
    found = classify(list(texts), **how)
    seconds = time.perf_counter() - began
    named = [{row["label"]: row["score"] for row in rows} for rows in found]
    outputs = torch.tensor([[model_outputs[a.name] for a in SCHEMA] for model_outputs in named])
    return seconds, _levels(outputs)


def compare(case: str, found: Mapping[str, Measurement]) -> dict[str, Any]:
    """Return the largest difference of our scores to each peer's, in levels, where both scored with one head."""
    if case == HEAD:
        return {}
    ours = found["steerlm"].output
    differences = {}
    for who, row in found.items():
        if who != "steerlm":
            pairs = zip(ours, row.output, strict=False)
            differences[who] = round(max(abs(a - b) for x, y in pairs for a, b in zip(x, y, strict=True)), 4)
    return {"largest_difference_in_levels": differences}


BENCHMARK = Benchmark("annotate", "Annotation, regression", "real tokens", CASES, prepare, measure, compare)

if __name__ == "__main__":
    main(BENCHMARK)
