"""Import, deduplicate, split and leak-check the data."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import TYPE_CHECKING

from steerlm.commands import common, options, terminal
from steerlm.errors import UserError

if TYPE_CHECKING:
    from steerlm.attributes import AttributeSchema
    from steerlm.config import HeaderMarks, Recipe, TemplateName
    from steerlm.template.conversation_encoder import ConversationEncoder


def add(parser: argparse.ArgumentParser) -> None:
    options.add_recipe(parser, "; without a recipe: a field of the section prepare", optional=True)
    parser.add_argument("--source", action="append", default=[], metavar="FORMAT:PATH", help="a data file (repeatable)")
    options.add_columns(parser)
    parser.add_argument(
        "--show", type=int, default=0, metavar="N", help="print N random records as the model will see them"
    )
    options.add_skip_bad_records(parser)
    options.add_attributes(parser)
    options.add_out_and_seed(parser)


def run(arguments: argparse.Namespace) -> int:
    """Prepare the data of a recipe, or of the files named."""
    if arguments.show < 0:
        raise UserError(f"--show must not be negative, got {arguments.show}")
    if arguments.recipe is not None:
        if arguments.columns is not None:
            raise UserError("--columns is for --source; in a recipe the columns stand in prepare.sources")
        recipe = common.recipe_of(arguments)
        code = common.run_in_recipe(common.checked_recipe(arguments, "prepare"), "prepare")
        if arguments.show:
            _show(
                recipe.run_dir / "prepare",
                recipe.schema_,
                _shown_template(recipe),
                arguments.show,
                recipe.seed,
                recipe.train_sft.header,
            )
        return code
    from steerlm.config import PrepareConfig
    from steerlm.sources import parse_columns

    columns = parse_columns(arguments.columns) if arguments.columns else {}
    sources: list[dict[str, object]] = []
    for text in arguments.source:
        source_format, colon, path = text.partition(":")
        if not colon:
            raise UserError(f"--source {text!r} is not of the form FORMAT:PATH, for example messages:chats.jsonl")
        name = re.sub(r"[^A-Za-z0-9_-]+", "-", Path(path).resolve().name.split(".")[0]) or "data"
        taken = [source["name"] for source in sources]
        name = name if name not in taken else f"{name}-{len(taken)}"
        sources.append({"name": name, "format": source_format, "path": path, "columns": columns})
    out = common.needed(arguments, "out")
    config = common.section_of(arguments.overrides, PrepareConfig, "prepare", sources=sources)
    for source in config.sources:
        if source.path is not None and not source.path.exists():
            raise UserError(f"--source {source.format}:{source.path}: no such file or folder")
    schema = common.schema_of(arguments.attributes)
    from steerlm.stages.prepare.stage import prepare

    code = common.run_alone("prepare", out, lambda: prepare(config, schema, out, arguments.seed))
    _show(out, schema, "steerlm", arguments.show, arguments.seed)
    return code


def _shown_template(recipe: Recipe) -> TemplateName | ConversationEncoder:
    """Return the template that `train-sft` will install, the model's own in its encoder."""
    section = recipe.train_sft
    if section.template != "auto" and section.template != "native":
        return section.template
    if not Path(section.base_model).is_dir():
        terminal.say(f"shown in the template steerlm: {section.base_model} is no local folder, its own is not at hand")
        return "steerlm"
    from steerlm.checkpoint.models import load_tokenizer
    from steerlm.template.installing import chosen_template
    from steerlm.training.base_encoder import open_encoder

    chosen = chosen_template(load_tokenizer(section.base_model), section.template)
    return open_encoder(section, recipe.schema_).encoder if chosen == "native" else chosen


def _show(
    out: Path,
    schema: AttributeSchema,
    template: TemplateName | ConversationEncoder,
    count: int,
    seed: int,
    header: HeaderMarks = "levels",
) -> None:
    """Print a few prepared records; what is trained stands in ⟦ ⟧."""
    if count:
        from steerlm.attributes import AttributeSchema
        from steerlm.stages.prepare.dials import SCHEMA_FILE
        from steerlm.stages.prepare.show import show
        from steerlm.storage.files import read_json

        if (out / SCHEMA_FILE).is_file():  # with the cuts of what is measured
            schema = AttributeSchema.from_dict(read_json(out / SCHEMA_FILE))
        for record in show(out / "train.jsonl", schema, template, count, seed, header):
            terminal.say(f"\n{record}")
        later = [attribute.name for attribute in schema if not attribute.measure]
        if later:
            names = ", ".join(later)
            terminal.say(
                f"\nof {names} the headers hold people's ratings so far; where `annotate` runs, it sets its own"
            )
