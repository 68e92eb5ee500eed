"""Length in tokens of NLTK's `word_tokenize`, punctuation included (English; extra `steerbench`)."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

from steerlm.errors import UserError, needs_extra


def nltk_tokens(text: str) -> float:
    """Return how many tokens a text has.

    Raises:
        UserError: NLTK or its `punkt_tab` is not installed.
    """
    return float(len(_tokenizer()(text)))


@functools.cache
def _tokenizer() -> Callable[[str], Sequence[str]]:
    with needs_extra("steerbench", "the length that SteerBench measures"):
        import nltk
        from nltk.tokenize import word_tokenize
    try:
        nltk.data.find("tokenizers/punkt_tab/english/")
    except LookupError:
        raise UserError(
            "NLTK's sentence model is missing; install it (`python -m nltk.downloader punkt_tab`), or set NLTK_DATA "
            "to the folder that has it under tokenizers/punkt_tab"
        ) from None
    tokenize: Callable[[str], Sequence[str]] = word_tokenize
    return tokenize
