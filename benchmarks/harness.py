"""Measures us and peers side by side: in turn, each measurement in a fresh process, reported as ratios.

A benchmark is a module of this folder with a `BENCHMARK` and the two lines that run it:

    python -m benchmarks.sft [--quick] [--pairs 5] [--device cpu|cuda] [--cases NAME ...] [--out FOLDER]

`prepare` makes models and data once. Then every round runs each contestant of a case in a process of its own, in
alternating order, so that a machine that grows slower or faster hits all of them alike. A peer with variants (batch
sizes) is measured once with each, before the rounds, and runs them with its fastest. What is kept of the speeds are
the ratios, one per round: their median, lowest and highest. `--quick` is a check that everything works, in minutes; its
figures mean nothing and do not go to `docs/results/performance/`, where `make docs` renders the tables from.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.metadata
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from steerlm.runs import environment as package_versions
from steerlm.storage.files import write_json

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "docs" / "results" / "performance"
QUICK_RESULTS = ROOT / "runs" / "benchmarks"
TIMEOUT_S = 1800
_PEERS = ("trl", "openvino", "openvino-genai", "vllm", "optimum-intel")


class NotRun(Exception):
    """Raised by `measure` where a contestant cannot run here; the reason is reported in place of a figure."""


@dataclass(frozen=True)
class Job:
    """One measurement.

    Attributes:
        case: name of the case.
        contestant: who is measured.
        variant: which of the contestant's variants; empty where it has none.
        round: number of the round, the seed of everything random in it.
        quick: whether a small amount of work is enough.
        device: cpu or cuda.
        folder: where `prepare` put models and data; a measurement may leave files there for later ones.
        earlier: whether our code is that of an earlier commit.
    """

    case: str
    contestant: str
    variant: str
    round: int
    quick: bool
    device: str
    folder: Path
    earlier: bool = False


@dataclass(frozen=True)
class Measurement:
    """What a measurement found.

    Attributes:
        rate: work per second: the more the better.
        facts: what else is to be recorded (work done, losses, settings); JSON.
        output: what `compare` gets to see and nobody records; JSON.
    """

    rate: float
    facts: Mapping[str, Any] = field(default_factory=dict)
    output: Any = None


@dataclass(frozen=True)
class Contestant:
    """Someone who is measured.

    Attributes:
        description: what is run, for the table.
        target: least ratio of our rate to this peer's that we want; None for us, and where nothing was promised.
        variants: settings of which the fastest counts.
    """

    description: str
    target: float | None = None
    variants: tuple[str, ...] = ()


@dataclass(frozen=True)
class Case:
    """Contestants that do the same work; the first one is us.

    Attributes:
        description: for the table.
        contestants: by name.
        devices: where it is run unless asked for.
        further: a second engine of ours among the contestants, the peer it is held against, and the least ratio wanted.
    """

    description: str
    contestants: Mapping[str, Contestant]
    devices: tuple[str, ...] = ("cpu", "cuda")
    further: tuple[str, str, float] | None = None


@dataclass(frozen=True)
class Benchmark:
    """A claim and how it is measured.

    Attributes:
        claim: name of the result file and the module.
        title: for the table.
        work: what a rate counts per second.
        cases: by name.
        prepare: makes models and data in a folder: (folder, names of the cases, quick, device).
        measure: does one job; runs in a fresh process.
        compare: checks the outputs of one round against each other: (case, measurement by contestant) to facts.
    """

    claim: str
    title: str
    work: str
    cases: Mapping[str, Case]
    prepare: Callable[[Path, Sequence[str], bool, str], None]
    measure: Callable[[Job], Measurement]
    compare: Callable[[str, Mapping[str, Measurement]], dict[str, Any]] | None = None


def environment() -> dict[str, Any]:
    """Return what a reader needs to judge and repeat the figures; no paths and no host names."""
    facts = package_versions()
    for package in _PEERS:
        try:
            facts["packages"][package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    facts["threads"] = os.environ.get("OMP_NUM_THREADS", f"{facts['cpus']} (default)")
    facts["glibc_tunables"] = os.environ.get("GLIBC_TUNABLES", "")
    facts["commit"] = _commit()
    facts["load_before"] = round(os.getloadavg()[0], 2)
    return facts


def _commit() -> str:
    """Return the commit, and whether the package or the benchmarks differ from it."""

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()

    changed = git("status", "--porcelain", "--", "src", "benchmarks")
    return (git("rev-parse", "--short=12", "HEAD") or "unknown") + (" with changes" if changed else "")


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> dict[str, Any]:
    """Return the ratio of two contestants' rates, pair by pair: median, lowest, highest and all of them."""
    pairs = [a / b for a, b in zip(ours, theirs, strict=True)]
    rounded = [round(pair, 3) for pair in pairs]
    return {"median": round(statistics.median(pairs), 3), "low": min(rounded), "high": max(rounded), "pairs": rounded}


