"""How the dials of a real model follow elsewhere: by turn, by language, alone in the header, on red-team questions.

    python docs/results_elsewhere.py PAGE [--groups TITLE=EVALUATION …] [--alone EVALUATION] [--suite EVALUATION]

PAGE is a folder of `docs/results/`; the evaluations are of one model. `--groups` takes evaluations with `evaluate.by`,
`--alone` one with `settings: [alone]`, on the prompts of PAGE's `guided.json`, which it is shown beside, and `--suite`
one of the paper's experiments.
"""

from __future__ import annotations

import argparse
import json
from functools import partial
from pathlib import Path
from typing import Any

from results_turned_up import NOT_MEASURED, followed
from stored_run import StoredRun

from steerlm.reporting.formatting import DASH, estimate_text, markdown_table
from steerlm.reporting.suites import suite_table
from steerlm.results.codec import from_json, to_json
from steerlm.results.evaluation import Evaluation, read_evaluation
from steerlm.statistics.estimates import Estimate

LANGUAGES = StoredRun(Path(__file__).resolve().parent / "results" / "languages")
"""The playground in two languages."""
_FILE = "elsewhere.json"
_SUITE = "suite.json"


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


def copy_suite(stored: StoredRun, folder: Path) -> None:
    """Keep one of the paper's experiments."""
    found = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    found["examples"]["sweeps"] = []  # they hold other people's prompts
    stored.write(_SUITE, found)


def suite(stored: StoredRun) -> str:
    """Mean score by level, beside the paper's."""
    results = from_json(Evaluation, stored.read(_SUITE))
    header, *rows = suite_table(results)
    note = f"\n{results.prompts.used} prompts, {results.asks} answers; the other dials at their defaults.\n"
    return markdown_table(header, rows) + note


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
    parser.add_argument("--suite", type=Path)
    given = parser.parse_args()
    named = {title: Path(folder) for title, _, folder in (pair.partition("=") for pair in given.groups)}
    stored = StoredRun(given.page)
    if named or given.alone:
        copy(stored, named, given.alone)
    if given.suite:
        copy_suite(stored, given.suite)


if __name__ == "__main__":
    main()
