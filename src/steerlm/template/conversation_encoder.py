"""Prompts and conversations as ids, from the chat template that a tokenizer carries (SteerLM, section 3.3).

The encoder renders the installed template with placeholders in place of every content, so that what the template wrote
and what people wrote stay apart until they are ids.
"""

from __future__ import annotations

import re
import secrets
from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from itertools import groupby, islice, pairwise
from typing import TYPE_CHECKING, Literal, NamedTuple

from steerlm.attributes import AttributeSchema, Value
from steerlm.config import TemplateName
from steerlm.conversation import Message, check_roles
from steerlm.encoding import Encoded, Piece, backend_for, control_tokens
from steerlm.errors import UserError
from steerlm.native import RECORD
from steerlm.template.installing import RENDERING, Stretch, _NativeRecord, installed_template

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class LabelPiece(NamedTuple):
    """One attribute of a label that the generative attribute model writes: `quality:` or `,quality:`, then `4`."""

    name_ids: list[int]
    value_ids: list[int]


class _AnswerPlace(NamedTuple):
    """An assistant's content among the placeholders, white space in front of it, and whether it has a header."""

    content: int
    lead: str
    steered: bool


class ConversationEncoder:
    """Builds the ids of prompts and conversations from the template stored in a tokenizer.

    Attributes:
        template: name of the installed template.
        stop_ids: ids that end a response: the stop token, and the opening of an attribute label, which a model
            sometimes echoes after its answer.
        new_ids: ids that the base model has to learn.
        variables: with which the template writes what the encoder does, beside `attributes`.
        takes_system: whether a conversation may begin with a system message.
        control_ids: ids that no text can yield.
        attributes_open: id in front of an attribute label.
        attributes_close: id after a label of the generative attribute model.
        num_tokens: of the tokenizer's vocabulary.
        sequence_start: what the tokenizer's family puts in front of text that has no template.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, schema: AttributeSchema) -> None:
        """Prepare the tokenizer's template.

        Raises:
            UserError: the tokenizer has no template of ours, lacks control tokens, or has another schema; two values of
                an attribute have the same ids.
        """
        from transformers.utils.chat_template_utils import render_jinja_template

        record = tokenizer.init_kwargs.get(RECORD)
        if record is None or not isinstance(tokenizer.chat_template, str):
            raise UserError(
                f"the tokenizer {tokenizer.name_or_path!r} has no steerlm chat template; install one with "
                "install_template (training does) or use a checkpoint trained by steerlm"
            )
        schema.require_same(record["schema"], "the schema in use", f"the tokenizer {tokenizer.name_or_path!r}")
        self.schema = schema
        self.template: TemplateName | Literal["native"] = record["template"]
        shipped = installed_template(tokenizer)
        recorded = set(shipped.tokens).union(tokenizer.init_kwargs.get("chat_control_tokens") or ())
        control = control_tokens(tokenizer, recorded)
        self.control_ids = frozenset(control)
        self._control: dict[str, int] = {token: tokenizer.convert_tokens_to_ids(token) for token in control.values()}
        lacking = [token for token in shipped.tokens if token not in self._control]
        if lacking:
            raise UserError(
                f"the tokenizer {tokenizer.name_or_path!r} lacks the control tokens {', '.join(lacking)} of the "
                f"template {self.template!r}; install it again with install_template"
            )
        self.attributes_open = self._control[shipped.attributes_open]
        self.attributes_close = self._control[shipped.attributes_close]
        self.stop_ids: tuple[int, ...] = (self._control[shipped.stop], self.attributes_open)
        begins = tokenizer.bos_token_id is not None and tokenizer("a")["input_ids"][:1] == [tokenizer.bos_token_id]
        self.sequence_start: tuple[int, ...] = (tokenizer.bos_token_id,) if begins else ()
        self.num_tokens = len(tokenizer)
        self.new_ids = sorted(self._control[token] for token in shipped.tokens)
        self.variables: Mapping[str, object] = {}
        self._native: _NativeRecord | None = None
        self.takes_system: bool = record.get("system", True)
        if self.template == "native":
            from steerlm.native import ANSWER_ONLY

            # answers in data are no thoughts: a prompt is the front of such an answer, with or without a header
            self.variables = ANSWER_ONLY
            self._native = record
            ends = [self._control[token] for tokens in reversed(record["ends"]) for token in reversed(tokens)]
            self.stop_ids = tuple(dict.fromkeys([*ends, self.attributes_open]))
            own = (*record["marks"], *record.get("levels", {})) if record["header"] != "text" else ()
            self.new_ids = sorted(self._control[token] for token in own)
        self._tokenizer = tokenizer
        self._backend = backend_for(tokenizer, control)
        self._render_template = render_jinja_template
        self._variables = tokenizer.special_tokens_map
        self._nonce = f"\ufdd1{secrets.token_hex(8)}"
        known = {token.content for token in tokenizer.added_tokens_decoder.values()} | set(self._control)
        longest_first = sorted(known, key=len, reverse=True)
        self._parts = re.compile("|".join([f"{self._nonce}(?P<content>\\d+);", *map(re.escape, longest_first)]))
        self._levels = {a.name: [self.text_ids(str(level)) for level in a.levels] for a in schema}
        for name, levels in self._levels.items():
            if len({tuple(ids) for ids in levels}) < len(levels):
                raise UserError(
                    f"the tokenizer cannot tell the values of attribute {name!r} apart; use another tokenizer"
                )

    def prompt(
        self,
        messages: Sequence[Message],
        attributes: Mapping[str, Value] | None,
        *,
        beginning: str = "",
        any_roles: bool = False,
    ) -> list[int]:
        """Return the ids of a generation prompt.

        Args:
            messages: the conversation so far, ending with a user turn.
            attributes: what to ask for; None = the schema's defaults, {} = no header (unconditional).
            beginning: what the answer has said already.
            any_roles: leave it to the template which roles may follow each other.

        Raises:
            UserError: wrong roles, an unknown attribute or a value off its scale.
        """
        if not any_roles:
            check_roles(messages)
            if messages[-1].role != "user":
                raise UserError(f"a prompt ends with a user message, this one with {messages[-1].role!r}")
        wanted = self.schema.defaults if attributes is None else self.schema.validate(attributes)
        pieces = self._pieces(messages, True, wanted)
        if beginning:
            _check_unicode(beginning, len(messages), "assistant")
            pieces.append(Piece(beginning, True))
        return self._backend.encode(pieces).input_ids

    def text_ids(self, text: str) -> list[int]:
        """Return the ids of text alone, none of which is a control token."""
        return self._backend.encode([Piece(text, False)]).input_ids

    def token(self, index: int) -> str:
        """Return a token as the vocabulary spells it."""
        return str(self._tokenizer.convert_ids_to_tokens(index))

    def conversation(
        self, messages: Sequence[Message], *, turns: Literal["all", "last"] = "all", headers: bool = True
    ) -> Encoded:
        """Return the ids of a conversation and its loss mask.

        Args:
            messages: the conversation; the header of an assistant turn is its `attributes` (absent or empty: none).
            turns: which assistant turns are trained.
            headers: False renders no attribute header at all (plain SFT, input of attribute models).

        Raises:
            UserError: wrong roles, a label off the schema, or no assistant turn to train on.
        """
        check_roles(messages)
        encoded = self._backend.encode(self._pieces(messages, headers, None))
        if turns == "last":
            encoded = encoded._replace(loss_mask=_last_run(encoded.loss_mask))
        if not any(encoded.loss_mask):
            raise UserError(
                "nothing to train on: the conversation has no assistant turn, or the chat template marks none with "
                "{% generation %}"
            )
        return encoded

    def stretches(self, messages: Sequence[Message]) -> list[Stretch]:
        """Return the text of a conversation, and what of it the model is trained to write."""
        check_roles(messages)
        weights = iter([message.weight for message in messages if message.role == "assistant"])
        found = []
        for generated, group in groupby(self._pieces(messages, True, None), key=lambda piece: piece.generated):
            text = "".join(self.token(piece.value) if isinstance(piece.value, int) else piece.value for piece in group)
            found.append(Stretch(text, generated and bool(next(weights))))
        return found

    def fit(
        self,
        messages: Sequence[Message],
        max_length: int,
        *,
        headers: bool = True,
        attributes: Mapping[str, Value] | None = None,
    ) -> Sequence[Message] | None:
        """Drop the oldest exchanges (never the system message) until the conversation fits.

        Args:
            messages: a conversation, or a prompt ending with a user turn (then `attributes` as in `prompt`).
            max_length: the most tokens, inclusive.

        Returns:
            The messages that are left; None if even the last exchange is too long (nothing is cut inside a message).
        """
        check_roles(messages)
        wanted: Mapping[str, Value] | None = None
        if messages[-1].role == "user":
            wanted = self.schema.defaults if attributes is None else self.schema.validate(attributes)
        system = 1 if messages[0].role == "system" else 0
        exchanges = (len(messages) - system + 1) // 2

        def left(dropped: int) -> Sequence[Message]:
            return [*messages[:system], *messages[system + 2 * dropped :]] if dropped else messages

        def fits(dropped: int) -> bool:
            return len(self._backend.encode(self._pieces(left(dropped), headers, wanted)).input_ids) <= max_length

        if fits(0):
            return messages
        if not fits(exchanges - 1):
            return None
        low, high = 0, exchanges - 1
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if fits(middle) else (middle, high)
        return left(high)

    def label_ids(self, values: Mapping[str, Value]) -> list[LabelPiece]:
        """Return the label the generative attribute model writes between `attributes_open` and `attributes_close`.

        Names and values are tokenized separately, so that a value has the same ids in training and in scoring.

        Args:
            values: a full or partial setting.

        Raises:
            UserError: an unknown attribute or a value off its scale.
        """
        valid = self.schema.validate(values)
        return [
            LabelPiece(
                self.text_ids(f"{',' if i else ''}{name}:"), self._levels[name][self.schema[name].levels.index(value)]
            )
            for i, (name, value) in enumerate(valid.items())
        ]

    def level_ids(self, name: str) -> list[list[int]]:
        """Return the value ids of every level of an attribute, in the order of its `levels`; pairwise distinct (but
        where a scale passes 9, the ids of `1` may begin those of `10`)."""
        self.schema[name]
        return self._levels[name]

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of a generated response: up to the first control token, without it."""
        end = next((i for i, index in enumerate(ids) if index in self.control_ids), None)
        # some tokenizers turn "do n't" into "don't" while decoding: the answer is what the model wrote
        text: str = self._tokenizer.decode(
            list(ids[:end]), skip_special_tokens=False, clean_up_tokenization_spaces=False
        )
        if self.template == "nemo" and end is not None:
            text = text.removesuffix("\n")
        return text

    def _pieces(
        self, messages: Sequence[Message], headers: bool, generation: Mapping[str, Value] | None
    ) -> list[Piece]:
        """Render the template with placeholders for the contents and take the result apart.

        Args:
            headers: whether assistant turns carry their header.
            generation: attributes of the generation prompt; None = no generation prompt.
        """
        chat: list[dict[str, object]] = []
        contents: list[str] = []
        answers: list[_AnswerPlace] = []
        for i, message in enumerate(messages):
            _check_unicode(message.content, i, message.role)
            # white space stays outside, for templates that trim
            core = message.content.strip()
            text, _, trail = message.content.partition(core) if core else (message.content, "", "")
            answer = self._native is not None and message.role == "assistant"
            if answer:
                answers.append(_AnswerPlace(len(contents), text, headers and bool(message.attributes)))
            if core or answer:
                text += f"{self._nonce}{len(contents)};{trail}"
                contents.append(core)
            row: dict[str, object] = {"role": message.role, "content": text}
            if headers and message.attributes:
                row["attributes"] = self.schema.validate(message.attributes)
            chat.append(row)
        rendered, spans = self._render(chat, generation)
        if self._native is not None:
            spans = self._answer_spans(rendered, answers, contents, self._native)
        return self._take_apart(rendered, spans, contents)

    def _answer_spans(
        self, rendered: str, answers: Sequence[_AnswerPlace], contents: Sequence[str], native: _NativeRecord
    ) -> list[tuple[int, int]]:
        """Return where the answers stand that the model's own template has written, with their ends of turn.

        Raises:
            UserError: the template leaves out a message, or writes it twice.
        """
        places = [rendered.find(f"{self._nonce}{i};") for i in range(len(contents))]
        for i, place in enumerate(places):
            if rendered.count(f"{self._nonce}{i};") != 1:
                what = "leaves out" if place < 0 else "repeats"
                raise UserError(
                    f"the model's own chat template {what} a message of the conversation: {contents[i][:60]!r}"
                )
        spans = []
        middle, last = native["ends"]
        close = installed_template(self._tokenizer).attributes_close
        for answer in answers:
            start = places[answer.content]
            if answer.steered:
                start = rendered.rindex(close, 0, start) + len(close)
            else:
                for lead in (answer.lead, answer.lead.lstrip("\n")):
                    front = rendered[: start - len(lead)]
                    if rendered[:start].endswith(lead) and front.endswith(tuple(native["fronts"])):
                        start = len(front)
                        break
            tokens = (
                match
                for match in self._parts.finditer(rendered, places[answer.content] + 1)
                if match[0] in self._control
            )
            ends = list(islice(tokens, len(last if answer is answers[-1] else middle)))
            spans.append((start, ends[-1].end() if ends else len(rendered)))
        return spans

    def _render(
        self, chat: list[dict[str, object]], generation: Mapping[str, Value] | None
    ) -> tuple[str, list[tuple[int, int]]]:
        from jinja2 import TemplateError

        try:
            with RENDERING:
                texts, spans = self._render_template(
                    conversations=[chat],
                    chat_template=self._tokenizer.chat_template,
                    return_assistant_tokens_mask=self._native is None,
                    add_generation_prompt=generation is not None,
                    **self._variables,
                    **self.variables,
                    **({} if generation is None else {"attributes": dict(generation)}),
                )
        except TemplateError as error:
            raise UserError(f"the chat template refuses the conversation: {error}") from None
        return texts[0], [] if self._native is not None else spans[0]

    def _take_apart(self, rendered: str, spans: list[tuple[int, int]], contents: list[str]) -> list[Piece]:
        """Split rendered text into control tokens, the template's own text and contents."""
        pieces: list[Piece] = []
        edges = [edge for span in spans for edge in span]

        def generated(position: int) -> bool:
            return bisect_right(edges, position) % 2 == 1

        def text(start: int, end: int) -> None:
            cuts = [start, *edges[bisect_right(edges, start) : bisect_left(edges, end)], end]
            for a, b in pairwise(cuts):
                if a < b:
                    pieces.append(Piece(rendered[a:b], generated(a)))

        position = 0
        for match in self._parts.finditer(rendered):
            content = match["content"]
            control = self._control.get(match[0])
            # white space may be a content's (see `_pieces`), so it is never taken for a control token
            if content is None and (control is None or match[0].isspace()):
                continue
            text(position, match.start())
            value = contents[int(content)] if content is not None else control
            assert value is not None
            pieces.append(Piece(value, generated(match.start())))
            position = match.end()
        text(position, len(rendered))
        return pieces


def _check_unicode(text: str, number: int, role: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UserError(f"message {number} ({role}) is not valid Unicode: {error}") from None


def _last_run(mask: list[bool]) -> list[bool]:
    """Keep the last run of True only."""
    end = max((i for i, value in enumerate(mask) if value), default=-1) + 1
    start = end
    while start and mask[start - 1]:
        start -= 1
    return [start <= i < end for i in range(len(mask))]
