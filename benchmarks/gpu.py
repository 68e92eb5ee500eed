"""One script for the day a GPU is there: checks, speed beside the peers, and memory beside the plan, in ten minutes.

    python -m benchmarks.gpu [--gemma FOLDER] [--minutes 10] [--out FILE] [--device cpu --tiny]

Needs no network and nothing beyond what is installed: what is missing (TRL, vLLM, liger, a Gemma folder) is reported as
not run, with the reason. Every part runs in processes of its own, is stopped when its share of the time is over, and
leaves its figures in one JSON file, which is written after each part. `--device cpu --tiny` is the same script with the
smallest models, to see that it works; its figures mean nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import annotate, engines, harness, sft
from benchmarks.harness import Benchmark, Case, Measurement, NotRun, Runner
from steerlm.storage.files import write_json

_MEASUREMENT_S = 150
"""Most that one measurement beside peers may take."""
_FAILURES = (
    RuntimeError, ValueError, TypeError, LookupError, AttributeError, AssertionError, ImportError, OSError,
    subprocess.SubprocessError,
)  # fmt: skip
"""What may go wrong in a part, so that the others still run: there is one try."""

Facts = Mapping[str, Any]
Say = Callable[[str], None]


@dataclass(frozen=True)
class Setup:
    """What all parts get.

    Attributes:
        device: cuda or cpu.
        tiny: the smallest models.
        gemma: folder of a Gemma 3 270M; None: there is none.
        folder: for models and data.
        ends: when the time is over (monotonic).
    """

    device: str
    tiny: bool
    gemma: Path | None
    folder: Path
    ends: float

    @property
    def left(self) -> float:
        """Seconds that are left."""
        return self.ends - time.monotonic()


def _device_facts(device: str) -> dict[str, Any]:
    """Return what is computed on."""
    facts = harness.environment()
    if device == "cuda":
        import torch

        properties = torch.cuda.get_device_properties(0)
        facts["gpu"] = torch.cuda.get_device_name()
        facts["gpu_memory_gib"] = round(properties.total_memory / 2**30, 1)
        facts["cuda"] = torch.version.cuda
    return facts


def _apart(setup: Setup, part: str, most_s: float) -> dict[str, Any]:
    """Run a part of `benchmarks.gpu_parts` in a process of its own.

    Raises:
        NotRun: what it needs is not there, or its time was over.
        RuntimeError: it failed.
    """
    answer = setup.folder / f"{part}.json"
    command = [sys.executable, "-m", "benchmarks.gpu_parts", part, "--device", setup.device, "--out", str(answer)]
    command += ["--tiny"] if setup.tiny else []
    command += [] if setup.gemma is None else ["--gemma", str(setup.gemma)]
    variables = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "PYTHONWARNINGS": "ignore"}
    if setup.device == "cpu":
        variables["CUDA_VISIBLE_DEVICES"] = ""
    try:
        done = subprocess.run(
            command, cwd=harness.ROOT, env={**os.environ, **variables}, capture_output=True, text=True,
            timeout=max(1.0, min(most_s, setup.left)), check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired as late:
        raise NotRun(f"stopped after {late.timeout:.0f} s: its share of the time was over") from None
    if done.returncode or not answer.is_file():
        raise RuntimeError((done.stdout + done.stderr)[-3000:])
    found: dict[str, Any] = json.loads(answer.read_text(encoding="utf-8"))
    if "not_run" in found:
        raise NotRun(found["not_run"])
    return found


def _beside_peers(
    setup: Setup, benchmark: Benchmark, name: str, contestants: Sequence[str], say: Say
) -> dict[str, Any]:
    """Run one round of a benchmark's case, with some of its contestants, in their first variant."""
    whole = benchmark.cases[name]
    chosen = {
        who: harness.Contestant(row.description, row.target, row.variants[-1:])
        for who, row in whole.contestants.items()
        if who in contestants
    }
    folder = setup.folder / f"{benchmark.claim}-{name}"
    folder.mkdir()
    benchmark.prepare(folder, [name], setup.tiny, setup.device)
    runner = Runner(f"benchmarks.{benchmark.claim}", folder, setup.tiny, setup.device)

    def run(case: str, contestant: str, variant: str, number: int) -> Measurement | NotRun:
        if setup.left <= 0:
            return NotRun("no time left")
        runner.timeout_s = min(_MEASUREMENT_S, setup.left)
        try:
            return runner(case, contestant, variant, number)
        except subprocess.TimeoutExpired as late:
            return NotRun(f"stopped after {late.timeout:.0f} s: its share of the time was over")
        except RuntimeError as failure:
            return NotRun(f"failed: {str(failure)[-2000:]}")

    return harness.run_case(name, Case(whole.description, chosen), run, 1, benchmark.compare, say)


