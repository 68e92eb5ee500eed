"""One rank of a distributed training; run by torchrun in `test_distributed.py`.

torchrun --nproc-per-node 2 -m tests.invariants.ranks OUT ACCUMULATION EPOCHS KIND

KIND is `ddp`, `fsdp`, `fsdp-recompute` (gradient checkpointing), `fsdp-lora` or `fsdp-load` (as under `accelerate
launch`, rank 0 alone reads the weights of the folder OUT.base). What only a rank can see (whether its
weights are sharded, how many rows reach the output embedding) goes to OUT.rank0.json and so on.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.distributed.tensor import DTensor

from steerlm.batching.batches import EncodedExamples
from steerlm.checkpoint.adapters import add_lora
from steerlm.checkpoint.models import load_causal_lm, resize_embeddings
from steerlm.config import LoraSection, TrainingSection
from steerlm.training import response_loss
from tests.small_training import TOKENIZER, language_model, run, section, token_examples

LORA = LoraSection(rank=4, alpha=8, dropout=0.0)
_TRAINED_TOKENS = (256, 257)
FAST_TOKENS = (5, 200)
"""Taken for new ones: one row is on either rank."""


def settings(accumulation: int, epochs: int, kind: str = "ddp") -> TrainingSection:
    return section(
        epochs=epochs,
        tokens_per_batch=128,
        gradient_accumulation_steps=accumulation,
        learning_rate=2e-4,
        fsdp=kind.startswith("fsdp"),
        gradient_checkpointing=kind == "fsdp-recompute",
        lora=LORA if kind == "fsdp-lora" else None,
    )


def model_of(kind: str) -> Any:
    """Return the model of a kind of training; adapters are drawn from a fixed seed."""
    model = language_model()
    if kind != "fsdp-lora":
        return model
    torch.manual_seed(1)
    return add_lora(model, LORA, _TRAINED_TOKENS)


def examples() -> EncodedExamples:
    """Return data that makes three batches: with two ranks, one of them has none left at the end of an epoch."""
    return token_examples(10)


def pretend_to_have_gpus() -> None:
    """Let accelerate shard on the CPU, which it refuses although FSDP2 itself works there.

    Without this, `Accelerator(cpu=True)` under torchrun wraps the model in DDP and says nothing.
    """
    from accelerate import DistributedType, PartialState

    original = PartialState.__init__

    def pretend(self: PartialState, *arguments: object, **options: object) -> None:
        original(self, *arguments, **options)
        if self.distributed_type == DistributedType.MULTI_CPU:
            PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU

    PartialState.__init__ = pretend


def sharding(model: nn.Module) -> dict[str, Any]:
    """Return how the weights lie: whether all are DTensors, and this rank's share of their elements."""
    weights = list(model.parameters())
    local = sum(w.to_local().numel() if isinstance(w, DTensor) else w.numel() for w in weights)
    return {
        "dtensors": all(isinstance(weight, DTensor) for weight in weights),
        "share": local / sum(weight.numel() for weight in weights),
    }


def main(out: Path, accumulation: int, epochs: int, kind: str) -> None:
    if kind.startswith("fsdp"):
        pretend_to_have_gpus()
    if kind == "fsdp-load":
        os.environ |= {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_CPU_RAM_EFFICIENT_LOADING": "true"}
        base = out.with_name(f"{out.name}.base")
        model = load_causal_lm(base)
        resize_embeddings(model, TOKENIZER)
        stored = load_file(base / "model.safetensors")["lm_head.weight"]
        loaded = torch.equal(model.get_output_embeddings().weight, stored)
    else:
        model = model_of(kind)
        loaded = True
    rows: list[int] = []
    original = response_loss.head_cross_entropy

    def watched(states: torch.Tensor, *given: Any) -> torch.Tensor:
        rows.append(len(states))
        return original(states, *given)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(response_loss, "head_cross_entropy", watched)
        run(settings(accumulation, epochs, kind), model, examples(), out, new_ids=FAST_TOKENS)
    facts = {**sharding(model), "rows": rows, "loaded": loaded}
    rank = torch.distributed.get_rank()
    out.with_name(f"{out.name}.rank{rank}.json").write_text(json.dumps(facts), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
