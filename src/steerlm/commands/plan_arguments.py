"""The arguments of `steerlm plan`: standard library only, so that `--help` answers at once."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_plan(parser: argparse.ArgumentParser) -> None:
    """Add the arguments to the subcommand's parser."""
    parser.add_argument("recipe", type=Path, help="YAML recipe, or the name of a shipped one")
    parser.add_argument(
        "--gpus", metavar="COUNTxDEVICE",
        help="devices in each node: H100, H200, A100-40GB, A100-80GB, L40S or RTX4090, for example 8xH100 "
        "(default: this machine)",
    )  # fmt: skip
    parser.add_argument("--nodes", type=int, default=1, help="how many such nodes (default: %(default)s)")
    parser.add_argument("--price-per-gpu-hour", type=float, metavar="X", help="adds what every step costs")
    parser.add_argument(
        "--tokens", metavar="N", help="tokens of one pass over the training data, for example 120M (default: read it)"
    )
