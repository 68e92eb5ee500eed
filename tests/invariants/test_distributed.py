"""Two ranks = one: the same loss and the same weights, even where a rank runs out of batches."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from steerlm.training.batching import count_batches
from tests.invariants.ranks import examples, settings
from tests.small_training import language_model, logged, run

ROOT = Path(__file__).resolve().parents[2]


def two_ranks(out: Path, kind: str) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", str(port)]
    arguments = ["-m", "tests.invariants.ranks", str(out), "2", "4", kind]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [*command, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_two_ranks_train_like_one(kind: str, tmp_path: Path) -> None:
    assert count_batches(examples().lengths, 128) == 3
    # two ranks with two batches each per step, one of the four empty; one process with all three
    two_ranks(tmp_path / "two", kind)
    summary = run(settings(accumulation=3, epochs=4), language_model(), examples(), tmp_path / "one")
    assert summary["best_step"] == 4
    for key in ("loss", "eval_loss", "grad_norm"):
        one, two = dict(logged(tmp_path / "one", key)), dict(logged(tmp_path / "two", key))
        assert one.keys() == two.keys()
        assert list(two.values()) == pytest.approx(list(one.values()), rel=1e-5)
    newest = tmp_path / "two" / "checkpoints" / "checkpoint-4"
    best = weights(tmp_path / "two" / "best" if kind == "fsdp" else newest)
    for name, value in weights(tmp_path / "one" / "checkpoints" / "checkpoint-4").items():
        torch.testing.assert_close(best[name], value, rtol=0, atol=1e-6, msg=name)
    # interrupted at the end, the ranks go on from the checkpoint before
    shutil.rmtree(newest)
    shutil.rmtree(tmp_path / "two" / "best", ignore_errors=True)
    two_ranks(tmp_path / "two", kind)
    again = weights(tmp_path / "two" / "best" if kind == "fsdp" else newest)
    assert all(torch.equal(again[name], value) for name, value in best.items())
