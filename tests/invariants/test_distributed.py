"""Two ranks = one: the same loss and the same weights, even where a rank runs out of batches; sharded or not."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from steerlm.batching.batches import BatchStream, RowPlan, count_batches
from tests.invariants.ranks import FAST_TOKENS, examples, model_of, settings
from tests.small_training import logged, run

ROOT = Path(__file__).resolve().parents[2]


def two_ranks(out: Path, kind: str, epochs: int = 4) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    arguments = ["-m", "tests.invariants.ranks", str(out), "2", str(epochs), kind]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [*command, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]


def weights(folder: Path, kind: str) -> dict[str, torch.Tensor]:
    return load_file(folder / ("adapter_model.safetensors" if kind == "fsdp-lora" else "model.safetensors"))


def trained_rows(rank: int, epochs: int) -> int:
    """Return how many positions of a rank's batches are trained, over all epochs."""
    data = examples()
    batches = BatchStream(RowPlan(data, 128), 7, 2 * epochs, rank, 2)
    # the first three tokens of every example are not trained; an index below 0 is an example with nothing to train
    return sum(int(data.lengths[i]) - 3 for batch in batches for key in batch for i in key.examples if i >= 0)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ddp", "fsdp", "fsdp-recompute", "fsdp-lora"])
def test_two_ranks_train_like_one(kind: str, tmp_path: Path) -> None:
    assert count_batches(examples().lengths, 128) == 3
    # two ranks with two batches each per step, one of the four empty; one process with all three
    two_ranks(tmp_path / "two", kind)
    alone = settings(accumulation=3, epochs=4, kind=kind).model_copy(update={"fsdp": False})
    summary = run(alone, model_of(kind), examples(), tmp_path / "one", new_ids=FAST_TOKENS)
    # frozen random weights around the adapters: what they learn from noise helps nothing
    assert summary["best_step"] == (1 if kind == "fsdp-lora" else 4)
    for key in ("loss", "eval_loss", "grad_norm"):
        one, two = dict(logged(tmp_path / "one", key)), dict(logged(tmp_path / "two", key))
        assert one.keys() == two.keys()
        assert list(two.values()) == pytest.approx(list(one.values()), rel=1e-5)
    sharded = kind.startswith("fsdp")
    newest = tmp_path / "two" / "checkpoints" / "checkpoint-4"
    best = weights(tmp_path / "two" / "best" if sharded else newest, kind)
    for name, value in weights(tmp_path / "one" / "checkpoints" / f"checkpoint-{summary['best_step']}", kind).items():
        torch.testing.assert_close(best[name], value, rtol=0, atol=1e-6, msg=name)
    # interrupted at the end, the ranks go on from the checkpoint before
    shutil.rmtree(newest)
    shutil.rmtree(tmp_path / "two" / "best", ignore_errors=True)
    two_ranks(tmp_path / "two", kind)
    again = weights(tmp_path / "two" / "best" if sharded else newest, kind)
    assert all(torch.equal(again[name], value) for name, value in best.items())


@pytest.mark.slow
def test_fsdp_shards_the_weights_and_computes_logits_at_response_positions_only(tmp_path: Path) -> None:
    two_ranks(tmp_path / "two", "fsdp", epochs=1)
    facts = [json.loads((tmp_path / f"two.rank{rank}.json").read_text(encoding="utf-8")) for rank in (0, 1)]
    # accelerate on a CPU falls back to DDP without a word: then no weight is a DTensor and every rank has all of them
    assert [fact["dtensors"] for fact in facts] == [True, True]
    assert [fact["share"] for fact in facts] == pytest.approx([0.5, 0.5], abs=0.05)
    for rank, fact in enumerate(facts):
        training = fact["rows"][:2]
        assert sum(training) == trained_rows(rank, epochs=1)
    assert sum(facts[0]["rows"][:2] + facts[1]["rows"][:2]) == int((examples().lengths - 3).sum())


@pytest.mark.slow
def test_rank_0_alone_reads_the_weights_and_the_gathered_folder_is_an_ordinary_one(tmp_path: Path) -> None:
    model_of("ddp").save_pretrained(tmp_path / "two.base")
    two_ranks(tmp_path / "two", "fsdp-load", epochs=1)
    facts = [json.loads((tmp_path / f"two.rank{rank}.json").read_text(encoding="utf-8")) for rank in (0, 1)]
    assert [fact["loaded"] for fact in facts] == [True, False]
    gathered = AutoModelForCausalLM.from_pretrained(tmp_path / "two" / "best", use_safetensors=True)
    model = model_of("ddp")
    run(settings(accumulation=3, epochs=1), model, examples(), tmp_path / "one")
    ids = torch.arange(20)[None]
    with torch.inference_mode():
        torch.testing.assert_close(gathered(ids).logits, model(ids).logits, rtol=0, atol=1e-5)
    assert not list((tmp_path / "two").glob(".best*"))
