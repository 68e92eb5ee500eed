"""A prompt that stands once gives what its responses give apart: losses, gradients, scores, and the course of a run."""

from __future__ import annotations

import copy
import dataclasses
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification, BertConfig

from steerlm.attributes import output_names
from steerlm.batching import shared_prompts
from steerlm.batching.batches import BatchStream, EpochView, Example, RegressionExamples, RowPlan
from steerlm.batching.collating import collate_regression, collate_sft
from steerlm.batching.shared_prompts import CAUSAL, ResponseScores, Sharing, shared_attention, sharing_of
from steerlm.checkpoint.adapters import add_lora
from steerlm.checkpoint.models import CheckpointInfo
from steerlm.config import LoraSection
from steerlm.conversation import Conversation, Message
from steerlm.scorers.attribute_models import loaded_attribute_model
from steerlm.template.conversation_encoder import ConversationEncoder
from steerlm.training.conditioning import ConditionedExamples, Conditioning
from tests.small_training import (
    SCHEMA,
    TOKENIZER,
    Killed,
    kill_at,
    language_model,
    logged,
    parameters,
    regressor,
    run,
    section,
)

ENCODER = ConversationEncoder(TOKENIZER, SCHEMA)
NUM_OUTPUTS = len(output_names(SCHEMA))
PAD = int(TOKENIZER.pad_token_id)
CLASSIFIERS = sorted(CAUSAL - {"granite"})  # which has none


def tiny(model_type: str, **values: Any) -> Any:
    """Return a configuration with two narrow layers; a window, where there is one, that is wider than the texts."""
    common: dict[str, Any] = {
        "vocab_size": len(TOKENIZER),
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 128,
        "pad_token_id": PAD,
        "bos_token_id": None,
        "eos_token_id": None,
        "num_labels": NUM_OUTPUTS,
    }
    if model_type in ("gpt2", "gpt_neox"):
        for name in ("num_key_value_heads", "head_dim"):
            del common[name]
    return AutoConfig.for_model(model_type, **{**common, **values})


def wide(model: Any) -> Any:
    """Give a model weights wide enough that its outputs depend on what it reads."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.2)
    return model.eval()


def groups() -> list[list[Example]]:
    """Return two rows: responses of different length to one prompt, of which two begin alike, and a lone one."""
    rng = np.random.default_rng(0)

    def tokens(count: int) -> list[int]:
        return rng.integers(0, 250, count).tolist()

    prompt = tokens(9)
    start = tokens(4)
    rows = [[prompt + start + tokens(3), prompt + tokens(6), prompt + start + tokens(5)], [tokens(12)]]
    # the second response trains a token of the prompt too, as an earlier turn is
    trained = {0: slice(9, None), 1: slice(4, None), 2: slice(9, None)}
    examples = []
    for row in rows:
        examples.append([])
        for i, ids in enumerate(row):
            array = np.array(ids, np.int32)
            labels = np.full(len(ids), -100, np.int32)
            labels[trained[i]] = array[trained[i]]
            examples[-1].append(Example(array, labels))
    return examples


def gradients(model: Any, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def losses_apart(model: Any, rows: Sequence[Sequence[Example]]) -> torch.Tensor:
    """Return the losses of all sequences' trained tokens, each sequence computed by itself."""
    apart = []
    for example in [example for row in rows for example in row]:
        ids = torch.from_numpy(example.input_ids.astype(np.int64))
        logits = model(input_ids=ids[None]).logits[0, :-1].float()
        targets = torch.from_numpy(example.labels[1:].astype(np.int64))
        apart.append(functional.cross_entropy(logits, targets, reduction="none")[targets >= 0])
    return torch.cat(apart)


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        tolerance = 1e-5 * max(1.0, float(value.abs().max()))
        torch.testing.assert_close(other[name], value, rtol=1e-4, atol=tolerance, msg=name)


