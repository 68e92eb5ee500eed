"""From YAML to a recipe and back; what is wrong with it is said with its place."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from steerlm.config.recipe import Recipe
from steerlm.errors import UserError, did_you_mean
from steerlm.storage.files import read_yaml

ModelT = TypeVar("ModelT", bound=BaseModel)
_SHIPPED = Path(__file__).resolve().parents[1] / "recipes"


def parse_overrides(pairs: Sequence[str]) -> dict[str, object]:
    """Parse `a.b=value` pairs; values are YAML, so numbers, lists and null work.

    Raises:
        UserError: a pair without `=`, or a value that is not YAML.
    """
    parsed: dict[str, object] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not all(key.split(".")):
            raise UserError(f"--set {pair!r} is not of the form key=value")
        try:
            parsed[key] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise UserError(f"--set {pair!r}: {value!r} is not a YAML value") from None
    return parsed


def apply_overrides(raw: Mapping[str, object], overrides: Mapping[str, object]) -> dict[str, object]:
    """Return plain data with values at dotted places replaced; entries of a list are counted from 0.

    Raises:
        UserError: a place inside a plain value, or an index that the list does not have.
    """
    root: dict[str, object] = copy.deepcopy(dict(raw))
    for dotted, value in overrides.items():
        *parents, last = dotted.split(".")
        node: Any = root
        for depth, key in enumerate(parents):
            at = _entry(node, key, dotted, parents[:depth])
            if isinstance(node, dict) and node.get(at) is None:  # a resolved recipe says null for a section left out
                node[at] = {}
            node = node[at]
        node[_entry(node, last, dotted, parents)] = value
    return root


def _entry(node: object, key: str, dotted: str, place: Sequence[str]) -> str | int:
    if isinstance(node, dict):
        return key
    if not isinstance(node, list):
        raise UserError(f"--set {dotted}: {'.'.join(place)!r} is not a section, its value is {node!r}")
    if not key.isdecimal() or int(key) >= len(node):
        raise UserError(
            f"--set {dotted}: {key!r} is no entry of {'.'.join(place)}, a list of {len(node)} (counted from 0)"
        )
    return int(key)


def load_recipe(path: str | Path, overrides: Mapping[str, object] | None = None) -> Recipe:
    """Read a YAML recipe, apply `a.b=value` overrides, substitute `${run_dir}`, validate.

    Relative paths stay relative to the working directory. Where there is no such file, the name of a recipe that the
    package ships (`playground`) stands for it.

    Raises:
        UserError: missing file, YAML error with line and column, unknown key with the nearest valid one,
            or a bad value with its place.
    """
    path = Path(path)
    if not path.is_file():
        shipped = {recipe.stem: recipe for recipe in sorted(_SHIPPED.glob("*.yaml"))}
        if str(path) not in shipped:
            raise UserError(f"no such recipe: {path}; a file, or the name of a shipped one: {', '.join(shipped)}")
        path = shipped[str(path)]
    raw = read_yaml(path)
    if not isinstance(raw, dict):
        what = "is empty" if raw is None else f"holds {_shown(raw)}"
        raise UserError(f"{path} {what}: a recipe is keys and values, for example `name: my-run`"[:500])
    return build_recipe(apply_overrides(raw, overrides or {}), str(path))


def build_recipe(raw: dict[str, object], place: str = "recipe") -> Recipe:
    """Validate a recipe given as plain data; see `load_recipe`."""
    run_dir = raw.get("run_dir")
    if isinstance(run_dir, str):
        raw = _substitute(raw, run_dir)
    return validate(Recipe, raw, place)


def validate(model: type[ModelT], raw: Mapping[str, Any], place: str) -> ModelT:
    """Validate plain data as `model`; all problems in one error, each with its dotted place.

    Raises:
        UserError: unknown keys come with the nearest valid one.
    """
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        problems = "; ".join(_problems(model, raw, error.errors()))
        raise UserError(f"{place}: {problems}") from None


_EXPECTED = {
    "model_type": "a section of keys and values",
    "dict_type": "keys and values",
    "tuple_type": "a list",
    "string_type": "text",
    "path_type": "a path",
    "float_type": "a number",
    "float_parsing": "a number",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
}
"""What stands in a recipe, by the kind of pydantic's error where there is something else."""


