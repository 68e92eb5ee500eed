"""The ablation ladder and the baselines as Markdown, the paper's ladder beside ours."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from steerlm.errors import UserError
from steerlm.reporting.formatting import DASH, estimate_text, markdown_table, markdown_text, number
from steerlm.results.codec import read_result
from steerlm.results.studies import (
    AblationResult,
    BaselinesResult,
    DialsEstimate,
    MethodCourse,
    SeededEstimate,
    StudyConditions,
    StudySubject,
)
from steerlm.storage.files import read_json


def read_ablation(run_dir: Path, ablation: Path | None) -> AblationResult | None:
    """Read an `ablation.json` that `steerlm ablate` wrote.

    Args:
        ablation: the file (or its folder) that the user named.

    Returns:
        What it holds; None where there is none.
    """
    path = run_dir / "ablation.json" if ablation is None else ablation
    path = path / "ablation.json" if path.is_dir() else path
    if not path.is_file():
        if ablation is not None:
            raise UserError(f"no such ablation: {path}; give the ablation.json that `steerlm ablate` wrote")
        return None
    value = read_json(path)
    if not isinstance(value, dict) or "rungs" not in value:
        raise UserError(f"{path} is not an ablation: it has no rungs; give the file that `steerlm ablate` wrote")
    return read_result(AblationResult, path)


def ladder(results: AblationResult) -> str:
    """The rungs, their quality and their steering, the paper's score in the last column."""
    header = [
        "rung",
        "adds",
        "records",
        "steps",
        "quality",
        "each seed",
        "gain over the rung above",
        "error of the dials",
        "paper, % of ChatGPT-3.5",
    ]
    rows = []
    for name, rung in results.rungs.items():
        hears = "" if rung.steerable or rung.figures.steering.error is None else " (hears no request)"
        rows.append(
            [
                f"`{name}`",
                markdown_text(rung.adds),
                _range([row.course.records for row in rung.training]),
                ("+" if name == "bootstrap" else "") + _range([row.course.steps for row in rung.training]),
                estimate_text(rung.figures.quality.estimate),
                seeds_text(rung.figures.quality),
                DASH if rung.gain is None else estimate_text(rung.gain.quality.estimate),
                dials_text(rung.figures.steering.error) + hears,
                number(rung.paper, 1),
            ]
        )
    return markdown_table(header, rows)


def _range(counts: Sequence[int]) -> str:
    """A count that every seed shares, or its range."""
    return " to ".join(f"{count:,}" for count in dict.fromkeys((min(counts), max(counts))))


def seeds_text(figure: SeededEstimate, digits: int = 2) -> str:
    return " / ".join(number(row.value, digits) for row in figure.seeds.values())


def dials_text(figure: DialsEstimate | None) -> str:
    """The figure of all dials; a dash where none was measured."""
    return DASH if figure is None else estimate_text(figure.figure.estimate)


def explain(results: AblationResult) -> str:
    """Say how the table came about."""
    subject, settings = results.subject, results.settings
    quality = ", ".join(subject.quality_attributes)
    top, bottom = subject.quality_scale
    return (
        f"Quality is the mean level of {quality} ({bottom} to {top}, high is good) over {subject.prompts} held-out "
        f"prompts, each asked for {_setting(subject)}; the error of the dials is the mean absolute "
        f"difference between the level asked for and the level obtained, every dial swept on {subject.swept} of "
        f"them. Measured by {_measured_by(results.conditions)}. In brackets: 95 % intervals from resampled prompts, "
        f"{len(subject.seeds)} seed(s) pooled; each seed's own figure beside it. The gain is paired by prompt and "
        f"seed. Sampling: temperature {settings.temperature}, top-k {settings.top_k}. "
        "All rungs fine-tune the same base model with the same settings, as in the paper: the same number of epochs "
        "(or of steps where the recipe sets them) over their own records.\n"
    )


def _measured_by(conditions: StudyConditions) -> str:
    """Name the scorers that the figures quote."""
    return "; ".join(
        scorer.label if scorer.independent else f"{scorer.label} (which labelled the training data: not independent)"
        for scorer in conditions.quoted
    )


def _setting(subject: StudySubject) -> str:
    return ", ".join(f"{name} {value}" for name, value in subject.best_setting.items())


