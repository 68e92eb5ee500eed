"""Sampling 8 responses per prompt: the best engine against Hugging Face's `generate` at its best batch.

    python -m benchmarks.engines [--quick] [--pairs 5] [--cases 80m]

The work, the model and the precision are those of `benchmarks.sampling`; so are `generate` and the greedy answers that
must be the same. The built-in engine is held against `generate` in the same rounds. On CPUs the engine is OpenVINO
GenAI (`pip install 'steerlm[openvino]'`), on GPUs vLLM (`pip install 'steerlm[vllm]'`). Converting or loading the model
is not counted.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from benchmarks import real_model
from benchmarks import sampling as base
from benchmarks.harness import Benchmark, Case, Contestant, Job, Measurement, NotRun, main
from steerlm.conversation import read_conversations
from steerlm.generation.opening import open_engine
from steerlm.generation.requests import Request, Sampling

BATCHES = {"steerlm": ("64", "256"), "generate": ("8", "16", "32", "64"), "built-in": ("64", "128")}


def _case(size: str, precision: str, batches: Mapping[str, tuple[str, ...]] = BATCHES) -> Case:
    return Case(
        f"{size}, 8 samples per prompt, {precision}",
        {
            "steerlm": Contestant(
                f"steerlm with OpenVINO GenAI (CPU) or vLLM (GPU), {precision}, fastest batch size",
                None,
                batches["steerlm"],
            ),
            "generate": Contestant(f"generate, {precision}, fastest batch size", 4.0, batches["generate"]),
            "built-in": Contestant(
                f"steerlm's built-in engine, {precision}, fastest batch size", None, batches["built-in"]
            ),
        },
        further=("built-in", "generate", 2.0),
    )


CASES = {
    "80m": _case("80 M parameters, vocabulary 32 k", "fp32"),
    "80m-bf16": _case("80 M parameters, vocabulary 32 k", "bf16"),
    "6m": _case("6 M parameters, vocabulary 4 k", "fp32"),
    # the batch size that `benchmarks.sampling` found the fastest
    "270m-bf16": _case(real_model.DESCRIPTION, "bf16", dict.fromkeys(BATCHES, ("64",))),
}


def measure(job: Job) -> Measurement:
    """Sample with one contestant."""
    if job.contestant == "built-in":
        return base.measure(replace(job, contestant="steerlm"))
    if job.contestant == "generate":
        return base.measure(job)
    name, package = ("vllm", "vllm") if job.device == "cuda" else ("openvino", "openvino_genai")
    if importlib.util.find_spec(package) is None:
        raise NotRun(f"needs pip install 'steerlm[{name}]'")
    size = job.case.split("-")[0]
    requests = [
        Request(row.messages[:1], dict(row.messages[1].attributes or {}), base.SAMPLES, job.round * 1000 + number)
        for number, row in enumerate(read_conversations(job.folder / f"{size}.jsonl", base.SCHEMA))
    ]
    began = time.perf_counter()
    engine = open_engine(
        "vllm" if job.device == "cuda" else "openvino",
        job.folder / size,
        "bf16" if job.case.endswith("bf16") else "fp32",
        int(job.variant),
    )
    loading = time.perf_counter() - began
    first_ones = [replace(request, num_samples=1) for request in requests[: base.GREEDY_PROMPTS]]
    greedy = engine.generate(first_ones, Sampling(base.GREEDY_TOKENS, 0.0))
    sampling = Sampling(base.QUICK_TOKENS if job.quick else base.NEW_TOKENS, base.TEMPERATURE, base.TOP_K)
    began, used = time.perf_counter(), time.process_time()
    responses = [sample for samples in engine.generate(requests, sampling) for sample in samples]
    seconds, used = time.perf_counter() - began, time.process_time() - used
    tokens = sum(response.num_tokens for response in responses)
    facts: dict[str, Any] = {
        "engine": name,
        "tokens": tokens,
        "seconds": round(seconds, 2),
        "cpu_seconds": round(used, 2),
        "loading_seconds": round(loading, 2),
    }
    return Measurement(tokens / seconds, facts, [samples[0].text for samples in greedy])


BENCHMARK = Benchmark(
    "engines",
    "Sampling 8 responses per prompt, best engine",
    "tokens drawn",
    CASES,
    base.prepare,
    measure,
    base.compare,
)

if __name__ == "__main__":
    raise SystemExit(main(BENCHMARK))
