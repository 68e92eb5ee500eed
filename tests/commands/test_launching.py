"""`--nproc`: what is started, and that it is refused where it cannot work."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed.run
from accelerate.commands.launch import launch_command_parser

from steerlm.__main__ import main
from steerlm.commands import launching
from steerlm.config import TrainingSection
from steerlm.errors import UserError
from tests.stages.bootstrap.test_bootstrap import world as world

PLAIN = TrainingSection(base_model="m")
FSDP = TrainingSection(base_model="m", fsdp=True)


def arguments(nproc: int | None) -> argparse.Namespace:
    return argparse.Namespace(nproc=nproc, argv=["train-sft", "recipe.yaml", "--nproc", str(nproc)])


def test_sharded_trainings_are_started_as_the_shipped_file_says() -> None:
    python, flag, module, *rest = launching.launcher(FSDP, 8)
    assert (python, flag, module) == (sys.executable, "-m", "accelerate.commands.launch")
    parsed = launch_command_parser().parse_args([*rest, "train-sft", "recipe.yaml"])
    assert (parsed.num_processes, parsed.num_machines, parsed.mixed_precision) == (8, 1, "bf16")
    assert (parsed.use_fsdp, str(parsed.fsdp_version), parsed.fsdp_cpu_ram_efficient_loading) == (True, "2", "true")
    assert (parsed.module, parsed.training_script) == (True, "steerlm")
    assert parsed.training_script_args == ["train-sft", "recipe.yaml"]
    zero = TrainingSection(base_model="m", deepspeed=Path("zero3.json"), precision="fp32")
    parsed = launch_command_parser().parse_args([*launching.launcher(zero, 2)[3:], "train-sft"])
    assert (parsed.use_deepspeed, parsed.deepspeed_config_file, parsed.mixed_precision) == (True, "zero3.json", "no")


def test_one_process_works_itself_and_the_processes_start_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[list[str]] = []

    def run(command: list[str], check: bool) -> subprocess.CompletedProcess[str]:
        started.append(command)
        return subprocess.CompletedProcess(command, 7)

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert launching.relaunched(arguments(None), PLAIN) is None
    assert launching.relaunched(arguments(2), PLAIN) == 7
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert launching.relaunched(arguments(2), PLAIN) is None
    assert started == [[*launching.launcher(PLAIN, 2), "train-sft", "recipe.yaml"]]


@pytest.mark.parametrize("given", [["--nproc", "2"], ["--nproc=2"], ["--np", "2"]])
def test_the_launcher_does_not_see_the_option(given: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[list[str]] = []
    monkeypatch.setattr(
        subprocess, "run", lambda command, check: started.append(command) or subprocess.CompletedProcess(command, 0)
    )
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    words = ["bootstrap", "--out", "x", *given, "--set", "epochs=1"]
    launching.relaunched(argparse.Namespace(nproc=2, argv=words), PLAIN)
    assert started[0][-5:] == ["bootstrap", "--out", "x", "--set", "epochs=1"]
    # torchrun's own parser takes all of it for the script's
    parsed = torch.distributed.run.get_args_parser().parse_args(started[0][3:])
    assert parsed.training_script_args == started[0][-5:]
    assert (parsed.nproc_per_node, parsed.training_script, parsed.module) == ("2", "steerlm", True)


def test_what_writes_alone_is_refused_in_several_processes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(["evaluate", "--out", "x"]) == 2
    assert "steerlm evaluate works in one process, but WORLD_SIZE is 2" in capsys.readouterr().err
    assert main(["train-sft", "no such recipe"]) == 2
    assert "WORLD_SIZE" not in capsys.readouterr().err


def test_what_cannot_be_started_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with pytest.raises(UserError, match="--nproc must be at least 1"):
        launching.relaunched(arguments(0), PLAIN)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    with pytest.raises(UserError, match="shard over GPUs, and this machine shows none"):
        launching.relaunched(arguments(2), FSDP)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 1)
    with pytest.raises(UserError, match=r"--nproc 2: this machine shows 1 device"):
        launching.relaunched(arguments(2), PLAIN)


@pytest.mark.slow
def test_bootstrapping_in_two_processes_prepares_once_and_trains_in_both(
    world: dict[str, object], tmp_path: Path
) -> None:
    given = {
        "--sft-model": world["sft_model"], "--attribute-model": world["attribute_model"], "--data": world["data"],
        "--validation": world["validation"], "--out": tmp_path / "out", "--nproc": 2,
    }  # fmt: skip
    changes = ["mode=paper", "samples_per_prompt=3", "max_new_tokens=40", "temperature=1.4", "epochs=1", "batch_size=4"]
    changes += ["train_sft.max_length=128", "train_sft.precision=fp32"]
    words = [str(word) for pair in given.items() for word in pair]
    words += [word for change in changes for word in ("--set", change)]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    environment.pop("WORLD_SIZE", None)
    command = [sys.executable, "-m", "steerlm", "bootstrap", *words]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    claimed = json.loads((tmp_path / "out" / "round-1" / "train" / "checkpoints" / "inputs.json").read_text())
    assert claimed["processes"] == 2
    assert json.loads((tmp_path / "out" / "done.json").read_text())["summary"]["rounds"][0]["training"]["steps"] >= 1
    assert (tmp_path / "out" / "model" / "model.safetensors").is_file()
