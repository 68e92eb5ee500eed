"""Which settings the training labels support: what was never seen in training is a guess, however well it works.

All counts come from the label statistics in the checkpoint, so they need no training data.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from steerlm.attributes import AttributeSchema, Value
from steerlm.stages.evaluate.sweeping import Combinations, Plan

_MOST_LEVELS = 10
"""Pairs of attributes with more levels than this are counted, but get no table of their own."""


def coverage(plan: Plan, schema: AttributeSchema, combinations: Combinations) -> dict[str, Any]:
    """Report which of the settings asked for the training labels support.

    Returns:
        JSON-able: `combinations` seen in training, `possible` ones, `records`; per context `settings` asked for, the
        share `seen` in training exactly, and the mean `distance` to the nearest seen one (levels away, summed over
        the attributes; another category counts 1); `pairs`: see `pairs_seen`. Only the counts where no training
        labels are known.
    """
    out: dict[str, Any] = {
        "combinations": len(combinations),
        "possible": math.prod(len(attribute.levels) for attribute in schema),
        "records": sum(count for _, count in combinations),
        "contexts": {},
        "pairs": pairs_seen(schema, combinations),
    }
    complete = [c for c, _ in combinations if len(c) == len(schema)]
    if not complete:
        return out
    seen_CK = np.array([_coordinates(c, schema) for c in complete])
    for context in dict.fromkeys(cell.context for cell in plan.cells):
        asked = {cell.ask for cell in plan.cells if cell.context == context}
        settings = [s for s in (plan.asks[i].attributes for i in sorted(asked)) if len(s) == len(schema)]
        distances = [_distance(np.array(_coordinates(s, schema)), seen_CK, schema) for s in settings]
        out["contexts"][context] = {
            "settings": len(settings),
            "seen": float(np.mean([d == 0 for d in distances])) if distances else None,
            "distance": float(np.mean(distances)) if distances else None,
        }
    return out


def pairs_seen(schema: AttributeSchema, combinations: Combinations) -> list[dict[str, Any]]:
    """Count, for every two attributes, the training records at each pair of their levels.

    Returns:
        JSON-able rows `first`, `second` (names), `seen` and `possible` pairs of levels, and `counts` (a row per level
        of `first`, a column per level of `second`; None for long scales). Empty where no training labels are known.
    """
    if not combinations:
        return []
    rows = []
    for first, second in itertools.combinations(schema, 2):
        counts = np.zeros((len(first.levels), len(second.levels)), dtype=np.int64)
        for combination, count in combinations:
            if first.name in combination and second.name in combination:
                place = first.levels.index(combination[first.name]), second.levels.index(combination[second.name])
                counts[place] += count
        rows.append(
            {
                "first": first.name,
                "second": second.name,
                "seen": int((counts > 0).sum()),
                "possible": counts.size,
                "counts": counts.tolist() if max(counts.shape) <= _MOST_LEVELS else None,
            }
        )
    return rows


def supported(plan: Plan, combinations: Combinations) -> list[bool]:
    """Return for every ask whether its whole setting occurs among the training labels."""
    known = {tuple(combination.items()) for combination, _ in combinations}
    return [tuple(ask.attributes.items()) in known for ask in plan.asks]


def _coordinates(setting: Mapping[str, Value], schema: AttributeSchema) -> list[int]:
    return [attribute.levels.index(setting[attribute.name]) for attribute in schema]


def _distance(point_K: Any, seen_CK: Any, schema: AttributeSchema) -> float:
    difference_CK = np.abs(seen_CK - point_K)
    for k, attribute in enumerate(schema):
        if attribute.kind == "categorical":
            difference_CK[:, k] = difference_CK[:, k] != 0
    return float(difference_CK.sum(axis=1).min())