def model_inputs(model: Any, batch: dict[str, torch.Tensor]) -> dict[str, Any]:
    mask = shared_attention(batch["ends"], model.config._attn_implementation, torch.float32)
    return {
        "input_ids": batch["input_ids"],
        "attention_mask": mask,
        "position_ids": batch["position_ids"],
        "use_cache": False,
    }


# gemma2 caps its attention scores, which only `eager` can
@pytest.mark.parametrize(
    ("model_type", "attention"),
    [(name, "eager") for name in sorted(CAUSAL)] + [(name, "sdpa") for name in sorted(CAUSAL - {"gemma2"})],
)
def test_losses_and_gradients_of_a_language_model(model_type: str, attention: str) -> None:
    model = wide(AutoModelForCausalLM.from_config(tiny(model_type), attn_implementation=attention))
    assert sharing_of(model, 20) is not None
    rows = groups()
    apart = losses_apart(model, rows)
    batch = collate_sft(rows, PAD)
    assert batch["input_ids"].shape == (2, 9 + 6 + 4 + 3 + 5)
    logits = model(**model_inputs(model, batch)).logits.flatten(0, 1)[batch["positions"]].float()
    losses = functional.cross_entropy(logits, batch["targets"], reduction="none")
    torch.testing.assert_close(losses, apart, rtol=1e-5, atol=1e-5)
    same(gradients(model, apart.sum()), gradients(model, losses.sum()))


@pytest.mark.parametrize("model_type", CLASSIFIERS)
def test_scores_and_gradients_of_a_classifier(model_type: str) -> None:
    model = wide(AutoModelForSequenceClassification.from_config(tiny(model_type)))
    rows = [[Example(e.input_ids, np.ones(len(SCHEMA), np.float32)) for e in row] for row in groups()]
    apart = []
    for example in [example for row in rows for example in row]:
        ids = torch.from_numpy(example.input_ids.astype(np.int64))[None]
        apart.append(model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits)
    batch = collate_regression(rows, PAD)
    shared = ResponseScores(model)(model, batch["places"], model_inputs(model, batch))[batch["label_mask"][:, 0]]
    torch.testing.assert_close(shared, torch.cat(apart), rtol=1e-5, atol=1e-5)
    weights = torch.randn(shared.shape)
    same(gradients(model, (torch.cat(apart) * weights).sum()), gradients(model, (shared * weights).sum()))


@pytest.mark.parametrize("model_type", ["llama", "gpt2"])
def test_no_response_sees_another(model_type: str) -> None:
    model = wide(AutoModelForCausalLM.from_config(tiny(model_type)))
    (row, _) = groups()
    changed = [row[0], Example(np.append(row[1].input_ids[:9], 255 - row[1].input_ids[9:]), row[1].labels), row[2]]
    logits = []
    for version in (row, changed):
        batch = collate_sft([version], PAD)
        with torch.no_grad():
            out = model(**model_inputs(model, batch)).logits[0]
        places = batch["positions"]
        own = [functional.log_softmax(part, -1) for part in out[places].split([7, 11, 9])]
        logits.append([own[0], own[1], own[2]])
    assert torch.equal(logits[0][0], logits[1][0])
    assert torch.equal(logits[0][2], logits[1][2])
    assert not torch.equal(logits[0][1][-1], logits[1][1][-1])


def test_models_that_cannot_share_get_plain_rows() -> None:
    mistral = AutoModelForCausalLM.from_config(tiny("mistral", sliding_window=16))
    assert sharing_of(mistral, 16) is not None
    assert sharing_of(mistral, 17) is None, "a window hides tokens by their place in the row"
    bert = AutoModelForSequenceClassification.from_config(
        BertConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32)
    )
    assert sharing_of(bert, 16) is None
    assert sharing_of(AutoModelForCausalLM.from_config(tiny("bloom", n_head=4)), 16) is None


# Whole trainings


