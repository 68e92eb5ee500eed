"""The text of a response while it is being decoded: whole characters only, ended by stop strings.

Only the latest tokens are decoded again with each new one. Text is shown once no later token can change it: a character
whose bytes are incomplete, the beginning of a stop string and an attribute line that the model may be echoing wait.
"""

from __future__ import annotations

from collections.abc import Sequence

from steerlm.generation.engine import settled, strip_label_echo
from steerlm.template import ConversationEncoder


class ResponseText:
    """The text of one sample.

    Attributes:
        num_tokens: tokens that belong to the response so far: up to and with its end token, or the token that
            completed a stop string.
        stopped: whether a stop string ended it; no token is looked at after that.
    """

    def __init__(self, encoder: ConversationEncoder, stop: Sequence[str]) -> None:
        """Start with no token.

        Args:
            encoder: of the model.
            stop: strings that end the response, none of them empty; they are no part of it.
        """
        self.num_tokens = 0
        self.stopped = False
        self._encoder = encoder
        self._stop = tuple(stop)
        self._hold = max(map(len, self._stop), default=1) - 1
        self._body = ""
        self._ids: list[int] = []
        # tokens from `_context` to `_decoded` stand for `_context_text`: what is in the body already
        self._context = self._decoded = 0
        self._context_text = ""

    @property
    def has_stops(self) -> bool:
        """Whether there are strings that may end it."""
        return bool(self._stop)

    def push(self, token: int) -> None:
        """Take in the next token."""
        assert not self.stopped
        self.num_tokens += 1
        if token in self._encoder.control_ids:
            return
        self._ids.append(token)
        text = self._encoder.decode(self._ids[self._context :])
        # a character in three bytes needs three tokens at most; what stays incomplete is no UTF-8
        if text.endswith("\ufffd") or len(text) <= len(self._context_text):
            return
        self._extend(text[len(self._context_text) :])
        self._context, self._decoded = self._decoded, len(self._ids)
        self._context_text = self._encoder.decode(self._ids[self._context :])

    def _extend(self, new: str) -> None:
        begin = max(0, len(self._body) - self._hold)
        self._body += new
        places = [place for stop in self._stop if (place := self._body.find(stop, begin)) >= 0]
        if places:
            self._body = self._body[: min(places)]
            self.stopped = True

    def shown(self) -> str:
        """Return the part of the text that is final; it only ever grows."""
        if self.stopped:
            return strip_label_echo(self._body, self._encoder.schema)
        held = next(
            (
                count
                for count in range(min(self._hold, len(self._body)), 0, -1)
                if any(stop.startswith(self._body[-count:]) for stop in self._stop)
            ),
            0,
        )
        return settled(self._body[: len(self._body) - held], self._encoder.schema)

    def finish(self, tokens: Sequence[int]) -> str:
        """Return the whole text, after the last token.

        Args:
            tokens: all tokens of the sample.
        """
        if not self.stopped:
            whole = self._encoder.decode(tokens)
            if whole.startswith(self._body):
                self._extend(whole[len(self._body) :])
            else:  # a decoder that looks further back than to the token before
                self._extend(self._encoder.decode(self._ids[self._context :])[len(self._context_text) :])
        return strip_label_echo(self._body, self._encoder.schema)
