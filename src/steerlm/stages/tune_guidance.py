"""How strongly should each dial count? Chosen by the error that each strength leaves, one dial after the other.

    steerlm tune-guidance RECIPE

A model that learned its header from few examples reads it rightly but faintly; guidance (`steerlm.generation.guidance`)
multiplies what the header does. How much of it is best differs by dial, so every strength is tried on held-out prompts
that the evaluation does not use, and by those who labelled the training data, so that an independent scorer has no part
in the choice. What is chosen stands beside the weights (`guidance.json`): the server and the chat take it for the dials
that are turned away from their defaults, the evaluation for the dial that it sweeps.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, TypedDict

import numpy as np

from steerlm.attributes import AttributeSchema
from steerlm.config import EvaluateConfig, TuneGuidanceConfig
from steerlm.errors import UserError
from steerlm.scorers.measures import is_degenerate
from steerlm.stages.evaluate.observing import AnswerRow, answer_plan, score_sweeps
from steerlm.stages.evaluate.panel import Panelist, make_panel, ordinal_headlines
from steerlm.stages.evaluate.sweeping import Prompt, SweepPlan, plan_at_defaults, read_prompts
from steerlm.statistics.estimates import finite_or_none

_MOST_MORE_DEGENERATE = 0.05
"""A strength at which so many more of a dial's answers fall apart than at the weakest is not taken."""


class TunedGuidance(TypedDict):
    """What was tried and chosen.

    Attributes:
        strengths: chosen, by dial; 1 is as trained.
        tried: in order.
        errors: by dial, mean distance of the obtained from the requested level, in levels, per strength tried.
        spearman: by dial, of requested and obtained levels, likewise.
        degenerate: by dial, share of answers that fall apart, likewise.
        prompts: how many.
    """

    strengths: dict[str, float]
    tried: list[float]
    errors: dict[str, list[float | None]]
    spearman: dict[str, list[float | None]]
    degenerate: dict[str, list[float]]
    prompts: int


class TuningRun(NamedTuple):
    """What is tuned: a steerable checkpoint, asked and measured as `evaluation` says, by who labelled its data."""

    config: TuneGuidanceConfig
    evaluation: EvaluateConfig
    model: Path
    schema: AttributeSchema
    annotator: Path | None
    seed: int


def spare_prompts(path: Path, schema: AttributeSchema, evaluation: EvaluateConfig, seed: int, num: int) -> list[Prompt]:
    """Draw prompts of a file that an evaluation of the same file and seed does not draw, nor any of their groups.

    Raises:
        UserError: fewer than two are left.
    """
    prompts = read_prompts(path, schema, None, seed)
    drawn = evaluation.prompts is None or evaluation.prompts == path
    taken = {prompt.id for prompt in read_prompts(path, schema, evaluation.num_prompts, seed)} if drawn else set()
    groups = {prompt.cluster for prompt in prompts if prompt.id in taken}
    left = [prompt for prompt in prompts if prompt.cluster not in groups]
    if len(left) < 2:
        raise UserError(
            f"tune_guidance needs prompts that evaluate leaves: {path} has {len(prompts)}, of which it draws "
            f"{len(taken)}. Lower evaluate.num_prompts, or raise prepare.validation_fraction"
        )
    order = np.random.default_rng((seed, len(left))).permutation(len(left))
    return [left[i] for i in sorted(order[:num])]


