"""Answers and scores of an evaluation on disk: every model answers the same plan, every scorer reads the answers.

Both are files of JSON lines, written chunk by chunk and resumed behind the last; what they depend on stands beside them
in an `.inputs.json` file, so that another model, another plan or other settings replace them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict, cast

import numpy as np

from steerlm.attributes import Attribute, AttributeSchema, Value
from steerlm.config import EvaluateConfig
from steerlm.conversation import Message
from steerlm.results.evaluation import ScorerResult, Unscored
from steerlm.scorers import measures
from steerlm.stages.evaluate.fidelity import Sweeps, fidelity_report
from steerlm.stages.evaluate.panel import Panelist
from steerlm.stages.evaluate.sweeping import SweepPlan
from steerlm.storage.claims import claim_file, digest_of
from steerlm.storage.resumable import map_lines, read_rows

if TYPE_CHECKING:
    from steerlm.generation.requests import Sample

CHUNK = 256
"""Asks answered (and stored) together; ordered by prompt, so that prefixes are shared within a chunk."""


class SampleRow(TypedDict):
    """One answer as it is stored."""

    text: str
    num_tokens: int
    finished: bool


class AnswerRow(TypedDict):
    """The answers to one ask; none where the prompt leaves no room."""

    ask: int
    prompt: str
    attributes: dict[str, Value]
    samples: list[SampleRow]


class ScoreRow(TypedDict):
    """What a scorer measures in the answers to one ask: attribute -> number or null, or null altogether."""

    ask: int
    scores: list[dict[str, float | None] | None]


def answer_plan(
    config: EvaluateConfig, plan: SweepPlan, model: Path, model_key: str, out: Path, name: str
) -> list[AnswerRow]:
    """Let a model answer the plan.

    Args:
        config: sampling, number of samples, precision.
        out: receives `samples.jsonl`.
        name: of the model, for the progress bar.
    """
    from steerlm.generation.opening import open_engine
    from steerlm.generation.requests import Request, Sampling, generate_fitting

    sampling = Sampling(config.max_new_tokens, config.temperature, config.top_k)
    settings = [(a.prompt, dict(a.attributes), *([dict(a.strengths)] if a.strengths else [])) for a in plan.asks]
    texts = [[(m.role, m.content) for m in prompt.messages] for prompt in plan.prompts]
    parts = [model_key, config.samples_per_prompt, config.precision, vars(sampling), settings, texts]
    if config.engine != "local":  # its random numbers are others
        parts.append(config.engine)
    path = out / "samples.jsonl"
    claim_file(path, digest_of(*parts))
    engine = None

    def work(chunk: list[int]) -> list[AnswerRow]:
        nonlocal engine
        engine = engine or open_engine(
            config.engine, model, config.precision, config.batch_size, config.devices_per_model
        )
        requests = []
        for i in chunk:
            asked = plan.asks[i]
            prompt = plan.prompts[asked.prompt]
            strengths = asked.strengths or None
            requests.append(
                Request(prompt.messages, asked.attributes, config.samples_per_prompt, prompt.seed, strengths)
            )
        # a prompt longer than the context has no answer; it is counted, not cut
        answers = generate_fitting(engine, requests, sampling)
        return [answer_row(plan, ask, samples) for ask, samples in zip(chunk, answers, strict=True)]

    map_lines(path, range(len(plan.asks)), work, chunk=CHUNK, description=f"answers of {name}")
    return list(read_rows(path))


def answer_row(plan: SweepPlan, ask: int, samples: Sequence[Sample]) -> AnswerRow:
    """Return the answers to an ask as they are stored."""
    asked = plan.asks[ask]
    return {
        "ask": ask,
        "prompt": plan.prompts[asked.prompt].id,
        "attributes": dict(asked.attributes),
        "samples": [cast("SampleRow", vars(sample)) for sample in samples],
    }


def score_answers(
    panelist: Panelist, plan: SweepPlan, answers: Sequence[AnswerRow], out: Path, name: str
) -> list[ScoreRow]:
    """Let a scorer read a model's answers; what it says is kept in `out`."""
    path = out / f"scores-{panelist.id}.jsonl"
    claim_file(path, digest_of(panelist.scorer.who, panelist.attributes, list(answers)))

    def work(chunk: list[int]) -> list[ScoreRow]:
        owners, conversations = [], []
        for i in chunk:
            for sample in answers[i]["samples"]:
                owners.append(i)
                messages = plan.prompts[plan.asks[i].prompt].messages
                conversations.append((*messages, Message("assistant", sample["text"])))
        scores: dict[int, list[dict[str, float | None] | None]] = {i: [] for i in chunk}
        for i, row in zip(owners, panelist.measure(conversations), strict=True):
            scores[i].append(row)
        return [{"ask": i, "scores": scores[i]} for i in chunk]

    description = f"{panelist.scorer.label} on {name}"
    map_lines(path, range(len(plan.asks)), work, chunk=CHUNK, description=description)
    return list(read_rows(path))


