"""Every measure of a text by its name, and own ones as `module:function`."""

from __future__ import annotations

import functools
import importlib
import inspect
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from steerlm.errors import UserError, did_you_mean
from steerlm.scorers.text_measures.diversity import mtld
from steerlm.scorers.text_measures.language import language_of
from steerlm.scorers.text_measures.reading import flesch_kincaid_grade, textstat_grade
from steerlm.scorers.text_measures.sentiment import sentiment
from steerlm.scorers.text_measures.structure import code_share, emoji, list_items, markdown_share, questions
from steerlm.scorers.text_measures.tagging import formality, lemma_mtld
from steerlm.scorers.text_measures.tokens import nltk_tokens
from steerlm.scorers.text_measures.words import count_sentences, count_words

Measured = float | str | None
"""A number, a category (such as a language), or None where the text does not define it."""


@dataclass(frozen=True)
class TextMeasure:
    """One measure.

    Attributes:
        name: as a recipe says it.
        of_text: what a text in a language (ISO 639 code; None: unknown) measures.
        needs_language: whether the language makes a difference; it costs some time to find.
        about: what it says, in a few words.
        categorical: whether it answers with a category, not with a number.
    """

    name: str
    of_text: Callable[[str, str | None], Measured]
    needs_language: bool
    about: str
    categorical: bool = False

    def __call__(self, text: str, language: str | None = None) -> Measured:
        """Measure a text; its language is found where it is needed and not given.

        Raises:
            UserError: an own function answers with something that is no number, category or None.
        """
        return self.of(text, language_of(text) if self.needs_language and language is None else language)

    def of(self, text: str, language: str | None) -> Measured:
        """Measure a text whose language is known, or known to be unknown."""
        found = self.of_text(text, language)
        if isinstance(found, bool | int):
            found = float(found)
        if isinstance(found, float) and not math.isfinite(found):
            return None
        if found is not None and not isinstance(found, float | str):
            raise UserError(f"measure {self.name} returned {found!r} ({type(found).__name__}): a number, text or None")
        return found


def _of_text(name: str, function: Callable[[str], Measured], about: str) -> TextMeasure:
    return TextMeasure(name, lambda text, _: function(text), False, about)


_ALL = (
    _of_text("words", count_words, "how many words it has"),
    _of_text("nltk_tokens", nltk_tokens, "how many words and signs it has, as SteerBench has it (extra `steerbench`)"),
    _of_text("sentences", count_sentences, "how many sentences it has"),
    TextMeasure("flesch_kincaid_grade", flesch_kincaid_grade, True, "how hard it is to read, in school years"),
    _of_text("textstat_grade", textstat_grade, "the same for English as textstat 0.7.5 has it (extra `steerbench`)"),
    _of_text("mtld", mtld, "how varied its words are (MTLD)"),
    _of_text("lemma_mtld", lambda text: lemma_mtld(text) or None, "the same of English lemmas, as SteerBench has it"),
    TextMeasure("formality", formality, True, "how formal it is, 0 to 100 (Heylighen-Dewaele)"),
    TextMeasure("sentiment", sentiment, True, "how pleasant what it says is, -1 to 1 (VADER; English)"),
    _of_text("questions", questions, "how many questions it asks"),
    _of_text("list_items", list_items, "how many items its lists have"),
    _of_text("markdown_share", markdown_share, "share of its lines that are Markdown and no plain prose, 0 to 1"),
    _of_text("emoji", emoji, "how many emoji it has"),
    _of_text("code_share", code_share, "share of it that is code, 0 to 1"),
    TextMeasure("language", lambda _, language: language, True, "the code of its language", categorical=True),
)
MEASURES: dict[str, TextMeasure] = {measure.name: measure for measure in _ALL}
"""Every shipped measure by name."""


@functools.cache
def find_measure(name: str) -> TextMeasure:
    """Return a measure by its name, or an own function given as `module:function`.

    The module is looked for in the working folder as well. A function of one argument gets the text; one of two gets
    its language too.

    Raises:
        UserError: no such measure, module or function.
    """
    if name in MEASURES:
        return MEASURES[name]
    module_name, colon, function_name = name.partition(":")
    if not colon:
        raise UserError(f"measure: {did_you_mean(name, MEASURES)}; got {name!r}; an own one is module:function")
    function = _own_function(name, module_name, function_name)
    parameters = [p for p in inspect.signature(function).parameters.values() if p.default is p.empty]
    if len(parameters) == 1:
        return TextMeasure(name, lambda text, _: function(text), False, function.__doc__ or "")
    return TextMeasure(name, function, True, function.__doc__ or "")


def _own_function(name: str, module_name: str, function_name: str) -> Callable[..., Any]:
    sys.path.insert(0, "")  # the `steerlm` script, unlike `python -m`, does not look in the working folder
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise UserError(f"measure {name!r}: no module {error.name!r} in the working folder or installed") from None
    except (ValueError, SyntaxError) as error:
        raise UserError(f"measure {name!r}: module {module_name!r} cannot be imported: {error}") from None
    finally:
        sys.path.remove("")
    function = vars(module).get(function_name)
    if not callable(function):
        valid = [key for key, value in vars(module).items() if inspect.isfunction(value) and not key.startswith("_")]
        raise UserError(
            f"measure {name!r}: {module_name} has no function {function_name!r}: {did_you_mean(function_name, valid)}"
        )
    return function  # type: ignore[no-any-return]