class Runner:
    """Runs the measurements of one benchmark in processes of their own.

    Args:
        module: of the benchmark, for `python -m`.
        folder: models and data.
        quick: small amounts of work.
        device: cpu or cuda.
        timeout_s: most that a measurement may take.
    """

    def __init__(self, module: str, folder: Path, quick: bool, device: str, timeout_s: float = TIMEOUT_S):
        self._module = module
        self._folder = folder
        self._quick = quick
        self._device = device
        self.timeout_s = timeout_s

    def __call__(self, case: str, contestant: str, variant: str, number: int) -> Measurement | NotRun:
        """Do one job.

        Raises:
            RuntimeError: it failed; with the end of what it wrote.
        """
        job = Job(case, contestant, variant, number, self._quick, self._device, self._folder)
        request, answer = self._folder / "job.json", self._folder / "answer.json"
        answer.unlink(missing_ok=True)
        request.write_text(json.dumps({**dataclasses.asdict(job), "folder": str(self._folder)}), encoding="utf-8")
        variables = {
            "HF_HUB_OFFLINE": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "TOKENIZERS_PARALLELISM": "false",
            "PYTHONWARNINGS": "ignore",
        }
        if self._device == "cpu":
            variables["CUDA_VISIBLE_DEVICES"] = ""
        done = subprocess.run(
            [sys.executable, "-m", self._module, "--job", str(request)],
            cwd=ROOT, env={**os.environ, **variables}, capture_output=True, text=True, check=False,
            timeout=self.timeout_s,
        )  # fmt: skip
        if done.returncode or not answer.is_file():
            raise RuntimeError(
                f"{case}/{contestant} failed ({done.returncode}):\n{(done.stdout + done.stderr)[-3000:]}"
            )
        found = json.loads(answer.read_text(encoding="utf-8"))
        return NotRun(found["not_run"]) if "not_run" in found else Measurement(**found)


def _work(benchmark: Benchmark, request: Path) -> None:
    """Do the job that the file describes, in this process, and leave the answer beside it."""
    raw = json.loads(request.read_text(encoding="utf-8"))
    job = Job(**{**raw, "folder": Path(raw["folder"])})
    try:
        answer: dict[str, Any] = dataclasses.asdict(benchmark.measure(job))
    except NotRun as reason:
        answer = {"not_run": str(reason)}
    (job.folder / "answer.json").write_text(json.dumps(answer), encoding="utf-8")


