"""The text of a response while it is being decoded: whole characters only, ended by stop strings.

Only the latest tokens are decoded again with new ones. Text is shown once no later token can change it: a character
whose bytes are incomplete, the beginning of a stop string and an attribute line that the model may be echoing wait.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from steerlm.attributes import AttributeSchema
from steerlm.generation.engine import settled, strip_label_echo
from steerlm.template.conversation_encoder import ConversationEncoder


class GrowingText:
    """A text that grows by pieces, cut at the first stop string.

    Attributes:
        body: what there is; up to the stop string where one has come.
        stopped: whether a stop string ended it.
    """

    def __init__(self, schema: AttributeSchema, stop: Sequence[str]) -> None:
        """Start empty."""
        self.body = ""
        self.stopped = False
        self._schema = schema
        self._stop = tuple(stop)
        self._hold = max(map(len, self._stop), default=1) - 1

    @property
    def has_stops(self) -> bool:
        """Whether there are strings that may end it."""
        return bool(self._stop)

    def extend(self, new: str) -> None:
        """Append a piece; not once it has stopped."""
        assert not self.stopped
        begin = max(0, len(self.body) - self._hold)
        self.body += new
        places = [place for stop in self._stop if (place := self.body.find(stop, begin)) >= 0]
        if places:
            self.body = self.body[: min(places)]
            self.stopped = True

    def shown(self) -> str:
        """Return the part of the text that is final; it only ever grows."""
        if self.stopped:
            return self.whole()
        held = next(
            (
                count
                for count in range(min(self._hold, len(self.body)), 0, -1)
                if any(stop.startswith(self.body[-count:]) for stop in self._stop)
            ),
            0,
        )
        return settled(self.body[: len(self.body) - held], self._schema)

    def whole(self) -> str:
        """Return the text, once nothing more comes."""
        return strip_label_echo(self.body, self._schema)


class TokenText(NamedTuple):
    """What a token stands for; `bytes`: None where only its text is known."""

    text: str
    bytes: bytes | None


class TokenTexts:
    """The texts of single tokens, which joined are the text of all."""

    def __init__(self, encoder: ConversationEncoder) -> None:
        """Know no token yet."""
        self._encoder = encoder
        # some tokenizers drop the space in front of what begins a text, others the one at its end
        self._letter = encoder.text_ids("a")[-1:]
        self._first = len(encoder.decode(self._letter))
        self._last = len(encoder.decode(self._letter * 2)) - self._first
        self._known: dict[int, TokenText] = {}

    def __call__(self, token: int) -> TokenText:
        """Return what a token stands for; a control token stands for nothing."""
        if token not in self._known:
            self._known[token] = self._look_up(token)
        return self._known[token]

    def _look_up(self, token: int) -> TokenText:
        if token in self._encoder.control_ids:
            return TokenText("", b"")
        alone = self._encoder.decode([token])
        amid = self._encoder.decode([*self._letter, token, *self._letter])
        text = amid[self._first : len(amid) - self._last]
        if text and "\ufffd" not in alone:
            return TokenText(text, text.encode())
        spelled = self._encoder.token(token)
        if match := re.fullmatch("<0x([0-9A-F]{2})>", spelled):
            return TokenText(alone, bytes([int(match[1], 16)]))
        if all(character in _BYTES for character in spelled):
            return TokenText(alone, bytes(_BYTES[character] for character in spelled))
        return TokenText(alone, None)


def _byte_characters() -> dict[str, int]:
    """Return how byte-level tokenizers spell bytes: printable ones of Latin-1 as they are, the others from 256 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(b): b for b in printable} | {chr(256 + i): b for i, b in enumerate(others)}


_BYTES = _byte_characters()


class ResponseText:
    """The text of one sample that comes as tokens.

    Attributes:
        text: what the tokens stand for so far.
        num_tokens: tokens that belong to the response so far: up to and with its end token, or the token that
            completed a stop string.
    """

    def __init__(self, encoder: ConversationEncoder, stop: Sequence[str], before: Sequence[int] = ()) -> None:
        """Start with no token.

        Args:
            stop: strings that end the response, none of them empty; they are no part of it.
            before: the tokens of the text that the response goes on with, no control token among them.
        """
        self.text = GrowingText(encoder.schema, stop)
        self.num_tokens = 0
        self._encoder = encoder
        self._before = before
        self._ids = list(before)
        # tokens from `_context` to `_decoded` stand for `_context_text`: what is in the body already
        self._context, self._decoded = 0, len(before)
        self._context_text = encoder.decode(before)

    @property
    def stopped(self) -> bool:
        """Whether a stop string ended it; no token is looked at after that."""
        return self.text.stopped

    @property
    def has_stops(self) -> bool:
        """Whether there are strings that may end it."""
        return self.text.has_stops

    def push_all(self, tokens: Sequence[int]) -> int:
        """Take in the next tokens, up to the one that completes a stop string; returns how many that are."""
        assert not self.stopped
        if not self.has_stops:
            self._push(tokens)
            return len(tokens)
        for count, token in enumerate(tokens, start=1):
            # one by one: the response ends with the token that completes a stop string
            self._push((token,))
            if self.stopped:
                return count
        return len(tokens)

    def _push(self, tokens: Sequence[int]) -> None:
        self.num_tokens += len(tokens)
        controls = self._encoder.control_ids
        new = [token for token in tokens if token not in controls]
        if not new:
            return
        self._ids += new
        text = self._encoder.decode(self._ids[self._context :])
        # a character in three bytes needs three tokens at most; what stays incomplete is no UTF-8
        if text.endswith("\ufffd") or len(text) <= len(self._context_text):
            return
        self.text.extend(text[len(self._context_text) :])
        self._context, self._decoded = self._decoded, len(self._ids)
        self._context_text = self._encoder.decode(self._ids[self._context :])

    def finish(self, tokens: Sequence[int]) -> str:
        """Return the whole text, after the last token."""
        if not self.stopped:
            whole = self._encoder.decode([*self._before, *tokens])[len(self._encoder.decode(self._before)) :]
            if whole.startswith(self.text.body):
                self.text.extend(whole[len(self.text.body) :])
            else:  # a decoder that looks further back than to the token before
                self.text.extend(self._encoder.decode(self._ids[self._context :])[len(self._context_text) :])
        return self.text.whole()
