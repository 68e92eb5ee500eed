"""From a wished-for setting to the prompts whose logits are mixed: guidance strengths and levels between two levels.

Strength. An attribute i with strength gᵢ counts as `base + Σ gᵢ (condᵢ − base)` in the logits. The attributes of
strength 1 are ordinary conditions and belong to every branch; those of equal strength form one condition. So strength 1
for all is exactly ordinary decoding, 0 for all exactly the unconditional model, and 0 for one attribute the model
without that attribute. SteerLM's authors wish for such smooth influence (section 6, limitations).

Fractions. Between levels, `humor 2.5` mixes the logits of the levels 2 and 3. Several fractional attributes are
interpolated along the path that raises them in the order of their fractions (k + 1 branches instead of 2 to the k).

    branches(schema, {"humor": 4, "quality": 4}, {"humor": 2.0})
    # quality:4 with weight −1, quality:4,humor:4 with weight 2
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

from steerlm.attributes import AttributeSchema, Value
from steerlm.errors import UserError

Wish = Value | float
"""A value that may lie between two levels of an ordinal attribute."""
MOST_BRANCHES = 16
"""Most prompts that one sample may mix."""


class Branch(NamedTuple):
    """One prompt of a mixture: its attributes and the weight of its logits; the weights of a mixture sum to 1."""

    attributes: dict[str, Value]
    weight: float


def check_wishes(schema: AttributeSchema, wishes: Mapping[str, object]) -> dict[str, Wish]:
    """Return a setting in schema order; ordinal values may be fractions, and whole ones become integers."""
    for name in wishes:
        schema[name]
    checked: dict[str, Wish] = {}
    for attribute in schema:
        if attribute.name not in wishes:
            continue
        value = wishes[attribute.name]
        if attribute.kind == "ordinal" and isinstance(value, float) and math.isfinite(value):
            if not attribute.minimum <= value <= attribute.maximum:
                raise UserError(
                    f"{attribute.name}: {value!r} is not a number from {attribute.minimum} to {attribute.maximum}"
                )
            checked[attribute.name] = int(value) if value == int(value) else value
        else:
            checked[attribute.name] = attribute.check(value)
    return checked


def turned_strengths(
    schema: AttributeSchema, setting: Mapping[str, Wish], strengths: Mapping[str, float]
) -> dict[str, float]:
    """Return how strongly a model itself has the dials count that a setting turns away from their default.

    Several that are turned count as one condition, at the least of their strengths: on a real model as near to what was
    asked for as each at its own, with half the prompts and without answers that fall apart.
    """
    turned = [name for name, value in setting.items() if name in strengths and value != schema[name].default_value]
    return dict.fromkeys(turned, min(strengths[name] for name in turned)) if turned else {}


def branches(schema: AttributeSchema, wishes: Mapping[str, object], strengths: Mapping[str, float]) -> list[Branch]:
    """Return the prompts to mix.

    Args:
        wishes: the setting, full or partial; ordinal values may lie between two levels.
        strengths: by attribute; 1 where it is not named. Names that `wishes` does not set have no effect.

    Raises:
        UserError: an unknown name, a value off its scale, a strength that is no number, or too many branches.
    """
    wanted = check_wishes(schema, wishes)
    for name, strength in strengths.items():
        schema[name]
        if not math.isfinite(strength):
            raise UserError(f"guidance: the strength of {name} must be a finite number, got {strength!r}")
    base = {name: value for name, value in wanted.items() if strengths.get(name, 1.0) == 1}
    groups: dict[float, dict[str, Wish]] = {}
    for name in wanted:
        strength = float(strengths.get(name, 1.0))
        if strength not in (0.0, 1.0):
            groups.setdefault(strength, dict(base))[name] = wanted[name]
    mixture: dict[tuple[tuple[str, Value], ...], float] = {}
    settings = [(base, 1.0 - sum(groups)), *((setting, strength) for strength, setting in groups.items())]
    for setting, strength in settings:
        for attributes, share in _between_levels(schema, setting):
            key = tuple(attributes.items())
            mixture[key] = mixture.get(key, 0.0) + strength * share
    weighted = [Branch(dict(key), weight) for key, weight in mixture.items() if weight != 0]
    if len(weighted) > MOST_BRANCHES:
        raise UserError(
            f"the setting mixes {len(weighted)} prompts, at most {MOST_BRANCHES} are possible; "
            "use fewer different strengths or fewer values between levels"
        )
    return weighted


def _between_levels(schema: AttributeSchema, setting: Mapping[str, Wish]) -> list[Branch]:
    """Return settings of whole levels whose mixture stands for `setting`; one of weight 1 where it is whole itself."""
    current: dict[str, Value] = {}
    fractions: dict[str, float] = {}
    for name in schema.names:
        if name not in setting:
            continue
        value = setting[name]
        if isinstance(value, float):
            current[name], fractions[name] = math.floor(value), value - math.floor(value)
        else:
            current[name] = value
    names = sorted(fractions, key=lambda name: -fractions[name])
    shares = [1.0, *(fractions[name] for name in names), 0.0]
    mixed = [Branch(dict(current), shares[0] - shares[1])]
    for i, name in enumerate(names, start=1):
        level = current[name]
        assert isinstance(level, int)
        current[name] = level + 1
        mixed.append(Branch(dict(current), shares[i] - shares[i + 1]))
    return [branch for branch in mixed if branch.weight > 0]
