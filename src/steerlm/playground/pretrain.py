"""Pretrain the playground's base model from scratch on the plain text of the world.

The text holds questions and replies of all qualities and no attribute label, so what comes out is a plain
language model: it is the fine-tuning that teaches it to follow attributes.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, set_seed

from steerlm.attributes import AttributeSchema
from steerlm.batching.batches import EncodedExamples
from steerlm.checkpoint.models import quiet
from steerlm.checkpoint.weights import whole_folder
from steerlm.config import PlaygroundConfig, TrainingSection
from steerlm.training.loop import train

CONTEXT = 512
"""Longest sequence that the base model can read."""

BLOCK = 128
"""Tokens per training example: documents stand end to end and are cut into blocks."""

_WORDS = r"[a-z_]+:[0-9]+| ?[A-Za-z%(more)s']+| ?[0-9]+| ?[^\sA-Za-z%(more)s0-9]+|\s+"
"""What a token may not cross. `humor:3` is one word, which makes a header short and its values easy to look up.
`more` are the letters of the text that English has not."""

_HEADER_LINES = 400
_VALIDATION_BLOCKS = 16


def pretrain(
    config: PlaygroundConfig, documents: Sequence[Sequence[str]], schema: AttributeSchema, out: Path, seed: int
) -> dict[str, object]:
    """Train a tokenizer and a small Llama on the world's text.

    Args:
        out: receives `base_model/`. Called again after an interruption, it goes on from the last checkpoint.
    """
    tokenizer = train_tokenizer(documents, schema, config.vocab_size)
    blocks = list(_blocks(documents, tokenizer, seed))
    held_out, learned = blocks[:_VALIDATION_BLOCKS], blocks[_VALIDATION_BLOCKS:]
    set_seed(seed)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=config.hidden_size,
            intermediate_size=config.intermediate_size,
            num_hidden_layers=config.num_layers,
            num_attention_heads=config.num_heads,
            num_key_value_heads=config.num_heads,
            max_position_embeddings=CONTEXT,
            # tied, the rows of the attributes' tokens, which the text never holds, would all be pushed the same way
            tie_word_embeddings=False,
            # the usual 0.02 is made for wide models: at this width attention would stay flat for too long
            initializer_range=0.06,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    section = TrainingSection(
        base_model="from scratch",
        epochs=config.pretrain_epochs,
        learning_rate=config.learning_rate,
        warmup_steps=20,
        adam_beta2=0.98,
        max_length=BLOCK,
        tokens_per_batch=config.tokens_per_batch,
        max_checkpoints=1,
    )
    work = out / "pretraining"
    course = train(section, model, tokenizer, _examples(learned), _examples(held_out), "sft", work, seed)
    with whole_folder(out / "base_model") as partial, quiet():
        model.save_pretrained(partial)
        tokenizer.save_pretrained(partial)
    shutil.rmtree(work)
    return {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "vocabulary": len(tokenizer),
        "tokens": sum(map(len, learned)),
        **course,
    }


def train_tokenizer(
    documents: Iterable[Sequence[str]], schema: AttributeSchema, vocab_size: int
) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE on the world's text and on the text form of the attributes.

    The text form is no training text of the model; it is here so that a header costs few tokens.
    """
    rng = random.Random("headers")
    headers = [
        schema.format({attribute.name: rng.choice(attribute.levels) for attribute in schema})
        for _ in range(_HEADER_LINES)
    ]
    texts = ["\n".join(turns) for turns in documents]
    more = "".join(sorted({letter for letter in "".join(texts) if letter.isalpha() and not letter.isascii()}))
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORDS % {"more": more}), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=["<s>", "</s>", "<pad>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator([*texts, *headers], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
    )


def _blocks(documents: Sequence[Sequence[str]], tokenizer: PreTrainedTokenizerFast, seed: int) -> Iterator[list[int]]:
    """Lay the documents end to end in a shuffled order and cut the tokens into blocks; the rest is dropped."""
    texts = ["\n".join(turns) for turns in documents]
    random.Random(f"pretraining {seed}").shuffle(texts)
    stream: list[int] = []
    for ids in tokenizer(texts, add_special_tokens=False)["input_ids"]:
        stream += [tokenizer.bos_token_id, *ids, tokenizer.eos_token_id]
    for start in range(0, len(stream) - BLOCK + 1, BLOCK):
        yield stream[start : start + BLOCK]


def _examples(blocks: Sequence[Sequence[int]]) -> EncodedExamples:
    return EncodedExamples((block, [True] * len(block)) for block in blocks)
