"""Our loss and gradient equal those of Hugging Face's own loss on the same tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from steerlm.batching.batches import EncodedExamples
from steerlm.batching.collating import pad_tokens
from steerlm.training.loop import train
from tests.small_training import TOKENIZER, language_model, logged, run, section, token_examples


def reference(model: Any, examples: EncodedExamples, pad_id: int) -> torch.Tensor:
    """Return the mean loss over all trained tokens, computed by the model itself with an attention mask."""
    rows = [examples.example(i, 0) for i in range(len(examples))]
    ids, attention = pad_tokens([row.input_ids for row in rows], pad_id)
    labels = torch.full_like(ids, -100)
    for i, row in enumerate(rows):
        labels[i, : len(row.labels)] = torch.from_numpy(row.labels)
    loss: torch.Tensor = model(input_ids=ids, attention_mask=attention, labels=labels).loss
    return loss


def test_training_and_validation_loss_and_gradient_norm(tmp_path: Path) -> None:
    examples, held_out = token_examples(8), token_examples(8, seed=3)
    model = language_model()
    first = reference(model, examples, TOKENIZER.pad_token_id)
    first.backward()
    norm = torch.stack([p.grad.norm() for p in model.parameters() if p.grad is not None]).norm()
    model.zero_grad()
    # a vanishing learning rate leaves the weights as they are
    run(section(max_steps=1, learning_rate=1e-12, tokens_per_batch=1000), model, examples, tmp_path, held_out)
    assert dict(logged(tmp_path, "loss"))[1] == pytest.approx(first.item(), rel=1e-6)
    assert dict(logged(tmp_path, "grad_norm"))[1] == pytest.approx(norm.item(), rel=1e-5)
    expected = reference(model, held_out, TOKENIZER.pad_token_id).item()
    assert dict(logged(tmp_path, "eval_loss"))[1] == pytest.approx(expected, rel=1e-6)


def test_validation_loss_of_a_real_checkpoint(shared_models: Path, tmp_path: Path) -> None:
    folder = shared_models / "stories260K"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    texts = [
        "Once upon a time there was a little girl who loved her cat.",
        "One day, Tom went to the park. He saw a dog.",
    ]
    rows = [tokenizer(text)["input_ids"] for text in texts]
    examples = EncodedExamples((ids, [False, False] + [True] * (len(ids) - 2)) for ids in rows)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    expected = reference(model, examples, tokenizer.pad_token_id).item()
    assert expected < 4  # it has learnt to write such stories
    config = section(max_steps=1, learning_rate=1e-12)
    summary = train(config, model, tokenizer, examples, examples, "sft", tmp_path, 0)
    assert summary["validation_loss"] == pytest.approx(expected, rel=1e-5)
