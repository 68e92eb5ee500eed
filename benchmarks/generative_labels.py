"""Labels of a generative attribute model with nine attributes: constrained decoding against `generate`.

    python -m benchmarks.generative_labels [--quick] [--pairs 5] [--device cuda]

`prepare` trains the model until it writes labels by itself, or `generate` would write no labels that could be compared;
the last word of a response tells which, so that they differ. We are measured twice: as `annotate` runs by default
(`precision: auto`, which is bf16 autocast where there is bf16) and in fp32, as `generate` computes. Both times the
labels are compared with those that `generate` wrote: in fp32 they must be the same. Counted are labelled responses.
"""

from __future__ import annotations

import itertools
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.harness import Benchmark, Case, Contestant, Job, Measurement, main
from benchmarks.synthetic import SIZES, conversations, make_tokenizer, save_attribute_model, words
from steerlm.attributes import AttributeSchema
from steerlm.checkpoint.models import Precision
from steerlm.conversation import Conversation, read_conversations, write_conversations

SCHEMA = AttributeSchema.preset("steerlm")
CONVERSATIONS, WARMUP_CONVERSATIONS = 128, 64
LESSONS = ((160, 16, 24), (80, 8, 1000))
"""Steps, conversations of a step, and most tokens of each: what is learnt from their ends soon holds for the whole."""
US = "steerlm's generative attribute model, precision auto"
US_FP32 = "steerlm's generative attribute model, fp32"
ARRIVAL = "generate in arrival order, greedy, fp32, fastest batch size"
SORTED = "generate sorted by length, greedy, fp32, fastest batch size"
SIZES_OF_BATCHES = ("16", "32")
OURS: dict[str, Precision] = {"steerlm": "auto", "fp32": "fp32"}


def _case(description: str) -> Case:
    return Case(
        description,
        {
            "steerlm": Contestant(US),
            "generate": Contestant(ARRIVAL, 5.0, SIZES_OF_BATCHES),
            "sorted": Contestant(SORTED, 5.0, SIZES_OF_BATCHES),
            "fp32": Contestant(US_FP32),
        },
        further=("fp32", "generate", 5.0),
    )


CASES = {
    "6m": _case("6 M parameters, nine attributes, one response per prompt"),
    "6m-8": _case("6 M parameters, nine attributes, 8 responses per prompt"),
}


def _labelled(prompts: int, responses: int, tokenizer: Any, seed: int = 0) -> Iterator[Conversation]:
    """Yield conversations whose last word tells the first label, and that all others."""
    for row in conversations(tokenizer, SCHEMA, prompts, responses, seed):
        answer = row.messages[-1]
        first = int((answer.attributes or {})[SCHEMA.names[0]])
        labels = {name: (first + k) % 5 for k, name in enumerate(SCHEMA.names)}
        ending = words(5)[first]
        yield row.with_message(1, replace(answer, content=f"{answer.content} {ending}", attributes=labels))


