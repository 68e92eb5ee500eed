"""An ordered set of attributes, its text form, and the schemas that are shipped."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from steerlm.attributes.attribute import CATEGORY, NAME, Attribute, ClassifierLabel, JudgeShare, Value
from steerlm.errors import UserError, did_you_mean

_SCALE = rf"{NAME.pattern}:(?:[0-9]+-[0-9]+|{CATEGORY.pattern}(?:\|{CATEGORY.pattern})+)"
_SIGNATURE = re.compile(rf"{_SCALE}(?:,{_SCALE})*")


@dataclass(frozen=True)
class AttributeSchema:
    """An ordered set of attributes; the order is the order of the text form.

    Iterating yields the attributes. `schema["humor"]` looks one up by name.
    """

    attributes: tuple[Attribute, ...]

    def __post_init__(self) -> None:
        names = [attribute.name for attribute in self.attributes]
        if not names:
            raise UserError("an attribute schema needs at least one attribute")
        double = {name for name in names if names.count(name) > 1}
        if double:
            raise UserError(f"attribute {sorted(double)[0]!r} stands twice in the schema")
        by_label: dict[ClassifierLabel, str] = {}
        for attribute in self.ordinal:
            said = attribute.classifier
            if said is not None and by_label.setdefault(said, attribute.name) != attribute.name:
                raise UserError(
                    f"attributes {by_label[said]!r} and {attribute.name!r} are both the label {said.label!r} of "
                    f"classifier {said.model}: that is one dial under two names; leave one out"
                )

    def __iter__(self) -> Iterator[Attribute]:
        return iter(self.attributes)

    def __len__(self) -> int:
        return len(self.attributes)

    def __contains__(self, name: object) -> bool:
        return any(attribute.name == name for attribute in self.attributes)

    def __getitem__(self, name: str) -> Attribute:
        for attribute in self.attributes:
            if attribute.name == name:
                return attribute
        raise UserError(f"unknown attribute {name!r}: {did_you_mean(name, self.names)}")

    @property
    def names(self) -> tuple[str, ...]:
        """Attribute names in order."""
        return tuple(attribute.name for attribute in self.attributes)

    @property
    def ordinal(self) -> tuple[Attribute, ...]:
        """The ordinal attributes in order."""
        return tuple(attribute for attribute in self.attributes if attribute.kind == "ordinal")

    @property
    def learned(self) -> AttributeSchema | None:
        """The attributes that an attribute model says; None where there are none."""
        attributes = tuple(attribute for attribute in self.attributes if attribute.learned)
        return AttributeSchema(attributes) if attributes else None

    def with_cuts(self, cuts: Mapping[str, Sequence[float]]) -> AttributeSchema:
        """Return the schema with the cut points of some attributes."""
        return AttributeSchema(
            tuple(
                dataclasses.replace(attribute, cuts=tuple(cuts[attribute.name]))
                if attribute.name in cuts
                else attribute
                for attribute in self.attributes
            )
        )

    @property
    def signature(self) -> str:
        """Names, order and scales on one line: equal signatures mean interchangeable labels."""
        return ",".join(attribute.signature for attribute in self.attributes)

    @property
    def defaults(self) -> dict[str, Value]:
        """The values at inference when the user sets nothing."""
        return {attribute.name: attribute.default_value for attribute in self.attributes}

    def validate(self, values: Mapping[str, object]) -> dict[str, Value]:
        """Check a full or partial setting and return it in schema order.

        Raises:
            UserError: unknown name (with the nearest valid one) or a value off the scale.
        """
        for name in values:
            self[name]
        return {a.name: a.check(values[a.name]) for a in self.attributes if a.name in values}

    def format(self, values: Mapping[str, object]) -> str:
        """Return the text form `name:value,name:value` in schema order; missing attributes are left out."""
        return ",".join(f"{name}:{value}" for name, value in self.validate(values).items())

    def parse(self, text: str) -> dict[str, Value]:
        """Parse the text form. Strict: schema order, no spaces, no unknown or double names.

        Raises:
            UserError: naming the piece that is wrong.
        """
        if text == "":
            return {}
        values: dict[str, Value] = {}
        last = -1
        for piece in text.split(","):
            name, colon, raw = piece.partition(":")
            if not colon:
                raise UserError(f"{piece!r} in attribute text {text!r} is not of the form name:value")
            attribute = self[name]
            position = self.attributes.index(attribute)
            if position <= last:
                raise UserError(
                    f"{name!r} in attribute text {text!r} is double or out of order; order: {','.join(self.names)}"
                )
            last = position
            values[name] = attribute.parse(raw)
        return values

    def require_same(self, other_signature: str, mine: str, theirs: str) -> None:
        """Raise unless `other_signature` equals this schema's signature.

        Args:
            other_signature: the signature found.
            mine: where this schema comes from, for the message (for example a checkpoint's path).
            theirs: where the other one comes from (for example a file and line).

        Raises:
            UserError: names both places and both signatures.
        """
        if other_signature != self.signature:
            raise UserError(
                f"attribute schema mismatch: {mine} has {self.signature!r} but {theirs} has {other_signature!r}; "
                "make the data anew with this schema from what they were made of (steerlm prepare), or use the "
                "checkpoint that fits them"
            )

    def to_dict(self) -> list[dict[str, object]]:
        """Return a JSON-ready list of attributes; fields at their default are left out."""
        out = []
        for attribute in self.attributes:
            row: dict[str, object] = {"name": attribute.name}
            for field in dataclasses.fields(Attribute)[1:]:
                value = getattr(attribute, field.name)
                if value != field.default:
                    row[field.name] = list(value) if isinstance(value, tuple) else value
                    if isinstance(value, ClassifierLabel):
                        row[field.name] = value.to_dict()
                    elif isinstance(value, JudgeShare):
                        row[field.name] = dataclasses.asdict(value)
            out.append(row)
        return out

    @classmethod
    def from_dict(cls, rows: Iterable[Mapping[str, Any]]) -> AttributeSchema:
        """Build a schema from `to_dict`'s form (also the form of the recipe's `schema:` list).

        Raises:
            UserError: unknown key or a bad value.
        """
        valid = [field.name for field in dataclasses.fields(Attribute)]
        attributes = []
        for row in rows:
            if not isinstance(row, Mapping):
                raise UserError(f"an attribute is a mapping with a name, got {row!r}")
            for key in row:
                if key not in valid:
                    raise UserError(f"unknown key {key!r} of attribute {row.get('name')!r}: {did_you_mean(key, valid)}")
            if "name" not in row:
                raise UserError(f"attribute {dict(row)!r} has no name")
            fields = dict(row)
            if "categories" in fields:
                if not isinstance(fields["categories"], (list, tuple)):
                    raise UserError(
                        f"attribute {row['name']!r}: categories must be a list, got {fields['categories']!r}"
                    )
                fields["categories"] = tuple(fields["categories"])
                fields.setdefault("kind", "categorical")
            fields |= _teller_of(row["name"], fields)
            attributes.append(Attribute(**fields))
        return cls(tuple(attributes))

    @classmethod
    def preset(cls, name: str) -> AttributeSchema:
        """Return the shipped schema called `name` (case-insensitive): oasst, helpsteer, steerlm or paper."""
        key = name.upper()
        if key not in PRESETS:
            raise UserError(
                f"unknown schema preset {name!r}: {did_you_mean(name.lower(), [p.lower() for p in PRESETS])}"
            )
        return PRESETS[key]


def _teller_of(name: object, fields: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return what a recipe says of who says the value in its typed form."""
    found: Mapping[str, Any] = {}
    if (raw := fields.get("classifier")) is not None:
        found = {"classifier": _classifier_of(name, raw, "categories" in fields)}
    if (raw := fields.get("judge")) is not None:
        if not isinstance(raw, Mapping) or list(raw) != ["ratings"]:
            raise UserError(f"attribute {name!r}: judge is {{ratings: …}}, got {raw!r}")
        number = raw["ratings"]
        if not isinstance(number, int) or isinstance(number, bool) or number <= 0:
            raise UserError(f"attribute {name!r}: judge.ratings is a positive whole number, got {number!r}")
        found = {**found, "judge": JudgeShare(number)}
    cuts = fields.get("cuts")
    if cuts is None:
        return {**found, "cuts": ()}
    if not isinstance(cuts, (list, tuple)):
        raise UserError(f"attribute {name!r}: cuts are a list of rising numbers, got {cuts!r}")
    minimum = fields.get("minimum", 0)
    if cuts and "maximum" not in fields and isinstance(minimum, int):
        found = {**found, "maximum": minimum + len(cuts)}
    return {**found, "cuts": tuple(cuts)}


