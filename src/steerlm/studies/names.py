"""Names of systems and of raters: two that people could take for each other are a mistake."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable

from steerlm.errors import UserError

_ASCII_TWINS = str.maketrans({"I": "l", "1": "l", "|": "l", "O": "0", "o": "0", "/": "_", "\\": "_"})
"""Signs that look alike, and those that names of files get in place of others."""


def tidy_name(name: str) -> str:
    """Return the name composed, and without white space around or doubled white space inside."""
    return " ".join(unicodedata.normalize("NFC", name).split())


def require_distinct_names(names: Iterable[str], who: str, hint: str, known: Iterable[str] = ()) -> None:
    """Raise where two names are equal, or look alike: by case, width, white space, invisible or look-alike signs.

    Args:
        who: what they are called, in the plural, such as `systems`.
        known: names taken already, which may not look like one of `names`.
    """
    taken = {look: name for name in known for look in _looks(name)}
    for name in names:
        for look in _looks(name):
            twin = taken.get(look)
            if twin == name:
                raise UserError(f"two {who} are called {name!r}; {hint}")
            if twin is not None:
                raise UserError(f"two {who} look alike: {twin!r} and {name!r}{_signs(twin + name)}; {hint}")
        taken |= dict.fromkeys(_looks(name), name)


def _looks(name: str) -> set[str]:
    """Return what the name looks like where case does not count, and where `I` may be `l` and `O` may be `0`."""
    signs = (sign for sign in unicodedata.normalize("NFKC", name) if not _is_invisible(sign))
    plain = " ".join("".join(signs).split())
    shown = "".join(sign if sign.isascii() else _twin(sign) for sign in plain)
    return {shown.casefold(), shown.translate(_ASCII_TWINS).casefold()}


def _is_invisible(sign: str) -> bool:
    return (unicodedata.category(sign) in ("Cf", "Cc") and not sign.isspace()) or "\ufe00" <= sign <= "\ufe0f"


def _twin(sign: str) -> str:
    """Return the first of the signs that look like this one, by Unicode's own table."""
    from confusable_homoglyphs import confusables

    found = confusables.is_confusable(sign, greedy=True) or [{"homoglyphs": []}]
    twins: list[str] = [twin["c"] for twin in found[0]["homoglyphs"] if len(twin["c"]) == 1]
    return min([sign, *twins])


def _signs(names: str) -> str:
    """Name the signs outside ASCII, as they may show nothing that differs."""
    odd = dict.fromkeys(sign for sign in names if not sign.isascii() or not sign.isprintable())
    return f" ({', '.join(unicodedata.name(sign, repr(sign)) for sign in odd)})" if odd else ""
