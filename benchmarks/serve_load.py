"""The server under load: throughput against one client and against the engine itself, and many streams for minutes.

    python -m benchmarks.serve_load [--run runs/playground] [--minutes 5] [--rounds 9] [--threads 1] [--quick]

Throughput: one client, 16 clients, and the same requests given to the engine with a batch of 16, all at once and a
further one whenever another has ended, each in fresh processes, in turn; the streamed answers must be those of the
engine. Then the same without the one client for a model of 80 M parameters with random weights. Soak: 64 streams over
a pool of requests that differ in everything a batch could mix up, every reply compared token for token with the same
request sampled alone, while another process asks `/health` and the server's memory is watched. The exit status is 1
if a claim fails. `--quick` is a check that everything works; its figures mean nothing and do not go to
`docs/results/performance/`.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks import sampling
from benchmarks.clients import Body
from benchmarks.harness import QUICK_RESULTS, RESULTS, environment, ratio
from benchmarks.serving import Helper, Prompt, larger_pool, mixed_pool, model_of, prompts_of, serving, throughput_pool
from steerlm.checkpoint.info import load_info
from steerlm.server.service import trained_schema
from steerlm.storage.files import write_json

CLIENTS, STREAMS = 16, 64
LARGER = "80m"
"""Size of a model with random weights (`benchmarks.synthetic`)."""
_WARM_UP_S = 20.0
_PROBE_S = 0.15


class Load(NamedTuple):
    """How much work is done.

    Attributes:
        rounds: of the throughput measurement.
        single: requests of the one client.
        many: requests of the 16 clients, and of the engine.
        before: requests before that, to warm up.
        pool: different requests in the soak.
        seconds: of the soak.
        larger: requests to the larger model, and the tokens of each.
    """

    rounds: int
    single: int
    many: int
    before: int
    pool: int
    seconds: float
    larger: tuple[int, int]


class Claim(NamedTuple):
    """What was promised, and what was found."""

    claim: str
    found: str
    met: bool


class Measuring(NamedTuple):
    """How a model is measured; every measurement takes fresh processes.

    Attributes:
        model: the checkpoint.
        before: requests that come first; the server and the engine need some until they no longer touch new memory.
        folder: for files.
        variables: of the environment.
    """

    model: Path
    before: Sequence[Body]
    folder: Path
    variables: dict[str, str]

    def served(self, count: int, requests: Sequence[Body], stream: bool = True) -> dict[str, Any]:
        """Let so many clients share the requests."""
        with serving(self.model, self.variables) as server:
            job = {"url": server.url, "name": "load", "stream": stream}
            first = {**job, "clients": CLIENTS, "pool": self.before}
            Helper("clients", first, self.folder, self.variables).result()
            used = server.cpu_seconds()
            measured = {**job, "clients": count, "pool": requests}
            found: dict[str, Any] = Helper("clients", measured, self.folder, self.variables).result()
            found["server_cpu_seconds"] = server.cpu_seconds() - used
        return found

    def engine(self, role: str, requests: Sequence[Body]) -> dict[str, Any]:
        """Give the requests to the engine itself."""
        job = {"model": str(self.model), "batch_size": CLIENTS, "pool": requests, "before": self.before}
        found: dict[str, Any] = Helper(role, job, self.folder, self.variables).result()
        return found


def throughput(measuring: Measuring, pool: Sequence[Body], load: Load) -> dict[str, Any]:
    """Measure one client, 16 clients that read streams or whole answers, and the engine in two ways, in turn."""
    rows = _rounds(
        load.rounds,
        {
            "one": lambda: measuring.served(1, pool[: load.single]),
            "many": lambda: measuring.served(CLIENTS, pool[: load.many]),
            "many_whole": lambda: measuring.served(CLIENTS, pool[: load.many], stream=False),
            "engine": lambda: measuring.engine("direct", pool[: load.many]),
            "engine_in_turn": lambda: measuring.engine("in_turn", pool[: load.many]),
        },
    )
    errors = [error for name in ("one", "many", "many_whole") for row in rows[name] for error in row["errors"]]
    texts = rows["engine"][0]["texts"]
    for name, found in rows.items():
        for row in found:
            different = [i for i, text in enumerate(row["texts"]) if text != texts[i]]
            errors += [f"{name}: reply {i} is not the engine's" for i in different]
    whole = [_rate(row) for row in rows["many_whole"]]
    against = ratio(whole, [_rate(row) for row in rows["engine"]])
    return {"errors": errors, **_speeds(rows, "one", "engine", "engine_in_turn"), "whole_against_engine": against}


def larger(measuring: Measuring, pool: Sequence[Body], rounds: int) -> dict[str, Any]:
    """Measure 16 clients and the engine with a model whose steps take as long as those of models that people use."""
    rows = _rounds(
        rounds,
        {
            "many": lambda: measuring.served(CLIENTS, pool),
            "engine": lambda: measuring.engine("direct", pool),
            "engine_in_turn": lambda: measuring.engine("in_turn", pool),
        },
    )
    errors = [error for row in rows["many"] for error in row["errors"]]
    return {"model": f"{LARGER}, random weights", "errors": errors, **_speeds(rows, "engine", "engine_in_turn")}


def _rounds(count: int, measures: dict[str, Callable[[], dict[str, Any]]]) -> dict[str, list[dict[str, Any]]]:
    """Measure everything so often, in alternating order."""
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in measures}
    for number in range(count):
        for name in list(measures) if number % 2 == 0 else reversed(measures):
            rows[name].append(measures[name]())
        speeds = ", ".join(f"{name} {_rate(found[-1]):.0f}" for name, found in rows.items())
        print(f"round {number + 1} of {count}: tokens/s: {speeds}", flush=True)
    return rows


def _speeds(rows: dict[str, list[dict[str, Any]]], *others: str) -> dict[str, Any]:
    """Return the tokens/s of 16 clients over those of others, and what was measured."""
    rates = {name: [_rate(row) for row in found] for name, found in rows.items()}
    names = {"one": "one_client"}
    return {
        "clients": CLIENTS,
        "rounds": len(rows["many"]),
        **{f"against_{names.get(other, other)}": ratio(rates["many"], rates[other]) for other in others},
        "measurements": {name: [_short(row) for row in found] for name, found in rows.items()},
    }


def _reworded(prompt: Prompt) -> Prompt:
    """Return a prompt of which nothing is remembered when the prompt itself is asked."""
    return [{**message, "content": f"Well, {message['content']}"} for message in prompt]


def _rate(row: dict[str, Any]) -> float:
    return float(row["tokens"] / row["seconds"])


def _short(row: dict[str, Any]) -> dict[str, Any]:
    """Return a measurement as it is recorded."""
    kept = {key: row[key] for key in ("tokens", "seconds", "cpu_seconds", "server_cpu_seconds") if key in row}
    if row.get("first_text_s"):
        kept["first_text_s"] = statistics.median(row["first_text_s"])
    return {key: round(value, 3) for key, value in kept.items()}


def soak(model: Path, pool: Sequence[Any], load: Load, folder: Path, variables: dict[str, str]) -> dict[str, Any]:
    """Let 64 clients stream for some minutes."""
    expected = Helper("alone", {"model": str(model), "pool": pool}, folder, variables).result()
    with serving(model, variables) as server:
        job = {"url": server.url, "seconds": load.seconds}
        asking = {**job, "name": "load", "clients": STREAMS, "pool": pool, "expected": expected}
        sending = Helper("clients", asking, folder, variables)
        probing = Helper("probe", {**job, "interval_s": _PROBE_S}, folder, variables)
        began, memory = time.monotonic(), []
        while time.monotonic() < began + load.seconds:
            memory.append((time.monotonic() - began, server.memory_mib()))
            time.sleep(min(1.0, load.seconds / 100))
        found, probed = sending.result(), probing.result()
    latencies = np.array(probed["latencies_ms"])
    return {
        "streams": STREAMS,
        "seconds": round(found["seconds"], 1),
        "pool": len(pool),
        "replies": found["replies"],
        "distinct_replies": found["distinct"],
        "tokens": found["tokens"],
        "errors": found["errors"],
        "mixed_up": found["mixed_up"],
        "first_text_s": _quantiles(np.array(found["first_text_s"])),
        "health_ms": {"n": len(latencies), "failed": probed["failed"], **_quantiles(latencies)},
        "memory_mib": flatness(memory, load.seconds),
    }


def _quantiles(values: np.ndarray) -> dict[str, float]:
    p50, p99 = np.quantile(values, (0.5, 0.99))
    return {"p50": round(float(p50), 3), "p99": round(float(p99), 3), "max": round(float(values.max()), 3)}


def flatness(samples: Sequence[tuple[float, float]], seconds: float) -> dict[str, float]:
    """Say how memory changed after warm-up.

    Args:
        samples: seconds since the start, and MiB.
        seconds: of the whole soak.

    Returns:
        MiB at the start, the medians of the first and last fifth after warm-up (of 5 minutes: nearly a minute each),
        their difference, the slope in MiB per minute, and the peak.
    """
    start = min(_WARM_UP_S, seconds / 5)
    times, sizes = np.array([row for row in samples if row[0] >= start]).T
    fifth = (times[-1] - times[0]) / 5
    first = float(np.median(sizes[times <= times[0] + fifth]))
    last = float(np.median(sizes[times >= times[-1] - fifth]))
    slope = float(np.polyfit(times / 60, sizes, 1)[0])
    values = {"start": samples[0][1], "first": first, "last": last, "growth": last - first}
    return {name: round(value, 1) for name, value in {**values, "slope": slope, "peak": float(sizes.max())}.items()}


def claims(results: dict[str, Any]) -> list[Claim]:
    """Compare what was found with what was promised."""
    speed, soaked = results["throughput"], results["soak"]
    one, engine = (speed[name]["median"] for name in ("against_one_client", "against_engine"))
    growth = soaked["memory_mib"]["growth"] / soaked["memory_mib"]["first"]
    failed = sum(len(part["errors"]) for part in (soaked, speed, results["larger"]))
    p99 = soaked["health_ms"]["p99"]
    return [
        Claim(f"{CLIENTS} clients get at least 4 times one client's tokens/s", f"{one:.2f}", one >= 4),
        Claim(f"{CLIENTS} clients get at least 90 % of the engine's tokens/s", f"{100 * engine:.0f} %", engine >= 0.9),
        Claim("no errors", str(failed), failed == 0),
        Claim("no mixed-up tokens", str(len(soaked["mixed_up"])), not soaked["mixed_up"]),
        Claim("memory flat (first to last fifth: less than 2 %)", f"{100 * growth:+.1f} %", abs(growth) < 0.02),
        Claim("/health answers within 100 ms (p99)", f"{p99:.0f} ms", p99 < 100 and not soaked["health_ms"]["failed"]),
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, write the result file and say which claims hold."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serve_load", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--run", type=Path, default=Path("runs/playground"), help="run folder of the playground recipe")
    parser.add_argument("--minutes", type=float, default=5.0, help="of the soak (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=9, help="of the throughput measurement (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="of torch, everywhere (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="one short round and 15 s of streams")
    parser.add_argument("--out", type=Path, help="folder of the result file (default: docs/results/performance)")
    args = parser.parse_args(arguments)
    load = Load(args.rounds, 48, 480, 160, 192, 60 * args.minutes, (64, 64))
    if args.quick:
        load = Load(1, 8, 96, 16, 48, 15.0, (32, 8))
    model = model_of(args.run.resolve())
    schema = trained_schema(load_info(model))
    work = "--quick" if args.quick else f"--minutes {args.minutes:g} --rounds {args.rounds}"
    variables = {"OMP_NUM_THREADS": str(args.threads), "TOKENIZERS_PARALLELISM": "false", "CUDA_VISIBLE_DEVICES": ""}
    results: dict[str, Any] = {
        "claim": "serve_load",
        "quick": args.quick,
        "command": f"python -m benchmarks.serve_load {work} --threads {args.threads}",
        "environment": {**environment(), "threads": str(args.threads)},
    }
    with tempfile.TemporaryDirectory(prefix="steerlm-benchmark-") as temporary:
        folder = Path(temporary)
        prompts = prompts_of(args.run)
        pool = throughput_pool(prompts, schema, load.many)
        before = throughput_pool([_reworded(prompt) for prompt in prompts], schema, load.before)
        results["throughput"] = throughput(Measuring(model, before, folder, variables), pool, load)
        sampling.prepare(folder, [LARGER], args.quick, "cpu")
        asked = larger_pool(folder / f"{LARGER}.jsonl", *load.larger)
        first = [{**body, "messages": _reworded(body["messages"])} for body in asked[:CLIENTS]]
        results["larger"] = larger(Measuring(folder / LARGER, first, folder, variables), asked, min(load.rounds, 5))
        results["soak"] = soak(model, mixed_pool(prompts, schema, load.pool), load, folder, variables)
    found = claims(results)
    results["claims"] = [claim._asdict() for claim in found]
    out: Path = args.out or (QUICK_RESULTS if args.quick else RESULTS)
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "serve_load.json", results)
    for claim in found:
        print(f"{'met   ' if claim.met else 'FAILED'} {claim.claim}: {claim.found}")
    print(out / "serve_load.json")
    return 0 if all(claim.met for claim in found) else 1


if __name__ == "__main__":
    sys.exit(main())