def tune_guidance(run: TuningRun, prompts: Sequence[Prompt], out: Path) -> TunedGuidance:
    """Choose each ordinal dial's strength and write the choice into the model's folder.

    Args:
        out: receives the answers and scores of every strength; called again, it goes on.

    Raises:
        UserError: a model without dials, or nothing that measures one.
    """
    from steerlm.checkpoint.info import load_info, save_strengths
    from steerlm.checkpoint.models import fingerprint

    info, schema = load_info(run.model), run.schema
    if not info.conditioning:
        raise UserError(f"{run.model} was trained without attributes: it has no dials whose strength could be tuned")
    # the scorers that report later have no part in the choice
    labelling = run.evaluation.model_copy(update={"attribute_models": (), "classifiers": (), "judge": None})
    panel = make_panel(labelling, schema, run.annotator, [info])
    headline = ordinal_headlines(schema, panel)
    if not headline:
        raise UserError("nothing measures an ordinal attribute; name its attribute model with --annotator")
    key = fingerprint(run.model)
    found = [_try(run, strength, prompts, panel, headline, key, out) for strength in run.config.strengths]
    errors = {name: [trial.errors[name] for trial in found] for name in headline}
    degenerate = {name: [trial.degenerate[name] for trial in found] for name in headline}
    strengths = {name: _least(run.config.strengths, row, degenerate[name]) for name, row in errors.items()}
    save_strengths(run.model, strengths)
    return TunedGuidance(
        strengths=strengths,
        tried=list(run.config.strengths),
        errors={name: [finite_or_none(error) for error in row] for name, row in errors.items()},
        spearman={name: [finite_or_none(trial.spearman[name]) for trial in found] for name in headline},
        degenerate=degenerate,
        prompts=len(prompts),
    )


class _Trial(NamedTuple):
    errors: Mapping[str, float]
    spearman: Mapping[str, float]
    degenerate: Mapping[str, float]


def _try(
    run: TuningRun,
    strength: float,
    prompts: Sequence[Prompt],
    panel: Sequence[Panelist],
    headline: Mapping[str, str],
    key: str,
    out: Path,
) -> _Trial:
    """Sweep every dial at one strength, the others at their defaults."""
    schema, name = run.schema, f"strength-{strength:g}"
    plan = plan_at_defaults(prompts, schema, headline, run.seed, strength)
    rows = answer_plan(run.evaluation, plan, run.model, key, out / name, name)
    quoted = [scorer for scorer in panel if scorer.id in headline.values()]
    reports = score_sweeps(quoted, plan, schema, rows, out / name, name).reports(schema)
    dials = {dial: reports[id_].dials[dial] for dial, id_ in headline.items()}
    return _Trial(
        {dial: report.mae.value for dial, report in dials.items()},
        {dial: report.spearman.value for dial, report in dials.items()},
        {dial: _degenerate(plan, rows, dial) for dial in headline},
    )


def _degenerate(plan: SweepPlan, rows: Sequence[AnswerRow], dial: str) -> float:
    """Return the share of a dial's answers that fall apart."""
    asks = dict.fromkeys(cell.ask for cell in plan.cells if cell.dial == dial)
    hits = [is_degenerate(sample["text"]) for ask in asks for sample in rows[ask]["samples"]]
    return sum(hits) / max(1, len(hits))


def _least(strengths: Sequence[float], errors: Sequence[float], degenerate: Sequence[float]) -> float:
    """Return the strength of the least smoothed error, the weaker one of two; 1 where nothing was measured."""
    broken = _smoothed(degenerate)
    ranked = [
        (error, strength)
        for error, strength, share in zip(_smoothed(errors), strengths, broken, strict=True)
        if share <= broken[0] + _MOST_MORE_DEGENERATE and not math.isnan(error)
    ]
    return min(ranked)[1] if ranked else 1.0


def _smoothed(values: Sequence[float]) -> list[float]:
    """Average each value with its neighbours, 1 : 2 : 1; few prompts make single strengths noisy."""
    weighted = []
    for i, value in enumerate(values):
        near = [(2, value), *((1, values[k]) for k in (i - 1, i + 1) if 0 <= k < len(values))]
        known = [(weight, x) for weight, x in near if not math.isnan(x)]
        total = sum(weight for weight, _ in known)
        weighted.append(sum(weight * x for weight, x in known) / total if known and not math.isnan(value) else math.nan)
    return weighted
