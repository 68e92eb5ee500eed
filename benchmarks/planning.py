"""The planning model against the machine: what `steerlm plan` predicts for a training, and what the training takes.

    python -m benchmarks.planning [--quick] [--rounds 3] [--out FOLDER]

Llamas of two sizes, and Gemma 3 270M (`benchmarks.real_model`) whole and with LoRA, train for a few steps on random
tokens with the lengths of chats, each time in a fresh process.
Measured are the seconds per step after a warm-up, and the peak of the resident memory. Predicted are both with the
formulas of docs/planning.md, the CPU's speed being measured right before as `steerlm plan` does. The errors are
reported as they are.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.harness import QUICK_RESULTS, RESULTS, ROOT, TIMEOUT_S, environment
from steerlm.attributes import AttributeSchema
from steerlm.storage.files import write_json

_STATUS, _REFERENCES = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_SPREAD = 0.6
SCHEMA = AttributeSchema.preset("helpsteer")


@dataclass(frozen=True)
class Setting:
    """One training.

    Attributes:
        size: of the model, a key of `benchmarks.synthetic.SIZES`, or that of the real one.
        tokens_per_batch: budget of a batch.
        gradient_checkpointing: whether activations are computed again.
        steps: measured, after two steps of warm-up.
        lora: whether adapters are trained on frozen weights.
        mean_length: of the records, in tokens.
        longest: of them.
    """

    size: str
    tokens_per_batch: int
    gradient_checkpointing: bool
    steps: int
    lora: bool = False
    mean_length: int = 288
    longest: int = 1000


_REAL = "270m"
SETTINGS = {
    "6m": Setting("6m", 4096, False, 12),
    "6m-recompute": Setting("6m", 4096, True, 12),
    "80m": Setting("80m", 2048, False, 4),
    "80m-recompute": Setting("80m", 2048, True, 4),
    "270m-lora": Setting(_REAL, 512, False, 12, lora=True, mean_length=190, longest=512),
    "270m": Setting(_REAL, 1024, False, 6, mean_length=190, longest=512),
}
GPU_SETTINGS = {"tiny": Setting("tiny", 2048, False, 2), "1b": Setting("1b", 16384, True, 4)}
"""Those of `benchmarks.gpu`."""


def _peak() -> int:
    """Return the most resident memory that this process has had, in bytes."""
    found = re.search(r"VmHWM:\s+(\d+) kB", _STATUS.read_text(encoding="utf-8"))
    assert found is not None
    return int(found.group(1)) * 1024


def measure(name: str, quick: bool, seed: int, folder: Path) -> dict[str, Any]:
    """Predict and train one setting in this process.

    Returns:
        `predicted` and `measured`: `memory_mib` and `seconds_per_step`; and what was trained.
    """
    import numpy as np
    import torch

    from benchmarks.clock import Clock, watch
    from steerlm.batching.batches import EncodedExamples
    from steerlm.checkpoint.models import autocast_bf16
    from steerlm.config import LoraSection, TrainingSection
    from steerlm.planning.architectures import architecture
    from steerlm.planning.devices import this_machine
    from steerlm.planning.memory import Step, training_memory
    from steerlm.planning.speed import PADDING, training_seconds
    from steerlm.template.conversation_encoder import ConversationEncoder
    from steerlm.training.loop import train

    setting = {**SETTINGS, **GPU_SETTINGS}[name]
    gpu = torch.cuda.is_available()
    steps = 2 if quick else setting.steps
    config, tokenizer, load = _base(setting)
    encoder = ConversationEncoder(tokenizer, SCHEMA)  # a training holds one, too: a large vocabulary takes memory
    section = TrainingSection(
        base_model="none",
        tokens_per_batch=setting.tokens_per_batch,
        gradient_checkpointing=setting.gradient_checkpointing,
        max_steps=steps + 10,
        learning_rate=3e-4,
        lora=LoraSection() if setting.lora else None,
    )
    generator = np.random.default_rng(seed)
    count = 3 * (steps + 4) * setting.tokens_per_batch // setting.mean_length
    lengths = setting.mean_length * generator.lognormal(-(_SPREAD**2) / 2, _SPREAD, count)
    lengths = lengths.clip(16, setting.longest).astype(int)
    rows = EncodedExamples(
        (generator.integers(0, config.vocab_size - 8, n).tolist(), [False] * (n - n // 3) + [True] * (n // 3))
        for n in lengths.tolist()
    )
    shape = architecture(config)
    machines = this_machine(shape, section.lora)
    step = Step(
        section=section,
        head=True,
        shards=1,
        cpu=machines.device.cpu,
        bf16=autocast_bf16("auto"),
        mean_length=float((lengths**2).sum() / lengths.sum()),
        response_share=1 / 3,
    )
    if gpu:
        torch.cuda.reset_peak_memory_stats()
    else:
        _REFERENCES.write_text("5", encoding="utf-8")  # resets the peak (proc(5)): measuring the speed took some, too
    torch.manual_seed(seed)
    model = load()
    clock = Clock(2, steps * setting.tokens_per_batch * 4 // 5)
    watch(clock, lambda: train(section, model, tokenizer, rows, rows, "sft", folder, seed))
    peak = torch.cuda.max_memory_allocated() if gpu else _peak()
    del encoder
    measured_steps = clock.facts()["steps"] - 2
    # steps differ in their real tokens: the prediction is for as many as were trained
    predicted = training_seconds(shape, step, machines, clock.timed_tokens / PADDING, setting.tokens_per_batch)
    return {
        "parameters": shape.parameters,
        "tokens": clock.timed_tokens,
        "steps": measured_steps,
        "layer_gflops": round(machines.device.flops / 1e9, 1),
        "copy_gb_s": round(machines.device.bandwidth / 1e9, 1),
        "predicted": {
            "memory_mib": round(training_memory(shape, step, setting.tokens_per_batch).total / 2**20, 1),
            "seconds_per_step": round(predicted / measured_steps, 3),
        },
        "measured": {
            "memory_mib": round(peak / 2**20, 1),
            "seconds_per_step": round(clock.seconds / measured_steps, 3),
        },
    }


def _base(setting: Setting) -> tuple[Any, Any, Callable[[], Any]]:
    """Return a model's configuration, its tokenizer, and what makes it as `train-sft` does."""
    from transformers import LlamaForCausalLM

    from benchmarks import real_model
    from benchmarks.synthetic import SIZES, make_config, make_tokenizer
    from steerlm.checkpoint.adapters import add_lora
    from steerlm.checkpoint.models import Precision, autocast_bf16, load_causal_lm, load_config, load_tokenizer
    from steerlm.config import LoraSection
    from steerlm.template.installing import install_template

    if setting.size != _REAL:
        size = SIZES[setting.size]
        tokenizer = make_tokenizer(size.vocab_size, SCHEMA)
        config = make_config(size, tokenizer)
        return config, tokenizer, lambda: LlamaForCausalLM(config)

    def load() -> Any:
        if not setting.lora:
            return load_causal_lm(real_model.BASE)
        precision: Precision = "bf16" if autocast_bf16("auto") else "fp32"
        return add_lora(load_causal_lm(real_model.BASE, precision), LoraSection(), [], precision == "bf16")

    tokenizer = load_tokenizer(real_model.BASE)
    install_template(tokenizer, "auto", SCHEMA)
    return load_config(real_model.BASE), tokenizer, load


