"""Import, deduplicate, split and leak-check the data."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from steerlm.commands import common
from steerlm.errors import UserError


def add(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    common.add_recipe(parser, "; without a recipe: a field of the section prepare", optional=True)
    parser.add_argument("--source", action="append", default=[], metavar="FORMAT:PATH", help="a data file (repeatable)")
    common.add_skip_bad_records(parser)
    common.add_attributes(parser)
    common.add_out_and_seed(parser)


def run(arguments: argparse.Namespace) -> int:
    """Prepare the data of a recipe, or of the files named."""
    if arguments.recipe is not None:
        return common.run_in_recipe(arguments, "prepare")
    from steerlm.config import PrepareConfig

    sources: list[dict[str, str]] = []
    for text in arguments.source:
        source_format, colon, path = text.partition(":")
        if not colon:
            raise UserError(f"--source {text!r} is not of the form FORMAT:PATH, for example messages:chats.jsonl")
        name = re.sub(r"[^A-Za-z0-9_-]+", "-", Path(path).resolve().name.split(".")[0]) or "data"
        taken = [source["name"] for source in sources]
        name = name if name not in taken else f"{name}-{len(taken)}"
        sources.append({"name": name, "format": source_format, "path": path})
    out = common.needed(arguments, "out")
    config = common.section_of(arguments.overrides, PrepareConfig, "prepare", sources=sources)
    for source in config.sources:
        if source.path is not None and not source.path.exists():
            raise UserError(f"--source {source.format}:{source.path}: no such file or folder")
    schema = common.schema_of(arguments.attributes)
    from steerlm.stages.prepare.stage import prepare

    return common.run_alone("prepare", out, lambda: prepare(config, schema, out, arguments.seed))
