"""Sampling 8 responses per prompt: the built-in engine against Hugging Face's `generate` at its best batch.

    python -m benchmarks.sampling [--quick] [--pairs 5] [--cases 80m] [--device cuda]

Both sides load the same weights in the same precision (random ones; in the case `270m-bf16` those of
`benchmarks.real_model`), draw with temperature 0.7 and top-k 50, at most 128 tokens, and are measured with several
batch sizes, of which the fastest counts. `generate` gets the prompts sorted by length and as token ids. Greedy answers
to the first prompts must be the same. Counted are tokens drawn, up to the end token.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence, Set
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks import real_model
from benchmarks.harness import Benchmark, Case, Contestant, Job, Measurement, main
from benchmarks.synthetic import SIZES, conversations, make_config, make_tokenizer
from steerlm.attributes import AttributeSchema
from steerlm.checkpoint.info import CheckpointInfo
from steerlm.checkpoint.models import load_causal_lm, load_tokenizer, save_model
from steerlm.conversation import read_conversations, write_conversations
from steerlm.generation.engine import LocalEngine, Request, Sample, Sampling
from steerlm.template.conversation_encoder import ConversationEncoder

SCHEMA = AttributeSchema.preset("steerlm")
PROMPTS, SAMPLES, NEW_TOKENS = 16, 8, 128
REAL_PROMPTS = 8
QUICK_PROMPTS, QUICK_TOKENS = 4, 16
GREEDY_PROMPTS, GREEDY_TOKENS = 2, 12
TEMPERATURE, TOP_K = 0.7, 50


def _case(description: str, precision: str) -> Case:
    return Case(
        description,
        {
            "steerlm": Contestant(f"steerlm's built-in engine, {precision}, fastest batch size", None, ("64", "128")),
            "generate": Contestant(f"generate, {precision}, fastest batch size", 2.0, ("8", "16", "32", "64")),
        },
    )


CASES = {
    "80m": _case("80 M parameters, vocabulary 32 k, 8 samples per prompt, fp32", "fp32"),
    "80m-bf16": _case("80 M parameters, vocabulary 32 k, 8 samples per prompt, bf16", "bf16"),
    "80m-settings": _case("80 M parameters, vocabulary 32 k, one sample at each of 8 settings, fp32", "fp32"),
    "6m": _case("6 M parameters, vocabulary 4 k, 8 samples per prompt, fp32", "fp32"),
    "270m-bf16": Case(
        f"{real_model.DESCRIPTION}, 8 samples per prompt, bf16",
        {
            "steerlm": Contestant("steerlm's built-in engine, bf16, batch size 64", None, ("64",)),
            "generate": Contestant("generate, bf16, fastest batch size", 2.0, ("16", "32", "64")),
        },
        (),
    ),
}


def prepare(folder: Path, cases: Sequence[str], quick: bool, device: str) -> None:
    """Write the models and the prompts."""
    from transformers import LlamaForCausalLM

    for name in {case.split("-")[0] for case in cases}:
        if name == "270m":
            known = real_model.save_checkpoint(folder / name, SCHEMA, "sft")
            count = QUICK_PROMPTS if quick else REAL_PROMPTS
            rows = real_model.conversations(known, SCHEMA, count, 1)
            write_conversations(folder / f"{name}.jsonl", rows, SCHEMA)
            continue
        size = SIZES["tiny" if quick else name]
        tokenizer = make_tokenizer(size.vocab_size, SCHEMA)
        torch.manual_seed(0)
        model = LlamaForCausalLM(make_config(size, tokenizer))
        with torch.no_grad():
            # wide enough that likely and unlikely tokens differ as in a trained model
            for parameter in model.parameters():
                if parameter.ndim > 1:
                    parameter.mul_(2)
        save_model(folder / name, model, tokenizer, CheckpointInfo("sft", SCHEMA, "steerlm"), "Random weights.\n")
        rows = conversations(tokenizer, SCHEMA, QUICK_PROMPTS if quick else PROMPTS, 1)
        write_conversations(folder / f"{name}.jsonl", rows, SCHEMA)


def measure(job: Job) -> Measurement:
    """Sample with one contestant."""
    name = job.case.split("-")[0]
    model = load_causal_lm(job.folder / name, "bf16" if job.case.endswith("bf16") else "fp32").to(job.device).eval()
    tokenizer = load_tokenizer(job.folder / name)
    requests = []
    for number, row in enumerate(read_conversations(job.folder / f"{name}.jsonl", SCHEMA)):
        question, wanted = row.messages[:1], dict(row.messages[1].attributes or {})
        if job.case.endswith("settings"):
            first, second = SCHEMA.names[:2]
            settings = [{**wanted, first: level % 5, second: level // 5} for level in range(SAMPLES)]
            requests += [Request(question, setting, 1, job.round * 1000 + number) for setting in settings]
        else:
            requests.append(Request(question, wanted, SAMPLES, job.round * 1000 + number))
    sample = _engine if job.contestant == "steerlm" else _generate
    if job.contestant == "generate" and job.round < 0:
        requests = requests[: len(requests) // 2]  # slow, and enough to choose a batch size
    batch_size = int(job.variant)
    first_ones = [replace(request, num_samples=1) for request in requests[:GREEDY_PROMPTS]]
    greedy = sample(model, tokenizer, first_ones, batch_size, Sampling(GREEDY_TOKENS, 0.0))
    sampling = Sampling(QUICK_TOKENS if job.quick else NEW_TOKENS, TEMPERATURE, TOP_K)
    began, used = time.perf_counter(), time.process_time()
    responses = sample(model, tokenizer, requests, batch_size, sampling)
    seconds, used = time.perf_counter() - began, time.process_time() - used
    tokens = sum(response.num_tokens for response in responses)
    facts = {"tokens": tokens, "seconds": round(seconds, 2), "cpu_seconds": round(used, 2)}
    return Measurement(tokens / seconds, facts, [response.text for response in greedy])


def _engine(
    model: Any, tokenizer: Any, requests: Sequence[Request], batch_size: int, sampling: Sampling
) -> list[Sample]:
    engine = LocalEngine(model, tokenizer, SCHEMA, batch_size)
    return [sample for samples in engine.generate(requests, sampling) for sample in samples]


def _generate(
    model: Any, tokenizer: Any, requests: Sequence[Request], batch_size: int, sampling: Sampling
) -> list[Sample]:
    encoder = ConversationEncoder(tokenizer, SCHEMA)
    ends = encoder.control_ids | set(encoder.stop_ids)
    prompts = [(i, encoder.prompt(r.messages, r.attributes or {})) for i, r in enumerate(requests)]
    prompts.sort(key=lambda prompt: len(prompt[1]))
    count = requests[0].num_samples
    drawn = {"temperature": sampling.temperature, "top_k": sampling.top_k} if sampling.temperature else {}
    found: dict[int, list[Sample]] = {}
    torch.manual_seed(requests[0].seed)
    per_batch = max(1, batch_size // count)
    for first in range(0, len(prompts), per_batch):
        batch = prompts[first : first + per_batch]
        width = max(len(ids) for _, ids in batch)
        padding = [width - len(ids) for _, ids in batch]
        inputs = [[0] * pad + ids for pad, (_, ids) in zip(padding, batch, strict=True)]
        mask = [[0] * pad + [1] * (width - pad) for pad in padding]
        with torch.inference_mode():
            output = model.generate(
                torch.tensor(inputs, device=model.device),
                attention_mask=torch.tensor(mask, device=model.device),
                max_new_tokens=sampling.max_new_tokens,
                num_return_sequences=count,
                eos_token_id=sorted(ends),
                pad_token_id=min(ends),
                do_sample=bool(drawn),
                **drawn,
            )
        responses = [_ended(row[width:], ends, encoder) for row in output.tolist()]
        for place, (number, _) in enumerate(batch):
            found[number] = responses[place * count : (place + 1) * count]
    return [sample for number in sorted(found) for sample in found[number]]


def _ended(tokens: list[int], ends: Set[int], encoder: ConversationEncoder) -> Sample:
    """Return the response up to the first token that ends it."""
    end = next((i for i, token in enumerate(tokens) if token in ends), None)
    whole = tokens if end is None else tokens[: end + 1]
    return Sample(encoder.decode(whole), len(whole), end is not None)


def compare(case: str, found: Mapping[str, Measurement]) -> dict[str, Any]:
    """Say how many of the greedy answers are the same."""
    ours, theirs = found["steerlm"].output, found["generate"].output
    same = sum(a == b for a, b in zip(ours, theirs, strict=True))
    return {"greedy_answers": len(ours), "same": same}


BENCHMARK = Benchmark("sampling", "Sampling 8 responses per prompt", "tokens drawn", CASES, prepare, measure, compare)

if __name__ == "__main__":
    raise SystemExit(main(BENCHMARK))
