"""The one exception a user's mistake raises; the command line prints it without a traceback."""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Iterable, Iterator


class UserError(ValueError):
    """Bad input or configuration: the message names the value, the place and the fix."""


@contextlib.contextmanager
def needs_extra(extra: str, what: str) -> Iterator[None]:
    """Wrap imports of packages that only an extra of steerlm installs.

    Args:
        extra: name in `pip install 'steerlm[extra]'`.
        what: what needs the package, as the subject of a sentence.

    Raises:
        UserError: a package is missing; names it and the extra.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise UserError(f"{what} needs {error.name}: pip install 'steerlm[{extra}]'") from None


def did_you_mean(name: str, valid: Iterable[str]) -> str:
    """Return a sentence that offers the nearest valid name, or lists them all."""
    names = list(valid)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    if close:
        return f"did you mean {close[0]!r}? (valid: {', '.join(names)})"
    return f"valid: {', '.join(names)}"
