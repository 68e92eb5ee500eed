"""Build training pairs for rewriting by hindsight: what a text became is taken for what was asked."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from steerlm.commands import common, inputs, named_models, options, terminal
from steerlm.errors import UserError

if TYPE_CHECKING:
    from steerlm.stages.pairs.stage import Related

_EPILOG = """\
pairs.jsonl is a source of prepare like any other (format: messages), and attributes.yaml the schema of its recipe:
  steerlm pairs --texts a.jsonl --texts b.jsonl --edits --out pairs
  steerlm pairs --rewrites bench/answers/base-words.jsonl --out pairs       what a model rewrote for SteerBench
"""


def add(parser: argparse.ArgumentParser) -> None:
    parser.epilog = _EPILOG
    parser.add_argument(
        "--texts", type=Path, action="append", default=[],
        help="answers with ids, any layout; texts with one id in several files are related (repeatable)",
    )  # fmt: skip
    parser.add_argument("--edits", action="store_true", help="pair every text with edits of it by rule, there and back")
    parser.add_argument(
        "--rewrites", type=Path, action="append", default=[],
        help="conversations whose user turn is an instruction, a blank line and a text, and whose answer rewrites it",
    )  # fmt: skip
    parser.add_argument(
        "--attributes",
        help="schema preset or YAML file; measured attributes need no model (default: SteerBench's four goals)",
    )
    parser.add_argument("--attribute-model", type=Path, help="says the attributes that nothing measures")
    parser.add_argument(
        "--min-overlap", type=float, default=0.3,
        help="content words that two texts must share to be a rewrite, 0 to 1 (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--num-pairs", type=int,
        help="draw so many, evenly over where texts come from and go to (default: all)",
    )  # fmt: skip
    options.add_out_and_seed(parser)


def run(arguments: argparse.Namespace) -> int:
    """Make the pairs and say what is in them."""
    common.at_least("--num-pairs", arguments.num_pairs, 1)
    if not 0 <= arguments.min_overlap <= 1:
        raise UserError(f"--min-overlap must be 0 to 1, got {arguments.min_overlap}")
    if not arguments.texts and not arguments.rewrites:
        raise UserError("nothing to pair: give --texts or --rewrites")
    for path in arguments.texts:
        inputs.lines_file(path, "--texts")
    for path in arguments.rewrites:
        inputs.conversations_file(path, "--rewrites")
    if arguments.attribute_model is not None:
        arguments.attribute_model = named_models.attribute_model(arguments.attribute_model, "--attribute-model")
    out = arguments.out
    if out is None:
        raise UserError("--out is missing: the folder to write to")

    def work() -> common.Summary:
        from steerlm.scorers.goal_measures import goal_schema
        from steerlm.stages.pairs.stage import PairsPlan, make_pairs

        schema = goal_schema() if arguments.attributes is None else common.schema_of(arguments.attributes)
        plan = PairsPlan(
            schema,
            arguments.attribute_model,
            arguments.edits,
            arguments.min_overlap,
            arguments.num_pairs,
            arguments.seed,
        )
        return make_pairs(plan, _texts(arguments.texts), _rewrites(arguments.rewrites), out)

    common.run_alone("pairs", out, work)
    terminal.say(
        f"next     {out / 'pairs.jsonl'} as a source of prepare, {out / 'attributes.yaml'} as the recipe's schema"
    )
    return 0


def _texts(paths: Sequence[Path]) -> dict[str, list[str]]:
    """Return the texts by their question."""
    from steerlm.studies.judge.formats import read_answers

    found: dict[str, list[str]] = {}
    for path in paths:
        for key, turns in read_answers(path, path.stem).answers.items():
            found.setdefault(key, []).append(turns[0])
    return found


def _rewrites(paths: Sequence[Path]) -> list[Related]:
    """Return a model's own rewrites with their sources."""
    from steerlm.conversation import read_conversations
    from steerlm.stages.pairs.stage import Related

    found = []
    for path in paths:
        for record in read_conversations(path):
            *before, said = record.messages
            source = before[-1].content.partition("\n\n")[2] if before else ""
            if said.role != "assistant" or not source.strip():
                raise UserError(
                    f"{path}: conversation {record.id!r} is no rewrite; its user turn should be an instruction, a "
                    "blank line and a text"
                )
            found.append(Related(f"{path.stem}/{record.id.partition('/')[0]}", source, said.content, "rewrite"))
    return found
