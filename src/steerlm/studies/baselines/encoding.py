"""The ids that the baselines train on: made by our encoder, so that text never becomes a control token.

TRL would render the chat template and tokenize the text itself. Then ordinary text can yield control tokens, and the
template would put its default attributes in front of every answer. Plain prompts have no header.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from steerlm.attributes import AttributeSchema
from steerlm.config import TrainSftConfig
from steerlm.conversation import Message, read_conversations
from steerlm.studies.baselines.preferences import Pair
from steerlm.template.conversation_encoder import ConversationEncoder
from steerlm.training.base_encoder import open_encoder
from steerlm.training.conditioning import ConditionedExamples, Conditioning


def plain_encoder(model: Path, config: TrainSftConfig, schema: AttributeSchema) -> ConversationEncoder:
    """Return the encoder of a model with the recipe's template installed."""
    return open_encoder(config.model_copy(update={"base_model": str(model)}), schema).encoder


def plain_tokens(config: TrainSftConfig, path: Path, schema: AttributeSchema) -> int:
    """Return the tokens of one epoch over a file of conversations, without headers."""
    encoder = plain_encoder(Path(config.base_model), config, schema)
    how = Conditioning(headers=False, turns=config.turns)
    return ConditionedExamples(read_conversations(path, schema), encoder, how, config.max_length).report.tokens


class EncodedPair(NamedTuple):
    """A preference pair as TRL's DPO wants it after tokenization."""

    prompt_ids: list[int]
    chosen_ids: list[int]
    rejected_ids: list[int]

    @property
    def tokens(self) -> int:
        """Tokens that go through the model for it."""
        return 2 * len(self.prompt_ids) + len(self.chosen_ids) + len(self.rejected_ids)


def encode_pair(encoder: ConversationEncoder, pair: Pair, max_length: int) -> EncodedPair | None:
    """Return the ids of a pair; each response ends with its end token. None where it is longer than `max_length`."""
    prompt = encoder.prompt(pair.messages, {})
    chosen, rejected = (_response(encoder, pair.messages, text, prompt) for text in (pair.chosen, pair.rejected))
    if len(prompt) + max(len(chosen), len(rejected)) > max_length:
        return None
    return EncodedPair(prompt, chosen, rejected)


def _response(encoder: ConversationEncoder, messages: Sequence[Message], text: str, prompt: list[int]) -> list[int]:
    encoded = encoder.conversation([*messages, Message("assistant", text)], turns="last", headers=False)
    start = encoded.loss_mask.index(True)
    assert encoded.input_ids[:start] == prompt, "a response continues the ids of its prompt"
    return [token for token, trained in zip(encoded.input_ids, encoded.loss_mask, strict=True) if trained]
