"""What an evaluation asks for: every dial swept through its levels on every prompt, the other dials standing still.

The plan depends on the prompts, the schema, the recipe and the training labels of the first model, never on what a
model answers, so several models answer the very same requests and can be compared in pairs.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from steerlm.attributes import Attribute, AttributeSchema, Value
from steerlm.conversation import Conversation, Message
from steerlm.errors import UserError
from steerlm.results.evaluation import ContextCoverage, Coverage, LevelPairs
from steerlm.sources.prompts import read_prompts as file_prompts

T = TypeVar("T")

MAX_LEVELS = 10
"""Attributes with more levels are swept over so many, evenly spaced."""

_CONTEXTS = {"defaults": 0, "extremes": 1, "random": 2, "alone": 3}
_POOL = 16
_MOST_PAIR_LEVELS = 10
"""Pairs of attributes with more levels than this are counted, but get no table of their own."""


@dataclass(frozen=True)
class Prompt:
    """A conversation that ends with a user turn; `cluster` numbers its group (tree or first prompt)."""

    id: str
    messages: tuple[Message, ...]
    cluster: int
    seed: int
    source: str = ""


@dataclass(frozen=True)
class Ask:
    """One prompt at one full setting: what a model is asked, once, however many sweeps it belongs to.

    Attributes:
        strengths: how strongly attributes count that do not count 1 (`steerlm.generation.guidance`).
    """

    prompt: int
    attributes: Mapping[str, Value]
    strengths: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Cell:
    """One step of one sweep, answered by ask number `ask`."""

    dial: str
    context: str
    level: Value
    series: int
    ask: int


@dataclass(frozen=True)
class SweepPlan:
    """All asks, ordered by prompt, and the sweeps over them."""

    prompts: tuple[Prompt, ...]
    asks: tuple[Ask, ...]
    cells: tuple[Cell, ...]


Strengths = float | Mapping[str, float]
"""How strongly the dial that is turned counts: the same for all, or by name (1 where none is named)."""

Combinations = Sequence[tuple[Mapping[str, Value], int]]
"""The settings that occur in training labels, with their counts."""


def read_prompts(path: Path, schema: AttributeSchema, num_prompts: int | None, seed: int) -> tuple[Prompt, ...]:
    """Read the prompts of a file; see `as_prompts`.

    Args:
        path: any file of prompts; validation data (which ends with answers) works as well.
        schema: labels of earlier turns are validated against it.
        num_prompts: take so many, drawn at random; None or more than there are: all.
        seed: of the draw and of the answers' sampling.
    """
    asked = (
        Conversation(prompt.id or f"{path.stem}/{number}", prompt.messages, prompt.source, prompt.group)
        for number, prompt in enumerate(file_prompts(path, schema))
    )
    prompts = as_prompts(asked, num_prompts, seed)
    if not prompts:
        raise UserError(f"{path} holds no prompts to evaluate on")
    return prompts


def as_prompts(conversations: Iterable[Conversation], num_prompts: int | None, seed: int) -> tuple[Prompt, ...]:
    """Take conversations as prompts: each up to its last user turn, duplicates left out.

    Args and result are those of `read_prompts`.
    """
    unique: dict[tuple[tuple[str, str], ...], tuple[Conversation, tuple[Message, ...]]] = {}
    for conversation in conversations:
        turns = conversation.messages
        last = max(i for i, message in enumerate(turns) if message.role == "user")
        key = tuple((message.role, message.content) for message in turns[: last + 1])
        unique.setdefault(key, (conversation, turns[: last + 1]))
    clusters: dict[str, int] = {}
    prompts = []
    for number, (asked, messages) in enumerate(drawn(list(unique.values()), num_prompts, seed)):
        cluster = clusters.setdefault(asked.id if asked.group is None else asked.group, len(clusters))
        prompts.append(Prompt(asked.id, messages, cluster, prompt_seed(seed, number), asked.source))
    return tuple(prompts)


def drawn(rows: Sequence[T], number: int | None, seed: int) -> list[T]:
    """Draw so many rows, or all, and keep their order."""
    order = np.random.default_rng((seed, len(rows))).permutation(len(rows))
    return [rows[i] for i in sorted(order[:number])]


def prompt_seed(seed: int, number: int) -> int:
    """Return the seed of the answers to a prompt, the same for everyone who is asked."""
    return seed * 1_000_003 + number


def sweep_levels(attribute: Attribute) -> tuple[Value, ...]:
    """The values an attribute is swept over: all, or `MAX_LEVELS` evenly spaced ones with both ends."""
    levels = attribute.levels
    if len(levels) <= MAX_LEVELS:
        return levels
    return tuple(levels[round(i * (len(levels) - 1) / (MAX_LEVELS - 1))] for i in range(MAX_LEVELS))


def make_plan(
    prompts: Sequence[Prompt],
    schema: AttributeSchema,
    contexts: Sequence[str],
    combinations: Combinations,
    seed: int,
    levels: Mapping[str, Sequence[Value]] | None = None,
    guidance: Strengths = 1.0,
    even: str | None = None,
) -> SweepPlan:
    """Lay out the sweeps of every attribute, or of those in `levels`.

    Args:
        contexts: what the other dials stand at, constant within a sweep: `defaults`; `extremes`: each at its lowest
            or highest value, drawn per prompt; `random`: drawn per prompt from the combinations seen in training
            with as many levels of the swept dial as possible (from all levels, evenly, where none is known);
            `alone`: they are not in the header.
        combinations: those of the training labels.
        levels: which dials to turn, and through which levels; None = all attributes through `sweep_levels`.
        guidance: how strongly the dial that is turned counts.
        even: a categorical attribute whose categories `random` draws equally often, however often each occurs.
    """
    swept = {a.name: sweep_levels(a) for a in schema} if levels is None else levels
    pools = {name: _pools(name, combinations, None if even in (None, name) else schema[even]) for name in swept}
    asks: dict[tuple[int, tuple[tuple[str, Value], ...], tuple[tuple[str, float], ...]], int] = {}
    cells = []
    series = 0
    for p in range(len(prompts)):
        for context in contexts:
            for d, dial in enumerate(schema):
                if dial.name not in swept:
                    continue
                rng = np.random.default_rng((seed, p, _CONTEXTS[context], d))
                others = _others(dial, schema, context, pools[dial.name], rng)
                strengths = tuple(strengths_of(dial.name, guidance).items())
                for level in swept[dial.name]:
                    setting = schema.validate({**others, dial.name: level})
                    ask = asks.setdefault((p, tuple(setting.items()), strengths), len(asks))
                    cells.append(Cell(dial.name, context, level, series, ask))
                series += 1
    asked = (Ask(p, dict(setting), dict(strengths)) for p, setting, strengths in asks)
    return SweepPlan(tuple(prompts), tuple(asked), tuple(cells))


def plan_at_defaults(
    prompts: Sequence[Prompt], schema: AttributeSchema, dials: Iterable[str], seed: int, guidance: Strengths = 1.0
) -> SweepPlan:
    """Lay out the sweeps of some dials, the others at their defaults: nothing of it hangs on the training labels."""
    levels = {dial: sweep_levels(schema[dial]) for dial in dials}
    return make_plan(prompts, schema, ("defaults",), (), seed, levels, guidance)


def strengths_of(dial: str, guidance: Strengths) -> dict[str, float]:
    """Return the strength of a dial that is turned; nothing where it counts 1."""
    strength = guidance.get(dial, 1.0) if isinstance(guidance, Mapping) else guidance
    return {} if strength == 1 else {dial: float(strength)}


def guided(plan: SweepPlan, guidance: Strengths) -> SweepPlan:
    """Return a plan that has an ask of its own for every cell with the strength of the dial that it turns."""
    asks = (replace(plan.asks[cell.ask], strengths=strengths_of(cell.dial, guidance)) for cell in plan.cells)
    cells = (replace(cell, ask=number) for number, cell in enumerate(plan.cells))
    return SweepPlan(plan.prompts, tuple(asks), tuple(cells))


def _others(
    dial: Attribute,
    schema: AttributeSchema,
    context: str,
    pools: Sequence[Sequence[Mapping[str, Value]]],
    rng: np.random.Generator,
) -> Mapping[str, Value]:
    if context == "alone":
        return {}
    others = [attribute for attribute in schema if attribute != dial]
    if context == "defaults":
        return {a.name: a.default_value for a in others}
    if context == "extremes":
        return {a.name: a.levels[-1 if rng.integers(2) else 0] for a in others}
    if pools:
        pool = pools[int(rng.integers(len(pools)))] if len(pools) > 1 else pools[0]
        return pool[int(rng.integers(len(pool)))]
    return {a.name: a.levels[int(rng.integers(len(a.levels)))] for a in others}


def _pools(dial: str, combinations: Combinations, even: Attribute | None) -> list[list[Mapping[str, Value]]]:
    """Return the pools that settings of the other dials are drawn from, one per category of `even`; no empty ones."""
    if even is None:
        found = [_pool(dial, combinations)]
    else:
        found = [_pool(dial, [c for c in combinations if c[0].get(even.name) == x]) for x in even.levels]
    return [pool for pool in found if pool]


def _pool(dial: str, combinations: Combinations) -> list[Mapping[str, Value]]:
    """Settings of the other dials under which most levels of `dial` occur in training: the best `_POOL` and ties."""
    levels: dict[tuple[tuple[str, Value], ...], set[Value]] = {}
    counts: Counter[tuple[tuple[str, Value], ...]] = Counter()
    for combination, count in combinations:
        others = tuple((name, value) for name, value in combination.items() if name != dial)
        if dial in combination and others:
            levels.setdefault(others, set()).add(combination[dial])
            counts[others] += count
    ranked = sorted(levels, key=lambda others: (-len(levels[others]), -counts[others], others))
    best = [others for others in ranked if len(levels[others]) == len(levels[ranked[0]])]
    return [dict(others) for others in (best if len(best) >= _POOL else ranked[:_POOL])]


def seen_combinations(statistics: Mapping[str, Any], schema: AttributeSchema) -> Combinations:
    """Return the combinations that a checkpoint's `label_statistics` list, commonest first."""
    rows: Iterable[Mapping[str, Any]] = statistics.get("combinations", ())
    found = [(schema.validate(row["attributes"]), int(row["count"])) for row in rows]
    return sorted(found, key=lambda row: (-row[1], tuple(str(v) for v in row[0].values())))


