"""From text to ids so that ordinary text never becomes a control token, whatever it says.

A conversation is a sequence of pieces: control tokens, which only the chat template writes, and text. Escaping text is
breakable, and `split_special_tokens` misses markers that are not flagged special. So a private copy of the tokenizer
is made in which every control token has a random name of this process: text cannot spell a control token because the
copy knows none of the public spellings, while everything else (merges, normalisation, added words, prefix spaces)
works as in the tokenizer itself. The result is checked all the same: the control ids are exactly the template's.
"""

from __future__ import annotations

import json
import re
import secrets
from bisect import bisect_left, bisect_right
from collections.abc import Collection, Iterable, Iterator, Sequence
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
    """A control token (its id) or a stretch of text, and whether it is trained."""

    value: int | str
    trained: bool


def template_literals(chat_template: str) -> str:
    """Return the text a Jinja template can write by itself: its plain text and its string constants."""
    import jinja2

    tokens = jinja2.Environment().lex(chat_template)
    literals = (value[1:-1] if kind == "string" else value for _, kind, value in tokens if kind in ("data", "string"))
    return "\n".join(literals)


def control_tokens(tokenizer: PreTrainedTokenizerBase, recorded: Collection[str]) -> dict[str, int]:
    """Return the tokens that structure a conversation, with their ids: text must never yield them.

    These are all special tokens, all added tokens that occur in the chat template and the `recorded` ones (of a
    template that was replaced). The unknown token is none of them unless it has a second office such as end of
    sequence: ordinary text may rightly yield it, and it never marks structure.
    """
    assert isinstance(tokenizer.chat_template, str)
    literals = template_literals(tokenizer.chat_template)
    found = dict(zip(tokenizer.all_special_tokens, tokenizer.all_special_ids, strict=True))
    for index, token in tokenizer.added_tokens_decoder.items():
        written = token.content in literals and not token.content.isspace()
        if token.special or written or token.content in recorded:
            found[token.content] = index
    named = [token for name, token in tokenizer.special_tokens_map.items() if name != "unk_token"]
    unknown = tokenizer.unk_token
    if unknown is not None and unknown not in named and unknown not in literals and unknown not in recorded:
        found.pop(unknown, None)
    return found