@pytest.fixture
def cheap_attention(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let models with so little besides attention share prompts as larger ones do."""
    monkeypatch.setattr(shared_prompts, "_ATTENTION_COST", 1000.0)
    monkeypatch.setattr(shared_prompts, "_BRANCH_COST", 0.0)


def conversations(prompts: int, responses: int, turns: int = 1) -> list[Conversation]:
    rng = random.Random(0)

    def text(low: int, high: int) -> str:
        return "".join(rng.choices("abcdefgh ", k=rng.randint(low, high))).strip() or "a"

    def reply() -> Message:
        return Message("assistant", text(3, 9), {name: rng.randint(0, 4) for name in SCHEMA.names})

    records = []
    for p in range(prompts):
        opening = [Message("system", text(5, 20)), Message("user", text(120, 140))]
        for _ in range(turns - 1):
            opening += [reply(), Message("user", text(5, 9))]
        records += [Conversation(f"{p}/{r}", (*opening, reply())) for r in range(responses)]
    return records


def conditioned(turns: int = 1, **dropout: float) -> ConditionedExamples:
    how = Conditioning(seed=3, **dropout)
    return ConditionedExamples(conversations(4, 4, turns), ENCODER, how, 512)


def rated() -> RegressionExamples:
    """Return every turn of conversations of two turns, half of the labels missing."""
    rng = np.random.default_rng(5)
    rows, prompts = [], []
    for record in conversations(4, 4, 2):
        for index in record.assistant_turns:
            labels = rng.integers(0, 5, len(SCHEMA)).astype(float)
            labels[rng.random(len(SCHEMA)) < 0.5] = np.nan
            ids = ENCODER.conversation(record.messages[: index + 1], headers=False).input_ids
            rows.append((ids, labels.tolist()))
            prompts.append(int(record.id.split("/")[0]))
    return RegressionExamples(rows, prompts=prompts)


def apart(examples: Any) -> Any:
    """Return the same examples with nothing in common."""
    other = copy.copy(examples)
    other.prompts = np.arange(len(examples.lengths))
    return other


def adapted() -> Any:
    torch.manual_seed(2)
    return add_lora(regressor(), LoraSection(rank=2, dropout=0.0), [250])


CASES: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
    "one turn, dropout": (language_model, lambda: conditioned(attribute_dropout=0.3, header_dropout=0.3)),
    "two turns, dropout": (language_model, lambda: conditioned(2, attribute_dropout=0.3, header_dropout=0.3)),
    "two turns, whole headers": (language_model, lambda: conditioned(2)),
    "regression of every turn": (regressor, rated),
    "regression with adapters": (adapted, rated),
}


@pytest.mark.usefixtures("cheap_attention")
@pytest.mark.parametrize("case", CASES)
def test_shared_and_plain_rows_train_alike(case: str, tmp_path: Path) -> None:
    make_model, make_examples = CASES[case]
    # one step an epoch, so that the same examples meet in a step
    results = []
    for name, change, budget in (("shared", lambda e: e, 800), ("apart", apart, 900)):
        examples = change(make_examples())
        model = make_model()
        plan = RowPlan(examples, budget, sharing_of(model, int(examples.lengths.max())))
        assert (plan.sharing is not None) == (name == "shared")
        batches = plan.num_batches(0)
        config = section(
            epochs=3, tokens_per_batch=budget, gradient_accumulation_steps=batches, learning_rate=2e-4, eval_steps=3
        )
        assert plan.num_batches(1) == batches
        run(config, model, examples, tmp_path / name, examples)
        course = [list(logged(tmp_path / name, key)) for key in ("loss", "eval_loss", "grad_norm")]
        results.append((batches, course, parameters(model)))
    (shared, course, weights), (plain, other_course, other_weights) = results
    assert shared < plain
    for key, other_key in zip(course, other_course, strict=True):
        assert [value for _, value in other_key] == pytest.approx([value for _, value in key], rel=1e-5)
    for name, value in weights.items():
        torch.testing.assert_close(other_weights[name], value, rtol=0, atol=2e-6, msg=name)


def test_rows_of_an_epoch_hold_what_the_examples_do() -> None:
    examples = conditioned(2, attribute_dropout=0.3, header_dropout=0.3)
    plan = RowPlan(examples, 800, Sharing(1e9))
    for epoch in range(3):
        rows = plan.rows(epoch)
        drawn = [rows.row(i) for i in range(len(rows.lengths))]
        assert sorted(i for row in drawn for i in row) == list(range(16))
        for row, bound in zip(drawn, rows.lengths, strict=True):
            batch = collate_sft([[examples.example(i, epoch) for i in row]], PAD)
            assert batch["input_ids"].shape[1] <= bound <= 800


@pytest.mark.usefixtures("cheap_attention")
def test_a_killed_run_with_shared_prompts_ends_with_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = section(epochs=3, eval_steps=4, tokens_per_batch=600)
    examples = conditioned(attribute_dropout=0.3, header_dropout=0.3)
    assert RowPlan(examples, 600, sharing_of(language_model(), 300)).sharing is not None
    whole = language_model(dropout=0.2)
    summary = run(config, whole, examples, tmp_path / "whole", examples)
    with monkeypatch.context() as patch:
        kill_at(7, patch)
        with pytest.raises(Killed):
            run(config, language_model(dropout=0.2), examples, tmp_path / "killed", examples)
    resumed = language_model(dropout=0.2)
    assert run(config, resumed, examples, tmp_path / "killed", examples) == summary
    assert all(torch.equal(value, parameters(resumed)[name]) for name, value in parameters(whole).items())


@pytest.mark.parametrize("world_size", [2, 3])
def test_ranks_divide_the_rows_among_them(world_size: int) -> None:
    plan = RowPlan(conditioned(attribute_dropout=0.1), 600, Sharing(1e9))
    assert plan.sharing is not None
    per_rank = plan.num_batches(0, world_size)
    ranks = [list(BatchStream(plan, 5, per_rank, rank, world_size)) for rank in range(world_size)]
    keys = [key for batches in ranks for batch in batches for key in batch]
    assert sorted(i for key in keys for i in key.examples if i >= 0) == list(range(16))
    view = EpochView(plan.examples)
    for key in keys:
        if key.examples[0] < 0:
            assert len(collate_sft([view[key]], PAD)["targets"]) == 0


# Scoring


@pytest.mark.usefixtures("cheap_attention")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(("kind", "make_model"), [("regression", regressor), ("generative", language_model)])
def test_scores_do_not_depend_on_sharing(kind: Any, make_model: Callable[[], Any], precision: Any) -> None:
    info = CheckpointInfo(kind=kind, schema=SCHEMA, template="steerlm", provenance={"max_length": 512})
    scorer = loaded_attribute_model(make_model(), TOKENIZER, info, "", precision)
    turns = [
        record.messages[: index + 1] for record in conversations(3, 4, 2) for index in reversed(record.assistant_turns)
    ]
    assert scorer.sharing is not None
    widths: list[list[int]] = [[], []]
    scores = []
    for i, sharing in enumerate((scorer.sharing, None)):
        seen = widths[i]

        def counting(rows: Any, tokens_per_batch: int, seen: list[int] = seen) -> Any:
            seen.append(sum(len(row) for row in rows))
            return scorer.forward(rows, tokens_per_batch)

        scores.append(dataclasses.replace(scorer, sharing=sharing, forward=counting).score(turns, 400))
    assert sum(widths[0]) == sum(widths[1]) == len(turns)
    assert len(widths[0]) < len(widths[1]), "the same budget holds more responses"
    for one, other in zip(*scores, strict=True):
        assert one is not None
        assert other is not None
        for name in SCHEMA.names:
            tolerance = 1e-5 if precision == "fp32" else 0.05
            assert one[name].mean == pytest.approx(other[name].mean, abs=tolerance)