def run_case(
    name: str,
    case: Case,
    run: Callable[[str, str, str, int], Measurement | NotRun],
    rounds: int,
    compare: Callable[[str, Mapping[str, Measurement]], dict[str, Any]] | None,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Measure all contestants of a case.

    Args:
        name: of the case.
        case: its contestants; the first one is us.
        run: does one measurement.
        rounds: how often each is measured.
        compare: see `Benchmark`.
        say: told what happens.

    Returns:
        The JSON of the case, without its environment.
    """
    variants: dict[str, str] = {}
    absent: dict[str, str] = {}
    for who, contestant in case.contestants.items():
        variants[who] = _fastest(name, who, contestant.variants, run, absent, say)
    found: dict[str, list[Measurement]] = {who: [] for who in case.contestants}
    ours = next(iter(case.contestants))
    checks: list[dict[str, Any]] = []
    for number in range(rounds):
        order = list(case.contestants) if number % 2 == 0 else list(case.contestants)[::-1]
        for who in order:
            if who in absent:
                continue
            result = run(name, who, variants[who], number)
            if isinstance(result, NotRun):
                absent[who] = str(result)
                say(f"{name}: {who} not run: {result}")
            else:
                found[who].append(result)
        if ours in absent:
            return {"description": case.description, "not_run": absent[ours]}
        latest = {who: rows[-1] for who, rows in found.items() if who not in absent}
        if compare is not None:
            checks.append(compare(name, latest))
        speeds = ", ".join(f"{latest[ours].rate / row.rate:.2f} x {who}" for who, row in latest.items() if who != ours)
        say(f"{name}: round {number + 1} of {rounds}: {speeds}")
    peers: dict[str, Any] = {}
    for who, contestant in case.contestants.items():
        about: dict[str, Any] = {"description": contestant.description, "target": contestant.target}
        if who in absent:
            peers[who] = {**about, "not_run": absent[who]}
            continue
        about |= {"variant": variants[who]} if variants[who] else {}
        about["facts"] = [dict(row.facts) for row in found[who]]
        if who != ours:
            about["ratio"] = ratio([row.rate for row in found[ours]], [row.rate for row in found[who]])
        peers[who] = about
    if case.further is not None and not absent.keys() & set(case.further[:2]):
        who, peer, target = case.further
        rates = [[row.rate for row in found[name]] for name in (who, peer)]
        peers[who]["further"] = {"peer": peer, "target": target, "ratio": ratio(*rates)}
    return {
        "description": case.description, "rounds": rounds, "ours": peers.pop(ours), "peers": peers, "checks": checks
    }  # fmt: skip


def _fastest(
    name: str,
    who: str,
    variants: Sequence[str],
    run: Callable[[str, str, str, int], Measurement | NotRun],
    absent: dict[str, str],
    say: Callable[[str], None],
) -> str:
    """Return the variant with the highest rate; nothing is measured where there is no choice."""
    if len(variants) < 2:
        return variants[0] if variants else ""
    rates: dict[str, float] = {}
    for variant in variants:
        result = run(name, who, variant, -1)
        if isinstance(result, NotRun):
            absent[who] = str(result)
            return variant
        rates[variant] = result.rate
    best = max(rates, key=rates.__getitem__)
    shares = ", ".join(f"{variant}: {rate / rates[best]:.2f}" for variant, rate in rates.items())
    say(f"{name}: {who} is fastest with {best} ({shares})")
    return best


def run_benchmark(
    benchmark: Benchmark, module: str, cases: Sequence[str], rounds: int, quick: bool, device: str, out: Path
) -> Path:
    """Measure the cases and write the result file after each; cases not measured keep what the file says of them.

    Returns:
        The result file.
    """
    path = out / f"{benchmark.claim}{'' if device == 'cpu' else '_' + device}.json"
    out.mkdir(parents=True, exist_ok=True)
    head = {"claim": benchmark.claim, "title": benchmark.title, "work": benchmark.work, "device": device}
    if device == "cuda" and not _has_gpu():
        write_json(path, {**head, "not_run": "no GPU here", "environment": environment()})
        print(f"{benchmark.claim}: not run: no GPU here", flush=True)
        return path
    stored = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    results: dict[str, Any] = {name: row for name, row in stored.get("cases", {}).items() if name in benchmark.cases}
    began = time.monotonic()

    def say(text: str) -> None:
        print(f"[{time.monotonic() - began:4.0f} s] {benchmark.claim} {text}", flush=True)

    with tempfile.TemporaryDirectory(prefix="steerlm-benchmark-") as temporary:
        folder = Path(temporary)
        say(f"prepares {', '.join(cases)}")
        benchmark.prepare(folder, cases, quick, device)
        run = Runner(module, folder, quick, device)
        for name in cases:
            facts = environment()
            results[name] = run_case(name, benchmark.cases[name], run, rounds, benchmark.compare, say)
            results[name] |= {"quick": quick, "environment": facts}
            ordered = {case: results[case] for case in benchmark.cases if case in results}
            write_json(path, {**head, "cases": ordered})
    return path


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def build_parser(benchmark: Benchmark) -> argparse.ArgumentParser:
    """Return the command line of a benchmark."""
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{benchmark.claim}", description=benchmark.title)
    parser.add_argument("--quick", action="store_true", help="little work, one pair: checks that everything works")
    parser.add_argument("--pairs", type=int, help="rounds (default: 5, with --quick 1)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where to compute (default: cpu)")
    parser.add_argument(
        "--cases", nargs="+", choices=list(benchmark.cases), help="only these (default: all of the device)"
    )
    parser.add_argument("--out", type=Path, help="folder of the result file (default: docs/results/performance)")
    parser.add_argument("--job", type=Path, help=argparse.SUPPRESS)
    return parser


def main(benchmark: Benchmark, arguments: Sequence[str] | None = None) -> int:
    """Run a benchmark from its command line."""
    args = build_parser(benchmark).parse_args(arguments)
    if args.job is not None:
        _work(benchmark, args.job)
        return 0
    path = run_benchmark(
        benchmark,
        f"benchmarks.{benchmark.claim}",
        args.cases or [name for name, case in benchmark.cases.items() if args.device in case.devices],
        args.pairs or (1 if args.quick else 5),
        args.quick,
        args.device,
        args.out or (QUICK_RESULTS if args.quick else RESULTS),
    )
    print(path)
    return 0
