"""A gate for continuous integration: does an evaluation hold what is demanded of it?

    steerlm check runs/playground --require "humor.spearman>=0.9" --max-leak 0.15

A requirement is `ATTRIBUTE.FIGURE OP NUMBER` with OP one of >=, <=, > and <. Figures of an ordinal attribute: spearman,
spearman_per_prompt, monotonicity, mae, slope, exact, leak; of a categorical one: accuracy. `*` stands for all
that have the figure, and `answers.FIGURE` demands a figure of the answers at all settings, for example
`answers.label_leak<=0.01`. Whatever the results cannot show (an undefined correlation, nobody independent who measured
it) does not hold.
"""

from __future__ import annotations

import dataclasses
import math
import operator
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from steerlm.errors import UserError, did_you_mean
from steerlm.results.dials import Leak
from steerlm.results.evaluation import Evaluation, ScorerResult, read_evaluation
from steerlm.statistics.estimates import Estimate

Compare = Literal["estimate", "interval"]
_OPERATORS: dict[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}
_ORDINAL = ("spearman", "spearman_per_prompt", "monotonicity", "mae", "slope", "exact", "leak")
_CATEGORICAL = ("accuracy",)
_REQUIREMENT = re.compile(
    r"\s*(?P<name>\*|[a-z][a-z0-9_]*)\.(?P<figure>[a-z][a-z0-9_]*)\s*(?P<operator>>=|<=|>|<)\s*"
    r"(?P<bound>[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?)\s*",
    re.ASCII,
)


@dataclass(frozen=True)
class Requirement:
    """One demand, parsed: an attribute (`*` = every one, `answers` = the answers), a figure, a comparison."""

    name: str
    figure: str
    operator: str
    bound: float

    def __str__(self) -> str:
        return f"{self.name}.{self.figure}{self.operator}{self.bound:g}"


@dataclass(frozen=True)
class CheckedDemand:
    """One demand on one figure, and whether it holds.

    Attributes:
        what: the figure, for example `humor.spearman` or `leak of humor on quality`.
        demand: the comparison, for example `>=0.9`.
        found: the estimate and its interval, or why there is none.
        reason: why it does not hold although the figure may look fine; empty else.
    """

    what: str
    demand: str
    found: str
    holds: bool
    reason: str = ""


def parse_requirement(text: str) -> Requirement:
    """Parse one `--require`."""
    match = _REQUIREMENT.fullmatch(text)
    if match is None:
        raise UserError(
            f"--require {text!r} is not of the form ATTRIBUTE.FIGURE OP NUMBER with OP one of {', '.join(_OPERATORS)}, "
            'for example "humor.spearman>=0.9" (in quotes: the shell reads > and < itself)'
        )
    return Requirement(match["name"], match["figure"], match["operator"], float(match["bound"]))


def check(
    run_dir: Path,
    requirements: Sequence[Requirement],
    max_leak: float | None = None,
    compare: Compare = "estimate",
    model: str | None = None,
    scorer: str | None = None,
) -> list[CheckedDemand]:
    """Hold an evaluation against demands.

    Args:
        run_dir: a run folder, or a folder with a `results.json`.
        max_leak: the most that any dial may move any other attribute, in levels per level.
        compare: what must satisfy a demand: the `estimate`, or the unfavourable end of its 95 % `interval`.
        model: name of the model; None = the last one.
        scorer: id of the scorer; None = per attribute the first independent one. Named explicitly, the attribute model
            that labelled the training data may count too.

    Returns:
        One row per demand and figure; for `max_leak` one per dial and other attribute.

    Raises:
        UserError: nothing demanded, no results, or an unknown model, scorer, attribute or figure.
    """
    if not requirements and max_leak is None:
        raise UserError("nothing to check: give --require, --max-leak or both")
    if max_leak is not None and not max_leak >= 0:
        raise UserError(f"--max-leak {max_leak} must be 0 or more")
    results = read_evaluation(run_dir)
    if results is None:
        raise UserError(f"{run_dir} holds no results.json; run `steerlm evaluate` first")
    gate = _Gate(results, compare, model, scorer)
    rows = [row for requirement in requirements for row in gate.rows(requirement)]
    return [*rows, *(gate.leaks(max_leak) if max_leak is not None else [])]


