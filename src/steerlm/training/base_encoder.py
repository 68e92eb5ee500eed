"""The encoder of a training section: the tokenizer of its base model with the template installed."""

from __future__ import annotations

from typing import NamedTuple

from transformers import PreTrainedTokenizerBase

from steerlm.attributes import AttributeSchema
from steerlm.checkpoint.models import load_tokenizer
from steerlm.config import TrainingSection, TrainSftConfig
from steerlm.template.conversation_encoder import ConversationEncoder
from steerlm.template.installing import install_template


class BaseEncoder(NamedTuple):
    """A tokenizer with the template installed, how many tokens that added, and the encoder of both."""

    tokenizer: PreTrainedTokenizerBase
    added: int
    encoder: ConversationEncoder


def open_encoder(section: TrainingSection, schema: AttributeSchema) -> BaseEncoder:
    """Load the tokenizer of a section's base model and install the section's template.

    Raises:
        UserError: a tokenizer that cannot be loaded, or a template that it cannot carry.
    """
    tokenizer = load_tokenizer(section.base_model)
    if tokenizer.bos_token is None and tokenizer.cls_token is not None:
        # BERT reads its verdict off the first token, which it knows as [CLS]
        tokenizer.bos_token = tokenizer.cls_token
    header = section.header if isinstance(section, TrainSftConfig) else "tokens"
    added = install_template(tokenizer, section.template, schema, header)
    return BaseEncoder(tokenizer, added, ConversationEncoder(tokenizer, schema))
