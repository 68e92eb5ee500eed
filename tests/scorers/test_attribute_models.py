"""Attribute models behind one interface: regression against Hugging Face's own head, and what both forms share."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from steerlm.attributes import Attribute, AttributeSchema, output_names
from steerlm.batching.shared_prompts import Ids
from steerlm.checkpoint.models import CheckpointInfo, context_length, load_tokenizer, save_model
from steerlm.conversation import Message, Score
from steerlm.errors import UserError
from steerlm.scorers.attribute_models import (
    LoadedAttributeModel,
    load_attribute_model,
    loaded_attribute_model,
)
from steerlm.scorers.generative import label_steps, longest_label
from steerlm.template.conversation_encoder import ConversationEncoder
from steerlm.template.installing import install_template
from tests.tiny import byte_tokenizer, random_model, tiny_llama_config

SCHEMA = AttributeSchema(
    (
        Attribute("quality"),
        Attribute("steps", maximum=12),  # in bytes, 1 begins 10, 11 and 12
        Attribute("lang", kind="categorical", categories=("de", "deu", "dem")),
        Attribute("humor", minimum=1, maximum=3),
    )
)
SYSTEM = Message("system", "You are terse.")
TURNS = (
    Message("user", "Why is the sky blue?"),
    Message("assistant", "It scatters."),
    Message("user", "And at dusk?"),
    Message("assistant", "Longer way through the air, so the blue is gone."),
)
CONVERSATIONS: list[tuple[Message, ...]] = [
    TURNS[:2],
    TURNS,
    (SYSTEM, *TURNS[:2]),
    (SYSTEM, *TURNS),
    (Message("user", "hi"), Message("assistant", "ho")),
]


def info(kind: Any, schema: AttributeSchema = SCHEMA, max_length: int = 512, **statistics: Any) -> CheckpointInfo:
    return CheckpointInfo(kind, schema, "steerlm", True, statistics, {"max_length": max_length})


def classifier(config: Any, tokenizer: PreTrainedTokenizerBase, schema: AttributeSchema = SCHEMA) -> PreTrainedModel:
    names = output_names(schema)
    config.num_labels = len(names)
    config.id2label = dict(enumerate(names))
    config.problem_type = "regression"
    config.pad_token_id = tokenizer.pad_token_id
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.2)
    assert isinstance(model, PreTrainedModel)
    return model.eval()


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return byte_tokenizer(SCHEMA)


@pytest.fixture(scope="module")
def llama(tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    return classifier(tiny_llama_config(len(tokenizer)), tokenizer)


@pytest.fixture(scope="module")
def bert(tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=48,
        max_position_embeddings=512,
    )
    return classifier(config, tokenizer)


@pytest.fixture(scope="module")
def regression(llama: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> LoadedAttributeModel:
    spread = {"quality": 0.5, "steps": 1.5, "humor": 0.25}
    return loaded_attribute_model(llama, tokenizer, info("regression", residual_std=spread), "f" * 16, "fp32")


@pytest.fixture(scope="module")
def writer(tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    return random_model(tiny_llama_config(len(tokenizer)), scale=0.2)


@pytest.fixture(scope="module")
def generative(writer: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> LoadedAttributeModel:
    return loaded_attribute_model(writer, tokenizer, info("generative"), "f" * 16, "fp32")


def numbers(scores: dict[str, Score] | None) -> list[float]:
    assert scores is not None
    return [x for s in scores.values() for x in (s.mean, s.std, *(s.probabilities or {}).values())]


# Regression


def test_a_batch_has_as_many_tokens_as_suit_the_device(regression: LoadedAttributeModel) -> None:
    sizes: list[int] = []

    def spied(rows: list[list[Ids]], tokens_per_batch: int) -> list[dict[str, Score]]:
        sizes.append(sum(len(ids) for row in rows for ids in row))
        return regression.forward(rows, tokens_per_batch)

    scorer = dataclasses.replace(regression, forward=spied, sharing=None)
    scorer.score_ids([[5] * 100] * 100)
    assert sizes == [4000, 4000, 2000]
    sizes.clear()
    scorer.score_ids([[5] * 100] * 100, 1000)
    assert sizes == [1000] * 10


@pytest.mark.parametrize("backbone", ["llama", "bert"])
def test_regression_equals_the_stored_head_on_each_conversation_alone(
    backbone: str, tokenizer: PreTrainedTokenizerBase, request: pytest.FixtureRequest
) -> None:
    model = request.getfixturevalue(backbone)
    scorer = loaded_attribute_model(model, tokenizer, info("regression"), "", "fp32")
    scores = scorer.score(CONVERSATIONS, 100_000)
    assert len({round(numbers(row)[0], 3) for row in scores}) == len(CONVERSATIONS), "the model ignores its input"
    for messages, row in zip(CONVERSATIONS, scores, strict=True):
        chat = [{"role": m.role, "content": m.content} for m in messages]
        ids = tokenizer.apply_chat_template(chat, return_tensors="pt", return_dict=True)
        assert ids["input_ids"][0, -1] == tokenizer.eos_token_id, "the end of the response is part of the input"
        with torch.no_grad():
            outputs = model(**ids).logits[0]
        assert row is not None
        # outputs: quality, steps, lang=de, lang=deu, lang=dem, humor
        assert row["quality"].mean == pytest.approx(4 * outputs[0].item(), abs=1e-4)
        assert row["steps"].mean == pytest.approx(12 * outputs[1].item(), abs=1e-4)
        assert row["humor"].mean == pytest.approx(1 + 2 * outputs[5].item(), abs=1e-4)
        expected = torch.softmax(outputs[2:5], dim=0).tolist()
        assert list((row["lang"].probabilities or {}).values()) == pytest.approx(expected, abs=1e-5)


def test_spread_of_a_regression_is_its_error_on_validation_data(regression: LoadedAttributeModel) -> None:
    [row] = regression.score(CONVERSATIONS[:1], 1000)
    assert row is not None
    assert (row["quality"].std, row["steps"].std, row["humor"].std) == (0.5, 1.5, 0.25)
    assert row["quality"].probabilities is None


@pytest.mark.parametrize("kind", ["regression", "generative"])
def test_scores_do_not_depend_on_the_batch(kind: str, request: pytest.FixtureRequest) -> None:
    scorer = request.getfixturevalue(kind)
    alone = [scorer.score([messages], 1)[0] for messages in CONVERSATIONS]
    for budget in (1, 300, 100_000):
        for order in ([0, 1, 2, 3, 4], [3, 0, 4, 2, 1]):
            together = scorer.score([CONVERSATIONS[i] for i in order], budget)
            for i, row in zip(order, together, strict=True):
                assert numbers(row) == pytest.approx(numbers(alone[i]), abs=1e-5)


@pytest.mark.parametrize("kind", ["regression", "generative"])
def test_labels_in_the_conversation_are_not_looked_at(kind: str, request: pytest.FixtureRequest) -> None:
    scorer = request.getfixturevalue(kind)
    leaky = [
        dataclasses.replace(m, attributes={"quality": 4}, human={"quality": 0}) if m.role == "assistant" else m
        for m in TURNS
    ]
    assert scorer.score([leaky], 1000) == scorer.score([TURNS], 1000)


@pytest.mark.parametrize("kind", ["regression", "generative"])
def test_the_system_message_and_the_history_count(kind: str, request: pytest.FixtureRequest) -> None:
    scorer = request.getfixturevalue(kind)
    rows = scorer.score([TURNS, (SYSTEM, *TURNS), TURNS[2:]], 10_000)
    assert len({tuple(round(x, 6) for x in numbers(row)) for row in rows}) == 3


@pytest.mark.parametrize("kind", ["regression", "generative"])
def test_a_turn_that_does_not_fit_is_not_scored_and_older_ones_make_room(
    kind: str, request: pytest.FixtureRequest, tokenizer: PreTrainedTokenizerBase
) -> None:
    model = request.getfixturevalue({"regression": "llama", "generative": "writer"}[kind])
    last = len(ConversationEncoder(tokenizer, SCHEMA).conversation(TURNS[2:], headers=False).input_ids)
    label = longest_label(label_steps(ConversationEncoder(tokenizer, SCHEMA))) if kind == "generative" else 0
    exact = loaded_attribute_model(model, tokenizer, info(kind, max_length=last + label), "", "fp32")
    short = loaded_attribute_model(model, tokenizer, info(kind, max_length=last + label - 1), "", "fp32")
    rows = exact.score([TURNS, TURNS[2:], TURNS[:2]], 10_000)
    assert numbers(rows[0]) == pytest.approx(numbers(rows[1]), abs=1e-5)
    assert rows[2] is not None
    refused = short.score([TURNS, TURNS[:2]], 10_000)
    assert refused[0] is None
    assert refused[1] is not None


def test_the_context_is_what_the_model_and_its_tokenizer_can_read(llama: PreTrainedModel) -> None:
    other = byte_tokenizer(SCHEMA)
    assert context_length(llama.config, other) == 512
    other.model_max_length = 100
    assert context_length(llama.config, other) == 100


def test_no_conversations_no_scores(regression: LoadedAttributeModel, generative: LoadedAttributeModel) -> None:
    assert regression.score([], 100) == []
    assert generative.score([], 100) == []


def test_a_conversation_must_end_with_the_turn_to_score(regression: LoadedAttributeModel) -> None:
    with pytest.raises(UserError, match="must end with an assistant turn"):
        regression.score([TURNS[:3]], 100)


# Generative (`test_scoring_generative` has the distributions)


def test_generative_mean_and_spread_are_those_of_the_distribution(generative: LoadedAttributeModel) -> None:
    for row in generative.score(CONVERSATIONS, 100_000):
        assert row is not None
        for attribute in SCHEMA.ordinal:
            score = row[attribute.name]
            assert score.probabilities is not None
            levels = {float(level): p for level, p in score.probabilities.items()}
            mean = sum(level * p for level, p in levels.items())
            assert score.mean == pytest.approx(mean, abs=1e-5)
            assert score.std**2 == pytest.approx(sum(p * (level - mean) ** 2 for level, p in levels.items()), abs=1e-4)
        assert (row["lang"].mean, row["lang"].std) == (0.0, 0.0)


def test_generative_values_are_the_likeliest_levels(generative: LoadedAttributeModel) -> None:
    seen = set()
    for row in generative.score(CONVERSATIONS, 100_000):
        assert row is not None
        values = generative.values(row)
        assert SCHEMA.validate(values) == values
        for name, value in values.items():
            probabilities = row[name].probabilities
            assert probabilities is not None
            assert probabilities[str(value)] == max(probabilities.values())
        seen.add(tuple(values.values()))
    assert len(seen) > 1, "the model ignores its input"


def test_regression_values_are_clamped_and_rounded(regression: LoadedAttributeModel) -> None:
    probabilities = {"de": 0.2, "deu": 0.4, "dem": 0.4}
    row = {
        "quality": Score(4.7, 0.1),
        "steps": Score(2.5, 0.1),
        "lang": Score(0.0, 0.0, probabilities),
        "humor": Score(-3.0, 0.1),
    }
    assert regression.values(row) == {"quality": 4, "steps": 3, "lang": "deu", "humor": 1}


# Loading


def test_load_gives_the_scores_of_the_model_in_memory(
    tmp_path: Path,
    llama: PreTrainedModel,
    writer: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    regression: LoadedAttributeModel,
    generative: LoadedAttributeModel,
) -> None:
    spread = {"quality": 0.5, "steps": 1.5, "humor": 0.25}
    save_model(tmp_path / "a", llama, tokenizer, info("regression", residual_std=spread), "")
    save_model(tmp_path / "b", writer, tokenizer, info("generative"), "")
    for folder, original in (("a", regression), ("b", generative)):
        loaded = load_attribute_model(tmp_path / folder, "fp32")
        assert loaded.schema == SCHEMA
        assert len(loaded.fingerprint) == 16
        rows = loaded.score(CONVERSATIONS, 500)
        for row, expected in zip(rows, original.score(CONVERSATIONS, 500), strict=True):
            assert numbers(row) == pytest.approx(numbers(expected), abs=1e-6)


def test_stored_head_carries_names_for_a_pooling_server(
    tmp_path: Path, llama: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> None:
    save_model(tmp_path / "a", llama, tokenizer, info("regression"), "")
    config = AutoModelForSequenceClassification.from_pretrained(tmp_path / "a").config
    assert config.problem_type == "regression"
    assert list(config.id2label.values()) == ["quality", "steps", "lang=de", "lang=deu", "lang=dem", "humor"]


def test_a_steerable_model_is_no_attribute_model(
    tmp_path: Path, writer: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> None:
    save_model(tmp_path / "m", writer, tokenizer, CheckpointInfo("sft", SCHEMA, "steerlm"), "")
    with pytest.raises(UserError, match="steerable model, not an attribute model"):
        load_attribute_model(tmp_path / "m")
    with pytest.raises(UserError, match="no such checkpoint folder"):
        load_attribute_model(tmp_path / "none")


def test_bf16_is_close_to_fp32(
    llama: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, regression: LoadedAttributeModel
) -> None:
    half = loaded_attribute_model(llama, tokenizer, info("regression"), "", "bf16")
    exact = regression.score(CONVERSATIONS, 1000)
    rounded = half.score(CONVERSATIONS, 1000)
    differences = [abs(a["quality"].mean - b["quality"].mean) for a, b in zip(exact, rounded, strict=True) if a and b]
    assert 0 < max(differences) < 0.5


# Real checkpoints


def test_stories260k_scores_in_both_forms(shared_models: Path) -> None:
    from steerlm.checkpoint.models import load_causal_lm, load_sequence_classifier, resize_embeddings

    folder = shared_models / "stories260K"
    tokenizer = load_tokenizer(folder)
    install_template(tokenizer, "steerlm", SCHEMA)
    for kind in ("regression", "generative"):
        model = load_sequence_classifier(folder, SCHEMA) if kind == "regression" else load_causal_lm(folder)
        resize_embeddings(model, tokenizer)
        scorer = loaded_attribute_model(model, tokenizer, info(kind), "", "fp32")
        alone = [scorer.score([messages], 1)[0] for messages in CONVERSATIONS]
        for row, expected in zip(scorer.score(CONVERSATIONS, 100_000), alone, strict=True):
            assert row is not None
            assert numbers(row) == pytest.approx(numbers(expected), abs=1e-5)
            assert SCHEMA.validate(scorer.values(row))
