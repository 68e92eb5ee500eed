"""Attribute-conditioned training examples (SteerLM, section 3.3), with attribute dropout.

Every trained response stands behind the header that describes it, and so does every earlier response of the
conversation. Dropout leaves out single attributes, and now and then a whole header: then users can set any
subset, and guidance has its unconditional branch. What is left out is a pure function of (seed, epoch, record,
turn). Conversations are encoded once; an epoch only puts other headers between the same pieces.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
import orjson

from steerlm.attributes import Value
from steerlm.batching.batches import IGNORED, Example
from steerlm.batching.flat_array import FlatArray
from steerlm.batching.shared_prompts import Ids, IntArray, common_length
from steerlm.checkpoint.label_statistics import label_statistics
from steerlm.config import SourceConfig
from steerlm.conversation import Conversation, Message
from steerlm.encoding import Encoded
from steerlm.template.conversation_encoder import ConversationEncoder
from steerlm.training.decoys import with_decoys
from steerlm.training.draws import Draws
from steerlm.training.turn_pieces import HeaderEncoder, Splitter, TurnPieces, trained_turns

_EPOCHS_CACHED = 4

_MOST_ADDED = 256
"""Tokens by which decoys may make an example longer; where they would, it stays as it is."""


@dataclass(frozen=True)
class Conditioning:
    """How conversations become examples.

    Attributes:
        headers: False renders no header at all (the plain SFT baseline).
        labels: condition on the attribute model's values, or on the human labels.
        turns: train all assistant turns or the last one.
        attribute_dropout: probability of leaving out a single attribute.
        header_dropout: probability of leaving out a turn's whole header.
        decoys: share of the prompts in which look-alikes of headers stand in the text (`decoys`).
        seed: of the dropout, of the decoys and of the draw from sources.
    """

    headers: bool = True
    labels: Literal["predicted", "human"] = "predicted"
    turns: Literal["all", "last"] = "all"
    attribute_dropout: float = 0.0
    header_dropout: float = 0.0
    decoys: float = 0.0
    seed: int = 0

    def labels_of(self, message: Message) -> Mapping[str, Value]:
        """Return the values a message's header shows before dropout."""
        if not self.headers:
            return {}
        return (message.human_labels if self.labels == "human" else message.attributes) or {}


@dataclass
class EncodingReport:
    """What became of the records.

    Attributes:
        records: records that are trained on.
        tokens: their tokens, with full headers.
        trained_tokens: the tokens of trained responses and their end tokens.
        trained_turns: responses that are trained.
        unlabelled_turns: trained responses without a header, because no label was there.
        shortened: records that lost their oldest turns to `max_length`.
        shortened_turns: exchanges they lost.
        too_long: records left out because no exchange to train is within the last `max_length` tokens.
        no_response: records left out because they have no assistant turn to train.
        too_long_ids: ids of the first ten left out for length.
    """

    records: int = 0
    tokens: int = 0
    trained_tokens: int = 0
    trained_turns: int = 0
    unlabelled_turns: int = 0
    shortened: int = 0
    shortened_turns: int = 0
    too_long: int = 0
    no_response: int = 0
    too_long_ids: list[str] = field(default_factory=list)


def _packed(messages: Sequence[Message]) -> Ids:
    """Return what is said as numbers, which stand beside the tokens."""
    data = orjson.dumps([(message.role, message.content, message.weight) for message in messages])
    return np.frombuffer(data + b" " * (-len(data) % 4), dtype=np.int32)


def _unpacked(packed: Ids) -> list[Message]:
    return [Message(role, content, weight=weight) for role, content, weight in orjson.loads(packed.tobytes())]


