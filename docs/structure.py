"""The structure of the package in numbers, read from its own imports: rooms, floors, arrows, circles, names.

    python docs/structure.py                 the table
    python docs/structure.py --write         the table into docs/results/structure.json, for docs/architecture.md
    python docs/structure.py --rooms         every room with its floor, lines and what it imports
    python docs/structure.py --src OTHER     the same of another checkout's src/steerlm

A room is a folder directly under `src/steerlm` with all that is in it, or a file there. A room's floor is the longest
way down from it along imports; an arrow is an import of one room by another, wherever it stands in the file.
"""

from __future__ import annotations

import argparse
import ast
import functools
import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1] / "src" / "steerlm"
KEPT = Path(__file__).resolve().parent / "results" / "structure.json"


@functools.cache
def tree_of(path: Path) -> ast.Module:
    """Return a file parsed."""
    return ast.parse(path.read_text(encoding="utf-8"))


def modules(package: Path) -> dict[str, Path]:
    """Dotted name below the package -> file; a folder's name stands for its `__init__`."""
    found = {}
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(tree: ast.AST, known: dict[str, Path]) -> Iterator[tuple[ast.stmt, str, tuple[str, ...]]]:
    """Yield (statement, module of the package, names taken from it) for every import of the package."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "steerlm":
            base = node.module.removeprefix("steerlm").removeprefix(".")
            for alias in node.names:
                inner = f"{base}.{alias.name}".removeprefix(".")
                yield (node, inner, ()) if inner in known else (node, base, (alias.name,))
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == "steerlm":
                    yield node, alias.name.removeprefix("steerlm").removeprefix("."), ()


def room_of(module: str) -> str:
    """The room that a module stands in; `steerlm` for the package's own `__init__`."""
    return module.split(".")[0] or "steerlm"


def arrows(package: Path) -> dict[tuple[str, str], set[str]]:
    """(room, imported room) -> the modules that import."""
    known = modules(package)
    found: dict[tuple[str, str], set[str]] = {}
    for module, path in known.items():
        for _, target, _ in imports(tree_of(path), known):
            pair = room_of(module), room_of(target)
            if pair[0] != pair[1]:
                found.setdefault(pair, set()).add(module)
    return found


def circles(edges: dict[str, set[str]]) -> list[set[str]]:
    """The sets of two or more nodes that all reach each other."""
    reach = {node: _reached(node, edges) for node in edges}
    found: list[set[str]] = []
    for node in edges:
        circle = {other for other in reach[node] if node in reach.get(other, set())}
        if len(circle) > 1 and circle not in found:
            found.append(circle)
    return found


def _reached(node: str, edges: dict[str, set[str]]) -> set[str]:
    seen: set[str] = set()
    todo = [node]
    while todo:
        for target in edges.get(todo.pop(), set()) - seen:
            seen.add(target)
            todo.append(target)
    return seen


def floors(edges: dict[str, set[str]]) -> dict[str, int]:
    """Room -> 1 + the highest floor it imports from; a circle counts as one room."""
    group = {node: frozenset({node}) for node in edges}
    for circle in circles(edges):
        group |= {node: frozenset(circle) for node in circle}
    known: dict[frozenset[str], int] = {}

    def floor(nodes: frozenset[str]) -> int:
        if nodes not in known:
            below = {group[t] for node in nodes for t in edges[node] if group[t] != nodes}
            known[nodes] = 1 + max((floor(g) for g in below), default=0)
        return known[nodes]

    return {node: floor(group[node]) for node in edges}


def room_edges(package: Path) -> dict[str, set[str]]:
    """Room -> the rooms it imports."""
    edges: dict[str, set[str]] = {room_of(module): set() for module in modules(package)}
    for room, target in arrows(package):
        edges[room].add(target)
    return edges


def module_edges(package: Path) -> dict[str, set[str]]:
    """Module -> the modules it imports; the package's own `__init__`, which is lazy, left out."""
    known = modules(package)
    edges: dict[str, set[str]] = {module: set() for module in known if module}
    for module in edges:
        taken = {target for _, target, _ in imports(tree_of(known[module]), known)}
        edges[module] = taken - {"", module}
    return edges


def double_names(package: Path) -> list[str]:
    """Names of top-level classes that more than one module defines."""
    count: Counter[str] = Counter()
    for path in package.rglob("*.py"):
        count.update(node.name for node in tree_of(path).body if isinstance(node, ast.ClassDef))
    return sorted(name for name, times in count.items() if times > 1)


def counts(package: Path) -> dict[str, int]:
    """The figures of the table."""
    edges = room_edges(package)
    text = "".join(path.read_text(encoding="utf-8") for path in sorted(package.rglob("*.py")))
    return {
        "Python files": len(modules(package)),
        "lines": text.count("\n"),
        "rooms": len(edges),
        "floors": max(floors(edges).values()),
        "arrows between rooms": sum(map(len, edges.values())),
        "circles of rooms": len(circles(edges)),
        "circles of modules": len(circles(module_edges(package))),
        "class names that stand twice": len(double_names(package)),
        "`dict[str, Any]`": len(re.findall(r"dict\[str, Any\]", text)),
    }


MODULES = modules(PACKAGE)


def main() -> None:
    """Print the table, or the rooms."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--src", type=Path, default=PACKAGE, help="folder of the package (default: this checkout's)")
    parser.add_argument("--rooms", action="store_true", help="every room with its floor and what it imports")
    parser.add_argument("--write", action="store_true", help="keep the counts for docs/architecture.md")
    arguments = parser.parse_args()
    if not arguments.rooms:
        for name, value in counts(arguments.src).items():
            print(f"{name:<30}{value:>8,}")
        if arguments.write:
            kept = json.loads(KEPT.read_text(encoding="utf-8")) | {"now": counts(arguments.src)}
            KEPT.write_text(json.dumps(kept, indent=2) + "\n", encoding="utf-8")
        return
    edges = room_edges(arguments.src)
    for room, floor in sorted(floors(edges).items(), key=lambda pair: (-pair[1], pair[0])):
        print(f"{floor:>2}  {room:<14} {' '.join(sorted(edges[room]))}")


if __name__ == "__main__":
    main()
