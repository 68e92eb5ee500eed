"""Models and conversations that need no download: random weights, seeded text, the lengths of chats.

The text is made of words of a tokenizer trained on generated words, drawn by a Zipf law, so that a training has
something to learn (which words are frequent). A conversation has on average 288 tokens, a third of them the
assistant's, as in the chat data of the paper; no one has more than 1,000.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification, PreTrainedTokenizerFast

from steerlm.attributes import AttributeSchema, output_names
from steerlm.checkpoint.info import CheckpointInfo
from steerlm.checkpoint.models import save_model
from steerlm.conversation import Conversation, Message
from steerlm.template.installing import install_template

PROMPT_TOKENS, RESPONSE_TOKENS = 192, 96
"""Means, the attribute header counted with the prompt."""
_SPREAD = 0.6
_LONGEST = 3.4
_CONTROL = 8  # ids left for the template's control tokens and padding


@dataclass(frozen=True)
class Size:
    """A Llama whose embeddings are tied.

    Attributes:
        vocab_size: rows of the embeddings.
        hidden, intermediate, layers, heads, kv_heads: its shape.
    """

    vocab_size: int
    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int


SIZES = {
    "tiny": Size(1024, 64, 128, 2, 2, 2),
    "6m": Size(4096, 256, 688, 6, 4, 4),
    "80m": Size(32768, 640, 1728, 12, 10, 10),
    "1b": Size(32768, 2048, 8192, 16, 32, 8),
}


def words(count: int) -> list[str]:
    """Return pronounceable words, shortest first."""
    syllables = [a + b for a in "bdfgklmnprstvz" for b in "aeiou"]
    pairs = ("".join(parts) for parts in itertools.product(syllables, syllables))
    triples = ("".join(parts) for parts in itertools.product(syllables, syllables, syllables))
    return list(itertools.islice(itertools.chain(pairs, triples), count))


def make_tokenizer(vocab_size: int, schema: AttributeSchema) -> PreTrainedTokenizerFast:
    """Return a byte-level BPE tokenizer with the template of `schema`, of `vocab_size` tokens in all.

    Words that it knows take one token; so do the names of the attributes.
    """
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - _CONTROL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    # a word and its prefixes take a merge each; far more words than merges fill the vocabulary
    vocabulary = words(min(2 * vocab_size, 60_000))
    headers = [",".join(f"{a.name}:{a.minimum}" for a in schema)] * 1000
    backend.train_from_iterator(itertools.chain(headers, (f" {word}" * 2 for word in vocabulary)), trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|end|>")
    install_template(tokenizer, "steerlm", schema)
    assert len(tokenizer) <= vocab_size, len(tokenizer)
    return tokenizer


def make_config(size: Size, tokenizer: PreTrainedTokenizerFast) -> LlamaConfig:
    """Return the configuration of a Llama of this size for this tokenizer."""
    return LlamaConfig(
        vocab_size=size.vocab_size,
        hidden_size=size.hidden,
        intermediate_size=size.intermediate,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        num_key_value_heads=size.kv_heads,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def save_base_model(folder: Path, size: Size, tokenizer: PreTrainedTokenizerFast, seed: int = 0) -> None:
    """Write a causal language model with random weights and its tokenizer as a Hugging Face folder."""
    torch.manual_seed(seed)
    LlamaForCausalLM(make_config(size, tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def save_attribute_model(
    folder: Path, size: Size, tokenizer: PreTrainedTokenizerFast, schema: AttributeSchema, kind: str, seed: int = 0
) -> None:
    """Write an attribute model with random weights, `regression` or `generative`, as `train-attribute-model` would."""
    torch.manual_seed(seed)
    config = make_config(size, tokenizer)
    model: Any
    if kind == "regression":
        names = output_names(schema)
        config.id2label, config.label2id = dict(enumerate(names)), {name: i for i, name in enumerate(names)}
        config.problem_type = "regression"
        model = LlamaForSequenceClassification(config)
    else:
        model = LlamaForCausalLM(config)
    info = CheckpointInfo(
        kind=kind, schema=schema, template="steerlm", conditioning=False, provenance={"max_length": 2048}
    )  # fmt: skip
    save_model(folder, model, tokenizer, info, "Random weights.\n")


class _Text:
    """Draws words that are one token each, frequent ones more often."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, generator: np.random.Generator):
        self._generator = generator
        spoken = [(i, token) for token, i in tokenizer.get_vocab().items() if token[:1] == "Ġ" and token[1:].isalpha()]
        self._words = [token[1:] for _, token in sorted(spoken)]
        weights = 1.0 / (np.arange(len(self._words)) + 10.0)
        self._cumulative = np.cumsum(weights / weights.sum())

    def of(self, mean: float) -> str:
        """Return text whose length in tokens is log-normal around `mean`."""
        length = mean * min(self._generator.lognormal(-(_SPREAD**2) / 2, _SPREAD), _LONGEST)
        drawn = np.searchsorted(self._cumulative, self._generator.random(max(2, round(length))))
        return " " + " ".join(self._words[min(int(i), len(self._words) - 1)] for i in drawn)


def conversations(
    tokenizer: PreTrainedTokenizerFast, schema: AttributeSchema, prompts: int, responses: int, seed: int = 0
) -> Iterator[Conversation]:
    """Yield `responses` conversations for each of `prompts` prompts, with labels drawn at random.

    Args:
        tokenizer: of `make_tokenizer`.
        schema: the attributes.
        prompts: how many different prompts.
        responses: conversations with each of them; they share the prompt and nothing else.
        seed: of everything.
    """
    generator = np.random.default_rng(seed)
    text = _Text(tokenizer, generator)
    header = 4 * len(schema)
    for p in range(prompts):
        question = Message("user", text.of(PROMPT_TOKENS - header))
        for r in range(responses):
            labels = {a.name: a.levels[int(generator.integers(len(a.levels)))] for a in schema}
            answer = Message("assistant", text.of(RESPONSE_TOKENS), attributes=labels)
            yield Conversation(id=f"{p}-{r}", source="synthetic", messages=(question, answer), group=str(p))
