"""From YAML to a recipe and back; what is wrong with it is said with its place."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError

from steerlm.config.recipe import Recipe
from steerlm.errors import UserError, did_you_mean
from steerlm.storage.files import read_yaml

ModelT = TypeVar("ModelT", bound=BaseModel)
_SHIPPED = Path(__file__).resolve().parents[1] / "recipes"


def load_recipe(path: str | Path, overrides: dict[str, object] | None = None) -> Recipe:
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
        raise UserError(f"{path}: a recipe is a YAML mapping, got {type(raw).__name__}")
    for dotted, value in (overrides or {}).items():
        node = raw
        *parents, last = dotted.split(".")
        for key in parents:
            if node.get(key) is None:  # a resolved recipe says null where a section is left out
                node[key] = {}
            node = node[key]
            if not isinstance(node, dict):
                raise UserError(f"--set {dotted}: {key!r} is not a section")
        node[last] = value
    return build_recipe(raw, str(path))


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
        problems = []
        for item in error.errors():
            if item["type"] == "too_short" and item["input"]:
                continue  # pydantic counts the valid items only; what is wrong with the others is said as well
            where = ".".join(str(part) for part in item["loc"])
            if item["type"] == "extra_forbidden":
                key = str(item["loc"][-1])
                valid = _fields_at(model, item["loc"][:-1])
                problems.append(f"unknown key {where!r}: {did_you_mean(key, valid)}")
            elif item["type"] == "missing":
                problems.append(f"{where!r} is missing")
            else:
                message = f"{where + ': ' if where else ''}{item['msg'].removeprefix('Value error, ')}"
                if item["type"] != "value_error":  # ours name the value, and their input is the whole section
                    message = f"{message} (got {item['input']!r})"[:500]
                problems.append(message)
        raise UserError(f"{place}: " + "; ".join(problems)) from None


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
