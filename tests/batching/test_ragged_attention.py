"""Attention without padding: against PyTorch's own, pair by pair, and through whole models."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional
from transformers import AutoModelForCausalLM

from steerlm.batching.batches import Example
from steerlm.batching.collating import collate_sft, pad_layouts
from steerlm.batching.model_inputs import model_inputs
from steerlm.batching.ragged_attention import _LONGEST_PIECE, RAGGED, _within, line_up, ragged_attention
from steerlm.batching.shared_prompts import can_be_ragged, lay_out, shared_attention
from tests.invariants.test_shared_prompts import gradients, groups, losses_apart, same, tiny, wide
from tests.small_training import language_model, run, section, token_examples

# gemma2 caps its attention scores, which this attention cannot
MODELS = sorted({"gemma", "gemma3_text", "gpt2", "gpt_neox", "granite", "llama", "mistral", "olmo2", "phi3", "qwen2",
                 "qwen3", "smollm3"})  # fmt: skip


def long_rows() -> list[list[np.ndarray]]:
    """Return rows longer than a piece: three levels of branches, a plain one, and one of a single token."""
    rng = np.random.default_rng(0)

    def tokens(count: int) -> np.ndarray:
        return rng.integers(0, 200, count).astype(np.int32)

    prompt, start = tokens(_LONGEST_PIECE + 40), tokens(30)
    tree = [np.concatenate(parts) for parts in (
        (prompt, start, tokens(5)), (prompt, tokens(_LONGEST_PIECE * 2)), (prompt, start, tokens(70)), (prompt,),
    )]  # fmt: skip
    return [tree, [tokens(_LONGEST_PIECE * 2 + 3)], [tokens(1)]]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 0.03)])
@pytest.mark.parametrize("key_heads", [4, 2, 1])
def test_a_line_attends_as_masked_rows_do(key_heads: int, dtype: torch.dtype, tolerance: float) -> None:
    batch = pad_layouts([lay_out(row) for row in long_rows()], 255)
    line = line_up(batch)
    present = batch["attention_mask"].bool()
    torch.manual_seed(0)
    rows, width, heads, size = *present.shape, 4, 16
    padded = [torch.randn(rows, count, width, size, dtype=dtype) for count in (heads, key_heads, key_heads)]
    flat = [x.transpose(1, 2)[present].transpose(0, 1)[None].detach().requires_grad_() for x in padded]
    for x in padded:
        x.requires_grad_()
    query, key, value = (x.float() for x in padded)
    mask = shared_attention(batch["ends"], "sdpa", torch.float32)
    repeated = (x.repeat_interleave(heads // key_heads, 1) for x in (key, value))
    wanted = functional.scaled_dot_product_attention(query, *repeated, attn_mask=mask, scale=0.3)
    wanted = wanted.transpose(1, 2)[present]
    found = ragged_attention(flat[0], flat[1], flat[2], line.pieces, 0.3)[0]
    assert found.dtype == dtype
    torch.testing.assert_close(found.float(), wanted, rtol=tolerance, atol=tolerance)
    upstream = torch.randn_like(wanted)
    wanted.backward(upstream)
    found.backward(upstream.to(dtype))
    for one, other in zip(padded, flat, strict=True):
        assert one.grad is not None
        assert other.grad is not None
        gradient = one.grad.transpose(1, 2)[present].transpose(0, 1)[None].float()
        scale = float(gradient.abs().max())
        torch.testing.assert_close(other.grad.float(), gradient, rtol=tolerance, atol=tolerance * scale)


def test_a_line_holds_every_token_once_and_no_padding() -> None:
    rows = long_rows()
    layouts = [lay_out(row) for row in rows]
    batch = pad_layouts(layouts, 255)
    line = line_up(batch)
    assert line.input_ids[0].tolist() == list(itertools.chain(*(layout.input_ids.tolist() for layout in layouts)))
    assert line.position_ids[0].tolist() == list(itertools.chain(*(layout.position_ids.tolist() for layout in layouts)))
    covered = [place for piece in line.pieces for place in range(piece.start, piece.stop)]
    assert covered == list(range(line.input_ids.shape[1]))
    assert max(piece.stop - piece.start for piece in line.pieces) == _LONGEST_PIECE
    for piece in line.pieces:
        path = [place for start, stop in piece.seen for place in range(start, min(stop, piece.stop))]
        assert path[piece.start - piece.stop :] == list(range(piece.start, piece.stop))
        assert line.position_ids[0, path].tolist() == list(range(len(path))), "a piece sees its path from the beginning"
    width = batch["input_ids"].shape[1]
    for row, layout in enumerate(layouts):
        for sequence, place in zip(rows[row], layout.places, strict=True):
            assert line.input_ids[0, line.moved[place + row * width]].tolist() == sequence.tolist()


@pytest.mark.parametrize("window", [1, 50, 129, 300])
def test_a_window_is_counted_along_the_path(window: int) -> None:
    batch = pad_layouts([lay_out(row) for row in long_rows()], 255)
    line = line_up(batch)
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, 2, line.input_ids.shape[1], 8) for _ in range(3))
    given = [x.clone().requires_grad_() for x in (q, k, v)]
    found = ragged_attention(*given, [_within(piece, window) for piece in line.pieces], 0.3)[0]
    upstream = torch.randn_like(found)
    found.backward(upstream)
    wanted = torch.zeros_like(found)
    apart = [x.clone().requires_grad_() for x in (q, k, v)]
    for piece in line.pieces:
        path = [place for start, stop in piece.seen for place in range(start, min(stop, piece.stop))]
        place = torch.arange(len(path))
        near = (place <= place[:, None]) & (place > place[:, None] - window)
        rows = functional.scaled_dot_product_attention(*(x[:, :, path] for x in apart), attn_mask=near, scale=0.3)
        wanted[piece.start : piece.stop] = rows[0, :, piece.start - piece.stop :].transpose(0, 1)
    wanted.backward(upstream)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    for one, other in zip(given, apart, strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-4, atol=1e-4)


WINDOWED = {
    "gemma3_text": {"sliding_window": 5, "layer_types": ["sliding_attention", "full_attention"], "head_dim": 256},
    "mistral": {"sliding_window": 5},
}


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("model_type", WINDOWED)
def test_sequences_longer_than_the_window(model_type: str, plain: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("steerlm.batching.model_inputs.plain_rows", lambda dtype: plain)
    config = tiny(model_type, **WINDOWED[model_type])
    model = wide(AutoModelForCausalLM.from_config(config, attn_implementation="sdpa"))
    rows = groups()
    lone = [[example] for row in rows for example in row]
    apart = losses_apart(model, rows)
    expected = gradients(model, apart.sum())
    model.set_attn_implementation(RAGGED)
    for shared in (rows, lone, [[lone[0][0]], [lone[2][0]]]):
        batch = collate_sft(shared, 255)
        given = model_inputs(batch, model.config, torch.float32)
        out = model(**given.arguments).logits.flatten(0, 1)[given.places(batch["positions"])].float()
        losses = functional.cross_entropy(out, batch["targets"], reduction="none")
        if len(losses) == len(apart):
            torch.testing.assert_close(losses, apart, rtol=1e-5, atol=1e-5)
            same(expected, gradients(model, losses.sum()))
        else:
            one, other = (int((example.labels != -100).sum()) for (example,) in (lone[0], lone[1]))
            wanted = torch.cat([apart[:one], apart[one + other : len(losses) + other]])
            torch.testing.assert_close(losses, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("round_up", [False, True])
@pytest.mark.parametrize("model_type", MODELS)
def test_losses_and_gradients_are_those_of_the_sequences_apart(
    model_type: str, round_up: bool, plain: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not round_up:
        monkeypatch.setattr("steerlm.batching.model_inputs._SMALL", 0)
    monkeypatch.setattr("steerlm.batching.model_inputs.plain_rows", lambda dtype: plain)
    model = wide(AutoModelForCausalLM.from_config(tiny(model_type), attn_implementation="sdpa"))
    rows = groups()
    apart = losses_apart(model, rows)
    assert can_be_ragged(model, training=False)
    expected = gradients(model, apart.sum())
    model.set_attn_implementation(RAGGED)
    for shared in (rows, [[example] for row in rows for example in row]):
        batch = collate_sft(shared, 255)
        given = model_inputs(batch, model.config, torch.float32)
        width = given.arguments["input_ids"].shape[1]
        assert not round_up or width % (16 if len(given.arguments["input_ids"]) > 1 else 128) == 0
        out = model(**given.arguments).logits[0][given.places(batch["positions"])].float()
        losses = functional.cross_entropy(out, batch["targets"], reduction="none")
        torch.testing.assert_close(losses, apart, rtol=1e-5, atol=1e-5)
        same(expected, gradients(model, losses.sum()))


def test_padded_rows_are_computed_as_ever() -> None:
    model = wide(AutoModelForCausalLM.from_config(tiny("llama"), attn_implementation="sdpa"))
    rows = [[Example(ids, ids)] for row in long_rows()[1:] for ids in row]
    rows = [[Example(example.input_ids[:90], example.labels[:90]) for example in row] for row in rows]
    batch = collate_sft(rows, 255)
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        before = model(**inputs).logits
        model.set_attn_implementation(RAGGED)
        torch.testing.assert_close(model(**inputs).logits, before, rtol=0, atol=0)
        mask = torch.zeros_like(batch["attention_mask"])
        mask[:, :1] = 1
        assert not torch.equal(model(input_ids=batch["input_ids"], attention_mask=mask).logits, before)


def test_which_models_attend_without_padding() -> None:
    llama = AutoModelForCausalLM.from_config(tiny("llama", attention_dropout=0.1))
    assert can_be_ragged(llama, training=False)
    assert not can_be_ragged(llama, training=True), "it has no dropout"
    assert not can_be_ragged(AutoModelForCausalLM.from_config(tiny("gpt2")), training=True)
    for model_type in ("gemma2", "bloom"):
        model = AutoModelForCausalLM.from_config(tiny(model_type, n_head=4))
        assert not can_be_ragged(model, training=False)


def test_training_leaves_the_model_as_it_was(tmp_path: Any) -> None:
    model = language_model()
    seen = set()
    model.model.register_forward_pre_hook(lambda *_: seen.add(model.config._attn_implementation))
    run(section(epochs=1), model, token_examples(10), tmp_path)
    assert seen == {RAGGED}
    assert model.config._attn_implementation == "sdpa"
    saved = [path.read_text(encoding="utf-8") for path in tmp_path.rglob("config.json")]
    assert saved
    assert not any(RAGGED in text for text in saved)


def test_rows_of_a_round_width_stay_within_the_positions_that_a_model_knows() -> None:
    model = wide(AutoModelForCausalLM.from_config(tiny("gpt2", n_positions=13), attn_implementation="sdpa"))
    ids = np.random.default_rng(0).integers(0, 200, (2, 13)).astype(np.int32)
    batch = pad_layouts([lay_out([row]) for row in ids], 255)
    with torch.no_grad():
        wanted = model(input_ids=torch.from_numpy(ids).long()).logits.flatten(0, 1)
        model.set_attn_implementation(RAGGED)
        given = model_inputs(batch, model.config, torch.float32)
        assert given.arguments["input_ids"].shape == (2, 16)
        found = model(**given.arguments).logits.flatten(0, 1)[given.places(torch.arange(26))]
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