def _classifier_of(name: object, raw: object, categorical: bool) -> ClassifierLabel:
    other = "labels" if categorical else "label"
    if not isinstance(raw, Mapping) or "model" not in raw or not set(raw) <= {"model", "label", "labels"}:
        raise UserError(f"attribute {name!r}: classifier is {{model: …, {other}: …}}, got {raw!r}")
    for key in ("model", "label"):
        if key in raw and (not isinstance(raw[key], str) or not raw[key]):
            raise UserError(f"attribute {name!r}: classifier.{key} is text, got {raw[key]!r}")
    labels = raw.get("labels", {})
    if not isinstance(labels, Mapping) or not all(isinstance(text, str) for pair in labels.items() for text in pair):
        raise UserError(
            f"attribute {name!r}: classifier.labels is a mapping of text, a label to its category each, got {labels!r}"
        )
    return ClassifierLabel(raw["model"], raw.get("label", ""), tuple(labels.items()))


def output_names(schema: AttributeSchema) -> tuple[str, ...]:
    """Return the name of every output of a regression head, in order: `quality`, or `lang=en` per category."""
    names: list[str] = []
    for attribute in schema:
        if attribute.kind == "ordinal":
            names.append(attribute.name)
        else:
            names.extend(f"{attribute.name}={category}" for category in attribute.categories)
    return tuple(names)


