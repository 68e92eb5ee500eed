"""What says how much an assistant turn is worth on the attributes: one Protocol for all that do.

Attribute models (`attribute_models`), measures of the text (`measures`), sequence classifiers (`classifiers`) and an
LLM with a rubric (`rubric`) are its forms; `opening` opens each of them by what a recipe says.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

from steerlm.attributes import Attribute
from steerlm.conversation import Message, Score

Turn = Sequence[Message]
"""A conversation up to and including the assistant turn to judge."""
Scores = Mapping[str, Score]
"""Attribute (or statistic) -> what a turn is worth, with its spread; some may be missing."""


class Scorer(Protocol):
    """Says what assistant turns are worth.

    Attributes:
        who: identifies it and what it computes: `model:…`, `measure:…`, `classifier:…` or `judge:…`.
        label: the same for people.
        attributes: names of what it scores.
    """

    @property
    def who(self) -> str: ...

    @property
    def label(self) -> str: ...

    @property
    def attributes(self) -> tuple[str, ...]: ...

    def score(self, turns: Sequence[Turn]) -> Sequence[Scores | None]:
        """Score turns; None where there is no answer, for example of a turn without text or one that is too long."""
        ...

    def independent_of(self, training: Collection[str]) -> bool:
        """Whether it had no part in the labels of training data, given `who` set them.

        A steerable model that learned a scorer's mistakes looks perfect to that scorer.
        """
        ...


def number(attribute: Attribute, score: Score) -> float:
    """Return a score as one number: the expected level, or the index of the likeliest category."""
    if attribute.kind == "ordinal":
        return score.mean
    assert score.probabilities is not None
    return float(max(range(len(attribute.categories)), key=lambda i: score.probabilities[attribute.categories[i]]))  # type: ignore[index]
