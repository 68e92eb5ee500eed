"""The training loop: what it computes, what it keeps on disk, and what it refuses."""

from __future__ import annotations

import json
import logging
import resource
from pathlib import Path
from typing import Any

import orjson
import pytest
import torch
from torch import nn

from steerlm.batching.batches import EncodedExamples
from steerlm.batching.ragged_attention import RAGGED
from steerlm.errors import UserError
from steerlm.training import loop
from steerlm.training.checkpoints import complete_checkpoints, last_checkpoint
from steerlm.training.head_loss import LogitHead, head_cross_entropy
from steerlm.training.losses import Loss
from steerlm.training.trainer import SteerTrainer
from tests.small_training import (
    Killed,
    kill_at,
    language_model,
    logged,
    parameters,
    rated_examples,
    regressor,
    run,
    section,
    token_examples,
)


def checkpoints(out: Path) -> list[str]:
    return [path.name for path in complete_checkpoints(out / "checkpoints")]


def watched(monkeypatch: pytest.MonkeyPatch) -> list[tuple[torch.Tensor, torch.dtype]]:
    """Return what the loss will be given: hidden states, and in what it computes."""
    given: list[tuple[torch.Tensor, torch.dtype]] = []

    def watch(
        states: torch.Tensor, targets: torch.Tensor, head: LogitHead, dtype: torch.dtype, *more: Any
    ) -> torch.Tensor:
        given.append((states.detach(), dtype))
        return head_cross_entropy(states, targets, head, dtype, *more)

    monkeypatch.setattr("steerlm.training.response_loss.head_cross_entropy", watch)
    return given


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(value, b[name]) for name, value in a.items())


def test_training_learns_and_says_what_it_did(tmp_path: Path) -> None:
    ids = [list(range(10, 30)), list(range(40, 70))] * 10
    examples = EncodedExamples((row, [False] * 2 + [True] * (len(row) - 2)) for row in ids)
    model = language_model()
    summary = run(section(epochs=8, learning_rate=5e-3), model, examples, tmp_path, examples)
    losses = [loss for _, loss in logged(tmp_path, "loss")]
    assert losses[-1] < losses[0] / 2
    assert summary["validation_loss"] < losses[0] / 2
    assert summary["validation_loss"] == min(loss for _, loss in logged(tmp_path, "eval_loss"))
    assert summary["epochs"] == 8
    assert not summary["early_stopped"]
    assert all(speed > 0 for _, speed in logged(tmp_path, "tokens_per_second"))
    assert [epoch for _, epoch in logged(tmp_path, "epoch")][-1] == 8


def test_regression_learns_what_can_be_learnt(tmp_path: Path) -> None:
    examples = rated_examples(40)
    summary = run(section(epochs=15, learning_rate=3e-3), regressor(), examples, tmp_path, examples)
    losses = [loss for _, loss in logged(tmp_path, "loss")]
    assert summary["validation_loss"] < losses[0] / 3