def prepare(folder: Path, cases: Sequence[str], quick: bool, device: str) -> None:
    """Write the model, trained to write labels, and the conversations."""
    size = SIZES["tiny" if quick else "6m"]
    tokenizer = make_tokenizer(size.vocab_size, SCHEMA)
    save_attribute_model(folder / "model", size, tokenizer, SCHEMA, "generative")
    _teach(folder / "model", device)
    count = 32 if quick else CONVERSATIONS
    for name in cases:
        responses = 8 if name.endswith("-8") else 1
        for file, number, seed in ((f"{name}.jsonl", count, 0), (f"{name}-warmup.jsonl", WARMUP_CONVERSATIONS, 1)):
            rows = _labelled(number // responses, responses, tokenizer, seed)
            write_conversations(folder / file, rows, SCHEMA)


def _teach(folder: Path, device: str) -> None:
    """Train the weights in a folder on labels until the model has no doubt about them."""
    from transformers import AutoModelForCausalLM

    from steerlm.batching.collating import pad_tokens
    from steerlm.checkpoint.models import load_tokenizer
    from steerlm.scorers.attribute_models import encode_for_scoring
    from steerlm.scorers.generative import encode_label
    from steerlm.template.conversation_encoder import ConversationEncoder

    tokenizer = load_tokenizer(folder)
    encoder = ConversationEncoder(tokenizer, SCHEMA)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    rows = _labelled(sum(steps * count for steps, count, _ in LESSONS), 1, tokenizer, seed=2)
    generator = np.random.default_rng(2)
    for count, most in [(count, most) for steps, count, most in LESSONS for _ in range(steps)]:
        batch, labels = [], []
        for row in itertools.islice(rows, count):
            conversation = encode_for_scoring(encoder, row.messages, 2048)
            assert conversation is not None
            label = encode_label(encoder, row.messages[-1].attributes or {})
            part = conversation[-int(generator.integers(6, min(most, len(conversation)) + 1)) :]
            batch.append(np.asarray([*part, *label], dtype=np.int32))
            labels.append(len(label) - 1)
        ids, mask = pad_tokens(batch, int(tokenizer.pad_token_id))
        logits = model(input_ids=ids.to(device), attention_mask=mask.to(device)).logits
        loss = torch.stack([_label_loss(logits[i], ids[i].to(device), len(b), labels[i]) for i, b in enumerate(batch)])
        loss.mean().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(folder)


def _label_loss(logits_T_V: Tensor, ids_T: Tensor, length: int, trained: int) -> Tensor:
    where = slice(length - trained, length)
    before = slice(length - trained - 1, length - 1)
    return torch.nn.functional.cross_entropy(logits_T_V[before], ids_T[where])


def measure(job: Job) -> Measurement:
    """Label half as many other conversations for warming up, then those that count."""
    rows = [row.messages for row in read_conversations(job.folder / f"{job.case}.jsonl", SCHEMA)]
    warmup = [row.messages for row in read_conversations(job.folder / f"{job.case}-warmup.jsonl", SCHEMA)]
    if job.round < 0:
        rows = rows[: len(rows) // 2]
    label = _ours(job) if job.contestant in OURS else _generate(job)
    label(warmup)
    began = time.perf_counter()
    labels = label(rows)
    seconds = time.perf_counter() - began
    different = len({tuple(row.values()) for row in labels if row is not None})
    facts = {
        "conversations": len(rows),
        "unreadable": labels.count(None),
        "different_labels": different,
        "threads": torch.get_num_threads(),
    }
    return Measurement(len(rows) / seconds, facts, labels)


def _ours(job: Job) -> Any:
    from steerlm.scorers.attribute_models import load_attribute_model

    scorer = load_attribute_model(job.folder / "model", OURS[job.contestant])

    def label(rows: Sequence[Any]) -> list[Any]:
        found = scorer.score(rows)
        return [None if scores is None else scorer.values(scores) for scores in found]

    return label


def _generate(job: Job) -> Any:
    """Let the model write, and read what it wrote."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from steerlm.scorers.attribute_models import encode_for_scoring
    from steerlm.scorers.generative import label_steps, longest_label
    from steerlm.template.conversation_encoder import ConversationEncoder

    tokenizer = AutoTokenizer.from_pretrained(job.folder / "model", padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(job.folder / "model", dtype=torch.float32).to(job.device).eval()
    encoder = ConversationEncoder(tokenizer, SCHEMA)
    longest = longest_label(label_steps(encoder))

    def label(rows: Sequence[Any]) -> list[Any]:
        prompts = [[*(encode_for_scoring(encoder, row, 1900) or []), encoder.attributes_open] for row in rows]
        order = list(range(len(rows)))
        if job.contestant == "sorted":
            order.sort(key=lambda i: -len(prompts[i]))
        found: list[Any] = [None] * len(rows)
        for start in range(0, len(order), int(job.variant)):
            batch = order[start : start + int(job.variant)]
            padded = tokenizer.pad({"input_ids": [prompts[i] for i in batch]}, return_tensors="pt").to(job.device)
            with torch.inference_mode():
                ids = model.generate(
                    input_ids=padded["input_ids"], attention_mask=padded["attention_mask"], do_sample=False,
                    max_new_tokens=longest - 1, eos_token_id=encoder.attributes_close,
                    pad_token_id=tokenizer.pad_token_id,
                )  # fmt: skip
            for i, row in zip(batch, ids[:, padded["input_ids"].shape[1] :].tolist(), strict=True):
                found[i] = _read(tokenizer.decode(row))
        return found

    return label


def _read(text: str) -> dict[str, int] | None:
    """Return the label at the beginning of a text, None where it is none."""
    pattern = ",".join(rf"{name}:(\d)" for name in SCHEMA.names)
    match = re.match(pattern, text)
    return None if match is None else dict(zip(SCHEMA.names, map(int, match.groups()), strict=True))


def compare(case: str, found: Mapping[str, Measurement]) -> dict[str, Any]:
    """Return the share of our labels, of both precisions, that are those a peer wrote in the right form."""
    peers = [who for who in found if who not in OURS]
    shares: dict[str, dict[str, float | None]] = {}
    for ours, precision in OURS.items():
        if ours in found:
            mine = found[ours].output
            shares[precision] = {who: _share_equal(mine, found[who].output) for who in peers}
    return {"equal_labels": shares}


def _share_equal(ours: Sequence[Mapping[str, int]], theirs: Sequence[Mapping[str, int] | None]) -> float | None:
    readable = [(mine, other) for mine, other in zip(ours, theirs, strict=True) if other is not None]
    equal = [mine[name] == other[name] for mine, other in readable for name in SCHEMA.names]
    return sum(equal) / len(equal) if equal else None


BENCHMARK = Benchmark(
    "generative_labels", "Annotation, generative", "labelled responses", CASES, prepare, measure, compare,
)  # fmt: skip

if __name__ == "__main__":
    main(BENCHMARK)