# --- which settings the training labels support: what was never seen is a guess, however well it works ---------------


def coverage(plan: SweepPlan, schema: AttributeSchema, combinations: Combinations, num_combinations: int) -> Coverage:
    """Report which of the settings asked for the training labels support.

    Args:
        combinations: those of the training labels, as far as the checkpoint lists them.

    Returns:
        The distance of a setting to another is in levels, summed over the attributes; another category counts 1. Only
        the counts where no training labels are known.
    """
    contexts = {}
    if complete := [c for c, _ in combinations if len(c) == len(schema)]:
        seen_CK = np.array([_coordinates(c, schema) for c in complete])
        # `alone` asks for no whole setting
        for context in dict.fromkeys(cell.context for cell in plan.cells if cell.context != "alone"):
            asked = {cell.ask for cell in plan.cells if cell.context == context}
            settings = [s for s in (plan.asks[i].attributes for i in sorted(asked)) if len(s) == len(schema)]
            distances = [_distance(np.array(_coordinates(s, schema)), seen_CK, schema) for s in settings]
            contexts[context] = ContextCoverage(
                settings=len(settings),
                seen=float(np.mean([d == 0 for d in distances])) if distances else math.nan,
                distance=float(np.mean(distances)) if distances else math.nan,
            )
    return Coverage(
        combinations=num_combinations,
        possible=math.prod(len(attribute.levels) for attribute in schema),
        records=sum(count for _, count in combinations),
        contexts=contexts,
        pairs=pairs_seen(schema, combinations),
    )


def pairs_seen(schema: AttributeSchema, combinations: Combinations) -> list[LevelPairs]:
    """Count, for every two attributes, the training records at each pair of their levels; none without labels."""
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
            LevelPairs(
                first=first.name,
                second=second.name,
                seen=int((counts > 0).sum()),
                possible=counts.size,
                counts=counts.tolist() if max(counts.shape) <= _MOST_PAIR_LEVELS else None,
            )
        )
    return rows


def supported(plan: SweepPlan, combinations: Combinations) -> list[bool]:
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
