"""How the dials of a real model follow elsewhere: by turn, by language, alone in the header, on red-team questions.

    python docs/results_elsewhere.py PAGE [--groups TITLE=EVALUATION …] [--alone EVALUATION] [--suite NAME=EVALUATION …]

PAGE is a folder of `docs/results/`; the evaluations are of one model. `--groups` takes evaluations with `evaluate.by`,
`--alone` one with `settings: [alone]`, on the prompts of PAGE's `guided.json`, which it is shown beside, and `--suite`
the paper's experiments, each under a name for the page.
"""

from __future__ import annotations

import argparse
import json
from functools import partial
from pathlib import Path
from typing import Any

from results_turned_up import NOT_MEASURED, followed
from stored_run import StoredRun

from steerlm.reporting.formatting import DASH, estimate_text, markdown_table, markdown_text
from steerlm.reporting.suites import suite_table
from steerlm.results.codec import from_json, to_json
from steerlm.results.evaluation import Evaluation, read_evaluation
from steerlm.stages.evaluate.suites import joke_requests
from steerlm.statistics.estimates import Estimate
from steerlm.storage.resumable import read_rows

LANGUAGES = StoredRun(Path(__file__).resolve().parent / "results" / "languages")
"""The playground in two languages."""
_FILE = "elsewhere.json"
_ANECDOTES = 3
"""Requests of the humor experiment whose answers are shown: the first ones."""


def copy(stored: StoredRun, groups: dict[str, Path], alone: Path | None) -> None:
    """Keep how the dials follow in every group, and with no other dial in the header."""
    found: dict[str, Any] = stored.read(_FILE) if (stored.folder / _FILE).is_file() else {"groups": {}}
    found["groups"] |= {title: _groups(folder) for title, folder in groups.items()}
    if alone is not None:
        found["alone"] = followed(alone)
    stored.write(_FILE, found)


def _groups(folder: Path) -> dict[str, Any]:
    results = read_evaluation(folder)
    assert results is not None
    parts = {
        name: {
            "prompts": group.prompts,
            "dials": {
                dial: {"spearman": to_json(x.spearman), "mae": to_json(x.mae)} for dial, x in group.dials.items()
            },
            "categorical": {name: to_json(share) for name, share in group.categorical.items()},
        }
        for name, group in sorted((results.final_model.groups or {}).items())
    }
    return {"answers": results.asks, "settings": list(results.drawing.settings), "groups": parts}


def copy_suite(stored: StoredRun, name: str, folder: Path) -> None:
    """Keep one of the paper's experiments; of humor, whose requests are ours, a few answers as well."""
    found = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    found["examples"]["sweeps"] = []  # they hold other people's prompts
    stored.write(_suite_file(name), found)
    if found["suite"]["name"] == "humor":
        stored.write(_suite_file(f"{name}-answers"), _anecdotes(folder))


def _anecdotes(folder: Path) -> list[dict[str, Any]]:
    """Return the first requests with their answers, lowest level first."""
    [samples] = folder.glob("*/samples.jsonl")
    requests = joke_requests()
    found: dict[int, list[tuple[int, str]]] = {}
    for row in read_rows(samples):
        number = int(str(row["prompt"]).removeprefix("joke/"))
        found.setdefault(number, []).append((row["attributes"]["humor"], row["samples"][0]["text"]))
    return [{"asked": requests[i], "answers": sorted(found[i])} for i in sorted(found)[:_ANECDOTES]]


def _suite_file(name: str) -> str:
    return f"suite_{name}.json".replace("-", "_")


def suite(stored: StoredRun, name: str) -> str:
    """Mean score by level, beside the paper's."""
    results = from_json(Evaluation, stored.read(_suite_file(name)))
    header, *rows = suite_table(results)
    note = f"\n{results.prompts.used} prompts, {results.asks} answers; the other dials at their defaults.\n"
    return markdown_table(header, rows) + note


def anecdotes(stored: StoredRun, name: str) -> str:
    """A few requests with an answer for each level."""
    rows = [
        [markdown_text(found["asked"]), str(level), markdown_text(text)]
        for found in stored.read(_suite_file(f"{name}-answers"))
        for level, text in found["answers"]
    ]
    return markdown_table(["asked", "humor", "answer"], rows)


def groups(stored: StoredRun) -> str:
    """A table of Spearman and error by dial and group, for every way of grouping."""
    tables = []
    for title, found in stored.read(_FILE)["groups"].items():
        parts = found["groups"]
        names = dict.fromkeys(name for part in parts.values() for name in part["dials"])
        rows = [[name, *(_follows(part["dials"].get(name)) for part in parts.values())] for name in names]
        for name in dict.fromkeys(name for part in parts.values() for name in part.get("categorical", {})):
            shares = [part["categorical"].get(name) for part in parts.values()]
            cells = [DASH if share is None else estimate_text(from_json(Estimate, share)) for share in shares]
            rows.append([f"{name}, share of answers in it", *cells])
        heads = [f"{name} ({part['prompts']} prompts)" for name, part in parts.items()]
        note = f"\n{found['answers']} answers; the other dials stand at: {', '.join(found['settings'])}.\n"
        tables.append(markdown_table([title, *heads], rows) + note)
    return "\n".join(tables)


def alone(stored: StoredRun) -> str:
    """The dials alone in the header, beside the whole header."""
    if "alone" not in (found := stored.read(_FILE)):
        return NOT_MEASURED
    whole, part = stored.read("guided.json")["guided"], found["alone"]
    rows = [[name, *(_follows(where["dials"][name]) for where in (whole, part))] for name in part["dials"]]
    note = f"\n{part['prompts']} held-out prompts, {whole['answers']} and {part['answers']} answers.\n"
    return markdown_table(["dial", "whole header", "alone in the header"], rows) + note


def _follows(dial: dict[str, Any] | None) -> str:
    if dial is None:
        return DASH
    spearman, error = (estimate_text(from_json(Estimate, dial[key])) for key in ("spearman", "mae"))
    return f"{spearman}; error {error}"


BLOCKS = {"languages-groups": partial(groups, LANGUAGES)}


def main() -> None:
    """Copy what the command line names."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("page", type=Path)
    parser.add_argument("--groups", nargs="*", default=[], metavar="TITLE=EVALUATION")
    parser.add_argument("--alone", type=Path)
    parser.add_argument("--suite", nargs="*", default=[], metavar="NAME=EVALUATION")
    given = parser.parse_args()
    named, suites = (
        {title: Path(folder) for title, _, folder in (pair.partition("=") for pair in pairs)}
        for pairs in (given.groups, given.suite)
    )
    stored = StoredRun(given.page)
    if named or given.alone:
        copy(stored, named, given.alone)
    for name, folder in suites.items():
        copy_suite(stored, name, folder)


if __name__ == "__main__":
    main()
