"""From text to ids so that ordinary text never becomes a control token, whatever it says.

A conversation is a sequence of pieces: control tokens, which only the chat template writes, and text. Escaping text is
breakable, and `split_special_tokens` misses markers that are not flagged special. So a private copy of the tokenizer
is made in which every control token has a random name of this process: text cannot spell a control token because the
copy knows none of the public spellings, while everything else (merges, normalisation, added words, prefix spaces)
works as in the tokenizer itself. The result is checked all the same: the control ids are exactly the template's.
"""

from __future__ import annotations

import ctypes
import json
import re
import secrets
import sys
from bisect import bisect_left, bisect_right
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any, NamedTuple

from steerlm.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Encoded(NamedTuple):
    """Ids of a conversation and which of them are trained.

    Attributes:
        input_ids: token ids, without padding.
        loss_mask: same length; True on trained assistant responses and their end token, exactly.
    """

    input_ids: list[int]
    loss_mask: list[bool]


class Piece(NamedTuple):
    """A control token (its id) or a stretch of text, and whether the model generates it (response and end token)."""

    value: int | str
    generated: bool


def template_literals(chat_template: str) -> str:
    """Return the text a Jinja template can write by itself: its plain text and its string constants."""
    import jinja2

    tokens = jinja2.Environment().lex(chat_template)
    literals = (value[1:-1] if kind == "string" else value for _, kind, value in tokens if kind in ("data", "string"))
    return "\n".join(literals)


def written_markers(tokenizer: PreTrainedTokenizerBase, chat_template: str) -> set[str]:
    """Return the added tokens, special or not, that a chat template writes.

    White space, single characters and plain words are no markers: templates write them as ordinary text.
    """
    literals = template_literals(chat_template)
    contents = [token.content for token in tokenizer.added_tokens_decoder.values()]
    return {
        token
        for token in contents
        if token in literals and len(token) > 1 and not token.isspace() and not token.isalnum()
    }


def control_tokens(tokenizer: PreTrainedTokenizerBase, recorded: Collection[str]) -> dict[int, str]:
    """Return the tokens that structure a conversation, by id: text must never yield them.

    These are all special tokens, all added tokens that the chat template writes and the `recorded` ones (of a
    template that was replaced). The unknown token is none of them unless it has a second office such as end of
    sequence: ordinary text may rightly yield it, and it never marks structure.
    """
    assert isinstance(tokenizer.chat_template, str)
    markers = written_markers(tokenizer, tokenizer.chat_template).union(recorded)
    found = dict(zip(tokenizer.all_special_ids, tokenizer.all_special_tokens, strict=True))
    for index, token in tokenizer.added_tokens_decoder.items():
        if token.special or token.content in markers:
            found[index] = token.content
    structural = {token for name, token in tokenizer.special_tokens_map.items() if name != "unk_token"} | markers
    if tokenizer.unk_token not in structural:
        found.pop(tokenizer.unk_token_id, None)
    return found


class PrivateBackend:
    """Encodes pieces with a copy of a fast tokenizer's backend in which control tokens have private names."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, control: Mapping[int, str]) -> None:
        from tokenizers import Tokenizer

        self._control_ids = frozenset(control)
        self._nonce = f"\ufdd0{secrets.token_hex(8)}"
        self._names = {index: f"{self._nonce}{index};" for index in control}
        private = {token: self._names[index] for index, token in control.items()}
        self._cut = f"{self._nonce}cut;"
        data = json.loads(tokenizer.backend_tokenizer.to_str())
        _rename(data, private, tokenizer.unk_token)
        self._backend = Tokenizer.from_str(json.dumps(data))
        del data
        _return_freed_memory()
        self._backend.add_special_tokens([self._cut])
        self._cut_id = self._backend.token_to_id(self._cut)
        for index, name in self._names.items():
            assert self._backend.token_to_id(name) == index, f"control token {control[index]!r} moved"

    def encode(self, pieces: Sequence[Piece]) -> Encoded:
        """Encode pieces; neighbouring text pieces are tokenized jointly.

        Where a token would span the start of a response, the text is cut there: the ids in front are then those of
        the prompt alone, which is what generation continues.
        """
        texts: list[str] = []
        spans: list[list[int]] = []
        expected: list[int] = []
        position = 0
        generated = False
        for piece in pieces:
            if isinstance(piece.value, int):
                expected.append(piece.value)
                text = self._names[piece.value]
            else:
                text = piece.value
                assert self._nonce not in text
            if piece.generated and not generated:
                spans.append([position, position])
            texts.append(text)
            position += len(text)
            generated = piece.generated
            if generated:
                spans[-1][1] = position
        return self._encode_text("".join(texts), spans, expected)

    def _encode_text(self, text: str, spans: list[list[int]], expected: list[int]) -> Encoded:
        encoding = self._backend.encode(text, add_special_tokens=False)
        ids: list[int] = encoding.ids
        offsets: list[tuple[int, int]] = encoding.offsets
        mask = [False] * len(ids)
        straddled = []
        for start, end in spans:
            first = bisect_right(offsets, start, key=_end)
            last = bisect_left(offsets, end, lo=first, key=_start)
            if first < len(ids) and offsets[first][0] < start:
                straddled.append(start)
            mask[first:last] = [True] * (last - first)
        if straddled:
            return self._encode_cut(text, spans, expected, straddled)
        if self._cut_id in ids:
            mask = [value for index, value in zip(ids, mask, strict=True) if index != self._cut_id]
            ids = [index for index in ids if index != self._cut_id]
        check_control(ids, expected, self._control_ids)
        return Encoded(ids, mask)

    def _encode_cut(self, text: str, spans: list[list[int]], expected: list[int], cuts: list[int]) -> Encoded:
        """Encode again with a cut in front of the spans that start at `cuts`."""
        pieces, moved, previous = [], [], 0
        for start, end in spans:
            if start in cuts:
                pieces += [text[previous:start], self._cut]
                previous = start
            shift = len(self._cut) * sum(cut <= start for cut in cuts)
            moved.append([start + shift, end + shift])
        return self._encode_text("".join([*pieces, text[previous:]]), moved, expected)


def _return_freed_memory() -> None:
    """Give freed memory back to the system, which glibc does not do by itself: after a vocabulary of 262 thousand
    tokens has been read and copied that is 0.3 GiB, as much as the embeddings of such a model in bf16."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)


