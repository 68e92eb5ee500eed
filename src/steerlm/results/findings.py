"""Signs that a run learned nothing: each with its number and what would help.

One place says what counts; the dry run, the commands, the run and its report read it here.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from steerlm.config import Recipe
from steerlm.results.dials import DialResult
from steerlm.results.evaluation import Evaluation, read_evaluation
from steerlm.runs import RunPaths, recipe_stages
from steerlm.storage.files import read_json

FEW_STEPS = 100
"""Below so many optimizer steps a dial has hardly been seen."""
COLLAPSED = 0.99
"""Share of labels on one level from which a dial has nothing to tell apart."""
ENDLESS = 0.5
"""Share of answers cut off at their longest length from which a model does not stop by itself."""
_RARE = 0.01
"""Share of labels below which a level counts as unused."""
_FEWEST_LABELS = 20
"""With fewer held-out labels the error says nothing."""
_GRAVE_SHARE = 0.01
"""Share of the records that may be left out for their length."""
MORE_TO_LEARN_FROM = "more or clearer ratings, an encoder as base_model, or leaving the attribute out would help"
"""What helps where an attribute cannot be predicted."""

FindingKind = Literal[
    "steps", "length", "attribute_model", "labels", "narrow", "loss", "header", "dial", "endless", "unmeasured"
]


@dataclass(frozen=True)
class Finding:
    """One sign.

    Attributes:
        stage: where it shows.
        kind: which sign.
        text: what was found, with its number.
        cure: what would help.
        dials: the attributes that it concerns; none: all.
    """

    stage: str
    kind: FindingKind
    text: str
    cure: str
    dials: tuple[str, ...] = ()

    @property
    def blocks(self) -> bool:
        """Whether what follows would be computed in vain."""
        return self.kind in ("attribute_model", "labels")

    def __str__(self) -> str:
        return f"{self.stage}: {self.text}. {self.cure}"


_MEASURING = (
    "A section train_attribute_model, or attribute_models, classifiers or a judge under evaluate, would measure it"
)


def unmeasured(names: Sequence[str]) -> Iterator[Finding]:
    """Say of which dials an evaluation will not know whether they move."""
    if names:
        yield Finding("evaluate", "unmeasured", f"nothing will measure {', '.join(names)}", _MEASURING, tuple(names))


def few_steps(stage: str, steps: int, planned: bool = False) -> Iterator[Finding]:
    """Say where a training has too few optimizer steps."""
    if steps < FEW_STEPS:
        about = f"about {steps:,} optimizer steps are planned" if planned else f"{steps:,} optimizer steps were made"
        yield Finding(
            stage,
            "steps",
            f"{about}; below {FEW_STEPS} a dial hardly moves",
            f"Lower {stage}.tokens_per_batch or gradient_accumulation_steps, or raise {stage}.epochs",
        )


def too_long(stage: str, count: int, of: int, max_length: int, needed: int | None = None) -> Iterator[Finding]:
    """Say where more than a hundredth of the records is left out for its length."""
    if count > _GRAVE_SHARE * of:
        enough = "" if needed is None else f" ({needed} would do for the longest)"
        yield Finding(
            stage,
            "length",
            f"{count:,} of {of:,} records ({100 * count / of:.1f} %) are longer than {max_length} tokens and left out",
            f"Raise {stage}.max_length{enough}, within the model's context, or shorten them",
        )


def collapsed(stage: str, histograms: Mapping[str, Mapping[str, int]]) -> Iterator[Finding]:
    """Say which attributes have nearly all labels on one level, or on fewer than half of their levels."""
    for name, histogram in histograms.items():
        total = sum(histogram.values())
        level, most = max(histogram.items(), key=lambda item: item[1], default=("", 0))
        if total and most >= COLLAPSED * total:
            yield Finding(
                stage,
                "labels",
                f"nearly all labels of {name} are on one level ({most} of {total} turns at {level})",
                "A dial cannot be learned from that: take data in which it varies, or leave the attribute out",
                (name,),
            )
        elif 2 * (used := sum(count >= _RARE * total for count in histogram.values())) < len(histogram) and total:
            yield Finding(
                stage,
                "narrow",
                f"the labels of {name} stand on {used} of {len(histogram)} levels only",
                "The dial will know no others: take data in which it varies more, or a scale with fewer levels",
                (name,),
            )


def rated_by_people(recipe: Recipe) -> tuple[str, ...]:
    """Return the attributes that a label in the data has to say: for an attribute model, or for the model itself."""
    needed = recipe.train_sft.conditioning or "train_attribute_model" in recipe_stages(recipe)
    return tuple(attribute.name for attribute in recipe.schema_ if needed and attribute.said_by == "people")


def nobody_says(names: Sequence[str], sources: Sequence[str]) -> str:
    """Say that no record of some sources rates attributes that nobody else says."""
    return (
        f"no record of {', '.join(sources)} rates {', '.join(map(repr, names))}, and nobody else says it: name a "
        "measure, a classifier or a judge of it under `attributes`, add rated data (`columns: {rating.NAME: COLUMN}` "
        "of a source says which column holds ratings), or leave the attribute out"
    )


def findings_of_stage(stage: str, summary: Mapping[str, Any]) -> list[Finding]:
    """Return what the summary of a stage shows, as it stands in its `done.json`."""
    reader = _READERS.get(stage)
    return [] if reader is None or not summary else list(reader(summary))


def findings_of_run(paths: RunPaths) -> list[Finding]:
    """Return what all finished stages of a run show, in their order.

    Raises:
        UserError: a damaged file.
    """
    found = []
    for stage in paths.finished():
        found += findings_of_stage(stage, read_json(paths.done(stage))["summary"])
    results = read_evaluation(paths.path)
    if results is None or results.suite is not None:
        return found
    return found + findings_of_evaluation(results, tuned=paths.done("tune_guidance").is_file())


def findings_of_evaluation(results: Evaluation, tuned: bool = False) -> list[Finding]:
    """Return the dials of the last model that do not move, and whether its answers stop.

    Args:
        tuned: whether the strengths of its dials have been chosen, by now at least.
    """
    found = [finding for name in results.attributes.names for finding in _of_dial(results, name, tuned)]
    answers = results.final_model.answers.get("all")
    cut = None if answers is None else answers.unfinished
    if cut is not None and cut.value > ENDLESS:
        longest = results.drawing.max_new_tokens
        found.append(
            Finding(
                "evaluate",
                "endless",
                f"{100 * cut.value:.0f} % of the answers never stop: they were cut off at {longest} tokens",
                "Train longer, or raise evaluate.max_new_tokens where the data's answers are longer than that",
            )
        )
    return found


def dial_figures(results: Evaluation) -> dict[str, float]:
    """Return what says whether a dial of the last model moves: Spearman, or of categories the share obtained."""
    figures = {row.attribute: row.dial.spearman.value for row in results.headline_dials() if row.model == results.final}
    for name, scorer in results.headline_scorer.items():
        category = results.final_model.scorers[scorer].categorical.get(name)
        if category is not None:
            figures[name] = category.accuracy.value
    return figures


def _of_dial(results: Evaluation, name: str, tuned: bool) -> Iterator[Finding]:
    scorer = results.headline_scorer.get(name)
    if scorer is None:
        return  # that nothing measures it is one of the evaluation's cautions
    measured = results.final_model.scorers[scorer]
    dial, category = measured.dials.get(name), measured.categorical.get(name)
    cure = "More examples in which it varies, more steps or a larger learning rate would help"
    text = None
    if dial is not None:
        if (
            not tuned
            and results.settings.get("guidance", 1.0) == 1
            and results.settings.get("engine", "local") == "local"
        ):
            cure += "; without training, steerlm tune-guidance may turn it up"
        text, cure = _of_levels(dial, cure)
    elif category is not None:
        chance, share = 1 / len(results.attributes[name].categories), category.accuracy
        if not share.n:
            text, cure = "no answer says which category it is in", "Read the answers: they may be too short or garbled"
        elif not (share.low if share.has_interval else share.value) > chance:
            text = (
                f"{100 * share.value:.0f} % of its answers are in the category asked for, {100 * chance:.0f} by chance"
            )
    if text is not None:
        yield Finding("evaluate", "dial", f"the dial {name} does not move: {text}", cure, (name,))


def _of_levels(dial: DialResult, cure: str) -> tuple[str | None, str]:
    spearman = dial.spearman
    if dial.constant is not None or math.isnan(spearman.value):
        always = "" if dial.constant is None else f" (always {dial.constant:g})"
        return f"its answers are alike, whatever is asked for{always}", cure
    if not spearman.has_interval:
        few = f"Spearman {spearman.value:.2f} from {spearman.clusters} prompts, too few for an interval"
        return few, "Raise evaluate.num_prompts or prepare.validation_fraction"
    interval = f"Spearman {spearman.value:.2f} [{spearman.low:.2f}, {spearman.high:.2f}]"
    if spearman.high < 0:
        return f"{interval}, the wrong way round", "Check that low labels are low: which end of the scale is which"
    return (None if spearman.low > 0 else f"{interval} holds 0"), cure


def _of_attribute_model(summary: Mapping[str, Any]) -> Iterator[Finding]:
    rows = summary["train"]["labels"]
    for name, row in summary["attributes"].items():
        error, of_mean = (
            (row["mae"], row["mean_baseline_mae"])
            if "mae" in row
            # of a categorical attribute, the share that is missed
            else ({"value": 1 - row[key]["value"]} for key in ("accuracy", "commonest_baseline_accuracy"))
        )
        mean = "the mean" if "mae" in row else "the commonest category"
        if row["n"] >= _FEWEST_LABELS and error["value"] >= of_mean["value"] > 0:
            yield Finding(
                "train_attribute_model",
                "attribute_model",
                f"the attribute model is no better than {mean} on {name} ({rows[name]} rated turns; error "
                f"{error['value'] / of_mean['value']:.2f} of that of {mean})",
                f"Its labels teach a dial nothing and measure none: {MORE_TO_LEARN_FROM}",
                (name,),
            )


def _of_training(summary: Mapping[str, Any]) -> Iterator[Finding]:
    if not summary["early_stopped"]:
        yield from few_steps("train_sft", summary["steps"])
    learned = summary["train"]
    records = learned["records"] + learned["too_long"] + learned["no_response"]
    yield from too_long("train_sft", learned["too_long"], records, summary["max_length"])
    start, end = summary.get("train_loss_start"), summary.get("train_loss_end")
    if start is not None and end is not None and end >= start:
        yield Finding(
            "train_sft",
            "loss",
            f"the loss does not fall: {start:.3f} in the first quarter of the steps, {end:.3f} in the last",
            "Change train_sft.learning_rate: higher where it stands still, lower where it rises",
        )
    yield from _of_header("train_sft", summary.get("header_gain"))


def _of_header(stage: str, gain: Mapping[str, Any] | None) -> Iterator[Finding]:
    if gain is None or (gain["low"] is not None and gain["low"] > 0):
        return
    interval = "" if gain["low"] is None else f" [{gain['low']:.4f}, {gain['high']:.4f}]"
    yield Finding(
        stage,
        "header",
        f"the header has no effect: others' headers raise the held-out loss by {gain['value']:.4f}{interval} per token "
        f"only ({gain['n']} records)",
        "Labels that say something about the answers, more steps or a larger learning rate would help",
    )


def _of_bootstrap(summary: Mapping[str, Any]) -> Iterator[Finding]:
    for row in summary["rounds"]:
        yield from _of_header("bootstrap", row.get("training", {}).get("header_gain"))


_READERS = {
    "train_attribute_model": _of_attribute_model,
    "annotate": lambda summary: collapsed("annotate", summary["histograms"]),
    "train_sft": _of_training,
    "bootstrap": _of_bootstrap,
}


def verdict(results: Evaluation, found: Sequence[Finding]) -> tuple[bool, str]:
    """Return whether every dial moves, and that in one line with its figures."""
    stuck = {name for finding in found if finding.kind == "dial" for name in finding.dials}
    silent = [name for name in results.attributes.names if name not in results.headline_scorer]
    figures = ", ".join(
        f"{name} {value:.2f}" if math.isfinite(value) else f"{name} –" for name, value in dial_figures(results).items()
    )
    unknown = f"nothing measured {', '.join(silent)}. {_MEASURING}" if silent else ""
    if not stuck and not silent:
        return True, f"every dial moves (Spearman: {figures})"
    if len(silent) == len(results.attributes):
        return False, f"whether any dial moves is not known: {unknown}"
    moving = len(results.attributes) - len(stuck) - len(silent)
    moved = f"{moving} of {len(results.attributes)} dials move (Spearman: {figures})"
    return False, f"{moved}; {unknown}" if unknown else moved
