"""What a record costs where there are few and where there are many: preparing, annotating, batching.

    python -m benchmarks.io [--quick] [--steps prepare annotate batching] [--sizes N …] [--work FOLDER] [--out FOLDER]

No peer: what is claimed is that time per record and memory do not grow with the data. The conversations are generated
(about 1.1 KB each, 5 % of them twice, some with an evaluation prompt in them) into a folder of their own, 4 GB for the
largest size. The attribute model is so small that reading, encoding, labelling and writing are nearly all of the work.
Every measurement is a fresh process that first does a small one of its kind, so that only the records are timed; its
memory and that of the processes it starts is watched from outside. Small sizes are measured before and after the large
ones. `--quick` stops at 10,000 records; its figures mean nothing.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from benchmarks.harness import QUICK_RESULTS, RESULTS, ROOT, environment
from benchmarks.synthetic import Size, make_tokenizer, save_attribute_model, words
from steerlm.attributes import STEERLM
from steerlm.conversation import Conversation, Message, write_conversations
from steerlm.storage.files import write_json

STEPS = ("prepare", "annotate", "batching")
SIZES = (1_000, 10_000, 100_000, 1_000_000)
QUICK_SIZES = (1_000, 10_000)
REFERENCE = 10_000
MOST_RATIO, MOST_BYTES = 1.2, 10**9
"""Targets: time per record at the largest size against that at `REFERENCE`, and memory at any size."""

_MODEL = Size(vocab_size=1024, hidden=16, intermediate=32, layers=1, heads=1, kv_heads=1)
_WARM_UP = 500
_SENTENCES = 4096
_SAMPLE_S = 0.25


def sentences(seed: int) -> list[str]:
    """Return sentences of about a hundred characters."""
    generator = np.random.default_rng(seed)
    known = words(800)
    lengths = generator.integers(12, 22, _SENTENCES)
    return [" ".join(known[int(i)] for i in generator.integers(0, len(known), n)) + "." for n in lengths]


def conversations(count: int, seed: int = 0) -> Iterator[Conversation]:
    """Yield conversations of about 1.1 KB: one in twenty has the messages of another, one in five hundred holds an
    evaluation prompt."""
    pool = sentences(seed)
    generator = np.random.default_rng((seed, 1))
    prompts = evaluation_prompts(seed)
    previous = "", [""]
    for start in range(0, count, 1000):
        picks = generator.integers(0, _SENTENCES, (1000, 11)).tolist()
        for number, picked in zip(range(start, min(start + 1000, count)), picks, strict=False):
            said = [pool[i] for i in picked]
            question = f"Question {number}. {said[0]} {said[1]}"
            if number % 500 == 250:
                question += " " + prompts[number // 500 % len(prompts)]
            if number % 20 == 19:
                question, said = previous
            previous = question, said
            labels = {name: (picked[2] + i) % 5 for i, name in enumerate(STEERLM.names[:4])}
            answer = Message("assistant", " ".join(said[2:]), attributes=labels)
            yield Conversation(f"chat-{number}", (Message("user", question), answer), "generated", f"group-{number}")


def evaluation_prompts(seed: int = 0) -> list[str]:
    """Return 200 prompts that are in no sentence of the pool."""
    return [f"evaluation {text}" for text in sentences(seed + 1)[:200]]


def make_inputs(folder: Path, sizes: tuple[int, ...]) -> None:
    """Write the data of every size, the evaluation prompts and the model, unless they are there."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "prompts.jsonl").write_text("".join(json.dumps({"prompt": p}) + "\n" for p in evaluation_prompts()))
    if not (folder / "model").is_dir():
        tokenizer = make_tokenizer(_MODEL.vocab_size, STEERLM)
        save_attribute_model(folder / "model", _MODEL, tokenizer, STEERLM, "regression")
    for size in (_WARM_UP, *sizes):
        path = folder / f"chats-{size}.jsonl"
        if not path.is_file():
            write_conversations(path, conversations(size), STEERLM)


def prepare(folder: Path, size: int, out: Path) -> dict[str, Any]:
    """Import, check, deduplicate and split the records."""
    from steerlm.config import PrepareConfig, SourceConfig
    from steerlm.stages.prepare.stage import prepare as stage

    source = SourceConfig(name="generated", format="messages", path=folder / f"chats-{size}.jsonl")
    report = stage(
        PrepareConfig(sources=(source,), evaluation_prompts=(folder / "prompts.jsonl",)), STEERLM, out, seed=0
    )
    counts = report["sources"]["generated"]
    return {name: counts[name] for name in ("read", "duplicates", "leaks", "near_leaks", "train", "validation")}


def annotate(folder: Path, size: int, out: Path) -> dict[str, Any]:
    """Label the records with a tiny attribute model."""
    from steerlm.config import AnnotateConfig
    from steerlm.stages.annotate.stage import annotate as stage

    summary = stage(AnnotateConfig(), [folder / f"chats-{size}.jsonl"], folder / "model", out)
    return dict(summary["files"][f"chats-{size}.jsonl"])


def batching(folder: Path, size: int, out: Path) -> dict[str, Any]:
    """Make the batches of three epochs, in their order."""
    from steerlm.batching.batches import token_budget_batches

    lengths = np.minimum(np.random.default_rng(0).lognormal(5.5, 0.6, size).astype(np.int64) + 1, 4096)
    batches = [len(token_budget_batches(lengths, 16384, seed=0, epoch=epoch)) for epoch in range(3)]
    return {"batches": batches[0]}


_WORK = {"prepare": prepare, "annotate": annotate, "batching": batching}


