"""The dry run finds an attribute of which nobody says the value, wherever in the data the first label stands."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson
import pytest

from steerlm.attributes import AttributeSchema
from steerlm.config import build_recipe
from steerlm.planning.findings import Findings
from steerlm.planning.inputs import inspect_data

SOURCE = {"name": "chats", "format": "messages"}
QUALITY = {"name": "quality", "best": "max"}
TAUGHT = {"train_attribute_model": {"base_model": "m"}}
MISSING = "no record of chats rates 'quality', and nobody else says it"


def looked_at(
    folder: Path, last: Mapping[str, Any], attribute: Mapping[str, Any] = QUALITY, **changes: Any
) -> Findings:
    """Look at 300 turns, the last of which has other keys as well."""
    rows = []
    for i in range(300):
        reply = {"role": "assistant", "content": "a " * (i % 7 + 1), **(last if i == 299 else {})}
        rows.append(orjson.dumps({"id": str(i), "messages": [{"role": "user", "content": f"Say {i}"}, reply]}))
    (folder / "chats.jsonl").write_bytes(b"\n".join(rows))
    recipe = build_recipe({
        "name": "r", "run_dir": str(folder / "run"), "attributes": [attribute], "train_sft": {"base_model": "m"},
        "prepare": {"sources": [{**SOURCE, "path": str(folder / "chats.jsonl")}]}, **changes,
    })  # fmt: skip
    found = Findings()
    inspect_data(recipe, AttributeSchema.from_dict([attribute]), found)
    return found


@pytest.mark.parametrize("changes", [{}, TAUGHT])
def test_what_nobody_says_is_a_problem(changes: dict[str, Any], tmp_path: Path) -> None:
    [problem] = looked_at(tmp_path, {}, **changes).problems
    assert problem.startswith(MISSING)
    assert "rating.NAME" in problem


@pytest.mark.parametrize(
    "label", [{"attributes": {"quality": 1}}, {"ratings": {"quality": [1, 2]}}, {"human": {"quality": 3}}]
)
@pytest.mark.parametrize("changes", [{}, TAUGHT])
def test_one_label_behind_the_sample_is_enough(label: dict[str, Any], changes: dict[str, Any], tmp_path: Path) -> None:
    assert looked_at(tmp_path, label, **changes).problems == []


@pytest.mark.parametrize(
    ("who", "enough"), [("judge:m", True), ("human", True), ("model:1234", False), ("measure:words", False)]
)
def test_an_attribute_model_learns_from_people_and_judges(who: str, enough: bool, tmp_path: Path) -> None:
    label = {"attributes": {"quality": 1}, "labelled_by": who}
    assert (looked_at(tmp_path, label, **TAUGHT).problems == []) == enough
    assert looked_at(tmp_path, label).problems == [], "a steerable model learns from any label"


def test_what_others_say_needs_no_label(tmp_path: Path) -> None:
    measured = {"name": "length", "measure": "words"}
    plain = {"base_model": "m", "conditioning": False}
    assert looked_at(tmp_path, {}, measured).problems == []
    assert looked_at(tmp_path, {}, train_sft=plain).problems == [], "a model without dials"


def test_what_a_source_that_is_not_read_may_say_is_a_note(tmp_path: Path) -> None:
    sources = [{**SOURCE, "path": str(tmp_path / "chats.jsonl")}, {**SOURCE, "name": "far", "hub": "some/set"}]
    found = looked_at(tmp_path, {}, prepare={"sources": sources})
    assert found.problems == []
    assert any(note.startswith(MISSING) and "other sources were not read" in note for note in found.notes)
