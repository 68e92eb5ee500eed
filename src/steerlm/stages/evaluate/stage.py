"""Evaluation: sweep every dial on held-out prompts and measure what comes out (what the SteerLM paper left open).

    steerlm evaluate RECIPE
    steerlm evaluate --suite toxicity --model final=MODEL --prompts harmless-base-test.jsonl.gz --out OUT

Three passes, each resumable: every model answers the same plan (`sweeping`), every scorer reads the answers
(`observing`), and the statistics (`fidelity`) are computed from what is on disk. The attribute model that labelled the
training data never counts as an independent judge: its scores are reported and marked. The paper's own experiments are
`suites`.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from steerlm.attributes import AttributeSchema
from steerlm.config import EvaluateConfig
from steerlm.errors import UserError
from steerlm.stages.evaluate.answers import answer_statistics
from steerlm.stages.evaluate.cautions import cautions
from steerlm.stages.evaluate.coverage import coverage, supported
from steerlm.stages.evaluate.examples import examples
from steerlm.stages.evaluate.fidelity import Sweeps, effects, fidelity_report, paired_comparison
from steerlm.stages.evaluate.label_quality import label_quality
from steerlm.stages.evaluate.observing import Row, answer_plan, lay_out_sweeps, score_answers, text_sweeps, unscored
from steerlm.stages.evaluate.panel import Panelist, exact_measure, headline_scorers, make_panel
from steerlm.stages.evaluate.suites import SuiteName, level_scores, make_suite
from steerlm.stages.evaluate.sweeping import Combinations, Plan, make_plan, read_prompts, seen_combinations
from steerlm.storage.files import write_json

if TYPE_CHECKING:
    from steerlm.checkpoint.models import CheckpointInfo


def evaluate(
    config: EvaluateConfig,
    models: Mapping[str, Path],
    prompts: Path,
    schema: AttributeSchema,
    out: Path,
    seed: int,
    annotator: Path | None = None,
    annotated: Sequence[Path] = (),
) -> dict[str, Any]:
    """Evaluate steerable models on the same prompts, settings and seeds.

    Args:
        config: the recipe's section.
        models: name -> checkpoint folder, in the order of the steps; neighbours are compared.
        prompts: held-out conversations; each is used up to its last user turn.
        schema: the attributes; every model must have been trained with it.
        out: receives `<model>/samples.jsonl`, `<model>/scores-<scorer>.jsonl` and `results.json`; each of
            the recipe's `suites` the same under `suites/<name>/`. Called again after an interruption it goes on
            behind the last chunk written; answers of other models, prompts or settings are replaced.
        seed: of every random choice.
        annotator: the attribute model that labelled the training data; reported as not independent.
        annotated: files it labelled; where they hold human labels too, both are compared with the exact measure.

    Returns:
        A summary: per model and attribute the headline figures. Everything is in `results.json`.

    Raises:
        UserError: no model, a model of another schema or without conditioning, unusable prompts, a full disk.
    """
    infos = _load_infos(models, schema)
    chosen = read_prompts(prompts, schema, config.num_prompts, seed)
    known = _combinations(infos, schema)
    plan = make_plan(chosen, schema, config.settings, next(iter(known.values())), seed)
    scorers = make_panel(config, schema, annotator)
    measured = _measure(config, plan, schema, models, scorers, known, out)
    exact = exact_measure(config.measure)
    results = {
        **_results(config, plan, schema, models, infos, measured, scorers, seed),
        "comparisons": _comparisons(measured, schema, headline_scorers(schema, scorers)),
        "label_quality": label_quality(annotated, exact, schema) if exact is not None else {},
    }
    write_json(out / "results.json", results)
    summary = summarise(results)
    for name in config.suites:
        asked = config.toxicity_prompts if name == "toxicity" else None
        evaluate_suite(config, name, models, asked, schema, out / "suites" / name, seed, annotator)
    return summary


def evaluate_suite(
    config: EvaluateConfig,
    name: SuiteName,
    models: Mapping[str, Path],
    prompts: str | None,
    schema: AttributeSchema,
    out: Path,
    seed: int,
    annotator: Path | None = None,
) -> dict[str, Any]:
    """Run one of the paper's experiments: one dial at the paper's levels, the others at their defaults.

    Args:
        config: the recipe's section; its scorers, sampling and `suite_prompts` hold.
        name: of the suite.
        models: name -> checkpoint folder.
        prompts: file of prompts, see `suites.make_suite`.
        schema: the attributes.
        out: as for `evaluate`.
        seed: of every random choice.
        annotator: the attribute model that labelled the training data.

    Returns:
        A summary. Everything is in `results.json`.

    Raises:
        UserError: as `evaluate`; a schema without that dial, no prompts, or no scorer that measures the dial.
    """
    infos = _load_infos(models, schema)
    suite = make_suite(name, schema, prompts, config.suite_prompts, seed)
    known = _combinations(infos, schema)
    plan = make_plan(suite.prompts, schema, ("defaults",), (), seed, {suite.name: suite.levels})
    scorers = make_panel(config, schema, annotator)
    if not any(name in scorer.attributes for scorer in scorers):
        raise UserError(
            f"suite {name!r}: nothing measures {name!r}; name a classifier, an attribute model, a judge or an exact "
            "measure of it under `evaluate`"
        )
    measured = _measure(config, plan, schema, models, scorers, known, out)
    results = _results(config, plan, schema, models, infos, measured, scorers, seed)
    results["suite"] = suite.describe()
    for model, found in measured.items():
        for scorer in scorers:
            if name in scorer.attributes:
                scores = level_scores(found.sweeps[scorer.id], schema[name], suite)
                results["models"][model]["scorers"][scorer.id]["suite"] = scores
    write_json(out / "results.json", results)
    return summarise(results)


@dataclass(frozen=True)
class Measured:
    """One model's answers and what the scorers made of them.

    Attributes:
        key: the model's fingerprint.
        answers: one row per ask.
        seen: per ask, whether its setting occurs among the training labels.
        scores: by scorer, one row per ask.
        sweeps: by scorer, the same as columns.
        text: the text statistics as columns.
    """

    key: str
    answers: list[Row]
    seen: list[bool]
    scores: dict[str, list[Row]]
    sweeps: dict[str, Sweeps]
    text: Sweeps


def _measure(
    config: EvaluateConfig,
    plan: Plan,
    schema: AttributeSchema,
    models: Mapping[str, Path],
    scorers: Sequence[Panelist],
    known: Mapping[str, Combinations],
    out: Path,
) -> dict[str, Measured]:
    """Let every model answer and every scorer read; all answers first, so that one model is in memory at a time."""
    from steerlm.checkpoint.models import fingerprint

    keys = {name: fingerprint(path) for name, path in models.items()}
    answers = {name: answer_plan(config, plan, path, keys[name], out / name, name) for name, path in models.items()}
    measured = {}
    for name, rows in answers.items():
        seen = supported(plan, known[name])
        scores = {s.id: score_answers(s, plan, rows, out / name, name) for s in scorers}
        sweeps = {s.id: lay_out_sweeps(plan, schema, rows, scores[s.id], s.attributes, seen) for s in scorers}
        measured[name] = Measured(keys[name], rows, seen, scores, sweeps, text_sweeps(plan, schema, rows, seen))
    return measured


def _results(
    config: EvaluateConfig,
    plan: Plan,
    schema: AttributeSchema,
    models: Mapping[str, Path],
    infos: Mapping[str, CheckpointInfo],
    measured: Mapping[str, Measured],
    scorers: Sequence[Panelist],
    seed: int,
) -> dict[str, Any]:
    """What every evaluation reports, JSON-able."""
    headline = headline_scorers(schema, scorers)
    dials = list(dict.fromkeys(cell.dial for cell in plan.cells))
    clusters = len({prompt.cluster for prompt in plan.prompts})
    last = list(models)[-1]
    known = _combinations(infos, schema)
    reports = {
        name: {
            "fingerprint": found.key,
            "coverage": _coverage(plan, schema, known[name], infos[name].label_statistics),
            "answers": answer_statistics(plan, found.answers, schema),
            "effects": effects(found.text, schema),
            "scorers": {
                s.id: {**fidelity_report(found.sweeps[s.id], schema), "unscored": unscored(found.scores[s.id])}
                for s in scorers
            },
        }
        for name, found in measured.items()
    }
    statistics = {name: info.label_statistics for name, info in infos.items()}
    final = measured[last]
    return {
        "attributes": schema.to_dict(),
        "seed": seed,
        "settings": config.model_dump(mode="json"),
        "prompts": {"used": len(plan.prompts), "clusters": clusters},
        "asks": len(plan.asks),
        "scorers": [s.to_dict() for s in scorers],
        "headline_scorer": headline,
        "cautions": cautions(dials, scorers, headline, clusters, statistics, reports),
        "models": reports,
        "examples": {
            "model": last,
            "sweeps": examples(plan, schema, final.answers, final.scores, headline, every_level=len(dials) == 1),
        },
    }


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


def _combinations(infos: Mapping[str, CheckpointInfo], schema: AttributeSchema) -> dict[str, Combinations]:
    return {name: seen_combinations(info.label_statistics, schema) for name, info in infos.items()}


def _coverage(
    plan: Plan, schema: AttributeSchema, known: Combinations, statistics: Mapping[str, Any]
) -> dict[str, Any]:
    # the checkpoint lists the commonest combinations only, but counts them all
    return {**coverage(plan, schema, known), "combinations": statistics.get("num_combinations", len(known))}


def summarise(results: Mapping[str, Any]) -> dict[str, Any]:
    """Return per model and attribute the headline figures of `results.json` (point values)."""
    summary: dict[str, Any] = {"prompts": results["prompts"]["used"], "asks": results["asks"], "models": {}}
    for name, model in results["models"].items():
        rows = {}
        for attribute, scorer in results["headline_scorer"].items():
            dial = model["scorers"][scorer]["dials"].get(attribute)
            if dial is not None:
                rows[attribute] = {key: dial[key]["value"] for key in ("spearman", "mae", "slope")}
                rows[attribute]["largest_leak"] = dial["largest_leak"]["value"] if dial["largest_leak"] else None
        summary["models"][name] = rows
    return summary


def _comparisons(
    measured: Mapping[str, Measured], schema: AttributeSchema, headline: Mapping[str, str]
) -> list[dict[str, Any]]:
    """Compare neighbouring models under every headline scorer."""
    out = []
    for before, after in itertools.pairwise(measured):
        for scorer in dict.fromkeys(headline.values()):
            attributes = [a for a in schema.ordinal if headline.get(a.name) == scorer]
            pair = measured[before].sweeps[scorer], measured[after].sweeps[scorer]
            if attributes and np.array_equal(pair[0].series, pair[1].series):
                row = {"before": before, "after": after, "scorer": scorer}
                out.append({**row, **paired_comparison(*pair, attributes)})
    return out
