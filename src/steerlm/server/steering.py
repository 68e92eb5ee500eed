"""From what a request says about attributes, in whichever of its ways, to the setting that reaches the model.

The ways: the model's name (`model@humor=4,verbosity=1`, also `preset=teacher`), `chat_template_kwargs.attributes` as a
stock vLLM server takes it, OpenAI's `verbosity`, and the `steer` object. They may be used together as long as they do
not contradict each other; a preset yields to all of them. Values that nobody names have their defaults, except with
`chat_template_kwargs.attributes`, which names all that the prompt shall hold.

All ways end in `resolve`, and only there do locks matter: what is in force respects them whatever was said.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from steerlm.attributes import Attribute, AttributeSchema, Value
from steerlm.conversation import Message
from steerlm.errors import UserError, did_you_mean
from steerlm.generation.guidance import Wish, branches, check_wishes, turned_strengths
from steerlm.server.errors import ApiError
from steerlm.server.feasibility import TrainedCombinations
from steerlm.server.policy import Locks, Policy, Preset, moved_by_locks


@dataclass(frozen=True)
class Dials:
    """What can be set, by somebody.

    Attributes:
        schema: the trained attributes.
        locks: what the operator has decided for this caller.
        policy: presets and limits.
        strengths: what the model itself says of how strongly dials count that are turned away from their default.
        cannot_mix: what cannot mix logits, which guidance and values between two levels need; empty: nothing.
    """

    schema: AttributeSchema
    locks: Locks
    policy: Policy
    strengths: Mapping[str, float] = field(default_factory=dict)
    cannot_mix: str = ""

    def visible(self) -> list[Attribute]:
        """Return the attributes that the caller may know of."""
        return [a for a in self.schema if not (a.name in self.locks and self.locks[a.name].hidden)]

    def is_visible(self, name: str) -> bool:
        return any(attribute.name == name for attribute in self.visible())

    def describe(self) -> str:
        """Return names and ranges on one line."""
        return ", ".join(self._scale(attribute) for attribute in self.visible()) or "none"

    def _scale(self, attribute: Attribute) -> str:
        lock = self.locks.get(attribute.name)
        if lock is not None:
            return f"{attribute.name} ({lock.text(attribute)})"
        if attribute.kind == "categorical":
            return f"{attribute.name} {'|'.join(attribute.categories)}"
        return f"{attribute.name} {attribute.minimum}..{attribute.maximum}"

    def malformed(self, message: str, param: str) -> ApiError:
        """Return the error for a setting that makes no sense, with what would make some."""
        return ApiError("invalid_attributes", f"{message}; attributes: {self.describe()}", param)

    def check(self, values: object, param: str, clamped: set[str]) -> dict[str, Wish]:
        """Return a caller's setting in schema order.

        Args:
            clamped: gets the names of attributes whose locks have moved a value.

        Raises:
            ApiError: no mapping, an unknown name, a value off its scale, or one that a lock forbids.
        """
        if not isinstance(values, Mapping):
            raise self.malformed(f"{param} must be an object of names and values, got {_short(values)}", param)
        for name in values:
            if not self.is_visible(str(name)):
                names = [attribute.name for attribute in self.visible()]
                raise self.malformed(f"unknown attribute {_short(name)}: {did_you_mean(str(name), names)}", param)
        try:
            wishes = check_wishes(self.schema, values)
        except UserError as error:
            raise self.malformed(str(error)[:300], param) from None
        for name, wish in wishes.items():
            lock = self.locks.get(name)
            if lock is not None and not lock.allows(self.schema[name], wish):
                if not lock.clamps:
                    raise self.forbidden(name, param)
                clamped.add(name)
                wishes[name] = lock.nearest(self.schema[name], wish)
        return wishes

    def forbidden(self, name: str, param: str, why: str = "") -> ApiError:
        """Return the error for what a lock forbids; `why` where that is not the value."""
        text = self.locks[name].text(self.schema[name])
        return ApiError("attribute_locked", f"{name} is {text} here{why}; attributes: {self.describe()}", param)


@dataclass(frozen=True)
class Setting:
    """What reaches the model.

    Attributes:
        attributes: in force, hidden ones included.
        guidance: strengths other than 1.
        preset: name of the preset used.
        warnings: JSON-ready.
        shown: the part of `attributes` that the caller may know of.
        proposed: of `shown`, what `auto` set.
    """

    attributes: dict[str, Wish]
    guidance: dict[str, float]
    preset: str | None
    warnings: list[dict[str, object]]
    shown: dict[str, Wish]
    proposed: tuple[str, ...] | None = None


@dataclass
class Wishes:
    """What a request says about attributes.

    Attributes:
        named: per way in which something was said: its parameter's name and the values.
        exact: whether values that nobody names are left out of the prompt.
        preset: name of a preset.
        guidance: a strength for all attributes, or by name.
        strict: refuse what is far from training instead of warning.
        proposed: a setting in place of the defaults; None: the defaults it is.
        clamped: attributes of earlier answers that locks have moved.
    """

    named: list[tuple[str, object]] = field(default_factory=list)
    exact: bool = False
    preset: str | None = None
    guidance: object = None
    strict: bool = False
    proposed: Mapping[str, Value] | None = None
    clamped: set[str] = field(default_factory=set)


def parse_model(model: str, served: Sequence[str], dials: Dials) -> tuple[str | None, dict[str, object]]:
    """Take `model@humor=4,preset=teacher` apart.

    Returns:
        The preset's name, if any, and the attributes.

    Raises:
        ApiError: another model, or a malformed setting.
    """
    name, at, text = model.partition("@")
    if name not in served:
        raise ApiError("model_not_found", f"no model {_short(name)} here; the model is {served[0]!r}", "model")
    preset: str | None = None
    values: dict[str, object] = {}
    for piece in text.split(",") if at else []:
        key, equals, raw = (part.strip() for part in piece.partition("="))
        if not equals or not key or key in values or (key == "preset" and preset is not None):
            raise dials.malformed(f"{_short(piece)} in the model's name is not of the form name=value, once", "model")
        if key == "preset":
            preset = raw
        else:
            values[key] = _number(raw) if dials.is_visible(key) and dials.schema[key].kind == "ordinal" else raw
    return preset, values


def _number(text: str) -> object:
    if len(text) > 20 or not text.isascii():
        return text
    try:
        return int(text)
    except ValueError:
        pass
    try:
        return float(text)
    except ValueError:
        return text


def verbosity_level(word: str, dials: Dials) -> dict[str, object]:
    """Return what OpenAI's `verbosity` means for this model: nothing where it has no such attribute.

    Its words are coarse, so under a lock they mean the nearest level that is allowed.
    """
    if not dials.is_visible("verbosity") or dials.schema["verbosity"].kind != "ordinal":
        return {}
    attribute = dials.schema["verbosity"]
    level = attribute.round(attribute.from_unit({"low": 0.0, "medium": 0.5, "high": 1.0}[word]))
    lock = dials.locks.get("verbosity")
    return {"verbosity": level if lock is None else lock.nearest(attribute, level)}


def resolve(wishes: Wishes, dials: Dials, trained: TrainedCombinations) -> Setting:
    """Return the setting in force.

    Raises:
        ApiError: malformed, contradictory or forbidden wishes, or such as mix more prompts than possible; or (`strict`)
            one far from training.
    """
    said: dict[str, Wish] = {}
    clamped = set(wishes.clamped)
    for param, values in wishes.named:
        for name, value in dials.check(values, param, clamped).items():
            if name in said and said[name] != value:
                raise dials.malformed(f"{name} is set to {said[name]} and to {value} in one request", param)
            said[name] = value
    preset = _preset(wishes.preset, dials)
    in_force: dict[str, Wish] = {} if wishes.exact else dict(dials.schema.defaults)
    if wishes.proposed is not None and not wishes.exact:
        in_force |= wishes.proposed
    before = dict(in_force)
    if preset is not None:
        in_force |= {name: value for name, value in preset.attributes.items() if name in dials.schema}
        moved = moved_by_locks(preset, dials.locks, dials.schema)
        clamped |= {name for name in moved if name not in said and dials.is_visible(name)}
    in_force |= said
    named = said.keys() | (preset.attributes.keys() if preset is not None else set())
    for name, lock in dials.locks.items():
        attribute = dials.schema[name]
        in_force[name] = lock.nearest(attribute, in_force.get(name, attribute.default_value))
    in_force = check_wishes(dials.schema, in_force)
    guidance = _guidance(wishes.guidance, preset, in_force, dials, clamped)
    _check_mixture(in_force, guidance, dials)
    shown = {name: value for name, value in in_force.items() if dials.is_visible(name)}
    warnings = [_clamped(name, dials) for name in dials.schema.names if name in clamped]
    warnings += _feasibility(in_force, wishes.strict, dials, trained)
    proposed = None
    if wishes.proposed is not None:
        proposed = tuple(name for name in shown if name not in named and shown[name] == before.get(name))
    return Setting(in_force, guidance, wishes.preset, warnings, shown, proposed)


def offered_presets(dials: Dials, trained: TrainedCombinations) -> dict[str, Preset]:
    """Return the presets that a caller can ask for: those that `resolve` does not refuse."""

    def works(name: str) -> bool:
        try:
            resolve(Wishes(preset=name), dials, trained)
        except ApiError:
            return False
        return True

    return {name: preset for name, preset in dials.policy.presets.items() if works(name)}


def _preset(name: str | None, dials: Dials) -> Preset | None:
    if name is None:
        return None
    if name not in dials.policy.presets:
        known = did_you_mean(name, dials.policy.presets)
        raise dials.malformed(f"unknown preset {_short(name)}: {known}", "steer.preset")
    return dials.policy.presets[name]


def _guidance(
    wanted: object, preset: Preset | None, in_force: Mapping[str, Wish], dials: Dials, clamped: set[str]
) -> dict[str, float]:
    """Return the strengths other than 1, per dial: what the request says, else its preset, else the model itself.

    A locked attribute always counts fully: in every branch of the mixture.
    """
    param = "steer.guidance"
    open_names = [name for name in in_force if name not in dials.locks]
    by_preset = preset.guidance if preset is not None else {}
    by_request = wanted if isinstance(wanted, Mapping) else {}
    unsaid = {name: in_force[name] for name in open_names if name not in by_preset and name not in by_request}
    chosen = turned_strengths(dials.schema, unsaid, dials.strengths) | by_preset
    most = dials.policy.limits.max_guidance

    def strength_of(value: object) -> float:
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= most:
            raise dials.malformed(f"a strength is a number from 0 to {most:g}, got {_short(value)}", param)
        return float(value)

    if wanted is not None and not isinstance(wanted, Mapping):
        chosen = dict.fromkeys(open_names, strength_of(wanted))
    for name, value in by_request.items():
        if not dials.is_visible(str(name)):
            raise dials.malformed(f"unknown attribute {_short(name)}", param)
        strength = strength_of(value)
        if name in dials.locks and strength != 1:
            if not dials.locks[name].clamps:
                why = f"; a locked attribute has strength 1, got {strength:g}: leave it out of {param}"
                raise dials.forbidden(name, param, why)
            clamped.add(name)
        chosen[name] = strength
    return {name: strength for name, strength in chosen.items() if name in open_names and strength != 1}


def _check_mixture(in_force: Mapping[str, Wish], guidance: Mapping[str, float], dials: Dials) -> None:
    """Refuse a setting that mixes too many prompts, or several where logits cannot be mixed."""
    try:
        mixture = branches(dials.schema, in_force, guidance)
    except UserError as error:
        raise dials.malformed(str(error), "steer") from None
    if dials.cannot_mix and len(mixture) > 1:
        message = f"guidance and values between two levels mix logits, which {dials.cannot_mix} cannot do"
        raise ApiError("no_guidance", f"{message}; use strength 1 and whole levels", "steer")


def check_weights(weights: object, dials: Dials) -> dict[str, float]:
    """Return the weights of best-of-n, on open ordinal attributes.

    A weight on a locked attribute would get around its lock: the most toxic of many answers is wanted by nobody who
    fixed toxicity at 0.
    """
    if not isinstance(weights, Mapping) or not weights:
        raise dials.malformed(f"steer.weights must name attributes, got {_short(weights)}", "steer.weights")
    for name, weight in weights.items():
        if not dials.is_visible(str(name)) or dials.schema[str(name)].kind != "ordinal":
            raise dials.malformed(f"unknown ordinal attribute {_short(name)}", "steer.weights")
        if name in dials.locks:
            raise dials.forbidden(name, "steer.weights")
        if isinstance(weight, bool) or not isinstance(weight, (int, float)) or not -1000 <= weight <= 1000:
            raise dials.malformed(f"a weight is a number from -1000 to 1000, got {_short(weight)}", "steer.weights")
    return {str(name): float(weight) for name, weight in weights.items()}


def _feasibility(
    in_force: Mapping[str, Wish], strict: bool, dials: Dials, trained: TrainedCombinations
) -> list[dict[str, object]]:
    nearest = trained.nearest(in_force)
    if nearest is None or not nearest.far:
        return []
    shown = {name: value for name, value in nearest.attributes.items() if dials.is_visible(name)}
    message = (
        "the training data hold nothing like this setting, so the answer may not follow it; "
        f"the nearest combination in them is {_text(shown)}"
    )
    if strict:
        raise ApiError("far_from_training", message, "steer.strict")
    return [
        {
            "code": "far_from_training",
            "message": message,
            "distance": nearest.distance,
            "nearest": shown,
            "turns": nearest.turns,
        }
    ]


def _clamped(name: str, dials: Dials) -> dict[str, object]:
    text = dials.locks[name].text(dials.schema[name])
    message = f"{name} is {text} here: the nearest value that is allowed is in force, with strength 1"
    return {"code": "attribute_clamped", "message": message, "attribute": name}


def _text(values: Mapping[str, Value]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())


def check_history(messages: Sequence[tuple[str, str, object]], dials: Dials, clamped: set[str]) -> tuple[Message, ...]:
    """Return messages, with the settings that earlier answers were written with.

    Args:
        messages: role, content and attributes (None = not said) of each.
        clamped: as of `Dials.check`.

    Raises:
        ApiError: attributes that are malformed, between levels, locked, or not an assistant's.
    """
    checked = []
    for i, (role, content, attributes) in enumerate(messages):
        values: dict[str, Value] | None = None
        if attributes is not None:
            param = f"messages.{i}.attributes"
            if role != "assistant":
                raise dials.malformed(f"{param}: only an assistant's message has attributes", param)
            values = {}
            for name, wish in dials.check(attributes, param, clamped).items():
                if isinstance(wish, float):
                    raise dials.malformed(f"{param}: {name} {wish} lies between two levels", param)
                values[name] = wish
        checked.append(Message(role, content, attributes=values))  # type: ignore[arg-type]
    return tuple(checked)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
