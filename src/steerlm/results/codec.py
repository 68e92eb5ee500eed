"""Result files as dataclasses, and dataclasses as result files: one rule for all of them.

An object's keys are its fields, in order. A field that equals its default is left out. The fields of a `FLAT` field
stand among those of the object around it. A number that is undefined is NaN here and null there.

Reading forgives what other versions did: unknown keys are passed over, and of what is missing a list or mapping is
empty, a number undefined, and what may be None is None.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar, Union, get_args, get_origin, get_type_hints

from steerlm.attributes import AttributeSchema
from steerlm.errors import UserError
from steerlm.storage.files import read_json, write_json

VERSION = 1
"""Of the result files that are written now; 0 are those that name none."""
FLAT = {"flat": True}
"""Metadata of a field whose own fields stand in the object around it."""
_CONTAINERS = (list, tuple, dict, Mapping, Sequence)
_Record = TypeVar("_Record")


class _Field(NamedTuple):
    name: str
    kind: Any
    default: Any
    flat: bool


def to_json(value: object) -> Any:
    """Return the JSON form of a record, or of a list or mapping of them."""
    if isinstance(value, AttributeSchema):
        return value.to_dict()
    kind: Any = type(value)
    if fields := _fields(kind):
        out: dict[str, Any] = {}
        for field in fields:
            held = getattr(value, field.name)
            if field.flat:
                out |= to_json(held)
            elif held != field.default:
                out[field.name] = to_json(held)
        return out
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: to_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_json(item) for item in value]
    return value


def from_json(kind: type[_Record], value: object) -> _Record:
    """Return the record that a JSON value holds."""
    if isinstance(value, Mapping) and (version := value.get("version", 0)) > VERSION:
        raise UserError(f"written by a newer steerlm (version {version} of the format); update steerlm")
    found: _Record = _decoded(kind, value, "")
    return found


def read_result(kind: type[_Record], path: Path) -> _Record:
    """Read a result file."""
    value = read_json(path)
    try:
        return from_json(kind, value)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def write_result(path: Path, record: object) -> None:
    write_json(path, to_json(record))


@functools.cache
def _fields(kind: Any) -> tuple[_Field, ...]:
    """The fields of a dataclass or named tuple; none for anything else."""
    if dataclasses.is_dataclass(kind):
        hints = get_type_hints(kind)
        return tuple(_Field(f.name, hints[f.name], f.default, bool(f.metadata)) for f in dataclasses.fields(kind))
    if not issubclass(kind, tuple) or not (names := getattr(kind, "_fields", ())):
        return ()
    hints, defaults = get_type_hints(kind), getattr(kind, "_field_defaults", {})
    return tuple(_Field(name, hints[name], defaults.get(name, dataclasses.MISSING), False) for name in names)


def _decoded(kind: Any, value: Any, place: str) -> Any:
    origin = get_origin(kind)
    if origin in (Union, types.UnionType):
        members = [member for member in get_args(kind) if member is not types.NoneType]
        return value if value is None or len(members) > 1 else _decoded(members[0], value, place)
    if kind is float:
        return math.nan if value is None else _checked(value, (int, float), place)
    if kind is AttributeSchema:
        return AttributeSchema.from_dict(_checked(value, (list,), place))
    if origin in (list, tuple, Sequence):
        item = get_args(kind)[0]
        found = [_decoded(item, x, f"{place}[{i}]") for i, x in enumerate(_checked(value, (list, tuple), place))]
        return tuple(found) if origin is tuple else found
    if origin in (dict, Mapping):
        item = get_args(kind)[1]
        return {key: _decoded(item, x, f"{place}.{key}") for key, x in _checked(value, (Mapping,), place).items()}
    if kind in (int, str, bool):
        return _checked(value, (kind,), place)
    if kind is object or origin is Literal:
        return value
    return _record(kind, _checked(value, (Mapping,), place), place)


def _record(kind: type, value: Mapping[str, Any], place: str) -> Any:
    held = {}
    for field in _fields(kind):
        at = f"{place}.{field.name}".lstrip(".")
        if field.flat:
            held[field.name] = _record(field.kind, value, place)
        elif field.name in value:
            held[field.name] = _decoded(field.kind, value[field.name], at)
        elif field.default is dataclasses.MISSING:
            held[field.name] = _absent(field.kind, at)
    return kind(**held)


def _absent(kind: Any, place: str) -> Any:
    if types.NoneType in get_args(kind):
        return None
    if kind is float:
        return math.nan
    if (origin := get_origin(kind)) in _CONTAINERS:
        return {} if origin in (dict, Mapping) else ()
    raise UserError(f"{place or 'the object'} is missing")


def _checked(value: Any, kinds: tuple[type, ...], place: str) -> Any:
    if not isinstance(value, kinds):
        wanted = " or ".join(kind.__name__ for kind in kinds)
        raise UserError(f"{place or 'the file'} should be of type {wanted}, not {value!r:.60}")
    return value
