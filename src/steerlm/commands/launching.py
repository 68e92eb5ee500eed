"""`--nproc N`: the command starts itself again in N processes, one per device of this machine."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from steerlm.commands import common
from steerlm.errors import UserError, refuse_ranks

if TYPE_CHECKING:
    from steerlm.config import TrainingSection


_TRAINING = ("train-attribute-model", "train-sft", "bootstrap", "refine", "contrast")
"""Commands that several processes may run together."""


def refuse_ranks_of(command: str) -> None:
    """Refuse commands whose processes would write the same files; see `errors.refuse_ranks`."""
    if command not in _TRAINING:
        refuse_ranks(f"steerlm {command}", f"these are for {', '.join(_TRAINING)}")


def add_nproc(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--nproc", type=int, metavar="N",
        help="train in N processes, one per device of this machine: starts accelerate launch (fsdp, deepspeed) or "
        "torchrun with this command; for several machines start these yourself (docs/cluster.md)",
    )  # fmt: skip


def relaunched(arguments: argparse.Namespace, section: TrainingSection) -> int | None:
    """Start the command in as many processes as `--nproc` says, and return their exit status.

    Args:
        arguments: of the command; checked as far as possible without computing.

    Returns:
        None where this process shall do the work itself: no `--nproc`, or one of the processes.

    Raises:
        UserError: fewer devices than processes.
    """
    count = arguments.nproc
    common.at_least("--nproc", count, 1)
    if count is None or "WORLD_SIZE" in os.environ:
        return None
    import torch

    devices = torch.accelerator.device_count() if torch.accelerator.is_available() else None
    if devices is not None and count > devices:
        raise UserError(f"--nproc {count}: this machine shows {devices} device(s)")
    if devices is None and section.sharded:
        raise UserError(f"--nproc {count}: fsdp and deepspeed shard over GPUs, and this machine shows none")
    return subprocess.run([*launcher(section, count), *_without_nproc(arguments.argv)], check=False).returncode


def launcher(section: TrainingSection, count: int) -> list[str]:
    """Return what starts `steerlm` in `count` processes of this machine, as the section trains; arguments follow."""
    if not section.sharded:
        start = ["torch.distributed.run", "--standalone", "--nproc-per-node", str(count)]
        return [sys.executable, "-m", *start, "-m", "steerlm"]
    start = ["accelerate.commands.launch", "--num_machines", "1", "--num_processes", str(count)]
    start += ["--mixed_precision", "no" if section.precision == "fp32" else "bf16", "--dynamo_backend", "no"]
    if section.deepspeed is not None:
        start += ["--use_deepspeed", "--deepspeed_config_file", str(section.deepspeed), "--zero3_init_flag", "false"]
    else:
        # the values of recipes/accelerate/fsdp2.yaml
        start += ["--use_fsdp", "--fsdp_version", "2", "--fsdp_auto_wrap_policy", "TRANSFORMER_BASED_WRAP"]
        start += ["--fsdp_reshard_after_forward", "true", "--fsdp_state_dict_type", "SHARDED_STATE_DICT"]
        start += ["--fsdp_cpu_ram_efficient_loading", "true"]
    return [sys.executable, "-m", *start, "--module", "steerlm"]


def _without_nproc(argv: Sequence[str]) -> list[str]:
    """Return the command line without `--nproc N`, which torchrun would take for an option of its own."""
    kept: list[str] = []
    words = iter(argv)
    for word in words:
        option, equals, _ = word.partition("=")
        if len(option) > len("--n") and "--nproc".startswith(option):  # argparse takes abbreviations
            if not equals:
                next(words, None)
        else:
            kept.append(word)
    return kept
