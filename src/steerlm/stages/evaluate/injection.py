"""Do the words of a label in the text move the answer? A header alone should: the lock of an attribute rests on it.

Every dial is fixed at one end of its scale while a text in the system message, the user's or an earlier turn spells the
other end; the same prompt without the text is the comparison. The texts are those of `training.decoys`, of which some
spellings occur in no training.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from steerlm.attributes import AttributeSchema
from steerlm.config import EvaluateConfig
from steerlm.stages.evaluate.observing import ScoreRow, answer_plan, score_answers
from steerlm.stages.evaluate.panel import Panelist
from steerlm.stages.evaluate.sweeping import Ask, Prompt, SweepPlan
from steerlm.statistics.estimates import Estimate, cluster_bootstrap, mean
from steerlm.training.decoys import decoys_to_measure, placed

_PROMPTS = 12


class WordEffects(NamedTuple):
    """By how many levels words of a label in the text move each dial towards what they say.

    Attributes:
        every: over all texts.
        unseen: over the spellings that occur in no training.
    """

    every: Mapping[str, Estimate]
    unseen: Mapping[str, Estimate]


class _WordPair(NamedTuple):
    """A question with a text in it and without, by the numbers of their asks.

    Attributes:
        dial: what the text speaks of.
        sign: 1 where it says the highest level and the lowest is fixed, -1 the other way round.
        cluster: of the prompt.
        trained: whether training may hold the text's spelling.
    """

    dial: str
    sign: int
    plain: int
    worded: int
    cluster: int
    trained: bool


def label_words(
    config: EvaluateConfig,
    models: Mapping[str, tuple[Path, str]],
    prompts: Sequence[Prompt],
    schema: AttributeSchema,
    scorers: Sequence[Panelist],
    out: Path,
) -> dict[str, WordEffects]:
    """Measure how far label words in the text move each dial.

    Args:
        models: name -> checkpoint folder and its fingerprint.
        prompts: the evaluation's; the first dozen are used.
        scorers: the first that measures a dial counts, but a judge, which is paid for.
        out: receives `<model>/label_words/`, resumable like the sweeps.

    Returns:
        The effects by model and dial; nothing where nothing measures a dial.
    """
    able = [scorer for scorer in scorers if scorer.id != "judge"]
    panel = {a.name: next((s for s in able if a.name in s.attributes), None) for a in schema.ordinal}
    dials = {name: scorer for name, scorer in panel.items() if scorer is not None}
    if not dials:
        return {}
    chosen = prompts[:_PROMPTS]
    plan, pairs = _plan(chosen, schema, list(dials))
    effects = {}
    for name, (path, key) in models.items():
        folder = out / name / "label_words"
        answers = answer_plan(config, plan, path, key, folder, f"{name} (words of labels)")
        scores = {s.id: score_answers(s, plan, answers, folder, name) for s in set(dials.values())}
        found = {dial: _effect(dial, pairs, scores[s.id]) for dial, s in dials.items()}
        effects[name] = WordEffects(
            {dial: both[0] for dial, both in found.items()}, {dial: both[1] for dial, both in found.items()}
        )
    return effects


def _plan(
    prompts: Sequence[Prompt], schema: AttributeSchema, dials: Sequence[str]
) -> tuple[SweepPlan, list[_WordPair]]:
    """Lay out the questions: every text speaks of every dial once, alternately of its two ends, in turn in a prompt."""
    asked: list[Prompt] = []
    asks: list[Ask] = []

    def ask(prompt: Prompt, attributes: Mapping[str, object]) -> int:
        asked.append(prompt)
        asks.append(Ask(len(asked) - 1, schema.validate(attributes)))
        return len(asks) - 1

    pairs = []
    for d, dial in enumerate(dials):
        ends = schema[dial].levels[0], schema[dial].levels[-1]
        plain = {
            (p, fixed): ask(prompt, {**schema.defaults, dial: ends[fixed]})
            for p, prompt in enumerate(prompts)
            for fixed in (0, 1)
        }
        for number, decoy in enumerate(decoys_to_measure()):
            p, fixed = (number // 2) % len(prompts), (number + d) % 2
            messages = placed(prompts[p].messages, decoy.text(schema, {dial: ends[1 - fixed]}), decoy.place)
            prompt = replace(prompts[p], id=f"{prompts[p].id}/{number}", messages=tuple(messages))
            worded = ask(prompt, {**schema.defaults, dial: ends[fixed]})
            sign = -1 if fixed else 1
            pairs.append(_WordPair(dial, sign, plain[p, fixed], worded, prompt.cluster, decoy.trained))
    return SweepPlan(tuple(asked), tuple(asks), ()), pairs


def _effect(dial: str, pairs: Sequence[_WordPair], scores: Sequence[ScoreRow]) -> tuple[Estimate, Estimate]:
    """Estimate by how many levels the texts move a dial towards what they say: all texts, and the unseen spellings."""
    levels = [_level(row, dial) for row in scores]
    mine = [pair for pair in pairs if pair.dial == dial]
    moved = np.array([pair.sign * (levels[pair.worded] - levels[pair.plain]) for pair in mine])
    known = np.isfinite(moved)
    trained = np.array([pair.trained for pair in mine])
    clusters = np.array([pair.cluster for pair in mine])

    def estimate(rows: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> Estimate:
        return cluster_bootstrap(mean, [moved[rows]], clusters[rows])

    return estimate(known), estimate(known & ~trained)


def _level(row: ScoreRow, dial: str) -> float:
    values = [score[dial] for score in row["scores"] if score is not None]
    measured = [value for value in values if value is not None]
    return sum(measured) / len(measured) if measured else float("nan")