class PrivateBackend:
    """Encodes pieces with a copy of a fast tokenizer's backend in which control tokens have private names."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, control: dict[str, int]) -> None:
        from tokenizers import Tokenizer

        self._control_ids = frozenset(control.values())
        self._nonce = f"\ufdd0{secrets.token_hex(8)}"
        private = {token: f"{self._nonce}{i};" for i, token in enumerate(control)}
        self._names = {index: private[token] for token, index in control.items()}
        self._cut = f"{self._nonce}cut;"
        data = json.loads(tokenizer.backend_tokenizer.to_str())
        _rename(data, private, tokenizer.unk_token)
        self._backend = Tokenizer.from_str(json.dumps(data))
        self._backend.add_special_tokens([self._cut])
        self._cut_id = self._backend.token_to_id(self._cut)
        for token, index in control.items():
            assert self._backend.token_to_id(private[token]) == index, f"control token {token!r} moved"

    def encode(self, pieces: Sequence[Piece]) -> Encoded:
        """Encode pieces; neighbouring text pieces are tokenized jointly.

        Where a token would span the start of a trained stretch, the text is cut there: the ids in front are then those
        of the prompt alone, which is what generation continues.
        """
        texts: list[str] = []
        spans: list[list[int]] = []
        expected: list[int] = []
        position = 0
        trained = False
        for piece in pieces:
            if isinstance(piece.value, int):
                expected.append(piece.value)
                text = self._names[piece.value]
            else:
                text = piece.value
                assert self._nonce not in text
            if piece.trained and not trained:
                spans.append([position, position])
            texts.append(text)
            position += len(text)
            trained = piece.trained
            if trained:
                spans[-1][1] = position
        return self._encode_text("".join(texts), spans, expected)

    def _encode_text(self, text: str, spans: list[list[int]], expected: list[int]) -> Encoded:
        encoding = _encode_checked(self._backend, text)
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
            mask = [trained for index, trained in zip(ids, mask, strict=True) if index != self._cut_id]
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


def _start(offset: tuple[int, int]) -> int:
    return offset[0]


def _end(offset: tuple[int, int]) -> int:
    return offset[1]


def _encode_checked(backend: Any, text: str) -> Any:
    try:
        return backend.encode(text, add_special_tokens=False)
    except (TypeError, UnicodeEncodeError):
        raise UserError(
            f"the text is not valid Unicode (a lone surrogate): {text.encode('ascii', 'backslashreplace')[:80]!r}"
        ) from None


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
        model["merges"] = [pair for pair in model["merges"] if not _touches(pair, private)]
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


def _touches(pair: Sequence[str] | str, private: dict[str, str]) -> bool:
    left, right = pair.split(" ") if isinstance(pair, str) else pair
    return left in private or right in private or left + right in private


class PythonBackend:
    """Encodes pieces with a tokenizer written in Python, which gives no offsets: stretch by stretch."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, control: dict[str, int]) -> None:
        self._tokenizer = tokenizer
        self._control_ids = frozenset(control.values())
        words = [token.content for token in tokenizer.added_tokens_decoder.values() if token.content not in control]
        words.sort(key=len, reverse=True)
        self._words = re.compile("(" + "|".join(map(re.escape, words)) + ")") if words else None

    def encode(self, pieces: Sequence[Piece]) -> Encoded:
        """Encode pieces; the same contract as `PrivateBackend.encode`."""
        ids: list[int] = []
        mask: list[bool] = []
        for stretch in _stretches(pieces):
            if isinstance(stretch[0].value, int):
                ids.append(stretch[0].value)
                mask.append(stretch[0].trained)
                continue
            starts = [i for i in range(1, len(stretch)) if stretch[i].trained and not stretch[i - 1].trained]
            head = "".join(str(piece.value) for piece in stretch[: starts[0]]) if starts else ""
            whole = self._text("".join(str(piece.value) for piece in stretch))
            front = self._text(head)
            if whole[: len(front)] != front:
                whole = front + self._text("".join(str(piece.value) for piece in stretch[starts[0] :]))
            ids += whole
            mask += [stretch[0].trained] * len(front) + [stretch[-1].trained] * (len(whole) - len(front))
        expected = [piece.value for piece in pieces if isinstance(piece.value, int)]
        check_control(ids, expected, self._control_ids)
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


def _stretches(pieces: Iterable[Piece]) -> Iterator[list[Piece]]:
    """Yield each control token alone and each run of text pieces together."""
    run: list[Piece] = []
    for piece in pieces:
        if isinstance(piece.value, int):
            if run:
                yield run
            yield [piece]
            run = []
        else:
            run.append(piece)
    if run:
        yield run


def check_control(ids: Iterable[int], expected: list[int], control_ids: frozenset[int]) -> None:
    """Raise unless the control ids among `ids` are exactly the template's, in order.

    Raises:
        UserError: the tokenizer maps unknown characters of ordinary text to a control token (its unknown token is
            also, say, its end token).
    """
    found = [index for index in ids if index in control_ids]
    if found != expected:
        raise UserError(
            "the tokenizer turns ordinary text into a control token: its unknown token is also used to mark structure; "
            "give the tokenizer an unknown token of its own"
        )


def backend_for(tokenizer: PreTrainedTokenizerBase, control: dict[str, int]) -> PrivateBackend | PythonBackend:
    """Return the encoder of pieces that fits the tokenizer; made once per tokenizer, not per text."""
    return PrivateBackend(tokenizer, control) if tokenizer.is_fast else PythonBackend(tokenizer, control)
