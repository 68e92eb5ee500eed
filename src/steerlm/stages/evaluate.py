"""Evaluation: sweep every dial on held-out prompts and measure what comes out (what the SteerLM paper left open).

    steerlm evaluate RECIPE

Three passes, each resumable: every model answers the same plan (`sweeping`), every scorer reads the answers, and the
statistics (`fidelity`) are computed from what is on disk. The attribute model that labelled the training data never
counts as an independent judge: its scores are reported and marked.
"""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson

from steerlm.attribute_models.label_quality import label_quality
from steerlm.attributes import Attribute, AttributeSchema
from steerlm.chunks import map_lines, read_rows
from steerlm.config import EvaluateConfig
from steerlm.conversation import Message
from steerlm.errors import UserError
from steerlm.evaluation import measures
from steerlm.evaluation.answers import answer_statistics
from steerlm.evaluation.fidelity import Sweeps, category_dial_report, effects, fidelity_report, paired_comparison
from steerlm.evaluation.scorers import Measured, Scorer, exact_measure, headline_scorers, make_scorers
from steerlm.evaluation.sweeping import Combinations, Plan, coverage, make_plan, read_prompts, seen_combinations
from steerlm.files import write_json

if TYPE_CHECKING:
    from steerlm.checkpoint.models import CheckpointInfo

CHUNK = 256
"""Asks answered (and stored) together; ordered by prompt, so that prefixes are shared within a chunk."""
_NUM_EXAMPLES = 2
_EXAMPLE_CHARACTERS = 1500