class _Gate:
    """The figures of one model, and how demands are held against them."""

    def __init__(self, results: Evaluation, compare: Compare, model: str | None, scorer: str | None) -> None:
        self.compare = compare
        self.schema = results.attributes
        model = results.final if model is None else model
        if model not in results.models:
            raise UserError(f"no model {model!r}: {did_you_mean(model, results.models)}")
        self.result = results.models[model]
        self.scorers = {row.id: row for row in results.scorers}
        if scorer is not None and scorer not in self.scorers:
            raise UserError(f"no scorer {scorer!r}: {did_you_mean(scorer, self.scorers)}")
        self.scorer = scorer
        self.headline = results.headline_scorer

    def rows(self, requirement: Requirement) -> Iterator[CheckedDemand]:
        if requirement.name == "answers":
            yield self._of_answers(requirement)
            return
        if requirement.name == "*":
            names = [a.name for a in self.schema if requirement.figure in self._figures(a.name)]
            if not names:
                valid = dict.fromkeys(figure for name in self.schema.names for figure in self._figures(name))
                raise UserError(
                    f"{requirement}: no attribute has a figure {requirement.figure!r}: "
                    f"{did_you_mean(requirement.figure, valid)}"
                )
        else:
            self._attribute(requirement)
            names = [requirement.name]
        for name in names:
            yield self._of_attribute(name, requirement)

    def leaks(self, most: float) -> Iterator[CheckedDemand]:
        """Yield a row per dial and other attribute, and a failing one for every dial that nobody measured."""
        for attribute in self.schema.ordinal:
            what = f"leak of {attribute.name}"
            found, missing = self._measured(attribute.name)
            if found is None:
                yield CheckedDemand(what, f"<={most:g}", "no figure", False, missing)
                continue
            for other, estimate in found.leakage.get(attribute.name, {}).items():
                if other != attribute.name:
                    yield self._row(f"{what} on {other}", estimate.magnitude(), "<=", most, missing)
            for leak, why in self._elsewhere(attribute.name, found):
                yield self._row(f"{what} on {leak.attribute}", leak.estimate, "<=", most, why)

    def _elsewhere(self, dial: str, own: ScorerResult) -> Iterator[tuple[Leak, str]]:
        """Yield how a dial moves what its own scorer does not measure, as others do, and why these do not count."""
        names = [] if self.scorer is not None else [attribute.name for attribute in self.schema.ordinal]
        for other in names:
            found, missing = self._measured(other)
            estimate = None if found is None else found.leakage.get(dial, {}).get(other)
            if estimate is not None and other not in own.leakage.get(dial, {}):
                yield Leak(other, estimate.magnitude()), missing

    def _largest_leak(self, dial: str, own: ScorerResult) -> Leak | None:
        """Return a dial's largest effect on what its own scorer measures, or others that count do."""
        leaks = [leak for leak, why in self._elsewhere(dial, own) if not why and math.isfinite(leak.estimate.value)]
        largest = own.dials[dial].largest_leak
        return max([*leaks, *([largest] if largest is not None else [])], key=lambda x: x.estimate.value, default=None)

    def _attribute(self, requirement: Requirement) -> None:
        if requirement.name not in self.schema:
            valid = (*self.schema.names, "answers", "*")
            raise UserError(
                f"{requirement}: no attribute {requirement.name!r}: {did_you_mean(requirement.name, valid)}"
            )
        figures = self._figures(requirement.name)
        if requirement.figure not in figures:
            raise UserError(
                f"{requirement}: {requirement.name!r} has no figure {requirement.figure!r}: "
                f"{did_you_mean(requirement.figure, figures)}"
            )

    def _figures(self, name: str) -> tuple[str, ...]:
        return _ORDINAL if self.schema[name].kind == "ordinal" else _CATEGORICAL

    def _measured(self, name: str) -> tuple[ScorerResult | None, str]:
        """The report of the scorer that counts for an attribute, and why it does not count (empty: it does)."""
        scorer = self.scorer or self.headline.get(name)
        if scorer is None or name not in self.scorers[scorer].attributes:
            return None, "nothing measured it" if self.scorer is None else f"{scorer} does not measure it"
        reason = ""
        if self.scorer is None and not self.scorers[scorer].independent:
            reason = f"only {scorer} measured it, which is not independent; --scorer {scorer} accepts that"
        return self.result.scorers[scorer], reason

    def _of_attribute(self, name: str, requirement: Requirement) -> CheckedDemand:
        what = f"{name}.{requirement.figure}"
        found, missing = self._measured(name)
        estimate: Estimate | None = None
        if found is not None and name in found.categorical:
            estimate = found.categorical[name].accuracy
        elif found is not None and name in found.dials:
            dial = found.dials[name]
            if requirement.figure != "leak":
                estimate = getattr(dial, requirement.figure)
            elif (largest := self._largest_leak(name, found)) is not None:
                estimate = largest.estimate
                what += f" (on {largest.attribute})"
        if estimate is None:
            demand = f"{requirement.operator}{requirement.bound:g}"
            return CheckedDemand(
                what, demand, "no figure", False, missing or "it was not swept, or there is nothing to leak into"
            )
        return self._row(what, estimate, requirement.operator, requirement.bound, missing)

    def _of_answers(self, requirement: Requirement) -> CheckedDemand:
        answers = self.result.answers["all"]
        figures = {f.name: getattr(answers, f.name) for f in dataclasses.fields(answers)}
        figures = {name: found for name, found in figures.items() if found is not None}
        if requirement.figure not in figures:
            raise UserError(
                f"{requirement}: the answers have no figure {requirement.figure!r}: "
                f"{did_you_mean(requirement.figure, figures)}"
            )
        found = figures[requirement.figure]
        # plain counts and shares over all answers together have no interval
        estimate = found if isinstance(found, Estimate) else Estimate(found, found, found, answers.answers, 0)
        return self._row(f"answers.{requirement.figure}", estimate, requirement.operator, requirement.bound, "")

    def _row(self, what: str, estimate: Estimate, operator_text: str, bound: float, missing: str) -> CheckedDemand:
        demand = f"{operator_text}{bound:g}"
        if not math.isfinite(estimate.value):
            return CheckedDemand(what, demand, "undefined", False, estimate.note)
        text = f"{estimate.value:.3f}"
        if estimate.has_interval and estimate.low != estimate.high:
            text += f" [{estimate.low:.3f}, {estimate.high:.3f}]"
        if missing:
            return CheckedDemand(what, demand, text, False, missing)
        value = estimate.value
        if self.compare == "interval":
            if not estimate.has_interval:
                return CheckedDemand(what, demand, text, False, estimate.note or "it has no interval")
            value = estimate.low if operator_text.startswith(">") else estimate.high
        return CheckedDemand(what, demand, text, _OPERATORS[operator_text](value, bound))
