"""The data of one round of SteerLM 2.0: requests, responses, and the three likelihoods of each response.

Every step reads files and writes one; a step whose file is there is not done again, and those that take long go on
behind their last whole chunk.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import entr, softmax

from steerlm.attributes import AttributeSchema, Value
from steerlm.batching.groups import EncodedGroup, GroupedExamples
from steerlm.config import RefineConfig, TrainSftConfig
from steerlm.conversation import Conversation, read_conversations, write_conversations
from steerlm.errors import UserError
from steerlm.generation.requests import Request, Sampling
from steerlm.scorers.labelling import SchemaLabels
from steerlm.scorers.likelihoods import log_likelihood
from steerlm.scorers.protocol import Scores
from steerlm.sources.response_groups import ResponseGroup, WeighedResponse, read_groups, write_groups
from steerlm.stages.train_sft import SftStart
from steerlm.stages.tuning.answers import defects, write_samples, write_scores
from steerlm.stages.tuning.groups import Data, Likelihood, encode_response, open_likelihood, tuning_section
from steerlm.stages.tuning.prompts import draw_prompts, prompt_items
from steerlm.storage.cluster import Cluster
from steerlm.storage.hash_set import hash64
from steerlm.storage.resumable import Pairs, map_lines, read_rows, row_items

_GROUPS_PER_CHUNK = 64
HELD_OUT = 16
"""The responses to one of so many prompts are not trained on: their KL(w||b) is what is monitored."""

DROPPED = ("empty", "truncated", "repeating", "leaking", "unscorable", "too_long")
"""Why a response is dropped: `bootstrap.selection.DROPPED`, but duplicates stay (each is a draw of its own); or it is
longer than `max_length`."""


@dataclass(frozen=True)
class Refinement:
    """What all rounds share: the arguments of `stages.refine.stage.refine`, and what follows from them.

    Attributes:
        requests: the settings that the training labels support.
        prior: the model that says log P(y|x).
    """

    config: RefineConfig
    sft: TrainSftConfig
    attribute_model: Path | None
    data: Path
    validation: Path
    schema: AttributeSchema
    requests: tuple[Mapping[str, Value], ...]
    prior: Path
    out: Path
    seed: int
    cluster: Cluster | None = None


def write_requests(run: Refinement, number: int, folder: Path) -> None:
    """Write `requests.jsonl`: every prompt with a setting, a key `requested` of its record."""
    config, path = run.config, folder / "requests.jsonl"
    draw_prompts(folder / "prompts.jsonl", run.data, run.schema, run.seed, number, config.num_prompts)

    def records() -> Iterator[Conversation]:
        for prompt in read_conversations(folder / "prompts.jsonl", run.schema):
            draws = [hash64(str(run.seed), str(number), prompt.id, "request", str(i)) for i in range(most)]
            for i, place in enumerate(dict.fromkeys(draw % len(run.requests) for draw in draws)):
                requested = {"requested": dict(run.requests[place])}
                yield Conversation(f"{prompt.id}/request-{i}", prompt.messages, prompt.source, prompt.group, requested)

    most = min(config.requests_per_prompt, len(run.requests))
    if not path.is_file():
        write_conversations(path, records(), run.schema)


def _requested(run: Refinement, request: Conversation) -> dict[str, Value]:
    return run.schema.validate(request.meta["requested"])


def sample(run: Refinement, number: int, model: Path, folder: Path) -> None:
    """Write `samples.jsonl`: what a model says to the requests of the folder."""
    config = run.config

    def ask(request: Conversation) -> list[Request]:
        draw = hash64(str(run.seed), str(number), request.id)
        return [Request(request.messages, _requested(run, request), config.samples_per_prompt, draw)]

    write_samples(
        config,
        folder / "requests.jsonl",
        run.schema,
        model,
        Sampling(config.max_new_tokens, config.temperature, config.top_k, config.top_p),
        ask=ask,
        row=lambda _, sample: vars(sample),
        description=f"sampling, round {number}",
        devices=config.devices_per_model,
        cluster=run.cluster,
    )


def score(run: Refinement, folder: Path) -> None:
    """Write `scored.jsonl`: per response why it is dropped, or log P(a|x,y) and the scores it comes from."""
    kernels = {attribute.name: run.config.kernel for attribute in run.schema if attribute.said_by == "measure"}

    def worth(_: SchemaLabels, request: Conversation, scores: Scores) -> dict[str, object] | None:
        requested = _requested(run, request)
        if any(name not in scores for name in requested):
            return None
        likelihood = log_likelihood(run.schema, requested, scores, run.config.concentration, kernels)
        return {
            "log_likelihood": round(likelihood, 4),
            "scores": {name: scores[name].rounded().to_dict() for name in requested},
        }

    write_scores(
        folder / "requests.jsonl",
        run.schema,
        run.attribute_model,
        look=_defects,
        worth=worth,
        chunk=_GROUPS_PER_CHUNK,
        description="scoring responses",
        devices=run.config.devices_per_model,
        cluster=run.cluster,
    )


def _defects(samples: Sequence[Mapping[str, Any]], schema: AttributeSchema) -> list[str | None]:
    """Return why responses are dropped; a repeated one is what its first occurrence is."""
    found = defects(samples, schema)
    texts = [sample["text"].strip() for sample in samples]
    return [found[texts.index(text)] if why == "duplicate" else why for text, why in zip(texts, found, strict=True)]


def weigh(run: Refinement, folder: Path, name: str, model: Path, header: bool) -> None:
    """Write `<name>.jsonl`: the log-probability of every response that is left, behind its header or without one."""
    likelihoods: Likelihood | None = None
    config, model, devices = training_section(run, model), model.resolve(), run.config.devices_per_model

    def work(chunk: list[tuple[Conversation, tuple[Any, Any]]]) -> list[Any]:
        nonlocal likelihoods
        likelihoods = likelihoods or open_likelihood(model, run.schema, config, devices)
        kept = [[i for i, row in enumerate(scored["samples"]) if row["dropped"] is None] for _, (_, scored) in chunk]
        found = likelihoods(
            [
                (
                    request.messages,
                    _requested(run, request) if header else {},
                    [sampled["samples"][i]["text"] for i in places],
                )
                for (request, (sampled, _)), places in zip(chunk, kept, strict=True)
            ]
        )
        rows = []
        for (request, (sampled, _)), places, values in zip(chunk, kept, found, strict=True):
            row: list[float | None] = [None] * len(sampled["samples"])
            for i, value in zip(places, values, strict=True):
                row[i] = value
            rows.append({"id": request.id, "log_probabilities": row})
        return rows

    asked = Pairs(row_items((folder / "samples.jsonl").resolve()), row_items((folder / "scored.jsonl").resolve()))
    map_lines(
        folder / f"{name}.jsonl",
        Pairs(prompt_items(folder / "requests.jsonl", run.schema), asked),
        work,
        chunk=_GROUPS_PER_CHUNK,
        description=f"likelihood of responses, {name}",
        cluster=run.cluster,
    )


def training_section(run: Refinement, model: Path) -> TrainSftConfig:
    """Return how a round is trained."""
    return tuning_section(run.config, run.sft, model)


def gather(run: Refinement, folder: Path) -> dict[str, object]:
    """Write `train.jsonl` and `validation.jsonl` in NeMo-Aligner's format, and return what was sampled and dropped."""
    counts: Counter[str] = Counter()
    distances: dict[str, list[float]] = {}
    groups = list(_groups(run, folder, counts, distances))
    held_out = [group for group, own in groups if own]
    kept = [group for group, own in groups if not own]
    if not kept or not held_out:
        dropped = {reason: counts[reason] for reason in DROPPED}
        raise UserError(
            f"refine: {len(groups)} of {counts['requests']} requests are left with two responses or more (dropped "
            f"responses: {dropped}); there must be some to train on and some to validate on: raise num_prompts, "
            "samples_per_prompt or max_new_tokens"
        )
    write_groups(folder / "train.jsonl", kept, run.schema)
    write_groups(folder / "validation.jsonl", held_out, run.schema)
    return {
        "requests": counts["requests"],
        "prompts_too_long": counts["prompts_too_long"],
        "samples": counts["samples"],
        "sampled_tokens": counts["sampled_tokens"],
        "dropped": {reason: counts[reason] for reason in DROPPED},
        "groups": {"train": len(kept), "validation": len(held_out), "too_few_responses": counts["too_few"]},
        "sampled_error": {n: float(np.mean(distances[n])) for n in run.schema.names if n in distances},
    }


