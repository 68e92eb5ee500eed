"""Options that several commands have; standard library only, so that `--help` answers at once."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_recipe(parser: argparse.ArgumentParser, note: str = "", optional: bool = False) -> None:
    """Add the recipe, `--set` and `--threads`."""
    text = "YAML recipe, or the name of a shipped one" + (": work in its run folder" if optional else "")
    parser.add_argument("recipe", type=Path, nargs="?" if optional else None, help=text)
    parser.add_argument(
        "--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE",
        help="override a value of the recipe, for example train_sft.lora.rank=8 or prepare.sources.0.path=a.jsonl "
        "(repeatable)" + note,
    )  # fmt: skip
    add_threads(parser)


def add_threads(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--threads", type=int, metavar="N", help="CPU threads to compute with (default: chosen)")


def add_skip_bad_records(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--skip-bad-records", dest="overrides", action="append_const", const="prepare.skip_bad_records=true",
        help="count and list malformed records of the sources instead of stopping",
    )  # fmt: skip


def add_columns(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--columns", metavar="NAME=COLUMN,…",
        help="what is read -> the data's column of another name: prompt=player,response=reply,rating.humor=funny",
    )  # fmt: skip


def add_attributes(parser: argparse.ArgumentParser, default: str | None = None) -> None:
    text = "schema preset (oasst, helpsteer, steerlm, paper) or YAML file with a list"
    parser.add_argument(
        "--attributes", default=default, help=text + ("" if default is None else f" (default: {default})")
    )


def add_out_and_seed(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, help="folder to write to")
    parser.add_argument("--seed", type=int, default=0, help="seed of every random choice (default: %(default)s)")


def add_training(parser: argparse.ArgumentParser) -> None:
    """Add what both training commands take in place of a recipe."""
    parser.add_argument("--base-model", help="Hugging Face id or local folder")
    parser.add_argument("--train", type=Path, help="training conversations, JSONL")
    parser.add_argument("--validation", type=Path, help="validation conversations, JSONL")
    add_attributes(parser)
    add_out_and_seed(parser)


def add_tuning(parser: argparse.ArgumentParser) -> None:
    """Add what a further fine-tuning of a steerable model takes in place of a recipe."""
    parser.add_argument("--sft-model", type=Path, help="steerable checkpoint to start from")
    parser.add_argument("--attribute-model", type=Path, help="attribute model that scores the answers")
    parser.add_argument("--data", type=Path, help="annotated training conversations, JSONL")
    parser.add_argument("--validation", type=Path, help="annotated validation conversations, JSONL")
    add_out_and_seed(parser)


def add_cluster(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--ray", metavar="ADDRESS",
        help="work on a Ray cluster: local (all of this machine), auto (the one it belongs to) or HOST:PORT",
    )  # fmt: skip
    parser.add_argument("--workers", type=int, help="engines on the cluster (default: one per GPU or CPU slot)")


def add_sampling(parser: argparse.ArgumentParser) -> None:
    """Add how answers are drawn."""
    parser.add_argument("--max-new-tokens", type=int, default=512, help="longest answer (default: %(default)s)")
    parser.add_argument("--temperature", type=float, default=0.7, help="0 = greedy (default: %(default)s)")
    parser.add_argument("--top-k", type=int, default=50, help="0 = all tokens (default: %(default)s)")
