"""Attribute-conditioned preference training on annotated answers, after the first fine-tuning.

    steerlm contrast RECIPE

Fine-tuning shows an answer behind its own label and never behind another's: what a label excludes has to be inferred.
Here two answers to one prompt stand behind the same header, the label of one of them: that one is preferred, by DPO
(arXiv 2305.18290) with the distance between them on the scale as margin; then the same with the other's label
(reward-augmented data, arXiv 2410.08067). The reference is the model it starts from, and the preferred answer's own
loss anchors it. No answer is sampled for training, and nothing is annotated anew.

    OUT/pairs.jsonl  validation_pairs.jsonl      a line per pair and goal, as TRL's DPO reads them
    OUT/reference.jsonl  validation_before.jsonl  validation_after.jsonl   log-probabilities of both answers
    OUT/train/                                   the fine-tuning
    OUT/held_out/round-0.jsonl  round-1.jsonl    answers to held-out prompts before and after
    OUT/model/
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from steerlm.attributes import AttributeSchema
from steerlm.batching.groups import EncodedGroup, GroupedExamples
from steerlm.config import ContrastConfig, TrainSftConfig
from steerlm.errors import UserError
from steerlm.generation.engine import Sampling
from steerlm.stages.contrast.pairs import GoalPair, pair_items, write_pairs
from steerlm.stages.train_sft import SftStart
from steerlm.stages.tuning.groups import (
    Data,
    Likelihood,
    encode_response,
    open_likelihood,
    tune_on_groups,
    tuning_section,
)
from steerlm.stages.tuning.held_out import HeldOut
from steerlm.stages.tuning.models import publish, require_models, tuning_inputs
from steerlm.statistics.estimates import cluster_bootstrap, mean
from steerlm.storage.claims import claim, digest_of_file
from steerlm.storage.files import read_json, write_json
from steerlm.storage.hash_set import hash64
from steerlm.storage.resumable import map_lines, read_rows
from steerlm.training.distributed import ranks
from steerlm.training.losses import ContrastLoss

_PAIRS_PER_CHUNK = 64
_TEMPERATURE = 0.7
"""Of the answers to held-out prompts."""


def contrast(
    config: ContrastConfig,
    *,
    sft: TrainSftConfig,
    steerable_model: Path,
    attribute_model: Path | None,
    data: Path,
    validation: Path,
    schema: AttributeSchema,
    out: Path,
    seed: int,
) -> Mapping[str, Any]:
    """Teach a steerable model what each label excludes.

    Args:
        sft: the section of the fine-tuning; this one is like it, where `config` says nothing else.
        steerable_model: the model to begin with, and the reference.
        attribute_model: judges answers to held-out prompts before and after; its labels are in the data. None where
            the measures and classifiers of the schema say everything.
        data: annotated training conversations, with several answers to a prompt.
        validation: the same, held out.
        out: see the module's docstring. Called again after an interruption, it goes on where it stopped.

    Returns:
        What is in `out/report.json`: the pairs, the course of training, and before and after: the share of held-out
        pairs whose answers are likelier behind their own headers than behind each other's, and the error of the dials.

    Raises:
        UserError: a model of another kind or schema, no prompt with two different answers, or an `out` that holds
            something else.
    """
    _, settings = require_models(steerable_model, attribute_model, schema)
    section = tuning_section(config, sft, steerable_model)
    inputs = tuning_inputs("contrast", config, sft, steerable_model, attribute_model, data, validation, schema, seed)
    claim(out / "inputs.json", inputs, otherwise="refuse", holds="a contrast")
    files = {"train": out / "pairs.jsonl", "validation": out / "validation_pairs.jsonl"}
    references = {"train": out / "reference.jsonl", "validation": out / "validation_before.jsonl"}
    model, after = out / "train" / "model", out / "validation_after.jsonl"
    opened = partial(open_likelihood, schema=schema, config=section, devices=config.devices_per_model)
    held_out = HeldOut(
        out / "held_out",
        attribute_model,
        validation,
        schema,
        settings,
        Sampling(config.max_new_tokens, _TEMPERATURE),
        config.batch_size,
        seed,
        config.devices_per_model,
    )
    with ranks().main_process_first():  # sampling and likelihoods: one process, the others find the files
        counts = {
            name: _pairs(config, path, files[name], schema, seed)
            for name, path in (("train", data), ("validation", validation))
        }
        first = held_out.answers(0, steerable_model)
        for name, path in references.items():
            _weigh(path, files[name], schema, partial(opened, steerable_model))

    def encoded(start: SftStart) -> Data:
        return _encoded(files, references, schema, start, out / "train")

    loss = ContrastLoss(config.beta, config.margin, config.anchor)
    owner = {"pairs": [digest_of_file(path)[:16] for path in files.values()], **config.model_dump(mode="json")}
    course = tune_on_groups(section, encoded, "contrast", loss, schema, out / "train", seed, owner)
    with ranks().main_process_first():
        second = held_out.answers(1, model)
        _weigh(after, files["validation"], schema, partial(opened, model))
    report: Mapping[str, Any] = {
        "pairs": counts,
        "training": course,
        "own_header": {
            "before": _own_header(files["validation"], references["validation"], schema),
            "after": _own_header(files["validation"], after, schema),
        },
        "held_out": held_out.compare(first, second),
    }
    if ranks().is_main_process:
        if not (out / "report.json").is_file():
            publish(model, out / "model")
        write_json(out / "report.json", report)
    return report


def _pairs(config: ContrastConfig, data: Path, path: Path, schema: AttributeSchema, seed: int) -> Mapping[str, int]:
    """Write the pairs of a file unless they are there; returns what was written and left out."""
    record = path.with_suffix(".json")
    if not path.is_file() or not record.is_file():
        write_json(record, write_pairs(config, data, path, schema, seed))
    counts: Mapping[str, int] = read_json(record)
    if not counts["goals"]:
        raise UserError(
            f"{data}: no prompt has two annotated answers that differ by {config.minimum_distance} of the scale "
            f"(prompts with two answers: {counts['prompts']}, pairs alike: {counts['alike']}); contrast needs several "
            "answers per prompt: annotate such data, lower contrast.minimum_distance, raise "
            "prepare.validation_fraction, or leave the section out"
        )
    return counts


def _weigh(path: Path, pairs: Path, schema: AttributeSchema, opened: Callable[[], Likelihood]) -> None:
    """Write the log-probability of both answers of every pair behind the goal, chosen first.

    Args:
        opened: loads the model.
    """
    likelihoods: Likelihood | None = None

    def work(chunk: list[GoalPair]) -> list[Any]:
        nonlocal likelihoods
        likelihoods = likelihoods or opened()
        found = likelihoods([(pair.messages, pair.goal, (pair.chosen, pair.rejected)) for pair in chunk])
        return [{"id": pair.id, "log_probabilities": values} for pair, values in zip(chunk, found, strict=True)]

    items = pair_items(pairs, schema)
    map_lines(path, items, work, chunk=_PAIRS_PER_CHUNK, description=f"likelihood of pairs, {path.stem}")


def _encoded(
    files: Mapping[str, Path], references: Mapping[str, Path], schema: AttributeSchema, start: SftStart, folder: Path
) -> Data:
    """Encode the pairs that fit into `max_length`."""
    counts = {"too_long": 0, "train_tokens": 0, "validation_tokens": 0}

    def rows(name: str) -> Iterator[EncodedGroup]:
        for pair, row in zip(pair_items(files[name], schema), read_rows(references[name]), strict=True):
            if None in row["log_probabilities"]:
                counts["too_long"] += 1
                continue
            encoded = [
                encode_response(start.encoder, pair.messages, t, pair.goal) for t in (pair.chosen, pair.rejected)
            ]
            counts[f"{name}_tokens"] += sum(len(ids) for ids, _ in encoded)
            yield EncodedGroup(encoded, row["log_probabilities"], (pair.margin, 0.0))

    data = {name: GroupedExamples.of(rows(name), folder) for name in files}
    for name, examples in data.items():
        if not len(examples):
            raise UserError(f"{files[name]}: no pair has answers of at most {start.max_length} tokens")
    found: Mapping[str, object] = {f"{name}_pairs": len(examples) for name, examples in data.items()}
    return data["train"], data["validation"], {**found, **counts}


def _own_header(pairs: Path, log_probabilities: Path, schema: AttributeSchema) -> Mapping[str, Any]:
    """Return the share of pairs whose answers are likelier behind their own headers than behind each other's."""
    rows = {row["id"]: row["log_probabilities"] for row in read_rows(log_probabilities)}
    gains: list[float] = []
    prompts: list[int] = []
    for pair in pair_items(pairs, schema):
        both, goal = pair.id.rsplit("/", 1)
        other = rows.get(f"{both}/1")
        if goal == "0" and other is not None and None not in [*rows[pair.id], *other]:
            gains.append(float(rows[pair.id][0] + other[0] > rows[pair.id][1] + other[1]))
            prompts.append(hash64(both.split("/")[0]))
    return cluster_bootstrap(mean, [np.array(gains)], prompts).to_dict()
