"""What a further training of a steerable model changed: quality and fidelity of two models on held-out prompts.

Both models answer the same requests with the same seeds: every prompt once at a best-quality combination (what quality
is obtained where the best is asked for; left out where no attribute counts as quality), and once at any combination
seen in training (how far what is obtained lies from what was asked for). The judge is the attribute model that the
training itself uses, so these numbers tell whether it did what it meant to do; `steerlm evaluate` brings in independent
measures.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from steerlm.attributes import AttributeSchema, Value
from steerlm.conversation import Message, Score
from steerlm.generation.opening import open_engine
from steerlm.generation.requests import Engine, Request, Sampling, generate_fitting
from steerlm.scorers.labelling import SchemaLabels, open_labels
from steerlm.stages.evaluate.sweeping import Prompt, read_prompts
from steerlm.stages.tuning.quality import predicted_quality
from steerlm.statistics.estimates import FloatArray, Weights, cluster_bootstrap, mean
from steerlm.storage.hash_set import hash64
from steerlm.storage.resumable import map_lines, read_rows

NUM_PROMPTS = 64
"""Held-out prompts that a training is judged on."""
_CHUNK = 64

Row = dict[str, Any]


def held_out_answers(
    path: Path,
    *,
    model: Path,
    attribute_model: Path | None,
    prompts: Path,
    schema: AttributeSchema,
    best: Sequence[Mapping[str, Value]],
    seen: Sequence[Mapping[str, Value]],
    sampling: Sampling,
    batch_size: int,
    seed: int,
    num_prompts: int = NUM_PROMPTS,
    devices: int = 1,
) -> list[Row]:
    """Let a model answer held-out prompts and score the answers; computed once, kept in `path`.

    Args:
        path: JSONL that is written.
        attribute_model: the judge, beside the measures and classifiers of the schema.
        best: combinations of the best quality; one of them is asked for, where there are any.
        seen: combinations seen in training; one of them is asked for.
        seed: of the choice of prompts and combinations and of the sampling.
        num_prompts: how many of the prompts, at most.
        devices: that share the model, and after it the judge.

    Returns:
        Per request `{asked: "best"|"any", cluster, requested, text, finished, scores}`; text and scores are None where
        the prompt left no room, scores alone where nothing was said or it does not fit the judge's context.
    """
    asks = [
        (prompt, asked, pool[hash64(str(seed), asked, prompt.id) % len(pool)])
        for prompt in read_prompts(prompts, schema, num_prompts, seed)
        for asked, pool in (("best", best), ("any", seen))
        if pool
    ]
    engine: Engine | None = None
    scorer: SchemaLabels | None = None

    def work(chunk: list[tuple[Prompt, str, Mapping[str, Value]]]) -> list[Any]:
        nonlocal engine, scorer
        engine = engine or open_engine("local", model, batch_size=batch_size, devices=devices)
        scorer = scorer or open_labels(schema, attribute_model, devices=devices)
        return _answer(engine, scorer, chunk, sampling)

    map_lines(path, asks, work, chunk=_CHUNK, description=f"held-out prompts, {path.stem}")
    return list(read_rows(path))


def _answer(
    engine: Engine,
    scorer: SchemaLabels,
    asks: Sequence[tuple[Prompt, str, Mapping[str, Value]]],
    sampling: Sampling,
) -> list[Row]:
    requests = [Request(prompt.messages, requested, seed=prompt.seed) for prompt, _, requested in asks]
    answers = {i: samples[0] for i, samples in enumerate(generate_fitting(engine, requests, sampling)) if samples}
    turns = [[*requests[i].messages, Message("assistant", sample.text)] for i, sample in answers.items()]
    scores = dict(zip(answers, scorer.score(turns), strict=True))
    rows = []
    for i, (prompt, asked, requested) in enumerate(asks):
        answer, score = answers.get(i), scores.get(i)
        rows.append(
            {
                "prompt": prompt.id,
                "cluster": prompt.cluster,
                "asked": asked,
                "requested": dict(requested),
                "text": None if answer is None else answer.text,
                "finished": None if answer is None else answer.finished,
                "scores": None if score is None else {name: round(s.mean, 6) for name, s in score.items()},
            }
        )
    return rows


def compare(
    before: Sequence[Row], after: Sequence[Row], schema: AttributeSchema, quality_attributes: Sequence[str]
) -> dict[str, Any]:
    """Compare two models' answers to the same requests.

    Args:
        quality_attributes: names of the attributes that count as quality; none: `quality` is left out.

    Returns:
        JSON-able: `requests`, `unanswered` (left out of the figures: one of the models said nothing that can be
        scored), `truncated` by model, and as estimates `before`, `after` and `difference`, with intervals from
        resampled prompts: `quality` where the best was asked for, and `error`: the mean absolute error between
        requested and obtained level per ordinal attribute, and its mean over them.
    """
    assert [row["requested"] for row in before] == [row["requested"] for row in after]
    pairs = [(b, a) for b, a in zip(before, after, strict=True) if b["scores"] and a["scores"]]
    best = [
        pair
        for pair in pairs
        if pair[0]["asked"] == "best" and all(name in row["scores"] for row in pair for name in quality_attributes)
    ]
    other = [pair for pair in pairs if pair[0]["asked"] == "any"]
    quality: dict[str, object] = {}
    if quality_attributes:
        rows = [[_quality(schema, quality_attributes, row) for row in pair] for pair in best]
        quality = {"quality": _estimates(rows, [pair[0]["cluster"] for pair in best])}
    errors: dict[str, Any] = {}
    everything: list[list[float]] = []
    clusters: list[int] = []
    for attribute in schema.ordinal:
        asked = [
            pair
            for pair in other
            if attribute.name in pair[0]["requested"] and all(attribute.name in row["scores"] for row in pair)
        ]
        error = [[abs(row["scores"][attribute.name] - row["requested"][attribute.name]) for row in p] for p in asked]
        group = [pair[0]["cluster"] for pair in asked]
        if asked:
            errors[attribute.name] = _estimates(error, group)
            everything += error
            clusters += group
    return {
        "requests": len(before),
        "unanswered": len(before) - len(pairs),
        "truncated": {
            name: sum(row["finished"] is False for row in rows) for name, rows in (("before", before), ("after", after))
        },
        **quality,
        "error": {"mean": _estimates(everything, clusters), **errors},
    }


def _quality(schema: AttributeSchema, names: Sequence[str], row: Row) -> float:
    return predicted_quality(schema, names, {name: Score(row["scores"][name], 0.0) for name in names})


def _estimates(pairs: Sequence[Sequence[float]], clusters: Sequence[int]) -> dict[str, Any]:
    """Estimate the mean before, after, and of the difference after minus before."""
    columns = np.array(pairs, dtype=np.float64).reshape(-1, 2).T

    def difference(weights: Weights, x_N: FloatArray, y_N: FloatArray) -> FloatArray:
        return mean(weights, y_N - x_N)

    return {
        "before": cluster_bootstrap(mean, [columns[0]], clusters).to_dict(),
        "after": cluster_bootstrap(mean, [columns[1]], clusters).to_dict(),
        "difference": cluster_bootstrap(difference, [*columns], clusters).to_dict(),
    }


@dataclass(frozen=True)
class HeldOut:
    """The same requests to one model after the other: at the best end of every attribute that has one, and at settings
    of the training labels.

    Attributes:
        folder: where the answers are kept.
        prompts: held-out conversations.
        settings: those of the training labels.
        devices: that share a model.
    """

    folder: Path
    attribute_model: Path | None
    prompts: Path
    schema: AttributeSchema
    settings: tuple[Mapping[str, Value], ...]
    sampling: Sampling
    batch_size: int
    seed: int
    devices: int = 1

    @property
    def quality(self) -> tuple[str, ...]:
        """The attributes that have a best end."""
        return tuple(attribute.name for attribute in self.schema.ordinal if attribute.best is not None)

    def answers(self, number: int, model: Path) -> list[Any]:
        """Return a model's scored answers after round `number` (0: before the first); computed once."""
        best = {**self.schema.defaults, **{name: self.schema[name].best_value for name in self.quality}}
        return held_out_answers(
            self.folder / f"round-{number}.jsonl",
            model=model,
            attribute_model=self.attribute_model,
            prompts=self.prompts,
            schema=self.schema,
            best=(self.schema.validate(best),),
            seen=self.settings,
            sampling=self.sampling,
            batch_size=self.batch_size,
            seed=self.seed,
            devices=self.devices,
        )

    def compare(self, before: list[Any], after: list[Any]) -> Mapping[str, Any]:
        """Return quality and error before, after and their difference."""
        return compare(before, after, self.schema, self.quality)