def job(step: str, folder: Path, size: int) -> None:
    """Do one measurement in this process and print it."""
    with tempfile.TemporaryDirectory(dir=folder) as out:
        _WORK[step](folder, _WARM_UP, Path(out) / "warm-up")
        began, cpu = time.perf_counter(), _cpu_seconds()
        facts = _WORK[step](folder, size, Path(out) / "timed")
        seconds, cpu = time.perf_counter() - began, _cpu_seconds() - cpu
        written = sum(path.stat().st_size for path in (Path(out) / "timed").rglob("*.jsonl"))
    print(json.dumps({"seconds": seconds, "cpu_seconds": cpu, "bytes_written": written, "facts": facts}))


def _cpu_seconds() -> float:
    """Return the CPU time of this process and of those it started that have ended."""
    return sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


def measure(step: str, folder: Path, size: int) -> dict[str, Any]:
    """Run a job in a fresh process and watch its memory.

    Returns:
        What the job says, and `peak_bytes`: the most memory that the process and those it started had at a time
        (memory that they share counted once).

    Raises:
        RuntimeError: the job failed.
    """
    command = [sys.executable, "-m", "benchmarks.io", "--job", step, str(size), "--work", str(folder)]
    with tempfile.TemporaryFile() as said, subprocess.Popen(command, cwd=ROOT, stdout=said) as process:
        peak = 0
        while process.poll() is None:
            peak = max(peak, _memory(process.pid))
            time.sleep(_SAMPLE_S)
        if process.returncode:
            raise RuntimeError(f"{step} of {size} records failed ({process.returncode})")
        said.seek(0)
        return {**json.loads(said.read().splitlines()[-1]), "peak_bytes": peak}


def _memory(pid: int) -> int:
    """Return the proportional memory of a process and its descendants; those that end meanwhile count nothing."""
    total = 0
    try:
        processes = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0
    for process in processes:
        try:
            total += process.memory_full_info().pss
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return total


def _order(sizes: tuple[int, ...]) -> list[int]:
    """Return the sizes in the order they are measured: small ones often, before and after the large ones."""
    small = [size for size in sizes if size <= REFERENCE]
    large = [size for size in sizes if size > REFERENCE]
    return [*small * 3, *large, *small * 2]


def summarise(runs: dict[int, list[dict[str, Any]]]) -> dict[str, Any]:
    """Return per size the time per record and the memory, and whether the targets are met."""
    rows = {}
    for size, found in sorted(runs.items()):
        each = [run["seconds"] / size * 1e6 for run in found]
        rows[str(size)] = {
            "microseconds_per_record": {
                "median": round(statistics.median(each), 2), "low": round(min(each), 2), "high": round(max(each), 2)
            },
            "cpu_microseconds_per_record": round(
                statistics.median(run["cpu_seconds"] / size * 1e6 for run in found), 2
            ),
            "peak_mib": round(max(run["peak_bytes"] for run in found) / 2**20),
            "runs": len(found),
            "bytes_written": found[0]["bytes_written"],
            "facts": found[0]["facts"],
        }  # fmt: skip
    largest = rows[str(max(runs))]
    ratio = None
    if REFERENCE in runs and max(runs) > REFERENCE:
        slow, fast = largest["microseconds_per_record"], rows[str(REFERENCE)]["microseconds_per_record"]
        ratio = round(slow["median"] / fast["median"], 3)
    return {
        "sizes": rows,
        "largest_against_reference": ratio,
        "targets": {"ratio": MOST_RATIO, "peak_bytes": MOST_BYTES, "reference": REFERENCE},
    }


def _measured(path: Path) -> tuple[dict[str, Any], dict[str, int]]:
    """Return what the result file says of steps and of the inputs' sizes, which a run of others keeps."""
    if not path.is_file():
        return {}, {}
    found = json.loads(path.read_text(encoding="utf-8"))
    return found["steps"], found["input_bytes"]


def main(arguments: list[str] | None = None) -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.io", description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="up to 10,000 records")
    parser.add_argument("--steps", nargs="+", choices=STEPS, default=STEPS, help="only these (default: all)")
    parser.add_argument("--sizes", nargs="+", type=int, help="numbers of records (default: 1000 to 1000000)")
    parser.add_argument("--work", type=Path, help="folder for data, kept (default: a temporary one)")
    parser.add_argument("--out", type=Path, help="folder of the result file (default: docs/results/performance)")
    parser.add_argument("--job", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    if args.job:
        job(args.job[0], args.work, int(args.job[1]))
        return 0
    sizes = tuple(args.sizes or (QUICK_SIZES if args.quick else SIZES))
    out = args.out or (QUICK_RESULTS if args.quick else RESULTS)
    with tempfile.TemporaryDirectory(prefix="steerlm-io-") as temporary:
        folder = (args.work or Path(temporary)).resolve()
        make_inputs(folder, sizes)
        facts = environment()
        steps, input_bytes = ({}, {}) if args.quick else _measured(out / "io.json")
        for step in args.steps:
            runs: dict[int, list[dict[str, Any]]] = {size: [] for size in sizes}
            for size in _order(sizes):
                runs[size].append(found := measure(step, folder, size))
                each, memory = found["seconds"] / size * 1e6, found["peak_bytes"] / 2**20
                print(f"{step} {size}: {each:.1f} us per record, {memory:.0f} MiB", flush=True)
            steps[step] = {**summarise(runs), "environment": facts}
        input_bytes |= {str(size): (folder / f"chats-{size}.jsonl").stat().st_size for size in sizes}
    out.mkdir(parents=True, exist_ok=True)
    title = "Cost of a record where there are few and where there are many"
    result = {"claim": "io", "title": title, "quick": args.quick, "input_bytes": input_bytes, "steps": steps}
    write_json(out / "io.json", result)
    print(out / "io.json")
    return 0


if __name__ == "__main__":
    sys.exit(main())
