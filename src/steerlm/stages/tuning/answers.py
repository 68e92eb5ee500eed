"""A model's own answers, as training takes them: sampled for a file of prompts, looked through, and scored.

Both steps read files and write one, a line per prompt; they take long, and go on behind their last whole chunk.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from steerlm.attributes import AttributeSchema
from steerlm.config import BootstrapConfig, RefineConfig
from steerlm.conversation import Conversation, Message
from steerlm.generation.opening import open_engine
from steerlm.generation.requests import Engine, Request, Sample, Sampling, generate_fitting
from steerlm.scorers.labelling import SchemaLabels, open_labels
from steerlm.scorers.measures import has_label_leak, is_degenerate, says_things_twice, words
from steerlm.scorers.protocol import Scores
from steerlm.stages.tuning.prompts import prompt_items
from steerlm.storage.cluster import Cluster
from steerlm.storage.resumable import Pairs, map_lines, row_items

_ROWS_PER_SLOT = 8
"""Samples of a chunk for every place in the batch: enough that the batch is full most of the time."""

Row = Mapping[str, object]


def write_samples(
    config: BootstrapConfig | RefineConfig,
    prompts: Path,
    schema: AttributeSchema,
    model: Path,
    sampling: Sampling,
    *,
    ask: Callable[[Conversation], Sequence[Request]],
    row: Callable[[Request, Sample], Row],
    description: str,
    devices: int = 1,
    cluster: Cluster | None = None,
) -> None:
    """Write `samples.jsonl` beside the prompts: what a model says to each.

    Args:
        config: the engine, its batch, and how many samples a prompt is answered with.
        ask: returns what a prompt is asked.
        row: returns what is kept of a sample.
        devices: that share the model.
    """
    model = model.resolve()  # the workers of a cluster may have another working directory
    engine: Engine | None = None

    def work(chunk: list[Conversation]) -> list[Any]:
        nonlocal engine
        engine = engine or open_engine(config.engine, model, batch_size=config.batch_size, devices=devices)
        said: list[list[Row]] = [[] for _ in chunk]
        asks = [(found, request) for prompt, found in zip(chunk, said, strict=True) for request in ask(prompt)]
        answers = generate_fitting(engine, [request for _, request in asks], sampling)
        for (found, request), samples in zip(asks, answers, strict=True):
            found += [row(request, sample) for sample in samples]
        return [{"id": prompt.id, "samples": found} for prompt, found in zip(chunk, said, strict=True)]

    map_lines(
        prompts.with_name("samples.jsonl"),
        prompt_items(prompts, schema),
        work,
        chunk=max(1, _ROWS_PER_SLOT * config.batch_size // config.samples_per_prompt),
        description=description,
        cluster=cluster,
    )


def write_scores(
    prompts: Path,
    schema: AttributeSchema,
    attribute_model: Path | None,
    *,
    look: Callable[[Sequence[Mapping[str, Any]], AttributeSchema], list[str | None]],
    worth: Callable[[SchemaLabels, Conversation, Scores], Row | None],
    chunk: int,
    description: str,
    devices: int = 1,
    cluster: Cluster | None = None,
) -> None:
    """Write `scored.jsonl` beside the prompts: of every sample why it is dropped, or what it is worth.

    Args:
        attribute_model: says what only people know; None where there is nothing of that kind.
        look: returns why samples of one prompt are dropped before scoring (`defects`).
        worth: returns what is kept of a sample's scores; None: they do not suffice, and the sample is dropped.
        chunk: prompts whose answers are scored together.
        devices: that share the attribute model.
    """
    attribute_model = None if attribute_model is None else attribute_model.resolve()
    scorer: SchemaLabels | None = None

    def work(chunk: list[tuple[Conversation, Any]]) -> list[Any]:
        nonlocal scorer
        scorer = scorer or open_labels(schema, attribute_model, devices=devices)
        rows: list[Any] = []
        waiting: list[tuple[dict[str, object], Conversation, list[Message]]] = []
        for prompt, sampled in chunk:
            found: list[dict[str, object]] = [{"dropped": why} for why in look(sampled["samples"], schema)]
            for sample, result in zip(sampled["samples"], found, strict=True):
                if result["dropped"] is None:
                    waiting.append((result, prompt, [*prompt.messages, Message("assistant", sample["text"])]))
            rows.append({"id": prompt.id, "samples": found})
        found_scores = scorer.score([messages for _, _, messages in waiting])
        for (result, prompt, _), scores in zip(waiting, found_scores, strict=True):
            kept = None if scores is None else worth(scorer, prompt, scores)
            result.update({"dropped": "unscorable"} if kept is None else kept)
        return rows

    map_lines(
        prompts.with_name("scored.jsonl"),
        Pairs(prompt_items(prompts, schema), row_items(prompts.resolve().with_name("samples.jsonl"))),
        work,
        chunk=chunk,
        description=description,
        cluster=cluster,
    )


def defects(samples: Sequence[Mapping[str, Any]], schema: AttributeSchema) -> list[str | None]:
    """Say of every sample of one prompt why it is dropped before scoring; None = it is not.

    Args:
        samples: rows with `text` and `finished`.
        schema: the attribute names that a leaked label would show.

    Returns:
        Per sample None, or `empty` (no words), `truncated` (cut off by the length limit), `leaking` (shows attribute
        text or control tokens), `duplicate` (says the same as another sample of its prompt), or `repeating` (stuck in
        repetition).
    """
    seen: set[str] = set()
    found: list[str | None] = []
    for sample in samples:
        text = sample["text"].strip()
        reason = None
        if not words(text):
            reason = "empty"
        elif not sample["finished"]:
            reason = "truncated"
        elif has_label_leak(text, schema):
            reason = "leaking"
        elif text in seen:
            reason = "duplicate"
        elif is_degenerate(text) or says_things_twice(text):
            reason = "repeating"
        seen.add(text)
        found.append(reason)
    return found
