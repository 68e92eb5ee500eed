"""Evaluation: sweep every dial on held-out prompts and measure what comes out (what the SteerLM paper left open).

    steerlm evaluate RECIPE
    steerlm evaluate --suite toxicity --model final=MODEL --prompts harmless-base-test.jsonl.gz --out OUT

Three passes, each resumable: every model answers the same plan (`sweeping`), every scorer reads the answers
(`observing`), and the statistics (`fidelity`) are computed from what is on disk. Whoever labelled the training
data never counts as an independent judge: its scores are reported and marked. The paper's own experiments are
`suites`.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from steerlm.attributes import AttributeSchema, Value
from steerlm.config import EvaluateConfig
from steerlm.errors import UserError
from steerlm.results.codec import VERSION, write_result
from steerlm.results.evaluation import (
    Evaluation,
    ModelResult,
    PairedDifferences,
    PromptCounts,
    SuiteName,
    SweepExamples,
)
from steerlm.stages.evaluate.describing import answer_statistics, cautions, examples
from steerlm.stages.evaluate.fidelity import Sweeps, effects, paired_comparison
from steerlm.stages.evaluate.grouping import group_of_asks, report_of_groups
from steerlm.stages.evaluate.injection import label_words
from steerlm.stages.evaluate.label_quality import label_quality
from steerlm.stages.evaluate.mixing import steerability
from steerlm.stages.evaluate.observing import (
    AnswerRow,
    ScoredSweeps,
    answer_plan,
    score_sweeps,
    text_sweeps,
)
from steerlm.stages.evaluate.panel import Panelist, exact_measure, headline_scorers, make_panel
from steerlm.stages.evaluate.suites import level_scores, make_suite
from steerlm.stages.evaluate.sweeping import (
    Combinations,
    Strengths,
    SweepPlan,
    coverage,
    make_plan,
    read_prompts,
    seen_combinations,
    supported,
)
from steerlm.statistics.estimates import finite_or_none

if TYPE_CHECKING:
    from steerlm.checkpoint.models import CheckpointInfo


def evaluate(
    config: EvaluateConfig,
    models: Mapping[str, Path],
    prompts: Path,
    schema: AttributeSchema,
    out: Path,
    *,
    seed: int,
    annotator: Path | None = None,
    annotated: Sequence[Path] = (),
) -> dict[str, Any]:
    """Evaluate steerable models on the same prompts, settings and seeds.

    Args:
        models: name -> checkpoint folder, in the order of the steps; neighbours are compared.
        prompts: held-out conversations; each is used up to its last user turn.
        schema: the attributes; every model must have been trained with it.
        out: receives `<model>/samples.jsonl`, `<model>/scores-<scorer>.jsonl` and `results.json`; each of
            the recipe's `suites` the same under `suites/<name>/`. Called again after an interruption it goes on
            behind the last chunk written; answers of other models, prompts or settings are replaced.
        annotator: the attribute model that labelled the training data; reported as not independent.
        annotated: files it labelled; where they hold human labels too, both are compared with the exact measure.

    Returns:
        A summary: per model and attribute the headline figures. Everything is in `results.json`.

    Raises:
        UserError: no model, a model of another schema or without conditioning, unusable prompts, a full disk.
    """
    infos = _load_infos(models, schema)
    strengths = _strengths(config, infos)
    known = {name: seen_combinations(info.label_statistics, schema) for name, info in infos.items()}
    chosen = read_prompts(prompts, schema, config.num_prompts, seed)
    even = config.by if config.by in schema.names else None
    combinations = next(iter(known.values()))
    plans = {
        name: make_plan(chosen, schema, config.settings, combinations, seed, guidance=own, even=even)
        for name, own in strengths.items()
    }
    scorers = make_panel(config, schema, annotator, infos.values())
    job = _Job(config, schema, models, infos, known, plans, scorers, seed, strengths)
    measured = _measure(job, out)
    exact = exact_measure(config.measure)
    keys = {name: (path, measured[name].key) for name, path in models.items()}
    words = label_words(config, keys, chosen, schema, job.scorers, out)
    results = _results(job, measured)
    results = dataclasses.replace(
        results,
        models={
            name: dataclasses.replace(model, label_words=words[name].every, unseen_label_words=words[name].unseen)
            if name in words
            else model
            for name, model in results.models.items()
        },
        comparisons=_comparisons(measured, schema, job.headline),
        label_quality=label_quality(annotated, exact, schema) if exact is not None else {},
    )
    write_result(out / "results.json", results)
    for name in config.suites:
        asked = config.toxicity_prompts if name == "toxicity" else None
        evaluate_suite(SuiteRun(config, name, models, asked, schema, seed, annotator), out / "suites" / name)
    return summarise(results)


@dataclass(frozen=True)
class SuiteRun:
    """One of the paper's experiments on some models.

    Attributes:
        config: the recipe's section; its scorers, sampling and `suite_prompts` hold.
        models: name -> checkpoint folder.
        prompts: file of prompts, see `suites.make_suite`.
        seed: of every random choice.
        annotator: the attribute model that labelled the training data.
    """

    config: EvaluateConfig
    name: SuiteName
    models: Mapping[str, Path]
    prompts: str | None
    schema: AttributeSchema
    seed: int
    annotator: Path | None = None


def evaluate_suite(run: SuiteRun, out: Path) -> Evaluation:
    """Run one of the paper's experiments: one dial at the paper's levels, the others at their defaults.

    Returns:
        What is in `results.json`.

    Raises:
        UserError: as `evaluate`; a schema without that dial, no prompts, or no scorer that measures the dial.
    """
    name, schema, seed = run.name, run.schema, run.seed
    infos = _load_infos(run.models, schema)
    config, strengths = run.config, _strengths(run.config, infos)
    suite = make_suite(name, schema, run.prompts, config.suite_prompts, seed)
    known = {model: seen_combinations(info.label_statistics, schema) for model, info in infos.items()}
    levels: dict[str, Sequence[Value]] = {suite.name: suite.levels}
    plans = {
        model: make_plan(suite.prompts, schema, ("defaults",), (), seed, levels, own)
        for model, own in strengths.items()
    }
    scorers = make_panel(config, schema, run.annotator, infos.values())
    if not any(name in scorer.attributes for scorer in scorers):
        raise UserError(
            f"suite {name!r}: nothing measures {name!r}; name a classifier, an attribute model, a judge or an exact "
            "measure of it under `evaluate`"
        )
    job = _Job(config, schema, run.models, infos, known, plans, scorers, seed, strengths)
    measured = _measure(job, out)
    results = _results(job, measured)
    scored = {}
    for model, result in results.models.items():
        sweeps = measured[model].scored.sweeps
        with_scores = {
            scorer: dataclasses.replace(found, suite=level_scores(sweeps[scorer], schema[name], suite))
            for scorer, found in result.scorers.items()
            if name in results.scorer(scorer).attributes
        }
        scored[model] = dataclasses.replace(result, scorers={**result.scorers, **with_scores})
    results = dataclasses.replace(results, models=scored, suite=suite.describe())
    write_result(out / "results.json", results)
    return results


@dataclass(frozen=True)
class _Job:
    """What is evaluated, on what, by whom.

    Attributes:
        known: per model the combinations of its training labels, commonest first.
        plans: per model; the same sweeps, each with the strengths of its model.
        strengths: per model how strongly the dial that is turned counts.
    """

    config: EvaluateConfig
    schema: AttributeSchema
    models: Mapping[str, Path]
    infos: Mapping[str, CheckpointInfo]
    known: Mapping[str, Combinations]
    plans: Mapping[str, SweepPlan]
    scorers: Sequence[Panelist]
    seed: int
    strengths: Mapping[str, Strengths]

    @property
    def headline(self) -> Mapping[str, str]:
        """Per attribute the scorer that is quoted."""
        return headline_scorers(self.schema, self.scorers)


@dataclass(frozen=True)
class _Observed:
    """One model's answers and what the scorers made of them.

    Attributes:
        key: the model's fingerprint.
        answers: one row per ask.
        scored: the same by scorer.
        text: the text statistics as columns.
    """

    key: str
    answers: list[AnswerRow]
    scored: ScoredSweeps
    text: Sweeps


def _measure(job: _Job, out: Path) -> dict[str, _Observed]:
    """Let every model answer and every scorer read; all answers first, so that one model is in memory at a time."""
    from steerlm.checkpoint.models import fingerprint

    plans, schema = job.plans, job.schema
    keys = {name: fingerprint(path) for name, path in job.models.items()}
    answers = {
        name: answer_plan(job.config, plans[name], path, keys[name], out / name, name)
        for name, path in job.models.items()
    }
    measured = {}
    for name, rows in answers.items():
        plan = plans[name]
        seen = supported(plan, job.known[name])
        scored = score_sweeps(job.scorers, plan, schema, rows, out / name, name, seen)
        measured[name] = _Observed(keys[name], rows, scored, text_sweeps(plan, schema, rows, seen))
    return measured


def _results(job: _Job, measured: Mapping[str, _Observed]) -> Evaluation:
    """What every evaluation reports."""
    plans, schema, scorers, by = job.plans, job.schema, job.scorers, job.config.by
    statistics = {name: info.label_statistics for name, info in job.infos.items()}
    reports = {name: found.scored.reports(schema) for name, found in measured.items()}
    models = {
        name: ModelResult(
            fingerprint=found.key,
            # the checkpoint lists the commonest combinations only, but counts them all
            coverage=coverage(
                plans[name], schema, job.known[name], statistics[name].get("num_combinations", len(job.known[name]))
            ),
            answers=answer_statistics(plans[name], found.answers, schema),
            effects=effects(found.text, schema),
            scorers=reports[name],
            steerability=steerability(plans[name], found.scored.scores, schema, job.headline, reports[name]),
            groups=None
            if by is None
            else report_of_groups(
                group_of_asks(plans[name], by), plans[name], schema, found.answers, found.scored.scores, job.headline
            ),
        )
        for name, found in measured.items()
    }
    last = list(models)[-1]
    plan = plans[last]
    clusters = len({prompt.cluster for prompt in plan.prompts})
    dials = list(dict.fromkeys(cell.dial for cell in plan.cells))
    return Evaluation(
        version=VERSION,
        attributes=schema,
        seed=job.seed,
        settings=job.config.model_copy(update={"guidance": job.strengths[last]}).model_dump(mode="json"),
        prompts=PromptCounts(len(plan.prompts), clusters),
        asks=len(plan.asks),
        scorers=[s.describe() for s in scorers],
        headline_scorer=job.headline,
        cautions=cautions(dials, scorers, job.headline, clusters, job.infos, models, job.strengths),
        models=models,
        examples=SweepExamples(
            last, examples(plan, schema, measured[last].answers, measured[last].scored.scores, job.headline)
        ),
    )


def _load_infos(models: Mapping[str, Path], schema: AttributeSchema) -> dict[str, CheckpointInfo]:
    """Read what the checkpoints say about themselves and refuse those that have no such dials."""
    from steerlm.checkpoint.models import load_info

    if not models:
        raise UserError("evaluate needs at least one model")
    infos = {}
    for name, path in models.items():
        if not re.fullmatch(r"[A-Za-z0-9_.-]+", name):
            raise UserError(f"model name {name!r} may hold letters, digits and _ . - only")
        infos[name] = load_info(path)
        schema.require_same(infos[name].schema.signature, "the recipe", f"model {path}")
        if not infos[name].conditioning:
            raise UserError(f"model {name!r} ({path}) was trained without attributes: it has no dials to evaluate")
    return infos


def _strengths(config: EvaluateConfig, infos: Mapping[str, CheckpointInfo]) -> dict[str, Strengths]:
    """Return by model the strengths that the section names, else those that the model itself brings."""
    if config.guidance is not None:
        return dict.fromkeys(infos, config.guidance)
    mixes = config.engine == "local"
    return {name: (dict(info.strengths) if mixes else {}) or 1.0 for name, info in infos.items()}


def summarise(results: Evaluation) -> dict[str, Any]:
    """Return per model and attribute the headline figures of `results.json` (point values), JSON-able."""
    models: dict[str, Any] = {name: {} for name in results.models}
    for model, attribute, dial, _ in results.headline_dials():
        figures = {"spearman": dial.spearman, "mae": dial.mae, "slope": dial.slope}
        leak = dial.largest_leak
        models[model][attribute] = {name: finite_or_none(estimate.value) for name, estimate in figures.items()} | {
            "largest_leak": None if leak is None else leak.estimate.value
        }
    return {"prompts": results.prompts.used, "asks": results.asks, "models": models}


def _comparisons(
    measured: Mapping[str, _Observed], schema: AttributeSchema, headline: Mapping[str, str]
) -> list[PairedDifferences]:
    """Compare neighbouring models under every headline scorer."""
    out = []
    for before, after in itertools.pairwise(measured):
        for scorer in dict.fromkeys(headline.values()):
            attributes = [a for a in schema.ordinal if headline.get(a.name) == scorer]
            pair = measured[before].scored.sweeps[scorer], measured[after].scored.sweeps[scorer]
            if attributes and np.array_equal(pair[0].series, pair[1].series):
                out.append(PairedDifferences(before, after, scorer, *paired_comparison(*pair, attributes)))
    return out
