"""From requests to prompt ids and from drawn ids to samples: what every engine does in the same way.

Prompts are built as ids by `ConversationEncoder` and given to engines as ids, so that no text of a user can become a
control token; responses come back as ids and are decoded here.
"""

from __future__ import annotations

import functools
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence

from transformers import PreTrainedConfig, PreTrainedTokenizerBase
from transformers.tokenization_utils_base import VERY_LARGE_INTEGER

from steerlm.attributes import AttributeSchema, Value
from steerlm.checkpoint.models import context_length
from steerlm.errors import UserError
from steerlm.generation.guidance import branches
from steerlm.generation.requests import Draw, Lane, Request, Sample, Sampling, said
from steerlm.generation.sampling import sample_key
from steerlm.template.conversation_encoder import ConversationEncoder

_PROMPTS_REMEMBERED = 8192


class Prompting:
    """The prompts and the texts of a model.

    Attributes:
        encoder: builds the prompts and reads the responses.
        stop_ids: tokens that end a response.
        context: most tokens of a prompt and its response; None where neither model nor tokenizer has a limit.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, schema: AttributeSchema, config: PreTrainedConfig) -> None:
        """Prepare the tokenizer's template.

        Raises:
            UserError: the tokenizer has no template of ours.
        """
        # some tokenizers turn "do n't" into "don't": a later token would change text that was streamed already
        tokenizer.clean_up_tokenization_spaces = False
        self.schema, self.tokenizer = schema, tokenizer
        self.encoder = ConversationEncoder(tokenizer, schema)
        # whatever marks structure ends a response: no response in training contains it
        self.stop_ids = self.encoder.control_ids | frozenset(self.encoder.stop_ids)
        context = context_length(config, tokenizer)
        self.context = context if context < VERY_LARGE_INTEGER else None
        self._prompts: dict[tuple[object, ...], tuple[int, ...]] = {}

    def lanes(self, request: Request) -> tuple[Lane, ...]:
        """Return the prompts whose logits the request mixes.

        Raises:
            UserError: an unknown attribute, a value off its scale, or too many prompts.
        """
        wishes: Mapping[str, object] = self.schema.defaults if request.attributes is None else request.attributes
        mixture = branches(self.schema, wishes, request.guidance or {})
        return tuple(Lane(self._prompt(request, branch.attributes), branch.weight) for branch in mixture)

    def single(self, request: Request, engine: str) -> tuple[int, ...]:
        """Return the prompt of a request, for an engine that cannot mix logits."""
        lanes = self.lanes(request)
        if len(lanes) > 1 or lanes[0].weight != 1:
            raise UserError(
                f"the engine {engine} cannot mix prompts, which guidance strengths and values between two levels need; "
                "use the engine local for them"
            )
        return lanes[0].prompt

    def room(self, length: int) -> int:
        """Return how many tokens the context leaves after a prompt of this length."""
        return (1 << 31 if self.context is None else self.context) - length

    def limit(self, length: int, sampling: Sampling) -> int:
        """Return the most tokens of a response."""
        room = self.room(length)
        if room < 1:
            raise UserError(
                f"the prompt has {length} tokens and the model's context only {self.context}; "
                "shorten it or drop its oldest turns"
            )
        return min(sampling.max_new_tokens, room)

    def draws(
        self,
        request: Request,
        sampling: Sampling,
        conversation: Hashable,
        most_lanes: int,
        num_logprobs: int | None = None,
    ) -> list[Draw]:
        """Return the samples of a request, not decoded yet.

        Args:
            conversation: equal for requests with the same messages.
            most_lanes: prompts that fit into a batch.

        Raises:
            UserError: as `lanes` and `limit`; or the request mixes more prompts than fit into a batch.
        """
        lanes = self.lanes(request)
        if len(lanes) > most_lanes:
            raise UserError(f"the request mixes {len(lanes)} prompts, but only {most_lanes} fit into a batch")
        limit = self.limit(max(len(lane.prompt) for lane in lanes), sampling)
        return [
            Draw(lanes, conversation, sample_key(request.seed, number), limit, sampling.drawing, num_logprobs)
            for number in range(request.num_samples)
        ]

    def sample(self, tokens: Sequence[int], stopped: bool) -> Sample:
        """Return the response that these tokens are."""
        return Sample(self._text(tokens), len(tokens), stopped)

    def pieces(self, states: Iterable[tuple[Sequence[int], bool]]) -> Iterator[str]:
        """Yield the text of a response in pieces.

        Args:
            states: all tokens so far, and whether they are the whole response; the last state is.
        """
        yielded = ""
        for tokens, done in states:
            text = self._text(tokens) if done else settled(self.encoder.decode(tokens), self.schema)
            if len(text) > len(yielded):
                assert text.startswith(yielded), "the decoder changed text that was already streamed"
                yield text[len(yielded) :]
                yielded = text

    def _prompt(self, request: Request, attributes: Mapping[str, Value]) -> tuple[int, ...]:
        """Return the ids of a prompt; remembers the latest ones, as callers ask for `room` first."""
        key = (said(request.messages), request.beginning, tuple(attributes.items()))
        prompt = self._prompts.get(key)
        if prompt is None:
            ids = self.encoder.prompt(request.messages, attributes, beginning=request.beginning, any_roles=True)
            prompt = tuple(ids)
            if len(self._prompts) >= _PROMPTS_REMEMBERED:
                self._prompts.clear()
            self._prompts[key] = prompt
        return prompt

    def _text(self, tokens: Sequence[int]) -> str:
        return strip_label_echo(self.encoder.decode(tokens), self.schema)


def strip_label_echo(text: str, schema: AttributeSchema) -> str:
    """Drop attribute lines (`quality:4,humor:0`) at the end of a response, which models sometimes echo there."""
    while True:
        body, _, line = text.rstrip().rpartition("\n")
        if not line or not _label_like(line.strip(), schema, prefix=False):
            return text
        text = body.rstrip()


def settled(text: str, schema: AttributeSchema) -> str:
    """Return the part of unfinished text that later tokens cannot change or take back.

    Held back are characters whose bytes are not complete yet, and a last line that may turn out to be an echoed label,
    with the white space before it.
    """
    text = text.rstrip("\ufffd")
    settled = text.rstrip()
    while True:
        body, _, line = settled.rpartition("\n")
        if not line or not _label_like(line.strip(), schema, prefix=True):
            return settled
        settled = body.rstrip()


def _label_like(line: str, schema: AttributeSchema, prefix: bool) -> bool:
    """Whether a line is attribute text, or (`prefix`) may become it."""
    pairs = _label_pairs(schema)
    *whole, last = line.split(",")
    if not all(piece in pairs for piece in whole):
        return False
    return any(pair.startswith(last) for pair in pairs) if prefix else last in pairs


@functools.cache
def _label_pairs(schema: AttributeSchema) -> frozenset[str]:
    return frozenset(f"{attribute.name}:{level}" for attribute in schema for level in attribute.levels)
