"""What an operator decides: locks on attributes for the deployment and per API key, presets, limits (`policy.yaml`).

    attributes:                          # for everybody
      toxicity: {fixed: 0}
      verbosity: {minimum: 1, maximum: 3}
      violence: {hidden: true}           # fixed at its default, and callers do not learn that it exists
    keys:                                # by the key's name in --api-key-file; an entry replaces the one above
      research: {attributes: {toxicity: {}}}
    presets:
      pirate: {description: "A pirate.", attributes: {humor: 4}}
    limits: {max_new_tokens: 512}

A lock holds for whatever reaches the model: see `steerlm.server.steering`.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from steerlm.attributes import Attribute, AttributeSchema, Value
from steerlm.config import validate
from steerlm.errors import UserError
from steerlm.generation.guidance import Wish, check_wishes
from steerlm.storage.files import read_yaml

_LOG = logging.getLogger(__name__)


class _PolicyPart(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


OnViolation = Literal["refuse", "clamp"]


class LockEntry(_PolicyPart):
    """A lock as written in the policy; without a value or bounds the attribute is open."""

    fixed: int | str | None = Field(None, description="The only value.")
    minimum: int | None = Field(None, description="Lowest value that callers may ask for.")
    maximum: int | None = Field(None, description="Highest value that callers may ask for.")
    hidden: bool = Field(False, description="Callers do not learn that it exists; without `fixed` it has its default.")
    on_violation: OnViolation | None = Field(None, description="As below, for this attribute alone.")


class KeyEntry(_PolicyPart):
    """What holds for one API key."""

    attributes: dict[str, LockEntry] = Field(default_factory=dict, description="Locks, in place of the general ones.")


class Preset(_PolicyPart):
    """A named setting."""

    description: str = Field("", description="One sentence for people.")
    attributes: dict[str, int | float | str] = Field(description="Values by attribute.")
    guidance: dict[str, float] = Field(default_factory=dict, description="Strengths by attribute.")


class Limits(_PolicyPart):
    """What one request, one key and the server may use."""

    max_body_bytes: int = Field(1 << 20, ge=1, description="Largest request body (413).")
    max_messages: int = Field(256, ge=1, description="Most messages of a conversation (400).")
    max_new_tokens: int = Field(4096, ge=1, description="Longest answer that may be asked for (400).")
    default_new_tokens: int = Field(512, ge=1, description="Longest answer where the request does not say.")
    max_samples: int = Field(16, ge=1, description="Most samples of a request: `n` and `steer.best_of` (400).")
    max_stop: int = Field(16, ge=1, description="Most stop strings (400).")
    max_guidance: float = Field(10.0, ge=1, description="Strongest guidance (400).")
    max_demonstrations: int = Field(8, ge=0, description="Most demonstrations: `steer.demonstrations` (400).")
    max_score: int = Field(64, ge=1, description="Most conversations in one call of /v1/score (400).")
    max_requests_per_key: int = Field(256, ge=1, description="Requests of one key at the same time (429).")
    max_waiting: int = Field(512, ge=1, description="Samples that wait; with an upstream, all (429).")
    upstream_timeout_s: float = Field(60.0, gt=0, description="Longest silence of an upstream (504).")
    request_timeout_s: float = Field(600.0, gt=0, description="Longest time for an answer (408).")
    body_timeout_s: float = Field(30.0, gt=0, description="Longest time for sending a request's body (408).")
    write_timeout_s: float = Field(30.0, gt=0, description="Longest time a client may take to read what was sent.")


class PolicyFile(_PolicyPart):
    """The whole file."""

    attributes: dict[str, LockEntry] = Field(default_factory=dict, description="Locks that hold for everybody.")
    keys: dict[str, KeyEntry] = Field(default_factory=dict, description="Further rules by name of the API key.")
    on_violation: OnViolation = Field("refuse", description="403, or the nearest value that is allowed and a warning.")
    presets: dict[str, Preset] = Field(default_factory=dict, description="Named settings, beside the shipped ones.")
    cors_origins: list[str] = Field(default_factory=list, description="Web pages that may call: their origins, or `*`.")
    limits: Limits = Field(default_factory=lambda: Limits(), description="Limits.")


@dataclass(frozen=True)
class Lock:
    """A lock on one attribute, checked against the schema.

    Attributes:
        lowest: lowest level that may be in force; for a categorical attribute the index of its category.
        highest: highest one; equal to `lowest` where the value is fixed.
        hidden: whether callers may learn of the attribute.
        clamps: whether a value outside becomes the nearest one inside, rather than an error.
    """

    lowest: int
    highest: int
    hidden: bool = False
    clamps: bool = False

    @property
    def fixed(self) -> bool:
        return self.lowest == self.highest

    def allows(self, attribute: Attribute, wish: Wish) -> bool:
        """Whether a value (on the scale, possibly between levels) may be in force."""
        return self.lowest <= _place(attribute, wish) <= self.highest

    def nearest(self, attribute: Attribute, wish: Wish) -> Wish:
        """Return the nearest value that may be in force."""
        place = min(max(_place(attribute, wish), self.lowest), self.highest)
        if attribute.kind == "categorical":
            return attribute.categories[int(place)] if self.allows(attribute, wish) else attribute.levels[self.lowest]
        return place

    def text(self, attribute: Attribute) -> str:
        """Say it in words."""
        low, high = _level(attribute, self.lowest), _level(attribute, self.highest)
        return f"fixed at {low}" if self.fixed else f"limited to {low} to {high}"


def _place(attribute: Attribute, wish: Wish) -> int | float:
    if attribute.kind == "categorical":
        return attribute.categories.index(str(wish))
    assert not isinstance(wish, str)
    return wish


def _level(attribute: Attribute, place: int) -> Value:
    return attribute.categories[place] if attribute.kind == "categorical" else place


Locks = Mapping[str, Lock]


@dataclass(frozen=True)
class Policy:
    """A policy that fits the model.

    Attributes:
        presets: all presets, with the model's attributes only.
        cors_origins: of the web pages that may call.
    """

    presets: Mapping[str, Preset]
    limits: Limits
    cors_origins: tuple[str, ...]
    _general: Locks
    _by_key: Mapping[str, Locks]

    def locks(self, key_name: str | None) -> Locks:
        """Return what holds for a key; None = no key is set."""
        return self._by_key.get(key_name, self._general) if key_name is not None else self._general


def load_policy(path: Path | None, schema: AttributeSchema, key_names: list[str]) -> Policy:
    """Read a policy file, and check it against the model.

    Args:
        path: the file; None = no locks but those of the schema (`user_settable: false`), and default limits.
        schema: the attributes the model was trained on.
    """
    if path is None:
        return build_policy(PolicyFile(), schema, key_names, "policy")
    raw = read_yaml(path)
    if raw is not None and not isinstance(raw, dict):
        raise UserError(f"{path}: a policy is a YAML mapping, got {type(raw).__name__}")
    return build_policy(validate(PolicyFile, raw or {}, str(path)), schema, key_names, str(path))


def build_policy(file: PolicyFile, schema: AttributeSchema, key_names: list[str], place: str) -> Policy:
    """Check a policy against the model; see `load_policy`."""
    general = {a.name: _fix(a, None, False, place) for a in schema if not a.user_settable}
    general = {name: replace(lock, clamps=file.on_violation == "clamp") for name, lock in general.items()}
    general = _replaced(general, file.attributes, file.on_violation, schema, place)
    by_key = {}
    for name, entry in file.keys.items():
        if name not in key_names:
            raise UserError(f"{place}: keys.{name}: no API key has this name; names: {', '.join(key_names) or 'none'}")
        by_key[name] = _replaced(general, entry.attributes, file.on_violation, schema, f"{place}: keys.{name}")
    for origin in file.cors_origins:
        if origin != "*" and not re.fullmatch(r"https?://[^/?#\s]+", origin):
            raise UserError(f"{place}: cors_origins: {origin!r} is not of the form https://host:port, without a path")
    presets = {}
    for name, preset in file.presets.items():
        try:
            check_wishes(schema, preset.attributes)
            for attribute, strength in preset.guidance.items():
                schema[attribute]
                if not 0 <= strength <= file.limits.max_guidance:
                    raise UserError(f"a strength is a number from 0 to {file.limits.max_guidance:g}, got {strength:g}")
        except UserError as error:
            raise UserError(f"{place}: presets.{name}: {error}") from None
        if not name or name != name.strip() or "," in name:
            raise UserError(f"{place}: presets: {name!r} cannot stand in MODEL@preset=NAME; take a name without commas")
        for attribute in moved_by_locks(preset, general, schema):
            _LOG.warning(
                "%s: presets.%s: %s %s does not come into force, because the attribute is %s by its lock",
                place, name, attribute, preset.attributes[attribute], general[attribute].text(schema[attribute]),
            )  # fmt: skip
        presets[name] = preset
    shipped = shipped_presets(schema)
    return Policy({**shipped, **presets}, file.limits, tuple(file.cors_origins), general, by_key)


def moved_by_locks(preset: Preset, locks: Locks, schema: AttributeSchema) -> list[str]:
    """Return the attributes that locks keep from standing where a preset wants them."""
    wanted = {name: wish for name, wish in preset.attributes.items() if name in locks}
    return [name for name, wish in wanted.items() if not locks[name].allows(schema[name], wish)]


def _replaced(
    locks: Locks, entries: Mapping[str, LockEntry], on_violation: OnViolation, schema: AttributeSchema, place: str
) -> dict[str, Lock]:
    replaced = dict(locks)
    for name, entry in entries.items():
        try:
            attribute = schema[name]
            lock = _lock(attribute, entry, f"attributes.{name}")
        except UserError as error:
            raise UserError(f"{place}: {error}") from None
        replaced.pop(name, None)
        if lock is not None:
            replaced[name] = replace(lock, clamps=(entry.on_violation or on_violation) == "clamp")
    return replaced


def _lock(attribute: Attribute, entry: LockEntry, place: str) -> Lock | None:
    bounded = entry.minimum is not None or entry.maximum is not None
    if bounded and (entry.fixed is not None or entry.hidden):
        raise UserError(f"{place}: bounds do not go with fixed or hidden")
    if entry.fixed is not None or entry.hidden:
        return _fix(attribute, entry.fixed, entry.hidden, place)
    if not bounded:
        return None
    if attribute.kind == "categorical":
        raise UserError(f"{place}: a categorical attribute has no bounds; use fixed")
    lowest = attribute.minimum if entry.minimum is None else entry.minimum
    highest = attribute.maximum if entry.maximum is None else entry.maximum
    if not attribute.minimum <= lowest <= highest <= attribute.maximum:
        raise UserError(f"{place}: {lowest} to {highest} is no range within {attribute.minimum}..{attribute.maximum}")
    return Lock(lowest, highest)


def _fix(attribute: Attribute, value: Value | None, hidden: bool, place: str) -> Lock:
    try:
        level = attribute.check(attribute.default_value if value is None else value)
    except UserError as error:
        raise UserError(f"{place}: fixed: {error}") from None
    at = _place(attribute, level)
    assert isinstance(at, int)
    return Lock(at, at, hidden)


_GOOD = {"quality": 1.0, "helpfulness": 1.0, "correctness": 1.0, "coherence": 1.0}
_SHIPPED: dict[str, tuple[str, dict[str, float]]] = {
    # on a scale of 0 (lowest level) to 1 (highest)
    "game-jester": ("A game's joker: funny, imaginative, short.", {"humor": 1, "creativity": 0.75, "verbosity": 0.25}),
    "game-storyteller": (
        "A game's storyteller: imaginative and in detail.",
        {"humor": 0.25, "creativity": 1, "verbosity": 1},
    ),
    "game-grump": (
        "A game's grumpy guard: curt, and no great help.",
        {"humor": 0, "creativity": 0, "helpfulness": 0.25, "verbosity": 0},
    ),
    "teacher": (
        "A teacher: correct, clear, thorough, no jokes.",
        {**_GOOD, "humor": 0, "complexity": 0.5, "verbosity": 0.75},
    ),
    "support": (
        "A support team: helpful, polite and to the point.",
        {**_GOOD, "toxicity": 0, "humor": 0, "creativity": 0, "verbosity": 0.25},
    ),
    "plain-language": (
        "Plain language: simple words, short and clear.",
        {**_GOOD, "humor": 0, "creativity": 0, "complexity": 0, "verbosity": 0},
    ),
}


def shipped_presets(schema: AttributeSchema) -> dict[str, Preset]:
    """Return the presets for the uses the method is advertised for, with the attributes that the model has.

    A preset of whose attributes the model has fewer than two is left out.
    """
    presets = {}
    for name, (description, shares) in _SHIPPED.items():
        ordinal = {attribute.name: attribute for attribute in schema.ordinal}
        values = {a: ordinal[a].round(ordinal[a].from_unit(share)) for a, share in shares.items() if a in ordinal}
        if len(values) >= 2:
            presets[name] = Preset(description=description, attributes=dict(values))
    return presets
