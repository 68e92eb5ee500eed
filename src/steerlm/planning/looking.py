"""A look at a model and at data that nobody has written a recipe for yet: what its values have to fit."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from steerlm.attributes import AttributeSchema
from steerlm.config import SourceConfig
from steerlm.conversation import Conversation
from steerlm.errors import UserError
from steerlm.planning.architectures import Architecture, architecture
from steerlm.sources import read_source
from steerlm.sources.draft import prompt_group
from steerlm.sources.rows import BadRecords
from steerlm.storage.hash_set import HashSet, hash64
from steerlm.storage.progress import progress

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

READ = 20_000
"""Conversations that are kept to look at, at most."""
_ENCODED = 1000


@dataclass(frozen=True)
class ModelLook:
    """What a recipe needs to know of a base model.

    Attributes:
        shape: its architecture.
        context: most tokens it takes.
        template: of its tokenizer: `native`, or the one that will be installed.
        tokenizer: as it is.
    """

    name: str
    shape: Architecture
    context: int
    template: str
    tokenizer: PreTrainedTokenizerBase

    def __str__(self) -> str:
        own = "its own chat template" if self.template == "native" else f"the chat template {self.template}"
        size = self.shape.parameters
        count = f"{size / 1e9:.1f} B" if size >= 1e9 else f"{size / 1e6:.1f} M"
        return f"{count} parameters, context {self.context:,}, vocabulary {self.shape.vocab:,}, {own}"


@dataclass(frozen=True)
class DataLook:
    """What a recipe needs to know of data.

    Attributes:
        records: all that can be read.
        prompts: distinct first prompts (or groups).
        conversations: those kept.
        bad: records that cannot be read.
        first_bad: the first one's fault.
    """

    records: int
    prompts: int
    conversations: Sequence[Conversation]
    bad: int
    first_bad: str

    def replies(self) -> list[str]:
        """Return every response of the conversations kept."""
        return [one.messages[turn].content for one in self.conversations for turn in one.assistant_turns]

    def __str__(self) -> str:
        more = f", {self.bad:,} that cannot be read ({self.first_bad})" if self.bad else ""
        return f"{self.records:,} conversations, {self.prompts:,} different prompts{more}"


@dataclass(frozen=True)
class Lengths:
    """Tokens of the data in a model's tokens, header included.

    Attributes:
        record: mean of a conversation.
        longest: 99.5 % of the conversations are no longer.
        response: 99 % of the responses are no longer.
        beyond: share of the conversations that are longer than the model's context.
    """

    record: float
    longest: int
    response: int
    beyond: float


def look_at_model(name: str) -> ModelLook:
    """Read a model's configuration and tokenizer; no weights.

    Raises:
        UserError: no such model, or no causal language model.
    """
    from steerlm.checkpoint.models import context_length, load_config, load_tokenizer
    from steerlm.template.installing import chosen_template

    tokenizer, config = load_tokenizer(name), load_config(name)
    context = min(context_length(config, tokenizer), 1 << 20)
    return ModelLook(name, architecture(config), context, chosen_template(tokenizer, "auto"), tokenizer)


def look_at_data(source: SourceConfig, schema: AttributeSchema) -> DataLook:
    """Read a source as `prepare` would.

    Raises:
        UserError: nothing that can be read, or no response in it.
    """
    bad = BadRecords()
    kept: list[Conversation] = []
    groups = HashSet()
    records = 0
    for conversation in progress(read_source(source, schema, bad, Counter()), None, "reading"):
        records += 1
        if conversation.assistant_turns:
            groups.add(hash64(conversation.group or prompt_group(conversation.messages)))
            if len(kept) < READ:
                kept.append(conversation)
    first = bad.examples[0] if bad.examples else ""
    if not kept:
        raise UserError(f"{source.path or source.hub} holds no conversation with a response{first and f': {first}'}")
    return DataLook(records, len(groups), kept, bad.count, first)


def measure_lengths(data: DataLook, model: ModelLook, schema: AttributeSchema) -> Lengths:
    """Return the tokens of a part of the data, as training will render them."""
    from dataclasses import replace

    from steerlm.template.conversation_encoder import ConversationEncoder
    from steerlm.template.installing import install_template

    install_template(model.tokenizer, "auto", schema)
    encoder = ConversationEncoder(model.tokenizer, schema)
    chosen = np.unique(np.linspace(0, len(data.conversations) - 1, _ENCODED).astype(int))
    records, responses = [], []
    for one in (data.conversations[i] for i in chosen.tolist()):
        messages = [
            replace(m, attributes=schema.defaults) if m.role == "assistant" else m
            for m in one.messages[: one.assistant_turns[-1] + 1]
        ]
        encoded = encoder.conversation(messages)
        records.append(len(encoded.input_ids))
        responses.append(sum(encoded.loss_mask) / max(1, len(one.assistant_turns)))
    longest, response = math.ceil(np.quantile(records, 0.995)), math.ceil(np.quantile(responses, 0.99))
    beyond = float(np.mean(np.asarray(records) > model.context))
    return Lengths(float(np.mean(records)), longest, response, beyond)