class ConditionedExamples:
    """Conversations as language-model examples whose headers differ by epoch (see `batching.batches.Examples`).

    Args:
        conversations: the records, in the order of the file.
        encoder: of the template.
        conditioning: labels, turns, dropout and seed.
        max_length: most tokens of an example; the oldest exchanges are dropped until it fits, and a record whose
            last exchange does not fit is left out and counted.
        sources: weight and epochs by source name; a source not listed counts once.
        folder: where given, the tokens are memory-mapped from an unnamed file there instead of kept in memory.

    Attributes:
        report: what became of the records.
        lengths: most tokens of every example, repeated for every time it can occur in an epoch.
        prompts: a number for what stands before the first header; no two occurrences of a record have the same.
        labelled_by: who set the labels that turns are conditioned on, as far as the records say.
    """

    def __init__(
        self,
        conversations: Iterable[Conversation],
        encoder: ConversationEncoder,
        conditioning: Conditioning,
        max_length: int,
        sources: Sequence[SourceConfig] = (),
        folder: Path | None = None,
    ):
        self.report = EncodingReport()
        self.labelled_by: set[str] = set()
        self._encoder = encoder
        self._headers = HeaderEncoder(encoder)
        self._conditioning = conditioning
        self._splitter = Splitter(encoder, self._headers, conditioning.turns)
        self._decoys = conditioning.decoys if conditioning.headers else 0.0
        self._max_length = max_length
        # per record: its key, its source, its length, its first turn and, for decoys, its text;
        # per turn: pieces, split, codes, is it trained
        self._keys, self._prompts = bytearray(), bytearray()
        self._source, self._full, self._first = array("i"), array("q"), array("q", [0])
        self._shown, self._bare, self._split, self._codes = array("q"), array("q"), array("q"), array("h")
        self._trained, self._texts = array("b"), array("q")
        names: dict[str, int] = {}
        self._pieces = FlatArray(self._encode(conversations, names), folder)
        self._draws = Draws(np.asarray(self._source, dtype=np.int64), names, sources, conditioning.seed)
        full: IntArray = np.asarray(self._full, dtype=np.int64)
        most = np.minimum(full + _MOST_ADDED, max_length) if self._decoys else full
        self.lengths: IntArray = np.tile(most, self._draws.repeats)
        self.lengths_in = lru_cache(maxsize=_EPOCHS_CACHED)(self._lengths_in)
        numbers = np.unique(np.frombuffer(self._prompts, dtype="<i8"), return_inverse=True)[1].astype(np.int64)
        # copies of a record in one row would make its weight a matter of one step
        self.prompts: IntArray = np.concatenate([numbers + i * len(self) for i in range(self._draws.repeats)])

    def _encode(self, conversations: Iterable[Conversation], names: dict[str, int]) -> Iterator[Ids]:
        """Yield the pieces of every record that is used, and note what is known about them."""
        num_pieces = 0
        for conversation in conversations:
            fitted = self._fit(conversation)
            if fitted is None:
                continue
            messages, encoded = fitted
            turns = self._splitter.split(messages, encoded)
            if self._conditioning.labels == "predicted":
                self.labelled_by |= {who for message in messages for who in message.tellers}
            prompt = hashlib.blake2b(turns[0].shown[: turns[0].split].tobytes(), digest_size=8).digest()
            for turn in turns:
                self._count(turn)
                yield turn.shown
                if turn.bare is not None:
                    yield turn.bare
                self._shown.append(num_pieces)
                self._bare.append(num_pieces + (turn.bare is not None))
                num_pieces = self._bare[-1] + 1
                self._split.append(turn.split)
                self._codes.extend(turn.codes)
            if self._decoys:
                yield _packed(messages)
                self._texts.append(num_pieces)
                num_pieces += 1
            self._first.append(len(self._split))
            self._keys += hashlib.blake2b(conversation.id.encode(), digest_size=8).digest()
            self._prompts += prompt
            self._source.append(names.setdefault(conversation.source, len(names)))
            self._full.append(len(encoded.input_ids))
            self.report.records += 1
            self.report.tokens += len(encoded.input_ids)

    def _fit(self, conversation: Conversation) -> tuple[Sequence[Message], Encoded] | None:
        """Return the messages that are trained on, with the labels to condition on, and their encoding."""
        replies = conversation.assistant_turns
        if not any(trained_turns(conversation.messages, self._conditioning.turns)):
            self.report.no_response += 1
            return None
        messages: Sequence[Message] = [
            replace(message, attributes=self._conditioning.labels_of(message))
            if message.role == "assistant"
            else message
            for message in conversation.messages[: replies[-1] + 1]
        ]
        headers = self._conditioning.headers
        encoded = self._encoder.conversation(messages, headers=headers)
        if len(encoded.input_ids) <= self._max_length:
            return messages, encoded
        fitting = self._encoder.fit(messages, self._max_length, headers=headers)
        if fitting is None or not any(trained_turns(fitting, self._conditioning.turns)):
            self.report.too_long += 1
            if len(self.report.too_long_ids) < 10:
                self.report.too_long_ids.append(conversation.id)
            return None
        self.report.shortened += 1
        self.report.shortened_turns += (len(messages) - len(fitting)) // 2
        return fitting, self._encoder.conversation(fitting, headers=headers)

    def _count(self, turn: TurnPieces) -> None:
        trained = int((turn.shown >= 0).sum())
        self._trained.append(trained > 0)
        self.report.trained_tokens += trained
        self.report.trained_turns += trained > 0
        self.report.unlabelled_turns += trained > 0 and max(turn.codes) < 0

    def label_statistics(self) -> dict[str, object]:
        """Return statistics of the labels that trained turns are conditioned on (`label_statistics`)."""
        codes_T_K = np.asarray(self._codes, dtype=np.int16).reshape(-1, len(self._encoder.schema))
        return label_statistics(codes_T_K[np.asarray(self._trained, dtype=bool)], self._encoder.schema)

    def __len__(self) -> int:
        return len(self._full)

    def draw(self, epoch: int) -> IntArray:
        """Return the examples of an epoch: every source by its weight, each drawn record as often as it says."""
        return self._draws.draw(epoch)

    def example(self, index: int, epoch: int) -> Example:
        """Return an example with the headers it has in `epoch`."""
        repeat, record = divmod(index, len(self))
        key = self._keys[8 * record : 8 * record + 8]
        turns = self.turns(record)
        added = 0
        if (altered := self._altered(record, repeat, epoch)) is not None:
            messages, encoded = altered
            added = -len(turns)
            turns = self._splitter.split(messages, encoded)
            added += len(turns)
        kept = []
        for number, turn in enumerate(turns, -added):
            place = b"%d/%d/%d/%d/" % (self._conditioning.seed, epoch, repeat, number)
            kept.append(turn._replace(codes=self._kept(turn.codes, place + key)))
        return self.assembled(kept)

    def assembled(self, turns: Sequence[TurnPieces]) -> Example:
        """Return the example that turns with their headers make."""
        signed = self._assembled(turns)
        trained = signed >= 0
        return Example(np.where(trained, signed, ~signed), np.where(trained, signed, np.int32(IGNORED)))

    def _assembled(self, turns: Sequence[TurnPieces]) -> Ids:
        """Return the signed ids of turns with their headers."""
        parts: list[Ids] = []
        for turn in turns:
            header = self._headers.ids(turn.codes)
            if len(header):
                parts += [turn.shown[: turn.split], ~header, turn.shown[turn.split :]]
            else:
                parts.append(turn.shown if turn.bare is None else turn.bare)
        return np.concatenate(parts)

    def turns(self, record: int) -> list[TurnPieces]:
        """Return the turns of a record as it stands in the data."""
        width = len(self._encoder.schema)
        turns = []
        for turn in range(self._first[record], self._first[record + 1]):
            shown, bare = self._shown[turn], self._bare[turn]
            codes = tuple(self._codes[turn * width : (turn + 1) * width])
            turns.append(
                TurnPieces(self._pieces[shown], self._split[turn], self._pieces[bare] if bare != shown else None, codes)
            )
        return turns

    def _altered(self, record: int, repeat: int, epoch: int) -> tuple[list[Message], Encoded] | None:
        """Return a record with decoys in it; None where it has none in `epoch`, or they do not fit.

        All responses to a prompt see the same ones, so that they can share it.
        """
        if not self._decoys:
            return None
        key = b"%d/%d/%d/decoys/" % (self._conditioning.seed, epoch, repeat)
        key += self._prompts[8 * record : 8 * record + 8]
        draw = int.from_bytes(hashlib.blake2b(key, digest_size=4).digest(), "little") / 2.0**32
        if draw >= self._decoys:
            return None
        schema = self._encoder.schema
        labels = iter(self.turns(record))
        messages = [
            replace(
                message,
                attributes={
                    a.name: a.levels[code] for a, code in zip(schema, next(labels).codes, strict=True) if code >= 0
                },
            )
            if message.role == "assistant"
            else message
            for message in _unpacked(self._pieces[self._texts[record]])
        ]
        altered = with_decoys(messages, schema, key)
        if altered[0].role == "system" and not self._encoder.takes_system:
            # where the model has no system role, such text stands in front of the question
            text, asked = altered[0].content, altered[1]
            altered = [replace(asked, content=f"{text}\n\n{asked.content}"), *altered[2:]]
        encoded = self._encoder.conversation(altered)
        fits = len(encoded.input_ids) <= min(self._full[record] + _MOST_ADDED, self._max_length)
        return (altered, encoded) if fits else None

    def _lengths_in(self, epoch: int) -> IntArray:
        """Return the tokens of every example in `epoch` with full headers."""
        if not self._decoys:
            return self.lengths
        lengths = np.tile(np.asarray(self._full, dtype=np.int64), self._draws.repeats)
        for index in self.draw(epoch).tolist():
            repeat, record = divmod(index, len(self))
            if (altered := self._altered(record, repeat, epoch)) is not None:
                lengths[index] = len(altered[1].input_ids)
        return lengths

    def beginning(self, index: int) -> Ids:
        """Return the tokens an example begins with, up to the first header that dropout can change; without decoys,
        which are the same for all that share a beginning."""
        turns = self.turns(index % len(self))
        if self._conditioning.header_dropout or self._conditioning.attribute_dropout:
            for i, turn in enumerate(turns):
                if max(turn.codes) >= 0:
                    bare = turn.shown if turn.bare is None else turn.bare
                    common = turn.shown[: common_length(turn.shown[: turn.split], bare)]
                    turns = [*turns[:i], TurnPieces(common, len(common), None, (-1,) * len(turn.codes))]
                    break
        signed = self._assembled(turns)
        return np.where(signed >= 0, signed, ~signed)

    def digest(self) -> bytes:
        """Return what identifies the examples of all epochs."""
        digest = hashlib.blake2b(self._pieces.digest(), digest_size=16)
        for part in (self._keys, self._shown, self._bare, self._split, self._codes, self._first):
            digest.update(part)
        digest.update(repr(self._conditioning).encode())
        digest.update(self.draw(0).tobytes())
        return digest.digest()

    def _kept(self, codes: tuple[int, ...], place: bytes) -> tuple[int, ...]:
        """Return the codes that dropout leaves in a header."""
        whole, single = self._conditioning.header_dropout, self._conditioning.attribute_dropout
        if not (whole or single) or max(codes) < 0:
            return codes
        draws = np.frombuffer(hashlib.shake_128(place).digest(4 * (len(codes) + 1)), dtype="<u4")
        uniform: list[float] = (draws / 2.0**32).tolist()
        if uniform[0] < whole:
            return (-1,) * len(codes)
        return tuple(-1 if u < single else code for u, code in zip(uniform[1:], codes, strict=True))