def baselines_table(results: BaselinesResult) -> str:
    """The methods: what their answers are worth, whether they can be steered, and what they cost."""
    names = results.subject.quality_attributes
    header = [
        "method",
        "reward",
        "each seed",
        "minus SteerLM",
        "reward by the attribute model",
        *names,
        "distinct-2",
        "unique answers per prompt",
        "slope of the dials",
        "tokens trained",
        "tokens sampled",
        "training time",
        "peak memory",
    ]
    rows = []
    for name, row in results.methods.items():
        figures, training = row.figures, row.training
        attributes = [figures.attributes.get(attribute) for attribute in names]
        rows.append(
            [
                f"`{name}`",
                estimate_text(figures.quality.estimate),
                seeds_text(figures.quality),
                DASH if row.minus_steerlm is None else estimate_text(row.minus_steerlm.quality.estimate),
                estimate_text(row.by_annotator.estimate),
                *(DASH if found is None else estimate_text(found.estimate) for found in attributes),
                number(figures.text.distinct_2),
                number(figures.text.unique_per_prompt),
                dials_text(figures.steering.slope),
                _mean([r.course.spent_tokens for r in training], 1e6, " M"),
                _mean([r.course.sampled_tokens for r in training], 1e3, " k"),
                _mean([r.course.seconds for r in training], 1, " s", 0),
                _mean([r.course.peak_memory_mib for r in training], 1024, " GiB"),
            ]
        )
    return markdown_table(header, rows)


def _mean(values: Sequence[float | None], unit: float, suffix: str, digits: int = 2) -> str:
    known = [value for value in values if value is not None]
    return number(sum(known) / len(known) / unit, digits) + suffix if known else DASH


def explain_baselines(results: BaselinesResult) -> str:
    """Say how the table came about."""
    subject, settings, methods = results.subject, results.settings, results.methods
    top, bottom = subject.quality_scale
    described = "; ".join(f"`{name}`: {row.what}" for name, row in methods.items())
    chosen = "; ".join(
        f"`{name}` " + ", ".join(f"{_chosen(row.course):g}" for row in methods[name].training)
        for name in ("best", "dpo", "rloo", "grpo")
        if name in methods
    )
    shares = [trial["share"] for trial in methods["best"].training[0].course.trials or ()]
    tried = results.baselines
    asked, grpo = "SteerLM was", ""
    if "grpo" in methods:
        asked = "SteerLM and GRPO were"
        grpo = f"; GRPO {_listed(tried['grpo_learning_rates'])}, the best by its own rewards"
    return (
        f"{described}.\n\n"
        f"Reward is the mean level of {', '.join(subject.quality_attributes)}, each counted towards its best end "
        f"({bottom} to {top}), of {results.samples_per_prompt} answers to each of {subject.prompts} held-out prompts, "
        f"measured by {_measured_by(results.conditions)}; the attribute model optimised the same mean. {asked} "
        f"asked for {_setting(subject)}; the others hear no request. Slope of the dials: levels obtained per "
        f"level asked for, over all dials, on {subject.swept} prompts; 0 means that the request changes nothing. In "
        f"brackets: 95 % intervals from resampled prompts, {len(subject.seeds)} seed(s) pooled. Differences are "
        "paired by prompt and seed. Sampling: temperature "
        f"{settings.temperature}, top-k {settings.top_k}. Tokens trained are all that went "
        "through the model in training steps, prompts and epochs counted; passes of the reference, of the attribute "
        "model and of validation are not counted. Every method saw the same records and the same attribute model, "
        "whose own training is not in the table. SFT on the best records tried these shares of the budget: "
        f"{_listed(shares)}; DPO these learning rates: {_listed(tried['dpo_learning_rates'])}; RLOO "
        f"{_listed(tried['rloo_learning_rates'])}{grpo}. The attribute model's reward on validation prompts chose, "
        f"per seed: {chosen}. Time is that of training; the peak of memory is "
        "the process's, including what it held before.\n"
    )


def _chosen(training: MethodCourse) -> float:
    chosen = training.learning_rate if training.share is None else training.share
    assert chosen is not None
    return chosen


def _listed(values: object) -> str:
    assert isinstance(values, Sequence)
    return " and ".join(f"{value:g}" for value in values)
