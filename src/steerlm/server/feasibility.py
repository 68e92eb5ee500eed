"""Is a wished-for setting near anything the model was trained on?

What the labels of the training data never showed together the model can only guess at: on HelpSteer2, say, correctness
cannot be had apart from helpfulness. Computed from the label statistics in the checkpoint.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, TypedDict

import numpy as np

from steerlm.attributes import AttributeSchema, Value
from steerlm.generation.guidance import Wish

FAR = 0.3
"""A setting is far from training where the nearest trained combination differs by more than this share of one dial's
range in sum: by more than one of the four steps of a scale 0..4."""


class Nearest(NamedTuple):
    """The nearest trained combination.

    Attributes:
        attributes: its values, of the attributes asked about.
        distance: differences as shares of the dials' ranges, summed; another category or a lacking label counts 1.
        turns: of the training data with this combination.
    """

    attributes: dict[str, Value]
    distance: float
    turns: int

    @property
    def far(self) -> bool:
        return self.distance > FAR


class Combination(TypedDict):
    """Attribute values that occur together, and in how many turns of the training data."""

    attributes: dict[str, Value]
    count: int


class TrainedCombinations:
    """The combinations of attribute values in the training data."""

    def __init__(self, statistics: Mapping[str, Any], schema: AttributeSchema) -> None:
        """Read a checkpoint's label statistics."""
        self._schema = schema
        self.combinations: list[Combination] = list(statistics.get("combinations", []))
        self.total = int(statistics.get("num_combinations", 0))
        self._units_CK = np.array(
            [[self._unit(name, c["attributes"].get(name)) for name in schema.names] for c in self.combinations]
        )

    def _unit(self, name: str, value: Wish | None) -> float:
        """Return where a value lies: from 0 to 1, or the number of a category; NaN for none."""
        attribute = self._schema[name]
        if value is None:
            return float("nan")
        if attribute.kind == "categorical":
            return float(attribute.categories.index(str(value)))
        assert not isinstance(value, str)
        return attribute.to_unit(value)

    def nearest(self, wishes: Mapping[str, Wish]) -> Nearest | None:
        """Return the combination nearest to a setting, full or partial; None where none is known or wished for."""
        names = [name for name in self._schema.names if name in wishes]
        if not names or not self.combinations:
            return None
        columns = [self._schema.names.index(name) for name in names]
        wanted_K = np.array([self._unit(name, wishes[name]) for name in names])
        apart_CK = np.abs(self._units_CK[:, columns] - wanted_K)
        categorical = [self._schema[name].kind == "categorical" for name in names]
        apart_CK[:, categorical] = np.where(apart_CK[:, categorical] == 0, 0.0, 1.0)
        distances_C = np.nan_to_num(apart_CK, nan=1.0).sum(axis=1)
        # the commonest come first, and argmin takes the first of equals
        best = int(distances_C.argmin())
        found = self.combinations[best]
        attributes = {name: found["attributes"][name] for name in names if name in found["attributes"]}
        return Nearest(attributes, round(float(distances_C[best]), 6), int(found["count"]))