Row = dict[str, Any]


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
        out: receives `<model>/samples.jsonl`, `<model>/scores-<scorer>.jsonl` and `results.json`. Called again after
            an interruption it goes on behind the last chunk written; answers of other models, prompts or settings
            are replaced.
        seed: of every random choice.
        annotator: the attribute model that labelled the training data; reported as not independent.
        annotated: files it labelled; where they hold human labels too, both are compared with the exact measure.

    Returns:
        A summary: per model and attribute the headline figures. Everything is in `results.json`.

    Raises:
        UserError: no model, a model of another schema or without conditioning, unusable prompts, a full disk.
    """
    from steerlm.checkpoint.models import fingerprint

    infos = _load_infos(models, schema)
    known = {name: seen_combinations(info.label_statistics, schema) for name, info in infos.items()}
    chosen = read_prompts(prompts, schema, config.num_prompts, seed)
    plan = make_plan(chosen, schema, config.settings, next(iter(known.values())), seed)
    keys = {name: fingerprint(path) for name, path in models.items()}
    answers = {name: _answers(config, plan, path, keys[name], out / name, name) for name, path in models.items()}
    scorers = make_scorers(config, schema, annotator)
    scores = {name: {s.id: _scores(s, plan, rows, out / name, name) for s in scorers} for name, rows in answers.items()}
    swept = {
        name: {s.id: _sweeps(plan, schema, answers[name], scores[name][s.id], s.attributes) for s in scorers}
        for name in models
    }
    headline = headline_scorers(schema, scorers)
    exact = exact_measure(config.measure)
    last = list(models)[-1]
    results = {
        "attributes": schema.to_dict(),
        "seed": seed,
        "settings": config.model_dump(mode="json"),
        "prompts": {"used": len(chosen), "clusters": len({prompt.cluster for prompt in chosen})},
        "asks": len(plan.asks),
        "scorers": [s.to_dict() for s in scorers],
        "headline_scorer": headline,
        "models": {
            name: {
                "fingerprint": keys[name],
                "coverage": _coverage(plan, schema, known[name], infos[name].label_statistics),
                "answers": answer_statistics(plan, answers[name], schema),
                "effects": effects(_text_sweeps(plan, schema, answers[name]), schema),
                "scorers": {s.id: _model_report(swept[name][s.id], schema, s) for s in scorers},
            }
            for name in models
        },
        "comparisons": _comparisons(swept, schema, headline),
        "label_quality": label_quality(annotated, exact, schema) if exact is not None else {},
        "examples": {"model": last, "sweeps": _examples(plan, schema, answers[last], scores[last], headline)},
    }
    write_json(out / "results.json", results)
    return summarise(results)


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


def _answers(config: EvaluateConfig, plan: Plan, model: Path, model_key: str, out: Path, name: str) -> list[Row]:
    """Let a model answer the plan; one row per ask: `ask`, `prompt`, `attributes`, `samples`."""
    from steerlm.generation.engine import Request, Sampling, load_engine

    sampling = Sampling(config.max_new_tokens, config.temperature, config.top_k)
    asked = [(a.prompt, dict(a.attributes)) for a in plan.asks]
    texts = [[(m.role, m.content) for m in prompt.messages] for prompt in plan.prompts]
    key = _digest(model_key, config.samples_per_prompt, config.precision, vars(sampling), asked, texts)
    path = out / "samples.jsonl"
    _discard_stale(path, key)
    engine = None

    def work(chunk: list[int]) -> list[Row]:
        nonlocal engine
        engine = engine or load_engine(model, config.precision, config.batch_size)
        requests = []
        for i in chunk:
            prompt = plan.prompts[plan.asks[i].prompt]
            requests.append(Request(prompt.messages, plan.asks[i].attributes, config.samples_per_prompt, prompt.seed))
        # a prompt longer than the context has no answer; it is counted, not cut
        fitting = [i for i, request in enumerate(requests) if engine.room(request) > 0]
        answers = dict(zip(fitting, engine.generate([requests[i] for i in fitting], sampling), strict=True))
        return [
            {
                "ask": ask,
                "prompt": plan.prompts[plan.asks[ask].prompt].id,
                "attributes": dict(plan.asks[ask].attributes),
                "samples": [vars(sample) for sample in answers.get(i, [])],
            }
            for i, ask in enumerate(chunk)
        ]

    map_lines(path, range(len(plan.asks)), work, chunk=CHUNK, total=len(plan.asks), description=f"answers of {name}")
    return list(read_rows(path))


def _scores(scorer: Scorer, plan: Plan, answers: Sequence[Row], out: Path, name: str) -> list[Row]:
    """Let a scorer read a model's answers; one row per ask: `ask`, `scores` (one object or null per sample)."""
    path = out / f"scores-{scorer.id}.jsonl"
    _discard_stale(path, _digest(scorer.key, scorer.attributes, list(answers)))

    def work(chunk: list[int]) -> list[Row]:
        owners, conversations = [], []
        for i in chunk:
            for sample in answers[i]["samples"]:
                owners.append(i)
                messages = plan.prompts[plan.asks[i].prompt].messages
                conversations.append((*messages, Message("assistant", sample["text"])))
        scores: dict[int, list[Measured]] = {i: [] for i in chunk}
        for i, row in zip(owners, scorer.score(conversations), strict=True):
            # six decimals: far below any error, and the file does not depend on the last bit
            scores[i].append(None if row is None else {n: round(row[n], 6) for n in scorer.attributes})
        return [{"ask": i, "scores": scores[i]} for i in chunk]

    description = f"{scorer.label} on {name}"
    map_lines(path, range(len(plan.asks)), work, chunk=CHUNK, total=len(plan.asks), description=description)
    return list(read_rows(path))


def _sweeps(
    plan: Plan, schema: AttributeSchema, answers: Sequence[Row], scores: Sequence[Row], names: Sequence[str]
) -> Sweeps:
    """Lay out one scorer's measurements as sweeps, one observation per cell and sample."""
    rows = [
        (cell, k, scores[cell.ask]["scores"][k])
        for cell in plan.cells
        for k in range(len(answers[cell.ask]["samples"]))
    ]
    per_series = max((len(row["samples"]) for row in answers), default=1) or 1
    return Sweeps(
        dial=np.array([cell.dial for cell, _, _ in rows], dtype=np.str_),
        context=np.array([cell.context for cell, _, _ in rows], dtype=np.str_),
        requested=np.array([_level_number(schema[cell.dial], cell.level) for cell, _, _ in rows], dtype=np.float64),
        cluster=np.array([plan.prompts[plan.asks[cell.ask].prompt].cluster for cell, _, _ in rows], dtype=np.int64),
        series=np.array([cell.series * per_series + k for cell, k, _ in rows], dtype=np.int64),
        obtained={
            name: np.array([np.nan if row is None else row[name] for _, _, row in rows], dtype=np.float64)
            for name in names
        },
    )


