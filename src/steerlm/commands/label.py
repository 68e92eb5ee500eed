"""Label data by a measure, a classifier, a judge or people; in a recipe: let the judge rate."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from steerlm.commands import common, inputs, options, terminal
from steerlm.errors import UserError

if TYPE_CHECKING:
    from steerlm.attributes import AttributeSchema

_DATA = (".jsonl", ".json", ".csv", ".tsv", ".parquet", ".gz")
"""How names of data end; a recipe's does not."""


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("what", type=Path, help="conversations, JSONL; without --with: a recipe, whose judge rates")
    parser.add_argument("--attributes", help="YAML file (or recipe) that says who says each attribute")
    tellers = ("measure", "classifier", "judge", "people")
    parser.add_argument("--with", dest="teller", choices=tellers, help="who labels")
    parser.add_argument("--out", type=Path, help="folder to write to; with people: of the study that they work on")
    parser.add_argument(
        "--num", type=int, help="judge, people: turns to rate, those that tell most about the others (default: all)"
    )
    parser.add_argument("--base-url", help="judge: OpenAI-compatible endpoint (default: OPENAI_BASE_URL)")
    parser.add_argument("--model", help="judge: its name (default: STEERLM_JUDGE_MODEL); its key is OPENAI_API_KEY")
    parser.add_argument("--yes", action="store_true", help="judge: do not ask before it costs money")
    parser.add_argument(
        "--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE",
        help="override a value of the recipe, or a field of the section label (repeatable)",
    )  # fmt: skip
    options.add_threads(parser)


def run(arguments: argparse.Namespace) -> int:
    """Label a file, or do the stage of a recipe."""
    if arguments.teller is None:
        if arguments.attributes is not None or arguments.out is not None or arguments.what.suffix in _DATA:
            raise UserError(
                f"--with is missing: who labels {arguments.what} (measure, classifier, judge or people)? Only a recipe "
                "is given alone: its judge rates"
            )
        arguments.recipe = arguments.what
        return common.run_in_recipe(common.checked_recipe(arguments, "label"), "label")
    data = inputs.conversations_file(arguments.what, "DATA")
    schema = common.schema_of(arguments.attributes)
    out: Path = common.needed(arguments, "out")
    common.at_least("--num", arguments.num, 1)
    if arguments.teller == "people":
        return _ask_people(data, schema, out, arguments.num)
    works: dict[str, Callable[[], common.Summary]] = {
        "measure": lambda: _by_dials(data, schema, out, "measure"),
        "classifier": lambda: _by_dials(data, schema, out, "classifier"),
        "judge": lambda: _by_judge(arguments, data, schema, out),
    }
    return common.run_alone("label", out, works[arguments.teller])


def _by_dials(data: Path, schema: AttributeSchema, out: Path, teller: str) -> common.Summary:
    from steerlm.config import AnnotateConfig
    from steerlm.scorers.dials import check_dials
    from steerlm.stages.annotate.stage import annotate
    from steerlm.stages.label import only_said_by, projected
    from steerlm.stages.prepare.dials import fit_schema

    asked = only_said_by(schema, teller)
    check_dials(asked)
    with projected(data, schema, out) as copy:
        dials = fit_schema(copy, asked, out)
        fitted = schema.with_cuts(dials["cuts"])
        found = annotate(AnnotateConfig(), [copy], None, out, schema=asked.with_cuts(dials["cuts"]))
    from steerlm.storage.files import write_json

    write_json(out / "schema.json", fitted.to_dict())
    # who would say the others, not that anybody did
    found = {**found, "said_by": {a.name: a.measure or teller for a in schema if a.said_by == teller}}
    waiting = {a.name: a.said_by for a in schema if a.said_by != teller and found["missing"][a.name]}
    write_json(out / "summary.json", {**found, "waiting": waiting})
    return {**found, "waiting": waiting, "dials": dials}


def _by_judge(arguments: argparse.Namespace, data: Path, schema: AttributeSchema, out: Path) -> common.Summary:
    from steerlm.config import LabelConfig
    from steerlm.stages.label import check_judge, label, projected, with_ratings

    config = common.section_of(arguments.overrides, LabelConfig, "label")
    named = {"base_url": arguments.base_url, "model": arguments.model}
    config = config.model_copy(update={key: value for key, value in named.items() if value is not None})
    check_judge(config, out)
    with projected(data, schema, out) as copy:
        return label(config, with_ratings(schema, arguments.num), [copy], out, out, _agree(arguments.yes))


def _agree(yes: bool) -> Callable[[str], bool]:
    from steerlm.studies.judge.printing import consents

    def agree(cost: str) -> bool:
        terminal.say(cost)
        if yes or cost.startswith("0 requests"):
            return True
        return consents("give --yes")

    return agree


def _ask_people(data: Path, schema: AttributeSchema, out: Path, number: int | None) -> int:
    from steerlm.commands.rate import new_rating_study

    if schema.learned is None:
        raise UserError("no attribute is left to people: each has a measure or a classifier")
    return new_rating_study(data, schema.learned, out, number)
