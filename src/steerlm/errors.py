"""The one exception a user's mistake raises; the command line prints it without a traceback."""

from __future__ import annotations

import contextlib
import difflib
import os
import shlex
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


def shell_word(argument: object) -> str:
    """Return an argument of a command that is shown to be copied: in quotation marks where a shell needs them."""
    return shlex.quote(str(argument))


def refuse_ranks(what: str, instead: str) -> None:
    """Refuse what works in one process, as several would write the same files.

    Args:
        instead: what several processes or devices are for.

    Raises:
        UserError: this is one of several processes of a distributed launch.
    """
    count = os.environ.get("WORLD_SIZE", "1")
    if count != "1":
        raise UserError(
            f"{what} works in one process, but WORLD_SIZE is {count}: start it without accelerate launch or torchrun; "
            f"{instead}"
        )
