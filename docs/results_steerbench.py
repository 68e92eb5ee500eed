"""Copy SteerBench's figures and the comparison of ways to steer into `docs/results/`, and render them for the docs.

    python docs/results_steerbench.py BENCH WAYS REWRITING
    make docs

BENCH and REWRITING are folders of `evaluate --suite steerbench` (rules alone; a model that learned to rewrite), WAYS is
one of `evaluate --ways`.

Only numbers and settings are copied: the source texts have terms of their own.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path

from steerlm.reporting.steerbench import probe_text, published_table, steerbench_sections
from steerlm.reporting.ways import ways_sections
from steerlm.results.codec import read_result, write_result
from steerlm.results.steerbench import SteerbenchResult
from steerlm.results.ways import WaysResult

FOLDER = Path(__file__).resolve().parent / "results" / "steerbench"


def copy(bench: Path, ways: Path, rewriting: Path) -> None:
    """Copy what the page needs from finished folders."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, folder in (("steerbench", bench), ("rewriting", rewriting)):
        result = read_result(SteerbenchResult, folder / "steerbench.json")
        # where a model lay says nothing
        named = [p if p.mode == "reference" else dataclasses.replace(p, label=p.name) for p in result.policies]
        write_result(FOLDER / f"{name}.json", dataclasses.replace(result, policies=named))
    write_result(FOLDER / "ways.json", read_result(WaysResult, ways / "ways.json"))


def _bench(name: str) -> SteerbenchResult:
    return read_result(SteerbenchResult, FOLDER / f"{name}.json")


def _ways() -> WaysResult:
    return read_result(WaysResult, FOLDER / "ways.json")


def setup(name: str = "steerbench") -> str:
    """What was asked and who measured, with what a reader must know."""
    result = _bench(name)
    return "\n".join([probe_text(result), "", *(f"* {line}" for line in result.cautions)]) + "\n"


def bench(name: str = "steerbench") -> str:
    """The tables of all modes."""
    return steerbench_sections(_bench(name)) + "\n"


def published() -> str:
    """What the benchmark's authors published."""
    return published_table()


def ways() -> str:
    """The ways to steer."""
    return ways_page(_ways())


def ways_page(result: WaysResult) -> str:
    """Return what was asked, the cautions and the tables of ways to steer."""
    asked = f"{result.prompts.used} held-out prompts, {result.asks} settings, seed {result.seed}."
    return "\n".join([asked, "", *(f"* {line}" for line in result.cautions), "", ways_sections(result), ""])


BLOCKS: dict[str, Callable[..., str]] = {
    "steerbench-setup": setup,
    "steerbench-tables": bench,
    "steerbench-published": published,
    "ways-tables": ways,
}

if __name__ == "__main__":
    copy(*map(Path, sys.argv[1:]))
