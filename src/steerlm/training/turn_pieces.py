"""Encoded conversations taken apart into turns, and the headers that go between the pieces."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Literal, NamedTuple

import numpy as np

from steerlm.attributes import Value
from steerlm.batching.shared_prompts import Ids
from steerlm.conversation import Message
from steerlm.encoding import Encoded
from steerlm.template.conversation_encoder import ConversationEncoder

_HEADERS_CACHED = 1 << 16


class TurnPieces(NamedTuple):
    """One assistant turn and what stands before it, without its header.

    Attributes:
        shown: signed ids (`_signed`) when a header is there: context, then from `split` on the response.
        split: where in `shown` the header goes.
        bare: the same without a header; None where it is equal to `shown`.
        codes: per attribute of the schema the index of its level, -1 where there is none.
    """

    shown: Ids
    split: int
    bare: Ids | None
    codes: tuple[int, ...]


class HeaderEncoder:
    """Ids of attribute headers, by the levels they show.

    Args:
        encoder: of the template.
    """

    def __init__(self, encoder: ConversationEncoder):
        self._encoder = encoder
        self._attributes = tuple(encoder.schema)
        self.ids = lru_cache(maxsize=_HEADERS_CACHED)(self._ids)

    def codes(self, values: Mapping[str, Value]) -> tuple[int, ...]:
        """Return the index of every attribute's level, -1 where it is absent."""
        return tuple(a.levels.index(values[a.name]) if a.name in values else -1 for a in self._attributes)

    def _ids(self, codes: tuple[int, ...]) -> Ids:
        """Return the ids of a header; nothing for a header without attributes."""
        values = {a.name: a.levels[code] for a, code in zip(self._attributes, codes, strict=True) if code >= 0}
        if not values:
            return np.empty(0, dtype=np.int32)
        # the template knows best how a header looks: render one and cut it out
        probe = self._encoder.conversation([Message("user", "a"), Message("assistant", "a", values)])
        end = probe.loss_mask.index(True)
        start = probe.input_ids.index(self._encoder.attributes_open)
        return np.asarray(probe.input_ids[start:end], dtype=np.int32)


def _signed(encoded: Encoded) -> Ids:
    """Return ids in which an untrained token is stored as its complement."""
    ids = np.asarray(encoded.input_ids, dtype=np.int32)
    return np.where(np.asarray(encoded.loss_mask, dtype=bool), ids, ~ids)


def _trained_runs(encoded: Encoded) -> list[tuple[int, int]]:
    """Return (start, end) of every stretch of trained tokens."""
    edges = np.flatnonzero(np.diff(np.asarray([False, *encoded.loss_mask, False], dtype=np.int8)))
    return [(int(start), int(end)) for start, end in edges.reshape(-1, 2)]


class Splitter:
    """Takes an encoded conversation apart into turns."""

    def __init__(self, encoder: ConversationEncoder, headers: HeaderEncoder, turns: Literal["all", "last"]):
        self._encoder = encoder
        self._headers = headers
        self._turns = turns

    def split(self, messages: Sequence[Message], encoded: Encoded) -> list[TurnPieces]:
        """Return the turns of a conversation that was encoded with its headers."""
        codes = [self._headers.codes(m.attributes or {}) for m in messages if m.role == "assistant"]
        shown = self._pieces(encoded)
        bare: list[Ids | None] = [None] * len(shown)
        if any(max(code) >= 0 for code in codes) and not self._isolated(encoded):
            without = self._pieces(self._encoder.conversation(messages, headers=False))
            bare = [None if np.array_equal(a, b) else b for (a, _), (b, _) in zip(shown, without, strict=True)]
        turns = [TurnPieces(*piece, b, code) for piece, b, code in zip(shown, bare, codes, strict=True)]
        trained = trained_turns(messages, self._turns)
        return [turn if kept else _untrained(turn) for turn, kept in zip(turns, trained, strict=True)]

    def _isolated(self, encoded: Encoded) -> bool:
        """Whether every header stands between control tokens, so that its neighbours cannot depend on it."""
        control, ids = self._encoder.control_ids, encoded.input_ids
        opens = (ids[i - 1] in control for i, token in enumerate(ids) if token == self._encoder.attributes_open)
        return all(opens) and all(ids[start - 1] in control for start, _ in _trained_runs(encoded))

    def _pieces(self, encoded: Encoded) -> list[tuple[Ids, int]]:
        """Return per turn its signed ids without the header, and where the header is or would be."""
        signed = _signed(encoded)
        runs = _trained_runs(encoded)
        pieces = []
        previous = 0
        for i, (start, end) in enumerate(runs):
            opens = np.flatnonzero(signed[previous:start] == ~self._encoder.attributes_open)
            split = int(opens[-1]) if len(opens) else start - previous
            # whatever the template writes after the last response belongs to the last piece
            stop = end if i + 1 < len(runs) else len(signed)
            pieces.append((np.concatenate([signed[previous : previous + split], signed[start:stop]]), split))
            previous = stop
        return pieces


def trained_turns(messages: Sequence[Message], turns: Literal["all", "last"]) -> list[bool]:
    """Return for every assistant turn whether it is trained: not where its weight is 0."""
    weights = [message.weight for message in messages if message.role == "assistant"]
    return [bool(weight) and (turns == "all" or i == len(weights) - 1) for i, weight in enumerate(weights)]


def _untrained(turn: TurnPieces) -> TurnPieces:
    shown, bare = turn.shown, turn.bare
    return turn._replace(
        shown=np.where(shown >= 0, ~shown, shown), bare=None if bare is None else np.where(bare >= 0, ~bare, bare)
    )