def _problems(model: type[BaseModel], raw: Mapping[str, Any], errors: Sequence[ErrorDetails]) -> list[str]:
    """Say what is wrong and where; of a value that may be one thing or another, only what it comes nearest to."""
    at: dict[tuple[int | str, ...], list[ErrorDetails]] = {}
    for error in errors:
        at.setdefault(_place(raw, error), []).append(error)
    said = []
    for where, found in at.items():
        key = ".".join(map(str, where))
        below = any(len(other) > len(where) and other[: len(where)] == where for other in at)
        other_kind = [_EXPECTED[error["type"]] for error in found if error["type"] in _EXPECTED]
        wrong = [error for error in found if error["type"] not in _EXPECTED]
        if other_kind and not wrong and not below:
            said.append(f"{key}: must be {' or '.join(other_kind)} (got {_shown(found[0]['input'])})"[:500])
        for error in wrong:
            if error["type"] == "extra_forbidden":
                said.append(f"unknown key {key!r}: {did_you_mean(str(where[-1]), _fields_at(model, where[:-1]))}")
            # pydantic counts the valid entries only; what is wrong with the others is said as well
            elif error["type"] != "too_short" or not below:
                said.append(_sentence(key, error))
    return said


def _sentence(key: str, error: ErrorDetails) -> str:
    if error["type"] == "missing":
        return f"{key!r} is missing"
    if error["type"] == "too_short":
        least = error["ctx"]["min_length"]
        return f"{key}: needs {least} or more entries, has {len(error['input'])}"
    message = f"{key + ': ' if key else ''}{error['msg'].removeprefix('Value error, ')}"
    if error["type"] == "value_error":  # ours name the value, and their input is the whole section
        return message
    message = message.replace("Input should be", "must be", 1).replace("String should", "must", 1)
    return f"{message} (got {_shown(error['input'])})"[:500]


def _place(raw: object, error: ErrorDetails) -> tuple[int | str, ...]:
    """Return where in the data an error is, without the names that pydantic gives to what a value may be."""
    place: list[int | str] = []
    node: Any = raw
    for part in error["loc"]:
        if isinstance(node, Mapping) and part in node:
            node = node[part]
        elif isinstance(node, (list, tuple)) and isinstance(part, int):
            node = node[part] if part < len(node) else None
        elif error["type"] != "missing" or part != error["loc"][-1]:
            continue
        place.append(part)
    return tuple(place)


def _shown(value: object) -> str:
    """Return a value as YAML writes it, where Python writes it otherwise."""
    return {"None": "null", "True": "true", "False": "false"}.get(repr(value), repr(value))


def _fields_at(model: type[BaseModel], loc: tuple[int | str, ...]) -> list[str]:
    """Return the valid keys of the (nested) section at `loc`."""
    current: Any = model
    for part in loc:
        if part not in current.model_fields:  # an index of a list, or a key of a mapping
            continue
        annotation = current.model_fields[part].annotation
        nested = [t for t in _leaf_types(annotation) if isinstance(t, type) and issubclass(t, BaseModel)]
        if not nested:
            return []
        current = nested[0]
    return list(current.model_fields)


def _leaf_types(annotation: Any) -> list[Any]:
    arguments = get_args(annotation)
    return [leaf for arg in arguments for leaf in _leaf_types(arg)] if arguments else [annotation]


def _substitute(node: Any, run_dir: str) -> Any:
    if isinstance(node, dict):
        return {key: _substitute(value, run_dir) for key, value in node.items()}
    if isinstance(node, list):
        return [_substitute(value, run_dir) for value in node]
    if isinstance(node, str):
        return re.sub(r"\$\{run_dir\}", lambda _: run_dir, node)
    return node


def dump_recipe(recipe: Recipe) -> str:
    """Return the resolved recipe as YAML; loading it gives an equal recipe."""
    return yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
