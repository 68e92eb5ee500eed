"""The options of `steerlm evaluate --suite steerbench`, and the run of that benchmark."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from steerlm.commands import common, terminal
from steerlm.errors import UserError

if TYPE_CHECKING:
    from steerlm.results.steerbench import Mode
    from steerlm.studies.compare.systems import System
    from steerlm.studies.steerbench.probe import Probe
    from steerlm.studies.steerbench.study import TextMeasures

_MODES = ("words", "dials")


def add(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(
        "suite steerbench",
        "Rewriting: --model takes what `steerlm compare` takes (a steerable model, any chat model, URL#MODEL, a file).",
    )
    group.add_argument("--probe", type=Path, help="a copy of the published probe, CSV")
    group.add_argument(
        "--texts", type=Path, action="append", default=[],
        help="without it: files of answers to draw source texts from (repeatable)",
    )  # fmt: skip
    group.add_argument(
        "--mode", nargs="+", choices=_MODES, default=list(_MODES),
        help="ask in the benchmark's words, by dials, or (default) both where a model has the dials",
    )  # fmt: skip
    group.add_argument(
        "--bounds", choices=("published", "fitted"), default="published",
        help="what is 0 and 1: the benchmark's own values, or percentiles of --texts (default: %(default)s)",
    )  # fmt: skip
    group.add_argument("--num-texts", type=int, default=64, help="source texts (default: %(default)s)")
    group.add_argument("--num-goals", type=int, default=32, help="requests per text (default: %(default)s)")
    group.add_argument("--active", type=int, default=3, help="goals that a request moves (default: %(default)s)")
    group.add_argument("--max-tokens", type=int, default=4096, help="longest rewrite (default: %(default)s)")
    group.add_argument("--real-words", type=Path, help="words that count for the diversity, one a line (default: all)")


def run(arguments: argparse.Namespace) -> int:
    """Run the benchmark and print its table."""
    from steerlm.reporting.report import write_report

    for name in ("num_texts", "num_goals", "max_tokens"):
        common.at_least(f"--{name.replace('_', '-')}", getattr(arguments, name), 1)
    if (arguments.probe is None) == (not arguments.texts):
        raise UserError("suite 'steerbench': give --probe (the published CSV), or --texts to draw source texts from")
    for path, option in [(arguments.probe, "--probe"), *((path, "--texts") for path in arguments.texts)]:
        if path is not None:
            common.existing_file(path, option)
    with _place(arguments) as (systems, out):
        _run(arguments, systems, out)
        terminal.say(f"report   {write_report(out)}")
    return 0


@contextlib.contextmanager
def _place(arguments: argparse.Namespace) -> Iterator[tuple[list[System], Path]]:
    """Yield what is asked and where its answers go: in a run's folder, or in `--out`."""
    from steerlm.studies.compare.systems import parse_system

    if arguments.recipe is None:
        out = common.needed(arguments, "out")
        systems = [parse_system(text) for text in arguments.model]
        with common.held_folder(out):
            yield systems, out
        return
    with common.opened_run(common.recipe_of(arguments)) as folder:
        models = common.finished_models(folder)
        out = folder.stage("evaluate") / "suites" / "steerbench"
        yield [parse_system(f"{name}={path}") for name, path in models.items()], out


def _run(arguments: argparse.Namespace, systems: Sequence[System], out: Path) -> None:
    from steerlm.reporting.steerbench import steerbench_table
    from steerlm.reporting.terminal import print_table
    from steerlm.scorers.goal_measures import GoalMeasures
    from steerlm.studies.compare.answering import AnswerSampling
    from steerlm.studies.names import require_distinct_names
    from steerlm.studies.steerbench.study import TextMeasures, steerbench

    require_distinct_names((system.name for system in systems), "models", "give each its own: --model NAME=…")
    real_words = None
    if arguments.real_words is not None:
        lines = common.existing_file(arguments.real_words, "--real-words").read_text(encoding="utf-8").splitlines()
        real_words = frozenset(line.strip().lower() for line in lines)
    measures = TextMeasures(GoalMeasures(real_words))
    modes: tuple[Mode, ...] = tuple(arguments.mode)
    result = steerbench(
        systems,
        _probe(arguments, measures, out),
        measures,
        out,
        modes=modes,
        generation=AnswerSampling(max_new_tokens=arguments.max_tokens, temperature=0),
        seed=arguments.seed,
    )
    titles: dict[Mode, str] = {
        "reference": "rules",
        "words": "asked in words",
        "dials": "asked by dials (told the target; does not compare with published figures)",
    }
    for mode, title in titles.items():
        header, *rows = steerbench_table(result, mode)
        if rows:
            print_table(terminal.console(), f"steerbench, {title}: median (interquartile range)", header, rows)
    for line in result.cautions:
        terminal.note("[yellow]note[/yellow]", line)


def _probe(arguments: argparse.Namespace, measures: TextMeasures, out: Path) -> Probe:
    from steerlm.studies.steerbench.probe import read_probe
    from steerlm.studies.steerbench.study import ProbeSize, probe_of_texts

    if arguments.probe is not None:
        return read_probe(arguments.probe)
    size = ProbeSize(arguments.num_texts, arguments.num_goals, arguments.active)
    fitted = arguments.bounds == "fitted"
    return probe_of_texts(arguments.texts, measures, out, size=size, fitted=fitted, seed=arguments.seed)