def _in_fresh_process(name: str, quick: bool, seed: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="steerlm-planning-") as folder:
        answer = Path(folder) / "answer.json"
        job = json.dumps({"name": name, "quick": quick, "seed": seed, "folder": folder})
        variables = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "CUDA_VISIBLE_DEVICES": ""}
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.planning", "--job", job],
            cwd=ROOT, env={**os.environ, **variables}, capture_output=True, text=True, timeout=TIMEOUT_S, check=False,
        )  # fmt: skip
        if done.returncode or not answer.is_file():
            raise RuntimeError(f"{name} failed ({done.returncode}):\n{(done.stdout + done.stderr)[-3000:]}")
        found: dict[str, Any] = json.loads(answer.read_text(encoding="utf-8"))
        return found


def summarise(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the medians over the rounds, and how far the prediction is off, in percent of the measurement."""
    result: dict[str, Any] = {}
    for key in ("memory_mib", "seconds_per_step"):
        predicted = statistics.median(one["predicted"][key] for one in rounds)
        measured = [one["measured"][key] for one in rounds]
        median = statistics.median(measured)
        result[key] = {
            "predicted": predicted,
            "measured": median,
            "low": min(measured),
            "high": max(measured),
            "error_percent": round(100 * (predicted / median - 1), 1),
        }
    return result


def main() -> int:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.planning", description="The plan against the machine.")
    parser.add_argument("--quick", action="store_true", help="two steps, one round: checks that everything works")
    parser.add_argument("--rounds", type=int, default=3, help="fresh processes per setting (default: %(default)s)")
    parser.add_argument("--cases", nargs="+", choices=list(SETTINGS), default=list(SETTINGS), help="only these")
    parser.add_argument("--out", type=Path, help="folder of the result file (default: docs/results/performance)")
    parser.add_argument("--job", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.job is not None:
        job = json.loads(arguments.job)
        found = measure(job["name"], job["quick"], job["seed"], Path(job["folder"]))
        write_json(Path(job["folder"]) / "answer.json", found)
        return 0
    out = arguments.out or (QUICK_RESULTS if arguments.quick else RESULTS)
    out.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    facts, cases = environment(), {}
    for name in arguments.cases:
        rounds = [
            _in_fresh_process(name, arguments.quick, seed) for seed in range(1 if arguments.quick else arguments.rounds)
        ]
        cases[name] = {"summary": summarise(rounds), "rounds": rounds}
        print(f"[{time.monotonic() - began:4.0f} s] {name}: {json.dumps(cases[name]['summary'])}", flush=True)
        head = {"claim": "planning", "title": "What `steerlm plan` predicts against what a training takes"}
        write_json(out / "planning.json", {**head, "quick": arguments.quick, "environment": facts, "plans": cases})
    print(out / "planning.json")
    return 0


if __name__ == "__main__":
    sys.exit(main())
