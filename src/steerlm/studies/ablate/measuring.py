"""What one model of a ladder is measured by: quality where the best is asked for, and how it follows its dials.

Every model answers the same held-out prompts: all of them at the maximum-quality setting, and the recipe's number of
prompts with one dial after the other swept over its levels. A model without dials is asked the same and cannot hear it:
its answer to a prompt stands for every setting, which is what ignoring a request means.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steerlm.attributes import AttributeSchema, Value
from steerlm.config import EvaluateConfig
from steerlm.conversation import Message
from steerlm.results.studies import Measurement
from steerlm.stages.evaluate.panel import Panelist, headline_scorers, make_panel
from steerlm.stages.evaluate.sweeping import Prompt, read_prompts, sweep_levels
from steerlm.storage.claims import claim_file, digest_of
from steerlm.storage.hash_set import hash64
from steerlm.storage.resumable import map_lines, read_rows

if TYPE_CHECKING:
    from steerlm.generation.engine import LocalEngine, Sample

QUALITY_PROMPTS = 4
"""Prompts that are asked for quality, as a multiple of those that are swept: one question each is cheap."""
_CHUNK = 64
_SAMPLED = ("text", "num_tokens", "finished")

Row = dict[str, Any]


@dataclass(frozen=True)
class Questions:
    """What every model is asked.

    Attributes:
        swept: ids of those that are swept too.
        best: the maximum-quality setting: the quality attributes at their best end, the others at their defaults.
    """

    prompts: tuple[Prompt, ...]
    swept: frozenset[str]
    best: Mapping[str, Value]


def read_questions(
    config: EvaluateConfig, path: Path, schema: AttributeSchema, quality: Sequence[str], seed: int
) -> Questions:
    """Choose the prompts; the same for all models and seeds of an ablation."""
    number = None if config.num_prompts is None else QUALITY_PROMPTS * config.num_prompts
    prompts = read_prompts(path, schema, number, seed)
    swept = read_prompts(path, schema, config.num_prompts, seed)
    best = {**schema.defaults, **{name: schema[name].best_value for name in quality}}
    return Questions(prompts, frozenset(prompt.id for prompt in swept), schema.validate(best))


def measure_model(
    config: EvaluateConfig,
    model: Path,
    questions: Questions,
    schema: AttributeSchema,
    annotator: Path | None,
    out: Path,
    seed: int,
) -> Measurement:
    """Let a model answer the questions and measure the answers.

    Args:
        out: receives `answers.jsonl`: per prompt `prompt`, `cluster`, `best` (answers where the best was asked for) and
            `sweep` (answers with `dial` and `level`), each with `scores` by scorer. Called again after an
            interruption it goes on behind the last chunk; answers of another model or setting are replaced.
    """
    from steerlm.checkpoint.models import fingerprint, load_info

    info = load_info(model)
    steerable = info.conditioning
    scorers = make_panel(config, schema, annotator, [info])
    asked = [(prompt.id, prompt.id in questions.swept) for prompt in questions.prompts]
    how = config.model_dump(mode="json")
    path = out / "answers.jsonl"
    made_from = digest_of(fingerprint(model), [s.scorer.who for s in scorers], how, dict(questions.best), asked, seed)
    claim_file(path, made_from)
    engine: LocalEngine | None = None

    def work(chunk: list[Prompt]) -> list[Any]:
        nonlocal engine
        from steerlm.generation.engine import load_engine

        engine = engine or load_engine(model, config.precision, config.batch_size)
        return _answers(config, engine, chunk, questions, schema, steerable, scorers, seed)

    prompts = questions.prompts
    map_lines(path, prompts, work, chunk=_CHUNK, description=f"answers of {out.name}")
    described = [scorer.describe() for scorer in scorers]
    return Measurement(steerable, described, headline_scorers(schema, scorers))


def read_answers(out: Path) -> list[Row]:
    return list(read_rows(out / "answers.jsonl"))


def _answers(
    config: EvaluateConfig,
    engine: LocalEngine,
    prompts: Sequence[Prompt],
    questions: Questions,
    schema: AttributeSchema,
    steerable: bool,
    scorers: Sequence[Panelist],
    seed: int,
) -> list[Row]:
    from steerlm.generation.engine import Request, Sampling
    from steerlm.generation.requests import generate_fitting

    asks: list[tuple[Row, Row, Request]] = []
    rows: list[Row] = []
    for prompt in prompts:
        messages = prompt.messages if steerable else without_labels(prompt.messages)
        row: Row = {"prompt": prompt.id, "cluster": prompt.cluster, "best": [], "sweep": []}
        rows.append(row)
        draw = hash64(str(seed), prompt.id)

        def ask(
            place: Row, setting: Mapping[str, Value], samples: int, turns: Sequence[Message] = messages, s: int = draw
        ) -> None:
            asks.append((rows[-1], place, Request(tuple(turns), setting if steerable else {}, samples, s)))

        ask({}, questions.best, config.samples_per_prompt)
        if steerable and prompt.id in questions.swept:
            for dial, level, setting in sweep(schema, questions.best):
                ask({"dial": dial, "level": level}, setting, 1)
    sampling = Sampling(config.max_new_tokens, config.temperature, config.top_k)
    # a prompt longer than the context has no answer; it is counted, not cut
    answered = generate_fitting(engine, [request for _, _, request in asks], sampling)
    for (row, place, _), samples in zip(asks, answered, strict=True):
        row["sweep" if place else "best"] += [{**place, **_said(sample)} for sample in samples]
    _score(rows, prompts, scorers)
    if not steerable:
        for row in rows:
            if row["prompt"] in questions.swept and row["best"]:
                row["sweep"] = [
                    {"dial": dial, "level": level, **row["best"][0]} for dial, level, _ in sweep(schema, questions.best)
                ]
    return rows


def sweep(schema: AttributeSchema, best: Mapping[str, Value]) -> list[tuple[str, Value, dict[str, Value]]]:
    """Return (dial, level, full setting): every ordinal dial over its levels, the others at the maximum-quality
    setting."""
    return [
        (attribute.name, level, {**best, attribute.name: level})
        for attribute in schema.ordinal
        for level in sweep_levels(attribute)
    ]


def without_labels(messages: Sequence[Message]) -> tuple[Message, ...]:
    """Return a conversation as a plain model sees it: without headers, in earlier turns neither."""
    return tuple(dataclasses.replace(message, attributes=None) for message in messages)


def _said(sample: Sample) -> Row:
    return {name: getattr(sample, name) for name in _SAMPLED}


def _score(rows: Sequence[Row], prompts: Sequence[Prompt], scorers: Sequence[Panelist]) -> None:
    """Add to every answer what each scorer measures in it (None where it has no answer)."""
    answers = [
        (answer, prompt) for row, prompt in zip(rows, prompts, strict=True) for answer in (*row["best"], *row["sweep"])
    ]
    conversations = [(*prompt.messages, Message("assistant", answer["text"])) for answer, prompt in answers]
    for answer, _ in answers:
        answer["scores"] = {}
    for scorer in scorers:
        for (answer, _), scores in zip(answers, scorer.measure(conversations), strict=True):
            answer["scores"][scorer.id] = scores