@pytest.mark.parametrize("multiple", [1, 64])
def test_the_loss_is_computed_at_response_positions_only(
    multiple: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if multiple == 1:
        monkeypatch.setattr("steerlm.batching.model_inputs._SMALL", 0)
    examples = token_examples(12)
    model = language_model()
    rows = watched(monkeypatch)
    run(section(epochs=1), model, examples, tmp_path, examples)
    trained = int((examples.lengths - 3).sum())
    more = sum(len(states) for states, _ in rows) - 2 * trained  # one epoch and one validation
    assert 0 <= more <= (multiple - 1) * len(rows)
    assert {len(states) % multiple for states, _ in rows} == {0}


@pytest.mark.parametrize(("epochs", "max_steps", "steps"), [(1.0, -1, 5), (0.5, -1, 3), (2.5, -1, 13), (1.0, 7, 7)])
def test_number_of_steps(epochs: float, max_steps: int, steps: int, tmp_path: Path) -> None:
    examples = EncodedExamples(([5] * 16, [True] * 16) for _ in range(20))
    config = section(epochs=epochs, max_steps=max_steps, tokens_per_batch=64)
    assert run(config, language_model(), examples, tmp_path)["steps"] == steps


def test_best_weights_are_the_result_and_stay_on_disk(tmp_path: Path) -> None:
    # a rate that soon overshoots: the best validation is an early one
    config = section(epochs=6, learning_rate=0.05, warmup_steps=0, lr_schedule="constant", max_checkpoints=1)
    model = language_model()
    summary = run(config, model, token_examples(30), tmp_path)
    validations = dict(logged(tmp_path, "eval_loss"))
    best = min(validations, key=lambda step: validations[step])
    assert best < max(validations)
    assert summary["best_step"] == best
    assert checkpoints(tmp_path) == [f"checkpoint-{best}", f"checkpoint-{max(validations)}"]
    from safetensors.torch import load_file

    stored = load_file(tmp_path / "checkpoints" / f"checkpoint-{best}" / "model.safetensors")
    assert equal(stored, parameters(model))


def test_early_stopping_counts_validations_without_improvement(tmp_path: Path) -> None:
    config = section(
        epochs=20, learning_rate=0.05, warmup_steps=0, lr_schedule="constant", early_stopping_patience=2, eval_steps=3
    )
    summary = run(config, language_model(), token_examples(30), tmp_path)
    assert summary["early_stopped"]
    assert summary["steps"] == summary["best_step"] + 2 * 3
    # called again, it neither goes on nor changes its mind
    model = language_model()
    assert run(config, model, token_examples(30), tmp_path) == summary


@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_nan_stops_before_the_optimizer_step(where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = section(epochs=4, eval_steps=2, lr_schedule="constant", warmup_steps=0)
    model = language_model()
    original = SteerTrainer.loss_sum
    before: list[dict[str, torch.Tensor]] = []

    def poisoned(self: SteerTrainer, wrapped: nn.Module, inputs: dict[str, Any]) -> Loss:
        loss = original(self, wrapped, inputs)
        if self.state.global_step == 3 and wrapped.training:
            before.append(parameters(model))
            if where == "loss":
                return loss._replace(sum=loss.sum * float("nan"))
            # a finite loss whose gradient is infinite
            return loss._replace(sum=loss.sum + (next(model.parameters()).sum() * 0).sqrt())
        return loss

    monkeypatch.setattr(SteerTrainer, "loss_sum", poisoned)
    with pytest.raises(UserError, match=r"not finite .* at step 4, learning rate 0.001: .*Lower learning_rate"):
        run(config, model, token_examples(40), tmp_path)
    assert equal(before[0], parameters(model))
    assert checkpoints(tmp_path) == ["checkpoint-2"]


def test_a_diverged_validation_loss_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = SteerTrainer.loss_sum

    def poisoned(self: SteerTrainer, model: nn.Module, inputs: dict[str, Any]) -> Loss:
        loss = original(self, model, inputs)
        return loss if model.training or self.state.global_step < 4 else loss._replace(sum=loss.sum / 0)

    monkeypatch.setattr(SteerTrainer, "loss_sum", poisoned)
    with pytest.raises(UserError, match=r"validation loss is inf at step 4.*lower learning_rate"):
        run(section(epochs=2, eval_steps=2), language_model(), token_examples(40), tmp_path)
    assert checkpoints(tmp_path) == ["checkpoint-2"]


@pytest.mark.parametrize("damage", ["cut", "missing", "unmarked"])
def test_a_checkpoint_cut_short_is_not_used(
    damage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    config = section(epochs=2, eval_steps=2)
    whole = language_model()
    summary = run(config, whole, token_examples(40), tmp_path / "whole")
    with monkeypatch.context() as patch:
        kill_at(6, patch)
        with pytest.raises(Killed):
            run(config, language_model(), token_examples(40), tmp_path / "cut")
    newest = last_checkpoint(tmp_path / "cut" / "checkpoints")
    assert newest is not None
    assert newest.name == "checkpoint-4"
    weights = newest / "model.safetensors"
    if damage == "cut":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif damage == "missing":
        (newest / "optimizer.pt").unlink()
    else:
        (newest / "complete.json").unlink()
    resumed = language_model()
    with caplog.at_level(logging.WARNING):
        assert run(config, resumed, token_examples(40), tmp_path / "cut") == summary
    assert "checkpoint-4 is incomplete" in caplog.text
    assert equal(parameters(whole), parameters(resumed))


def test_a_full_disk_loses_no_earlier_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = section(epochs=2, eval_steps=2)
    examples = token_examples(40)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    original = SteerTrainer.evaluate

    def shrink(self: SteerTrainer, *args: Any, **kwargs: Any) -> Any:
        # from the second checkpoint on, the operating system refuses to write more than 10 kB
        if self.state.global_step >= 4:
            resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
        return original(self, *args, **kwargs)

    try:
        with monkeypatch.context() as patch:
            patch.setattr(SteerTrainer, "evaluate", shrink)
            with pytest.raises(UserError, match=r"no space left on the disk while writing .*checkpoint-4"):
                run(config, language_model(), examples, tmp_path / "full")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert checkpoints(tmp_path / "full") == ["checkpoint-2"]
    assert not (tmp_path / "full" / "checkpoints" / "checkpoint-4").exists()
    whole, resumed = language_model(), language_model()
    summary = run(config, whole, examples, tmp_path / "whole")
    assert run(config, resumed, examples, tmp_path / "full") == summary
    assert equal(parameters(whole), parameters(resumed))


def test_checkpoints_of_another_training_are_refused(tmp_path: Path) -> None:
    run(section(max_steps=1), language_model(), token_examples(8), tmp_path)
    with pytest.raises(UserError, match="holds checkpoints of a training with other inputs"):
        run(section(max_steps=1, learning_rate=1e-5), language_model(), token_examples(8), tmp_path)
    with pytest.raises(UserError, match="holds checkpoints of a training with other inputs"):
        run(section(max_steps=1), language_model(), token_examples(9), tmp_path)
    other = token_examples(8)
    relabelled = EncodedExamples(
        (example.input_ids + (example.input_ids == example.input_ids[0]), example.labels != -100)
        for example in (other.example(i, 0) for i in range(8))
    )
    assert relabelled.lengths.tolist() == other.lengths.tolist()
    with pytest.raises(UserError, match="holds checkpoints of a training with other inputs"):
        run(section(max_steps=1), language_model(), relabelled, tmp_path)


def test_no_data_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nothing to train on"):
        run(section(), language_model(), EncodedExamples([]), tmp_path)
    with pytest.raises(UserError, match="validation data has no usable example"):
        run(section(), language_model(), token_examples(4), tmp_path, EncodedExamples([]))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"report_to": ["abacus"]}, "report_to: 'abacus' is not installed"),
        ({"fsdp": True}, "fsdp: true needs a process per GPU; start with `accelerate launch"),
        ({"deepspeed": "nowhere.json"}, "deepspeed: no such file: nowhere.json"),
    ],
)
def test_what_is_not_there_is_said_before_anything_is_computed(
    values: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        run(section(**values), language_model(), token_examples(8), tmp_path)


def test_out_of_memory_says_how_to_need_less(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: SteerTrainer, model: nn.Module, inputs: dict[str, Any]) -> Loss:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(SteerTrainer, "loss_sum", full)
    with pytest.raises(UserError, match=r"tokens_per_batch: 256: halve it and double gradient_accumulation_steps"):
        run(section(), language_model(), token_examples(8), tmp_path)


def test_bf16_computes_in_bf16_over_fp32_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    examples = token_examples(30)
    seen: set[tuple[torch.dtype, str]] = set()
    model = language_model()
    model.model.layers[0].mlp.register_forward_hook(
        lambda module, inputs, output: seen.add((output.dtype, model.config._attn_implementation))
    )
    given = watched(monkeypatch)
    half = run(section(epochs=2, precision="bf16"), model, examples, tmp_path / "bf16")
    full = run(section(epochs=2), language_model(), examples, tmp_path / "fp32")
    assert torch.bfloat16 in {dtype for _, dtype in given}
    assert seen == {(torch.bfloat16, RAGGED)}  # the one without padding, on the CPU
    assert {value.dtype for value in model.state_dict().values()} == {torch.float32}
    assert half["validation_loss"] == pytest.approx(full["validation_loss"], rel=0.02)
    assert half["validation_loss"] != full["validation_loss"]
    assert model.config._attn_implementation == "sdpa"


def test_gradient_checkpointing_changes_nothing_but_memory(tmp_path: Path) -> None:
    examples = token_examples(20)
    plain, recomputed = language_model(), language_model()
    summary = run(section(epochs=1), plain, examples, tmp_path / "plain")
    layers: list[bool] = []
    recomputed.model.layers[0].input_layernorm.register_forward_pre_hook(
        lambda *_: layers.append(torch.is_grad_enabled())
    )
    again = run(section(epochs=1, gradient_checkpointing=True), recomputed, examples, tmp_path / "recomputed")
    assert again["validation_loss"] == pytest.approx(summary["validation_loss"], rel=1e-6)
    assert layers.count(True) == 2 * summary["steps"]  # forward, and again in the backward pass


def test_the_log_is_one_json_object_per_line(tmp_path: Path) -> None:
    run(section(epochs=1), language_model(), token_examples(20), tmp_path)
    rows = [orjson.loads(line) for line in (tmp_path / "metrics.jsonl").read_bytes().splitlines()]
    assert all("step" in row for row in rows)
    assert {"loss", "learning_rate", "grad_norm", "epoch", "tokens_per_second"} <= set(rows[0])


def test_dropout_seed_and_order_follow_the_seed_alone(tmp_path: Path) -> None:
    examples = token_examples(30)
    models = [language_model(dropout=0.2) for _ in range(2)]
    torch.manual_seed(1)
    run(section(epochs=1), models[0], examples, tmp_path / "a")
    torch.manual_seed(2)
    run(section(epochs=1), models[1], examples, tmp_path / "b")
    assert equal(parameters(models[0]), parameters(models[1]))


@pytest.mark.parametrize(
    ("objective", "on_gpu", "installed", "used"),
    [
        ("sft", True, True, True),
        ("refine", True, True, True),
        ("sft", False, True, False),
        ("sft", True, False, False),
        ("regression", True, True, False),
        ("head", True, True, False),
    ],
)
def test_liger_replaces_everything_but_the_loss_of_language_models(
    objective: Any, on_gpu: bool, installed: bool, used: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "is_liger_kernel_available", lambda: installed)
    settings = loop._liger(objective, on_gpu)
    assert bool(settings) == used
    if settings:
        assert settings["use_liger_kernel"]
        assert not any(settings["liger_kernel_config"].values())


def test_every_schedule_warms_up(tmp_path: Path) -> None:
    rates = {}
    for schedule in ("constant", "constant_with_warmup", "cosine"):
        config = section(max_steps=6, warmup_steps=4, lr_schedule=schedule, eval_steps=1)
        run(config, language_model(), token_examples(24), tmp_path / schedule)
        rates[schedule] = dict(logged(tmp_path / schedule, "learning_rate"))
    assert rates["constant"] == rates["constant_with_warmup"]
    assert [rates["constant"][step] for step in range(1, 7)] == pytest.approx([0, 25e-5, 5e-4, 75e-5, 1e-3, 1e-3])
    assert all(rates["cosine"][step] == rates["constant"][step] for step in range(1, 5))


def test_a_warm_up_below_one_is_a_share_of_the_steps(tmp_path: Path) -> None:
    run(section(max_steps=6, warmup_steps=0.5, lr_schedule="constant", eval_steps=1), language_model(),
        token_examples(24), tmp_path)  # fmt: skip
    rates = dict(logged(tmp_path, "learning_rate"))
    full = section().learning_rate
    assert [rates[step] for step in range(1, 7)] == pytest.approx([0, full / 3, 2 * full / 3, full, full, full])


@pytest.mark.parametrize("steps", [1, 2])
def test_a_training_shorter_than_its_warm_up_learns_all_the_same(steps: int, tmp_path: Path) -> None:
    model = language_model()
    before = parameters(model)
    run(section(max_steps=steps, warmup_steps=20, eval_steps=1), model, token_examples(24), tmp_path)
    assert dict(logged(tmp_path, "learning_rate"))[steps] == section().learning_rate
    assert not equal(before, parameters(model))


def test_another_number_of_processes_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = section(epochs=2, eval_steps=2)
    with monkeypatch.context() as patch:
        kill_at(3, patch)
        with pytest.raises(Killed):
            run(config, language_model(), token_examples(48), tmp_path)
    state = (tmp_path / "checkpoints" / "checkpoint-2" / "trainer_state.json").read_bytes()
    record = tmp_path / "checkpoints" / "inputs.json"
    mine = json.loads(record.read_text())
    record.write_text(json.dumps({**mine, "processes": 2, "steps": mine["steps"] // 2}))
    with pytest.raises(UserError, match=r"with other inputs \(different: processes, steps\)"):
        run(config, language_model(), token_examples(48), tmp_path)
    assert (tmp_path / "checkpoints" / "checkpoint-2" / "trainer_state.json").read_bytes() == state
    record.write_text(json.dumps(mine))
    assert run(config, language_model(), token_examples(48), tmp_path)["steps"] == mine["steps"]
