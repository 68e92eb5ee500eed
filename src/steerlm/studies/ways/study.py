"""Which way to steer is best for a model? The same prompts, settings and scorers for all of them.

    steerlm evaluate --ways header,guided,words,demonstrations,best-of-8,vector --model tuned=MODEL --base BASE \\
        --demonstrations annotated.jsonl --prompts prompts.jsonl --out OUT

`header` asks a steerable model by its dials, `guided-2` the same with the dial that is turned at strength 2, `guided`
at the strength that the model brings (`steerlm tune-guidance`). The other ways ask a base model: `words` writes the
setting out, `demonstrations` adds three training answers near it, `vector` says nothing and adds the activation vector
of the dial that is turned. Behind a way, `-best-of-N` draws N answers and gives the one that the scorers find nearest
to the setting (`best-of-8` alone is that of words): what choosing can reach at N times the cost, with the examiner's
own eyes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from steerlm.errors import UserError
from steerlm.generation.demonstrations import read_demonstrations
from steerlm.results.codec import VERSION, write_result
from steerlm.results.dials import Differences
from steerlm.results.evaluation import PromptCounts
from steerlm.results.ways import WayResult, WaysResult
from steerlm.stages.evaluate.fidelity import paired_comparison
from steerlm.stages.evaluate.observing import AnswerRow, ScoredSweeps, score_sweeps
from steerlm.stages.evaluate.panel import Panelist, make_panel, ordinal_headlines
from steerlm.stages.evaluate.sweeping import guided, plan_at_defaults, read_prompts
from steerlm.studies.ways.asking import SHOWN, PromptLengths, Way, WayQuestions, WaysRun


def compare_ways(run: WaysRun, out: Path) -> WaysResult:
    """Let all ways answer, score and compare them.

    Args:
        out: receives `<way>/samples.jsonl`, scores, and `ways.json`; called again, it goes on.

    Raises:
        UserError: no scorer, no demonstrations where a way needs them, or unusable files.
    """
    from steerlm.checkpoint.models import fingerprint, load_info

    config, schema = run.config, run.schema
    info = load_info(run.model)
    if not info.conditioning:
        raise UserError(f"{run.model} was trained without attributes: it has no header to compare with")
    panel = make_panel(config, schema, run.annotator, [info])
    headline = ordinal_headlines(schema, panel)
    if not headline:
        raise UserError("nothing measures an ordinal attribute; name a measure, attribute model, classifier or judge")
    if not info.strengths and any(way.strength is None for way in run.ways):
        raise UserError(
            f"--ways guided: {run.model} brings no strengths; run `steerlm tune-guidance`, or give guided-2"
        )
    needing = [way.name for way in run.ways if way.kind in ("demonstrations", "vector")]
    if needing and run.demonstrations is None:
        raise UserError(f"--ways {', '.join(needing)}: give --demonstrations, annotated answers (annotate/train.jsonl)")
    prompts = read_prompts(run.prompts, schema, config.num_prompts, run.seed)
    # an ask for every step of every sweep: a vector pushes by the dial, also where settings are equal
    plan = guided(plan_at_defaults(prompts, schema, headline, run.seed), 1.0)
    quoted = [scorer for scorer in panel if scorer.id in headline.values()]
    shown = None if run.demonstrations is None else read_demonstrations(run.demonstrations, schema)
    asking = WayQuestions(
        run,
        plan,
        shown,
        {name: next(p for p in quoted if p.id == id_) for name, id_ in headline.items()},
        info.strengths,
    )
    observed = {}
    for way in run.ways:
        rows, lengths = asking.rows(way, fingerprint(run.model), out)
        scored = score_sweeps(quoted, plan, schema, rows, out / way.name, way.name)
        observed[way.name] = _Seen(rows, scored, lengths)
    headers = [way for way in run.ways if way.kind == "header" and way.draws == 1]
    header = min(headers, key=lambda way: way.strength != 1, default=None)
    results = [
        _way(run, way, observed[way.name], None if header is None else observed[header.name], headline)
        for way in run.ways
    ]
    result = WaysResult(
        version=VERSION,
        attributes=schema,
        seed=run.seed,
        model=str(run.model),
        base=run.base,
        settings=config.model_dump(mode="json"),
        prompts=PromptCounts(len(prompts), len({prompt.cluster for prompt in prompts})),
        asks=len(plan.asks),
        scorers=[scorer.describe() for scorer in quoted],
        headline_scorer=headline,
        cautions=_cautions(run, results, quoted),
        ways=results,
        vectors={name: found.choice for name, found in asking.vectors.items()},
    )
    write_result(out / "ways.json", result)
    return result


@dataclass(frozen=True)
class _Seen:
    rows: list[AnswerRow]
    scored: ScoredSweeps
    prompt: PromptLengths | None


def _way(
    run: WaysRun,
    way: Way,
    seen: _Seen,
    header: _Seen | None,
    headline: Mapping[str, str],
) -> WayResult:
    schema = run.schema
    reports = seen.scored.reports(schema)
    by_dial: dict[str, Differences] = {}
    overall: Differences | None = None
    if header is not None and seen is not header:
        for id_ in dict.fromkeys(headline.values()):
            attributes = [schema[name] for name, scorer in headline.items() if scorer == id_]
            before, after = header.scored.sweeps[id_], seen.scored.sweeps[id_]
            if np.array_equal(after.series, before.series):
                found, each = paired_comparison(before, after, attributes)
                by_dial |= each
                overall = overall or found
    samples = [sample for row in seen.rows for sample in row["samples"]]
    return WayResult(
        name=way.name,
        model=str(run.model) if way.kind == "header" else run.base,
        draws=way.draws,
        prompt_tokens=None if seen.prompt is None else seen.prompt.tokens,
        shown=seen.prompt.shown if seen.prompt is not None and way.kind == "demonstrations" else None,
        answer_tokens=float(np.mean([sample["num_tokens"] for sample in samples])) if samples else float("nan"),
        unanswered=sum(not row["samples"] for row in seen.rows),
        dials={name: reports[id_].dials[name] for name, id_ in headline.items() if name in reports[id_].dials},
        against_header=overall,
        by_dial=by_dial,
    )


def _cautions(run: WaysRun, ways: Sequence[WayResult], quoted: Sequence[Panelist]) -> list[str]:
    found = []
    choosing = [way.name for way in ways if way.draws > 1]
    if choosing:
        found.append(
            f"{' and '.join(choosing)}: chosen by the scorers that also judge the answers, which is the best that "
            "choosing can look."
        )
    for scorer in quoted:
        if not scorer.independent:
            found.append(f"{scorer.scorer.label} labelled the training data: it is not independent.")
    for way in ways:
        if way.shown is not None and way.shown < SHOWN:
            found.append(f"{way.name}: {way.shown:.1f} of {SHOWN} demonstrations fit into the context, on average.")
        if way.unanswered:
            found.append(f"{way.name}: {way.unanswered} prompts leave no room for an answer.")
        flat = [name for name, dial in way.dials.items() if dial.constant is not None]
        if flat:
            found.append(f"{way.name}: {' and '.join(flat)} never varies, whatever is asked for.")
    return found
