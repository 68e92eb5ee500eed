"""Decide between two answers by what a scorer measures: a weighted sum of attributes, with a margin for ties.

A scorer reads one answer at a time, so the order of two answers cannot matter and every pair is decided once.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from steerlm.attributes import AttributeSchema
from steerlm.checkpoint.info import load_info
from steerlm.conversation import Message
from steerlm.errors import UserError, did_you_mean
from steerlm.scorers.measures import MeasureScorer
from steerlm.scorers.opening import AttributeModelScorer
from steerlm.scorers.protocol import Scorer
from steerlm.stages.evaluate.panel import exact_measure
from steerlm.statistics.rankings import Match
from steerlm.studies.compare.systems import ComparedPrompt, SystemAnswer

EXACT = ("playground", "text")
"""The exact measures; any other scorer is the folder of an attribute model."""

AnswerScores = Mapping[str, float] | None
"""What one answer measures, by attribute; None where the scorer has no answer."""


@dataclass(frozen=True)
class Objective:
    """What counts as better.

    Attributes:
        weights: per attribute; an answer's worth is the sum of weight times level.
        tie_margin: differences in worth up to this are ties.
    """

    weights: Mapping[str, float]
    tie_margin: float = 0.0

    def worth(self, scores: Mapping[str, float]) -> float:
        return sum(weight * scores[name] for name, weight in self.weights.items())


def parse_weights(text: str) -> dict[str, float]:
    """Read `helpfulness=1,toxicity=-0.5`."""
    weights = {}
    for piece in text.split(","):
        name, equals, value = piece.partition("=")
        try:
            weights[name.strip()] = float(value)
        except ValueError:
            equals = ""
        if not equals or not name.strip():
            raise UserError(f"--weights {text!r}: {piece!r} is not of the form attribute=number")
    return weights


def default_weights(schema: AttributeSchema | None, measured: Sequence[str]) -> dict[str, float]:
    """Weigh every attribute that has a best end 1 (highest) or -1 (lowest)."""
    weights = {a.name: 1.0 if a.best == "max" else -1.0 for a in schema or () if a.best and a.name in measured}
    if not weights:
        raise UserError(
            f"nothing says what counts as better: give --weights, for example --weights {measured[0]}=1 "
            f"(measured: {', '.join(measured)})"
        )
    return weights


def check_weights(weights: Mapping[str, float], measured: Sequence[str]) -> None:
    """Raise unless every weighted attribute is measured."""
    for name in weights:
        if name not in measured:
            raise UserError(f"--weights: the scorer does not measure {name!r}: {did_you_mean(name, measured)}")


def open_decider(name: str) -> tuple[Scorer, AttributeSchema | None]:
    """Return an exact measure or an attribute model, and the schema of the latter.

    Args:
        name: `playground`, `text`, or the folder of an attribute model.
    """
    if name in EXACT:
        measure = exact_measure("playground" if name == "playground" else "text")
        assert measure is not None
        return MeasureScorer(name, measure), None
    if not Path(name).is_dir():
        raise UserError(f"--scorer {name!r} is none of {', '.join(EXACT)} and no folder of an attribute model")
    if load_info(name).kind == "sft":
        raise UserError(f"--scorer {name}: that is a steerable model; give the attribute model")
    model = AttributeModelScorer(Path(name), None)
    return model, model.schema


def score_answers(
    scorer: Scorer, prompts: Sequence[ComparedPrompt], answers: Mapping[str, Sequence[SystemAnswer]]
) -> dict[str, list[AnswerScores]]:
    """Score every system's answers; None for an empty answer, and where the scorer has no score."""
    asked = [
        (name, i, (*prompts[i].messages, Message("assistant", answer.text)))
        for name, found in answers.items()
        for i, answer in enumerate(found)
        if answer.text is not None and answer.text.strip()
    ]
    out: dict[str, list[AnswerScores]] = {name: [None] * len(prompts) for name in answers}
    for (name, i, _), scores in zip(asked, scorer.score([row[2] for row in asked]), strict=True):
        out[name][i] = None if scores is None else {n: score.mean for n, score in scores.items()}
    return out


def decide(
    prompts: Sequence[ComparedPrompt],
    answers: Mapping[str, Sequence[SystemAnswer]],
    scores: Mapping[str, Sequence[AnswerScores]],
    objective: Objective,
) -> tuple[list[Match], int]:
    """Match every two systems on every prompt.

    An empty answer loses against any other. Pairs in which an answer has no score are left out.

    Returns:
        The verdicts, and the number of pairs left out.
    """
    matches, unscored = [], 0
    for first, second in itertools.combinations(answers, 2):
        for i, prompt in enumerate(prompts):
            said = [bool((answers[name][i].text or "").strip()) for name in (first, second)]
            one, other = scores[first][i], scores[second][i]
            if not all(said):
                matches.append(Match(prompt.id, first, second, 0.5 + (said[0] - said[1]) / 2))
            elif one is None or other is None:
                unscored += 1
            else:
                gain = objective.worth(one) - objective.worth(other)
                outcome = 0.5 if abs(gain) <= objective.tie_margin else float(gain > 0)
                matches.append(Match(prompt.id, first, second, outcome))
    return matches, unscored