def _start(offset: tuple[int, int]) -> int:
    return offset[0]


def _end(offset: tuple[int, int]) -> int:
    return offset[1]


def _rename(data: dict[str, Any], private: dict[str, str], unknown: str | None) -> None:
    """Give control tokens their private names in a tokenizer.json: among the added tokens, in the vocabulary, and
    out of the merges. Offsets shall be raw, and nothing cut or padded."""
    data["post_processor"] = data["truncation"] = data["padding"] = None
    model = data["model"]
    vocabulary = model["vocab"]
    if isinstance(vocabulary, dict):
        model["vocab"] = {private.get(token, token): index for token, index in vocabulary.items()}
    else:
        model["vocab"] = [[private.get(token, token), score] for token, score in vocabulary]
    if "merges" in model:
        prefix = model["continuing_subword_prefix"] or ""
        model["merges"] = [
            (left, right)
            for left, right in model["merges"]
            if left not in private and right not in private and left + right.removeprefix(prefix) not in private
        ]
    if "unk_token" in model:
        model["unk_token"] = private.get(model["unk_token"], model["unk_token"])
    in_vocabulary = vocabulary if isinstance(vocabulary, dict) else {token for token, _ in vocabulary}
    added = []
    for token in data["added_tokens"]:
        if token["content"] in private:
            added.append({**token, "content": private[token["content"]], "normalized": False, "special": True})
        elif token["content"] != unknown:
            added.append(token)
        elif unknown not in in_vocabulary:
            # dropping it would shift the ids of the tokens after it
            added.append({**token, "content": f"{next(iter(private.values()))}unknown"})
    data["added_tokens"] = added


class PythonBackend:
    """Encodes pieces with a tokenizer written in Python, which gives no offsets: stretch by stretch."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, control: Mapping[int, str]) -> None:
        self._tokenizer = tokenizer
        self._control_ids = frozenset(control)
        words = [token.content for index, token in tokenizer.added_tokens_decoder.items() if index not in control]
        words.sort(key=len, reverse=True)
        self._words = re.compile("(" + "|".join(map(re.escape, words)) + ")") if words else None

    def encode(self, pieces: Sequence[Piece]) -> Encoded:
        """Encode pieces; the same contract as `PrivateBackend.encode`."""
        ids: list[int] = []
        mask: list[bool] = []
        for is_text, group in groupby(pieces, key=lambda piece: isinstance(piece.value, str)):
            stretch = list(group)
            if is_text:
                encoded = self._stretch(stretch)
                ids += encoded.input_ids
                mask += encoded.loss_mask
            else:
                ids += [int(piece.value) for piece in stretch]
                mask += [piece.generated for piece in stretch]
        expected = [piece.value for piece in pieces if isinstance(piece.value, int)]
        check_control(ids, expected, self._control_ids)
        return Encoded(ids, mask)

    def _stretch(self, pieces: Sequence[Piece]) -> Encoded:
        """Encode text between two control tokens, jointly where a response starts at a token's start."""
        text = ""
        ids: list[int] = []
        mask: list[bool] = []
        for generated, group in groupby(pieces, key=lambda piece: piece.generated):
            part = "".join(str(piece.value) for piece in group)
            joint = self._text(text + part)
            if joint[: len(ids)] != ids:
                joint = ids + self._text(part)
            mask += [generated] * (len(joint) - len(ids))
            text, ids = text + part, joint
        return Encoded(ids, mask)

    def _text(self, text: str) -> list[int]:
        ids: list[int] = []
        for i, part in enumerate(self._words.split(text) if self._words else [text]):
            if i % 2:
                ids.append(self._tokenizer.convert_tokens_to_ids(part))
            elif part:
                ids += self._plain(part)
        return ids

    def _plain(self, text: str) -> list[int]:
        tokens = self._tokenizer.tokenize(text, split_special_tokens=True)
        ids: list[int] = self._tokenizer.convert_tokens_to_ids(tokens)
        if self._control_ids.isdisjoint(ids) or len(text) == 1:
            return ids
        # the vocabulary itself holds the marker as one piece: spell it in two
        return self._plain(text[: len(text) // 2]) + self._plain(text[len(text) // 2 :])


def check_control(ids: Iterable[int], expected: list[int], control_ids: frozenset[int]) -> None:
    """Raise unless the control ids among `ids` are exactly the template's, in order."""
    found = [index for index in ids if index in control_ids]
    if found != expected:
        raise UserError(
            "the tokenizer turns ordinary text into a control token: its unknown token is also used to mark structure; "
            "give the tokenizer an unknown token of its own"
        )


def backend_for(tokenizer: PreTrainedTokenizerBase, control: Mapping[int, str]) -> PrivateBackend | PythonBackend:
    """Return the encoder of pieces that fits the tokenizer; made once per tokenizer, not per text."""
    return PrivateBackend(tokenizer, control) if tokenizer.is_fast else PythonBackend(tokenizer, control)
