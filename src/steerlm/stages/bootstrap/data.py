"""The data of one round of bootstrapping (SteerLM, section 3.4): prompts, samples, scores, selection, mixture.

Every step reads files and writes one; a step whose file is there is not done again, and sampling and scoring, which
take long, go on behind their last whole chunk.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from steerlm.attributes import AttributeSchema
from steerlm.config import BootstrapConfig, SourceConfig, TrainSftConfig
from steerlm.conversation import Conversation, Message, Score, read_conversations, write_conversations
from steerlm.errors import UserError
from steerlm.generation.opening import open_engine
from steerlm.generation.requests import Engine, Request, Sampling
from steerlm.scorers.labelling import SchemaLabels, open_labels
from steerlm.stages.bootstrap.prompts import draw_prompts, prompt_items
from steerlm.stages.bootstrap.selection import DROPPED, Combinations, ScoredSample, bootstrapped_record, defects, keep
from steerlm.storage.cluster import Cluster
from steerlm.storage.hash_set import hash64
from steerlm.storage.resumable import Pairs, map_lines, read_rows, row_items

_ROWS_PER_SLOT = 8
"""Samples of a chunk for every place in the batch: enough that the batch is full most of the time."""
_PROMPTS_PER_SCORING = 512


@dataclass(frozen=True)
class Bootstrap:
    """What all rounds share: the arguments of `stages.bootstrap.stage.bootstrap`, and what follows from them."""

    config: BootstrapConfig
    sft: TrainSftConfig
    attribute_model: Path | None
    data: Path
    validation: Path
    schema: AttributeSchema
    combinations: Combinations
    out: Path
    seed: int
    sources: tuple[SourceConfig, ...]
    cluster: Cluster | None = None

    @property
    def sampling(self) -> Sampling:
        config = self.config
        return Sampling(config.max_new_tokens, config.temperature, config.top_k, config.top_p)


def write_prompts(run: Bootstrap, number: int, path: Path) -> int:
    """Write the prompts of a round (`prompts.draw_prompts`); returns how many."""
    return draw_prompts(path, run.data, run.schema, run.seed, number, run.config.num_prompts)


def sample(run: Bootstrap, number: int, model: Path, folder: Path) -> None:
    """Write `samples.jsonl`."""
    config, best, model = run.config, run.combinations.best, model.resolve()
    engine: Engine | None = None

    def work(chunk: list[Conversation]) -> list[Any]:
        nonlocal engine
        engine = engine or open_engine(config.engine, model, batch_size=config.batch_size)
        asks: list[tuple[int, Request]] = []
        for number_in_chunk, prompt in enumerate(chunk):
            for i in range(config.samples_per_prompt):
                draw = hash64(str(run.seed), str(number), prompt.id, str(i))
                # the remainder chooses the combination, a hash of all bits the text
                request = Request(prompt.messages, best[draw % len(best)], seed=draw)
                if engine.room(request) > 0:
                    asks.append((number_in_chunk, request))
        rows: list[Any] = [{"id": prompt.id, "samples": []} for prompt in chunk]
        answers = engine.generate([request for _, request in asks], run.sampling)
        for (number_in_chunk, request), [answer] in zip(asks, answers, strict=True):
            row = {"requested": dict(request.attributes or {}), **vars(answer)}
            rows[number_in_chunk]["samples"].append(row)
        return rows

    map_lines(
        folder / "samples.jsonl",
        prompt_items(folder / "prompts.jsonl", run.schema),
        work,
        chunk=max(1, _ROWS_PER_SLOT * config.batch_size // config.samples_per_prompt),
        description=f"sampling, round {number}",
        cluster=run.cluster,
    )


def score(run: Bootstrap, folder: Path) -> None:
    """Write `scored.jsonl`: per sample why it is dropped, or its scores and the values they stand for."""
    scorer: SchemaLabels | None = None
    attribute_model = None if run.attribute_model is None else run.attribute_model.resolve()

    def work(chunk: list[tuple[Conversation, Any]]) -> list[Any]:
        nonlocal scorer
        scorer = scorer or open_labels(run.schema, attribute_model)
        rows: list[Any] = []
        waiting: list[tuple[dict[str, Any], list[Message]]] = []
        for prompt, row in chunk:
            found: list[dict[str, Any]] = [{"dropped": reason} for reason in defects(row["samples"], run.schema)]
            for sample, result in zip(row["samples"], found, strict=True):
                if result["dropped"] is None:
                    waiting.append((result, [*prompt.messages, Message("assistant", sample["text"])]))
            rows.append({"id": prompt.id, "samples": found})
        scores = scorer.score([messages for _, messages in waiting])
        for (result, _), score in zip(waiting, scores, strict=True):
            if score is None or any(name not in score for name in run.config.quality_attributes):
                result["dropped"] = "unscorable"
            else:
                result["values"] = scorer.values(score)
                result["scores"] = {name: value.rounded().to_dict() for name, value in score.items()}
        return rows

    map_lines(
        folder / "scored.jsonl",
        Pairs(prompt_items(folder / "prompts.jsonl", run.schema), row_items((folder / "samples.jsonl").resolve())),
        work,
        chunk=_PROMPTS_PER_SCORING,
        description="scoring samples",
        cluster=run.cluster,
    )


def select(run: Bootstrap, number: int, folder: Path) -> dict[str, Any]:
    """Write `bootstrapped.jsonl` and return what was drawn, dropped and kept."""
    counts: Counter[str] = Counter()
    labels = open_labels(run.schema, run.attribute_model)

    def records() -> Iterator[Conversation]:
        rows = zip(
            read_conversations(folder / "prompts.jsonl", run.schema),
            read_rows(folder / "samples.jsonl"),
            read_rows(folder / "scored.jsonl"),
            strict=True,
        )
        for prompt, sampled, scored in rows:
            samples = sampled["samples"]
            candidates = [
                None if row["dropped"] is not None else _scored(drawn["requested"], row)
                for drawn, row in zip(samples, scored["samples"], strict=True)
            ]
            counts["prompts_too_long"] += not samples
            counts["samples"] += len(samples)
            counts.update(row["dropped"] for row in scored["samples"] if row["dropped"] is not None)
            for i in keep(run.config, run.schema, candidates):
                counts["kept"] += 1
                candidate = candidates[i]
                assert candidate is not None
                who = labels.labelled_by(candidate.values)
                yield bootstrapped_record(prompt, i, number, samples[i]["text"], candidate, who)

    write_conversations(folder / "bootstrapped.jsonl", records(), run.schema)
    dropped = {reason: counts[reason] for reason in DROPPED}
    if not counts["kept"]:
        raise UserError(
            f"bootstrap: none of {counts['samples']} samples is left (dropped: {dropped}; the others did not pass "
            f"filter: {run.config.filter}); raise max_new_tokens, relax the filter, or train the model longer"
        )
    return {
        "prompts_too_long": counts["prompts_too_long"],
        "samples": counts["samples"],
        "dropped": dropped,
        "filtered_out": counts["samples"] - sum(dropped.values()) - counts["kept"],
        "kept": counts["kept"],
    }


def _scored(requested: dict[str, Any], row: dict[str, Any]) -> ScoredSample:
    return ScoredSample(requested, row["values"], {name: Score(**score) for name, score in row["scores"].items()})


def mix(run: Bootstrap, number: int, folder: Path, kept: int) -> None:
    """Write `training.jsonl`: drawn original records in the order of the data, then the bootstrapped ones."""
    wanted = round(run.config.mix_original * kept)

    def rank(record: Conversation) -> int:
        return hash64(str(run.seed), str(number), "original", record.id)

    def records() -> Iterator[Conversation]:
        if wanted:
            drawn = heapq.nsmallest(wanted, map(rank, read_conversations(run.data, run.schema)))
            yield from (record for record in read_conversations(run.data, run.schema) if rank(record) <= drawn[-1])
        yield from read_conversations(folder / "bootstrapped.jsonl", run.schema)

    write_conversations(folder / "training.jsonl", records(), run.schema)