def parts(setup: Setup, say: Say) -> dict[str, Callable[[], Facts]]:
    """Return the parts in order, by name."""
    large = "80m" if setup.tiny else "1b"
    return {
        "checks": lambda: _apart(setup, "checks", 240),
        "sft": lambda: _beside_peers(setup, sft.BENCHMARK, large, ("steerlm", "trl_best"), say),
        "memory": lambda: _apart(setup, "memory", 120),
        "annotate": lambda: _beside_peers(setup, annotate.BENCHMARK, "80m-8", ("steerlm", "sorted"), say),
        "sampling": lambda: _beside_peers(
            setup, engines.BENCHMARK, "80m-bf16", ("steerlm", "generate", "built-in"), say
        ),
        "gemma": lambda: _apart(setup, "gemma", 300),
    }


def run(setup: Setup, out: Path) -> dict[str, Any]:
    """Run all parts, and write the file after each."""
    began = time.monotonic()

    def say(text: str) -> None:
        print(f"[{time.monotonic() - began:4.0f} s] {text}", flush=True)

    found: dict[str, Any] = {}
    head = {"device": setup.device, "tiny": setup.tiny, "environment": _device_facts(setup.device)}
    for name, part in parts(setup, say).items():
        say(name)
        started = time.monotonic()
        try:
            if setup.left <= 0:
                raise NotRun("no time left")
            found[name] = dict(part())
        except NotRun as reason:
            found[name] = {"not_run": str(reason)}
        except _FAILURES as failure:
            found[name] = {"failed": "".join(traceback.format_exception(failure))[-3000:]}
        found[name]["seconds"] = round(time.monotonic() - started, 1)
        say(f"{name}: {json.dumps(found[name])[:600]}")
        write_json(out, {**head, "parts": found})
    return {**head, "parts": found}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line; 1 where a part failed or a check did."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="where to compute (default: cuda)")
    parser.add_argument("--tiny", action="store_true", help="the smallest models: checks that the script works")
    parser.add_argument("--gemma", type=Path, help="folder of a Gemma 3 270M for the part `gemma`")
    parser.add_argument("--minutes", type=float, default=10.0, help="in all (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=harness.ROOT / "runs" / "benchmarks" / "gpu.json")
    given = parser.parse_args(arguments)
    if given.device == "cuda":
        # with several visible, the Trainer would spread a batch over them
        os.environ.setdefault("CUDA_VISIBLE_DEVICES", "0")
        import torch

        if not torch.cuda.is_available():
            parser.error("no GPU is visible; --device cpu --tiny tries the script without one")
    given.out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="steerlm-gpu-") as folder:
        ends = time.monotonic() + 60 * given.minutes
        result = run(Setup(given.device, given.tiny, given.gemma, Path(folder), ends), given.out)
    print(given.out)
    checks = result["parts"]["checks"].get("checks", {})
    failed = [name for name, part in result["parts"].items() if "failed" in part]
    failed += [name for name, check in checks.items() if check.get("ok") is False]
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