def _level_number(attribute: Attribute, level: Any) -> float:
    return float(level) if attribute.kind == "ordinal" else float(attribute.levels.index(level))


def _text_sweeps(plan: Plan, schema: AttributeSchema, answers: Sequence[Row]) -> Sweeps:
    """The same sweeps measured by the text statistics."""
    rows = [
        {"scores": [measures.text_statistics(sample["text"])._asdict() for sample in row["samples"]]} for row in answers
    ]
    return _sweeps(plan, schema, answers, rows, measures.TextStatistics._fields)


def _model_report(sweeps: Sweeps, schema: AttributeSchema, scorer: Scorer) -> dict[str, Any]:
    categorical = [a for a in schema if a.kind == "categorical" and a.name in scorer.attributes]
    return {
        **fidelity_report(sweeps, schema),
        "categorical": {attribute.name: category_dial_report(sweeps, attribute) for attribute in categorical},
    }


def _comparisons(
    swept: Mapping[str, Mapping[str, Sweeps]], schema: AttributeSchema, headline: Mapping[str, str]
) -> list[dict[str, Any]]:
    """Compare neighbouring models under every headline scorer."""
    names = list(swept)
    out = []
    for before, after in itertools.pairwise(names):
        for scorer in dict.fromkeys(headline.values()):
            attributes = [a for a in schema.ordinal if headline.get(a.name) == scorer]
            pair = swept[before][scorer], swept[after][scorer]
            if attributes and np.array_equal(pair[0].series, pair[1].series):
                row = {"before": before, "after": after, "scorer": scorer}
                out.append({**row, **paired_comparison(*pair, attributes)})
    return out


def _examples(
    plan: Plan,
    schema: AttributeSchema,
    answers: Sequence[Row],
    scores: Mapping[str, Sequence[Row]],
    headline: Mapping[str, str],
) -> list[dict[str, Any]]:
    """The same prompt at the lowest, middle and highest level of a dial: `_NUM_EXAMPLES` sweeps per attribute."""
    sweeps = []
    for d, dial in enumerate(schema):
        cells = [cell for cell in plan.cells if cell.dial == dial.name and answers[cell.ask]["samples"]]
        cells = [cell for cell in cells if cell.context == cells[0].context]
        all_series = list(dict.fromkeys(cell.series for cell in cells))
        for number in range(min(_NUM_EXAMPLES, len(all_series))):
            # spread over the prompts, others for every dial
            series = all_series[(d * _NUM_EXAMPLES + number) * len(all_series) // (_NUM_EXAMPLES * len(schema))]
            steps = [cell for cell in cells if cell.series == series]
            steps = [steps[i] for i in sorted({0, len(steps) // 2, len(steps) - 1})]
            replies = []
            for cell in steps:
                obtained = None
                if dial.name in headline:
                    row = scores[headline[dial.name]][cell.ask]["scores"][0]
                    obtained = None if row is None else _level(dial, row[dial.name])
                text = answers[cell.ask]["samples"][0]["text"][:_EXAMPLE_CHARACTERS]
                setting = dict(plan.asks[cell.ask].attributes)
                replies.append({"requested": cell.level, "obtained": obtained, "attributes": setting, "text": text})
            messages = plan.prompts[plan.asks[steps[0].ask].prompt].messages
            conversation = [{"role": m.role, "content": m.content[:_EXAMPLE_CHARACTERS]} for m in messages]
            sweeps.append({"dial": dial.name, "messages": conversation, "replies": replies})
    return sweeps


def _level(attribute: Attribute, number: float) -> float | str:
    return number if attribute.kind == "ordinal" else str(attribute.levels[int(number)])


def _digest(*parts: Any) -> str:
    return hashlib.sha256(orjson.dumps(parts)).hexdigest()


def _discard_stale(path: Path, key: str) -> None:
    """Delete answers or scores that belong to something else, and record what the new ones depend on."""
    record = path.with_suffix(".key")
    if not record.is_file() or record.read_text(encoding="utf-8") != key:
        for stale in (path, path.with_name(f"{path.name}.partial")):
            stale.unlink(missing_ok=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        record.write_text(key, encoding="utf-8")