def _groups(
    run: Refinement, folder: Path, counts: Counter[str], distances: dict[str, list[float]]
) -> Iterator[tuple[ResponseGroup, bool]]:
    """Yield the groups of two responses or more, and whether they are held out."""
    files = (read_rows(folder / f"{name}.jsonl") for name in ("samples", "scored", "response", "steered"))
    prompts: dict[str, bool] = {}
    for request, sampled, scored, response, steered in zip(
        read_conversations(folder / "requests.jsonl", run.schema), *files, strict=True
    ):
        requested = _requested(run, request)
        counts["requests"] += 1
        counts["prompts_too_long"] += not sampled["samples"]
        responses = []
        columns = (sampled["samples"], scored["samples"], response["log_probabilities"], steered["log_probabilities"])
        for said, row, plain, own in zip(*columns, strict=True):
            counts["samples"] += 1
            counts["sampled_tokens"] += said["num_tokens"]
            why = row["dropped"] or ("too_long" if plain is None or own is None else None)
            if why is not None:
                counts[why] += 1
                continue
            for attribute in run.schema.ordinal:
                if (wanted := requested.get(attribute.name)) is not None:
                    distance = abs(row["scores"][attribute.name]["mean"] - float(wanted))
                    distances.setdefault(attribute.name, []).append(distance)
            responses.append(WeighedResponse(said["text"], row["log_likelihood"], plain, own))
        if len(responses) < 2:
            counts["too_few"] += bool(sampled["samples"])
            continue
        prompt = request.id.rpartition("/request-")[0]
        held_out = prompts.setdefault(prompt, len(prompts) % HELD_OUT == 0)
        yield ResponseGroup(request.id, request.messages, requested, tuple(responses)), held_out