def lay_out_sweeps(
    plan: SweepPlan,
    schema: AttributeSchema,
    answers: Sequence[AnswerRow],
    scores: Sequence[ScoreRow],
    names: Sequence[str],
    seen: Sequence[bool] | None = None,
) -> Sweeps:
    """Lay out one scorer's measurements as sweeps, one observation per cell and sample.

    Args:
        seen: per ask, whether its setting occurs among the training labels; None: it does not matter.
    """
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
        seen=np.array([seen is None or seen[cell.ask] for cell, _, _ in rows], dtype=np.bool_),
        obtained={
            # None becomes NaN
            name: np.array([None if row is None else row[name] for _, _, row in rows], dtype=np.float64)
            for name in names
        },
    )


@dataclass(frozen=True)
class ScoredSweeps:
    """What scorers made of one model's answers.

    Attributes:
        scores: by scorer, one row per ask.
        sweeps: by scorer, the same as columns.
    """

    scores: Mapping[str, list[ScoreRow]]
    sweeps: Mapping[str, Sweeps]

    def reports(self, schema: AttributeSchema) -> dict[str, ScorerResult]:
        """Return how faithful the model is to every dial, by scorer."""
        return {id_: fidelity_report(self.sweeps[id_], schema, _unscored(rows)) for id_, rows in self.scores.items()}


def score_sweeps(
    scorers: Sequence[Panelist],
    plan: SweepPlan,
    schema: AttributeSchema,
    answers: Sequence[AnswerRow],
    out: Path,
    name: str,
    seen: Sequence[bool] | None = None,
) -> ScoredSweeps:
    """Let scorers read a model's answers, and lay out what they say; `score_answers` and `lay_out_sweeps` have more."""
    scores = {scorer.id: score_answers(scorer, plan, answers, out, name) for scorer in scorers}
    sweeps = {s.id: lay_out_sweeps(plan, schema, answers, scores[s.id], s.attributes, seen) for s in scorers}
    return ScoredSweeps(scores, sweeps)


def _unscored(scores: Sequence[ScoreRow]) -> Unscored:
    """Count what a scorer left open."""
    rows = [row for ask in scores for row in ask["scores"]]
    return Unscored(
        answers=len(rows),
        none=sum(row is None for row in rows),
        partly=sum(row is not None and None in row.values() for row in rows),
    )


def _level_number(attribute: Attribute, level: Value) -> float:
    return float(level) if attribute.kind == "ordinal" else float(attribute.levels.index(level))


def text_sweeps(plan: SweepPlan, schema: AttributeSchema, answers: Sequence[AnswerRow], seen: Sequence[bool]) -> Sweeps:
    """The same sweeps measured by the text statistics."""
    rows: list[ScoreRow] = [
        {"ask": i, "scores": [measures.text_statistics(sample["text"])._asdict() for sample in row["samples"]]}
        for i, row in enumerate(answers)
    ]
    return lay_out_sweeps(plan, schema, answers, rows, measures.TextStatistics._fields, seen)