def output_slices(schema: AttributeSchema) -> tuple[slice, ...]:
    """Return for every attribute, in schema order, which of the O outputs are its own."""
    slices = []
    start = 0
    for attribute in schema:
        width = 1 if attribute.kind == "ordinal" else len(attribute.categories)
        slices.append(slice(start, start + width))
        start += width
    return tuple(slices)


_DESCRIPTIONS: dict[str, tuple[str, Literal["max", "min"] | None, int]] = {
    # name: (description, best end, default on a 0..4 scale)
    "quality": ("How good the response is overall.", "max", 4),
    "toxicity": ("How rude, disrespectful or hurtful the response is.", "min", 0),
    "humor": ("How funny the response tries to be.", None, 0),
    "creativity": ("How original and imaginative the response is.", None, 0),
    "violence": ("How much the response encourages or describes violence.", "min", 0),
    "helpfulness": ("How well the response does what the prompt asks for.", "max", 4),
    "not_appropriate": ("How unsuitable the response is for a general audience.", "min", 0),
    "correctness": ("Whether all facts asked for are there and right.", "max", 4),
    "coherence": ("How consistent and clear the response is.", "max", 4),
    "complexity": ("How much expertise it takes to write and to read the response.", None, 2),
    "verbosity": ("How much detail the response goes into, relative to what the prompt asks for.", None, 2),
}


def is_signature(found: object) -> bool:
    """Whether a record's `schema` is a signature of ours; a column of that name may hold anything in others' data."""
    return isinstance(found, str) and _SIGNATURE.fullmatch(found) is not None


def _preset(names: str, maximum: int) -> AttributeSchema:
    attributes = []
    for name in names.split(","):
        description, best, default = _DESCRIPTIONS[name]
        attributes.append(
            Attribute(name, maximum=maximum, description=description, best=best, default=default * maximum // 4)
        )
    return AttributeSchema(tuple(attributes))


OASST = _preset("quality,toxicity,humor,creativity", 4)
"""The four OpenAssistant attributes that NVIDIA's later models use, 0..4."""
HELPSTEER = _preset("helpfulness,correctness,coherence,complexity,verbosity", 4)
"""The five attributes of HelpSteer and HelpSteer2, 0..4."""
STEERLM = _preset("quality,toxicity,humor,creativity,helpfulness,correctness,coherence,complexity,verbosity", 4)
"""The nine attributes of NeMo-Aligner's SteerLM data, 0..4."""
PAPER = _preset("quality,toxicity,humor,creativity,violence,helpfulness,not_appropriate", 9)
"""The seven attributes of the SteerLM paper, 0..9."""

PRESETS: dict[str, AttributeSchema] = {"OASST": OASST, "HELPSTEER": HELPSTEER, "STEERLM": STEERLM, "PAPER": PAPER}
