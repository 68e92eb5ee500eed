"""The house as a rule: who may import whom, names that stand once, docstrings that lead somewhere.

Counted by `docs/structure.py`, described in `docs/architecture.md`.
"""

from __future__ import annotations

import ast
import functools
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "docs"))
import structure  # noqa: E402

PACKAGE = ROOT / "src" / "steerlm"

FLOORS: tuple[tuple[str, ...], ...] = (
    ("errors", "attributes", "threads"),
    ("encoding", "storage", "statistics", "conversation", "config", "runs", "native", "template", "sources"),
    ("batching", "checkpoint"),
    ("training", "generation"),
    ("scorers", "results", "playground"),
    ("stages",),
    ("reporting", "pipeline", "planning", "studies", "server", "exporting", "chat"),
    ("commands", "steerlm", "__main__"),
)
"""From the ground up; a room imports from its own floor's left or from floors below. `steerlm` is the `__init__`."""

PERMITTED: dict[tuple[str, str], str] = {}
"""(room, imported room) -> why an arrow that points up is there all the same."""

UNTYPED = 55
"""How often `dict[str, Any]` still stands in the package."""

_NOT_OURS = {"chat.completion"}
_ENDINGS = ("json", "jsonl", "md", "yaml", "html", "py", "safetensors", "jinja")

MODULES = structure.modules(PACKAGE)


@functools.cache
def rooms() -> dict[str, set[str]]:
    return structure.room_edges(PACKAGE)


@functools.cache
def trees() -> dict[str, ast.Module]:
    return {name: structure.tree_of(path) for name, path in MODULES.items()}


def test_every_room_stands_on_one_floor() -> None:
    named = [room for floor in FLOORS for room in floor]
    assert sorted(named) == sorted(rooms())


def test_no_arrow_points_up() -> None:
    place = {room: (i, j) for i, floor in enumerate(FLOORS) for j, room in enumerate(floor)}
    upward = {(room, target) for room, targets in rooms().items() for target in targets if place[target] >= place[room]}
    assert upward <= set(PERMITTED)


def test_no_circle() -> None:
    assert structure.circles(rooms()) == []


def test_no_private_name_leaves_its_room() -> None:
    taken = [
        f"{module}: {name} of {target}"
        for module, tree in trees().items()
        for _, target, names in structure.imports(tree, MODULES)
        for name in (*names, target.rsplit(".", 1)[-1])
        if name.startswith("_") and not name.startswith("__") and target.rsplit(".", 1)[0] != module.rsplit(".", 1)[0]
    ]
    assert taken == []


def test_no_class_name_stands_twice() -> None:
    assert structure.double_names(PACKAGE) == []


def test_dictionaries_without_a_type_stand_at_the_seams_only() -> None:
    assert structure.counts(PACKAGE)["`dict[str, Any]`"] <= UNTYPED


@pytest.mark.parametrize("module", [name for name in MODULES if name])
def test_dotted_names_in_docstrings_lead_somewhere(module: str) -> None:
    """`room.module` or `module.name` in a docstring, where its first word is a room or a neighbour."""
    folder = MODULES[module].parent
    missing = []
    for node in ast.walk(trees()[module]):
        if not isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            continue
        for dotted in re.findall(r"`([a-z_]+(?:\.[A-Za-z_]+)+)(?:\(\))?`", ast.get_docstring(node) or ""):
            parts = dotted.removeprefix("steerlm.").split(".")
            if parts[-1] in _ENDINGS or dotted in _NOT_OURS:
                continue
            beside = (folder / f"{parts[0]}.py").is_file()
            if parts[0] not in rooms() and not beside:
                continue
            base = folder / parts[0] if beside and parts[0] not in MODULES else PACKAGE / parts[0]
            if not _leads_somewhere(base, parts[1:]):
                missing.append(dotted)
    assert missing == []


def _leads_somewhere(place: Path, names: list[str]) -> bool:
    while names and place.is_dir() and ((place / names[0]).is_dir() or (place / f"{names[0]}.py").is_file()):
        place, names = place / names[0], names[1:]
    file = place / "__init__.py" if place.is_dir() else place.with_suffix(".py")
    if not names:
        return file.is_file()
    return file.is_file() and re.search(rf"\b{names[0]}\b", file.read_text(encoding="utf-8")) is not None
