"""Where the training data are thin: settings within reach of what was seen, with little of their like around them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from steerlm.attributes import AttributeSchema, Value

Setting = tuple[tuple[str, Value], ...]

_MOST_SEEN = 4000
_MOST_CANDIDATES = 6000
_THINNEST = 4
"""One in so many of the candidates counts as thin."""
_CHUNK = 512


def thin_settings(seen: Counter[Setting], schema: AttributeSchema, count: int, seed: int) -> list[Mapping[str, Value]]:
    """Return settings that hardly occur, in random order.

    A candidate is one step of one attribute away from a setting that occurs, or occurs itself: further away a model
    can only guess, and none of its answers would pass. Thin are those with the least data around them: each record
    counts the less the more levels it is away, by half per level.

    Args:
        seen: settings of the training data, and how often each occurs; partial ones are left out.
        count: how many, at most.
    """
    whole = Counter({setting: n for setting, n in seen.items() if len(setting) == len(schema)})
    known = [setting for setting, _ in whole.most_common(_MOST_SEEN)]
    if not known:
        return []
    draw = np.random.default_rng(seed)
    candidates = sorted({near for setting in known for near in _near(setting, schema)}, key=str)
    candidates = [candidates[i] for i in sorted(draw.permutation(len(candidates))[:_MOST_CANDIDATES])]
    around_N = _density(candidates, known, [whole[setting] for setting in known], schema)
    thinnest = np.argsort(around_N, kind="stable")[: max(1, len(candidates) // _THINNEST)]
    chosen = draw.permutation(thinnest)[:count]
    return [dict(candidates[int(i)]) for i in chosen]


def _near(setting: Setting, schema: AttributeSchema) -> list[Setting]:
    """Return a setting and those that differ in one attribute by one step."""
    found = [setting]
    for k, (name, value) in enumerate(setting):
        levels = schema[name].levels
        place = levels.index(value)
        others = [i for i in range(len(levels)) if i != place]
        if schema[name].kind == "ordinal":
            others = [i for i in (place - 1, place + 1) if 0 <= i < len(levels)]
        found += [(*setting[:k], (name, levels[i]), *setting[k + 1 :]) for i in others]
    return found


def _density(
    candidates: Sequence[Setting], known: Sequence[Setting], counts: Sequence[int], schema: AttributeSchema
) -> np.ndarray:
    def places(settings: Sequence[Setting]) -> np.ndarray:
        return np.array([[schema[name].levels.index(value) for name, value in setting] for setting in settings])

    known_C_K, weight_C = places(known), np.array(counts, dtype=np.float64)
    categorical_K = np.array([attribute.kind == "categorical" for attribute in schema])
    around = []
    for start in range(0, len(candidates), _CHUNK):
        apart_N_C_K = np.abs(places(candidates[start : start + _CHUNK])[:, None] - known_C_K[None])
        apart_N_C_K[..., categorical_K] = apart_N_C_K[..., categorical_K] != 0
        around.append(0.5 ** apart_N_C_K.sum(axis=-1) @ weight_C)
    density: np.ndarray = np.concatenate(around)
    return density
