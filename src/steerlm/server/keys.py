"""API keys: read from a file, compared in constant time."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import itertools
from pathlib import Path

from steerlm.errors import UserError
from steerlm.storage.files import read_text

_SHORTEST = 16


class Keys:
    """The API keys of a deployment, as hashes.

    Attributes:
        names: of the keys, in order; empty = no key is needed.
    """

    def __init__(self, keys: dict[str, str]) -> None:
        """Take keys by name."""
        self.names = list(keys)
        self._hashes = [hashlib.sha256(key.encode()).digest() for key in keys.values()]

    def find(self, authorization: str | None) -> str | None:
        """Return the name of the key in an `Authorization` header, None if it holds no valid one.

        `Bearer KEY` is what OpenAI's clients send; `Basic` with the key as password is what a browser asks for. Every
        key is compared, whole hash by whole hash, so that the time says nothing about any.
        """
        digest = hashlib.sha256(_credential(authorization or "").encode("utf-8", "surrogateescape")).digest()
        found = None
        for name, known in zip(self.names, self._hashes, strict=True):
            if hmac.compare_digest(digest, known):
                found = name
        return found


def _credential(authorization: str) -> str:
    scheme, _, value = authorization.partition(" ")
    if scheme.lower() == "bearer":
        return value.strip()
    if scheme.lower() == "basic":
        try:
            return base64.b64decode(value.strip(), validate=True).decode().partition(":")[2]
        except (binascii.Error, UnicodeDecodeError):
            return ""
    return ""


def load_keys(path: Path | None) -> Keys:
    """Read a key file: a name and a key per line; a word that begins with `#` begins a comment.

    Raises:
        UserError: no such file or not UTF-8, a line of another form, a name or key that stands twice, or a key
            that is too short.
    """
    if path is None:
        return Keys({})
    keys: dict[str, str] = {}
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        # a `#` within a key is part of it: cut there, it would still be taken, but nobody's request with it
        words = list(itertools.takewhile(lambda word: not word.startswith("#"), line.split()))
        if not words:
            continue
        if len(words) != 2:
            raise UserError(f"{path}:{number}: a line is a name and a key, for example: team-a 4f0c…")
        name, key = words
        if len(key) < _SHORTEST:
            raise UserError(f"{path}:{number}: the key of {name!r} has fewer than {_SHORTEST} characters")
        if name in keys or key in keys.values():
            raise UserError(f"{path}:{number}: the name {name!r} or its key stands twice")
        keys[name] = key
    if not keys:
        raise UserError(f"{path} holds no key; write lines of a name and a key")
    return Keys(keys)