def encode_groups(files: Sequence[Path], schema: AttributeSchema, start: SftStart, folder: Path) -> Data:
    """Encode groups to train on and to validate on; responses longer than `max_length` are left out."""
    counts: Counter[str] = Counter()
    effective: list[float] = []

    def rows(path: Path, name: str) -> Iterator[EncodedGroup]:
        for group in read_groups(path, schema):
            encoded = [encode_response(start.encoder, group.messages, r.text, group.requested) for r in group.responses]
            kept = [i for i, (ids, _) in enumerate(encoded) if len(ids) <= start.max_length]
            counts["responses_too_long"] += len(encoded) - len(kept)
            if len(kept) < 2:
                counts["groups_left_out"] += 1
                continue
            responses = [group.responses[i] for i in kept]
            value = [r.attributes + r.response - r.steered for r in responses]
            effective.append(_effective(value))
            counts[f"{name}_groups"] += 1
            counts[f"{name}_tokens"] += sum(len(encoded[i][0]) for i in kept)
            yield EncodedGroup([encoded[i] for i in kept], [r.steered for r in responses], value)

    data = [GroupedExamples.of(rows(path, path.stem), folder) for path in files]
    for examples, path in zip(data, files, strict=True):
        if not len(examples):
            raise UserError(f"{path}: no group has two responses of at most {start.max_length} tokens")
    names = ("train_groups", "train_tokens", "validation_groups", "responses_too_long", "groups_left_out")
    found: dict[str, object] = {name: counts[name] for name in names}
    return data[0], data[1], {**found, "effective_responses": round(float(np.mean(effective)), 4)}


def divergence(path: Path, schema: AttributeSchema) -> float:
    """Return the mean KL(w||b) of a file's groups where nothing has been trained: all b are equal."""
    found = []
    for group in read_groups(path, schema):
        weights = softmax([r.attributes + r.response - r.steered for r in group.responses])
        found.append(math.log(len(weights)) - float(entr(weights).sum()))
    return round(float(np.mean(found)), 6)


def _effective(value: Sequence[float]) -> float:
    """Return how many responses carry a group's weight: 1 / sum of the squared weights."""
    return 1.0 / float((softmax(value) ** 2).sum())
