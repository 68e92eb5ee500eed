"""Render what `python -m benchmarks.serve_load` found, for the docs."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

FILE = Path(__file__).resolve().parent / "results" / "performance" / "serve_load.json"


def rows(results: dict[str, Any]) -> str:
    """Return the claims with what was found, and what stands behind them."""
    quick = " (quick check, no result)" if results["quick"] else ""
    lines = [f"| claim{quick} | found | verdict |", "|---|---|---|"]
    for claim in results["claims"]:
        lines.append(f"| {claim['claim']} | {claim['found']} | {'holds' if claim['met'] else '**missed**'} |")
    speed, soak = results["throughput"], results["soak"]
    one, engine = (_ratio(speed[name]) for name in ("against_one_client", "against_engine"))
    health, memory, first = soak["health_ms"], soak["memory_mib"], soak["first_text_s"]
    about = results["environment"]
    rates = {who: [row["tokens"] / row["seconds"] for row in found] for who, found in speed["measurements"].items()}
    most = statistics.median(a / b for a, b in zip(rates["engine"], rates["one"], strict=True))
    lines += [
        "",
        f"- Throughput, {speed['rounds']} rounds: {speed['clients']} clients against one {one}; "
        f"against the engine {engine}; the engine itself gets {most:.2f} x what one client gets.",
        f"- Against the engine that is given {speed['clients']} requests, and a further one whenever one has ended, as "
        "the clients ask (given all of them at once it sorts them by length): "
        f"{_ratio(speed['against_engine_in_turn'])}.",
        *_further(results),
        f"- {soak['streams']} streams for {soak['seconds'] / 60:.1f} minutes: {soak['replies']:,} replies with "
        f"{soak['tokens']:,} tokens, {soak['distinct_replies']} different requests.",
        f"- `/health`, {health['n']:,} times: median {health['p50']:.1f} ms, p99 {health['p99']:.1f} ms, "
        f"slowest {health['max']:.1f} ms. First text of a stream: median {first['p50']:.2f} s, "
        f"p99 {first['p99']:.2f} s.",
        f"- Memory of the server: {memory['first']:.0f} MiB after the warm-up, {memory['last']:.0f} MiB at the end, "
        f"slope {memory['slope']:+.1f} MiB per minute.",
        f"- {about['cpus']} cores ({about['cpu']}), {about['threads']} torch thread per process; "
        f"the clients run on the same machine. `{results['command']}`",
    ]
    return "\n".join(lines) + "\n"


def _further(results: dict[str, Any]) -> list[str]:
    """Return what other clients and a larger model get."""
    speed, large = results["throughput"], results["larger"]
    return [
        f"- {speed['clients']} clients that read whole answers in place of streams: against the engine "
        f"{_ratio(speed['whole_against_engine'])}.",
        f"- The same with a larger model ({large['model']}), {large['rounds']} rounds: against the engine "
        f"{_ratio(large['against_engine'])}, fed as the clients ask {_ratio(large['against_engine_in_turn'])}.",
    ]


def _ratio(ratio: dict[str, Any]) -> str:
    return f"{ratio['median']:.2f} x [{ratio['low']:.2f}, {ratio['high']:.2f}]"


def serve_load() -> str:
    """The table of the result file."""
    return rows(json.loads(FILE.read_text(encoding="utf-8")))


BLOCKS = {"serve_load": serve_load}
