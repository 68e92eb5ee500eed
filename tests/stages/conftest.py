"""A steerable model of a toy world, for the stages that train it further: two answers per question, good and bad."""

from __future__ import annotations

from typing import Any

import pytest

from steerlm.attributes import Attribute, AttributeSchema
from steerlm.checkpoint.models import CheckpointInfo, load_sequence_classifier, save_model
from steerlm.config import TrainSftConfig
from steerlm.conversation import Conversation, Message, write_conversations
from steerlm.stages.train_sft import train_sft
from tests.tiny import byte_tokenizer, random_model, tiny_llama_config

TOY = AttributeSchema((Attribute("quality", best="max"), Attribute("humor")))
TOPICS = ["tea", "rain", "dogs", "bees", "snow", "moss", "jazz", "salt", "moon", "corn"]


def _conversations(topics: list[str]) -> list[Conversation]:
    records = []
    for number, topic in enumerate(topics):
        for quality, answer in ((4, f"All about {topic}."), (1, "No.")):
            labels = {"quality": quality, "humor": number % 2}
            messages = (Message("user", f"Tell me of {topic}"), Message("assistant", answer, labels))
            records.append(Conversation(f"{topic}-{quality}", messages, "toy", topic))
    return records


@pytest.fixture(scope="session")
def toy_world(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The arguments of `refine` and `contrast`: a model that knows its data, an attribute model with a random head."""
    folder = tmp_path_factory.mktemp("toy")
    write_conversations(folder / "train.jsonl", _conversations(TOPICS[:8]), TOY)
    write_conversations(folder / "validation.jsonl", _conversations(TOPICS[8:]), TOY)
    plain = byte_tokenizer(None)
    base = random_model(tiny_llama_config(len(plain), context=128), scale=0.05)
    base.save_pretrained(folder / "base")
    plain.save_pretrained(folder / "base")
    sft = TrainSftConfig(
        base_model=str(folder / "base"), epochs=60, learning_rate=0.01, tokens_per_batch=1024, precision="fp32",
        max_length=128, warmup_steps=5, eval_steps=500, attribute_dropout=0, header_dropout=0.2, header_decoys=0,
    )  # fmt: skip
    train_sft(sft, folder / "train.jsonl", folder / "validation.jsonl", TOY, folder / "sft", 0)
    scorer = load_sequence_classifier(folder / "base", TOY)
    tokenizer = byte_tokenizer(TOY)
    scorer.resize_token_embeddings(len(tokenizer))
    scorer.config.pad_token_id = tokenizer.pad_token_id
    info = CheckpointInfo("regression", TOY, "steerlm", provenance={"max_length": 128})
    save_model(folder / "scorer", scorer, tokenizer, info, "card")
    return {
        "sft": sft.model_copy(update={"epochs": 1, "warmup_steps": 0}),
        "steerable_model": folder / "sft" / "model",
        "attribute_model": folder / "scorer",
        "data": folder / "train.jsonl",
        "validation": folder / "validation.jsonl",
        "schema": TOY,
        "seed": 3,
    }
