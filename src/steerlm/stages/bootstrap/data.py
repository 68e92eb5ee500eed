"""The data of one round of bootstrapping (SteerLM, section 3.4): prompts, samples, scores, selection, mixture.

Every step reads files and writes one; a step whose file is there is not done again, and sampling and scoring, which
take long, go on behind their last whole chunk.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from steerlm.attributes import AttributeSchema, Value
from steerlm.checkpoint.models import load_info
from steerlm.config import BootstrapConfig, SourceConfig, TrainSftConfig
from steerlm.conversation import Conversation, Score, read_conversations, write_conversations
from steerlm.errors import UserError
from steerlm.generation.guidance import turned_strengths
from steerlm.generation.requests import Request, Sampling
from steerlm.scorers.labelling import SchemaLabels, open_labels
from steerlm.scorers.measures import words
from steerlm.scorers.protocol import Scores
from steerlm.stages.bootstrap.selection import DROPPED, Combinations, ScoredSample, bootstrapped_record, keep
from steerlm.stages.tuning.answers import defects, write_samples, write_scores
from steerlm.stages.tuning.prompts import draw_prompts
from steerlm.storage.cluster import Cluster
from steerlm.storage.files import count_lines
from steerlm.storage.hash_set import HashSet, hash64
from steerlm.storage.resumable import read_rows

TRAINING_FILE = "training.jsonl"
"""What a round fine-tunes on; it appears when all that comes before is done."""
VALIDATION_FILE = "validation.jsonl"
"""What picks the weights of a round instead of the data's own validation; empty where nothing is held out."""
_HELD_OUT = 10
"""Of so many prompts one is held out."""
_FEWEST_HELD_OUT = 8
"""Held-out records, below which they pick nothing."""
_PROMPTS_PER_SCORING = 512


_TEMPERATURES = (0.4, 0.7, 1.0, 1.3)
_TRIAL_PROMPTS = 50


class TemperatureTrial(NamedTuple):
    """What came out at a temperature: answers drawn, accepted, and these weighed by what is new in them."""

    drawn: int
    accepted: int
    fresh: float


class TemperatureChoice(NamedTuple):
    """A temperature, and the trials that led to it."""

    value: float
    tried: dict[float, TemperatureTrial]

    def summary(self) -> dict[str, object]:
        """Return the JSON form for a report."""
        tried = {f"{t:g}": trial._asdict() for t, trial in self.tried.items()}
        return {"value": self.value, **({"tried": tried} if tried else {})}


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

    def sampling(self, temperature: float) -> Sampling:
        config = self.config
        return Sampling(config.max_new_tokens, temperature, config.top_k, config.top_p)

    def strengths(self, model: Path) -> Mapping[str, float]:
        """Return how strongly each dial counts that a request turns, where it is not 1, as a model answers."""
        said = self.config.guidance
        if said is None:
            said = dict(load_info(model).strengths) if self.config.engine == "local" else {}
        named = said if isinstance(said, dict) else dict.fromkeys(self.schema.names, said)
        return {name: strength for name, strength in named.items() if strength != 1}

    def requests(self, number: int, prompt: Conversation, strengths: Mapping[str, float]) -> list[Request]:
        """Return what a prompt is asked in a round."""
        config, seed = self.config, str(self.seed)

        def request(asked: Sequence[Mapping[str, Value]], samples: int, draw: int) -> Request:
            # the remainder chooses the combination, a hash of all bits the text
            setting = asked[draw % len(asked)]
            guidance = turned_strengths(self.schema, setting, strengths) or None
            return Request(prompt.messages, setting, samples, draw, guidance)

        if config.mode == "nearest":  # the best of n needs n answers to the same request
            draw = hash64(seed, str(number), prompt.id)
            return [request(self.combinations.all, config.samples_per_prompt, draw)]
        draws = (hash64(seed, str(number), prompt.id, str(i)) for i in range(config.samples_per_prompt))
        return [request(self.combinations.best, 1, draw) for draw in draws]


def write_prompts(run: Bootstrap, number: int, path: Path) -> int:
    """Write the prompts of a round (`stages.tuning.prompts.draw_prompts`); returns how many."""
    return draw_prompts(path, run.data, run.schema, run.seed, number, run.config.num_prompts)


def sample(run: Bootstrap, number: int, model: Path, folder: Path, temperature: float) -> None:
    """Write `samples.jsonl` for the prompts of the folder."""
    strengths = run.strengths(model)
    write_samples(
        run.config,
        folder / "prompts.jsonl",
        run.schema,
        model,
        run.sampling(temperature),
        ask=lambda prompt: run.requests(number, prompt, strengths),
        row=lambda request, sample: {"requested": dict(request.attributes or {}), **vars(sample)},
        description=f"sampling, round {number}",
        devices=run.config.devices_per_model,
        cluster=run.cluster,
    )


def score(run: Bootstrap, folder: Path) -> None:
    """Write `scored.jsonl`: per sample why it is dropped, or its scores and the values they stand for."""

    def worth(scorer: SchemaLabels, _: Conversation, scores: Scores) -> dict[str, object] | None:
        if any(name not in scores for name in run.config.quality_attributes):
            return None
        return {
            "values": scorer.values(scores),
            "scores": {name: value.rounded().to_dict() for name, value in scores.items()},
            **({"places": _places(scorer, scores)} if run.config.mode == "nearest" else {}),
        }

    write_scores(
        folder / "prompts.jsonl",
        run.schema,
        run.attribute_model,
        look=defects,
        worth=worth,
        chunk=_PROMPTS_PER_SCORING,
        description="scoring samples",
        devices=run.config.devices_per_model,
        cluster=run.cluster,
    )


def _places(scorer: SchemaLabels, scores: Scores) -> dict[str, float]:
    return {name: round(place, 4) for name, place in scorer.places(scores).items()}


def select(run: Bootstrap, number: int, folder: Path) -> dict[str, Any]:
    """Write `bootstrapped.jsonl` and return what was drawn, dropped and kept."""
    counts: Counter[str] = Counter()
    labels = open_labels(run.schema, run.attribute_model)

    def records() -> Iterator[Conversation]:
        for prompt, samples, scored in scored_prompts(folder, run.schema):
            candidates = [row if isinstance(row, ScoredSample) else None for row in scored]
            counts["prompts_too_long"] += not samples
            counts["samples"] += len(samples)
            counts.update(row for row in scored if isinstance(row, str))
            kept = keep(run.config, run.schema, candidates)
            counts["prompts_without_success"] += bool(samples) and not kept
            for i in kept:
                counts["kept"] += 1
                candidate = candidates[i]
                assert candidate is not None
                who = labels.labelled_by(candidate.values)
                text, requested = samples[i]["text"], run.config.mode == "nearest"
                yield bootstrapped_record(prompt, i, number, text, candidate, who, requested)

    write_conversations(folder / "bootstrapped.jsonl", records(), run.schema)
    dropped = {reason: counts[reason] for reason in DROPPED}
    if not counts["kept"]:
        raise UserError(
            f"bootstrap: none of {counts['samples']} samples is left (dropped: {dropped}; the others did not pass "
            f"{_passing(run.config)}); raise max_new_tokens, relax the filter, or train the model longer"
        )
    return {
        "prompts_too_long": counts["prompts_too_long"],
        "samples": counts["samples"],
        "dropped": dropped,
        "filtered_out": counts["samples"] - sum(dropped.values()) - counts["kept"],
        "kept": counts["kept"],
        **({"prompts_without_success": counts["prompts_without_success"]} if run.config.mode == "nearest" else {}),
    }


def _passing(config: BootstrapConfig) -> str:
    return f"tolerance: {config.tolerance:g}" if config.mode == "nearest" else f"filter: {config.filter}"


def scored_prompts(
    folder: Path, schema: AttributeSchema
) -> Iterator[tuple[Conversation, list[dict[str, Any]], list[ScoredSample | str]]]:
    """Yield each prompt with its samples, and what these are worth or why they are dropped."""
    rows = zip(
        read_conversations(folder / "prompts.jsonl", schema),
        read_rows(folder / "samples.jsonl"),
        read_rows(folder / "scored.jsonl"),
        strict=True,
    )
    for prompt, sampled, scored in rows:
        found = []
        for drawn, row in zip(sampled["samples"], scored["samples"], strict=True):
            if row["dropped"] is not None:
                found.append(row["dropped"])
            else:
                scores = {name: Score(**score) for name, score in row["scores"].items()}
                found.append(ScoredSample(drawn["requested"], row["values"], scores, row.get("places", {})))
        yield prompt, sampled["samples"], found


def choose_temperature(run: Bootstrap, number: int, model: Path, folder: Path) -> TemperatureChoice:
    """Return the temperature of a round: the recipe's, or the one at which most different answers come out as asked.

    Tried on few prompts anew in every round, as what a model accepts changes with it (B-STaR, arXiv 2412.17256). An
    accepted answer counts by its share of word triples that no accepted answer before it has.

    Args:
        folder: of the round; the trials lie in `temperature-<T>/`.
    """
    if run.config.temperature is not None:
        return TemperatureChoice(run.config.temperature, {})
    lines = sorted(
        read_conversations(folder / "prompts.jsonl", run.schema),
        key=lambda prompt: hash64(str(run.seed), str(number), "temperature", prompt.id),
    )
    tried = {}
    for temperature in _TEMPERATURES:
        trial = folder / f"temperature-{temperature:g}"
        if not (trial / "prompts.jsonl").is_file():
            write_conversations(trial / "prompts.jsonl", lines[:_TRIAL_PROMPTS], run.schema)
        sample(run, number, model, trial, temperature)
        score(run, trial)
        tried[temperature] = _tally(run, trial)
    return TemperatureChoice(max(tried, key=lambda t: tried[t].fresh), tried)


def _tally(run: Bootstrap, folder: Path) -> TemperatureTrial:
    every = run.config.model_copy(update={"keep_per_prompt": run.config.samples_per_prompt})
    drawn = accepted = 0
    fresh, seen = 0.0, HashSet()
    for _, samples, scored in scored_prompts(folder, run.schema):
        candidates = [row if isinstance(row, ScoredSample) else None for row in scored]
        drawn += len(samples)
        for i in keep(every, run.schema, candidates):
            said = words(samples[i]["text"].lower())
            triples = [hash64(*triple) for triple in zip(said, said[1:], said[2:], strict=False)]
            accepted += 1
            fresh += sum(map(seen.add, triples)) / max(1, len(triples))
    return TemperatureTrial(drawn, accepted, round(fresh, 3))


def mix(run: Bootstrap, number: int, folder: Path, kept: int) -> None:
    """Write `training.jsonl`: drawn original records in the order of the data, then the bootstrapped ones.

    In mode `nearest` those of the rounds before as well: a model trained on its last samples alone forgets
    (Quark, arXiv 2205.13636). There, with more than one epoch, every tenth prompt's are `validation.jsonl` instead:
    answers as the model should give them. People's would pick the weights that have moved least from them.
    """
    pooled = range(1, number + 1) if run.config.mode == "nearest" else [number]
    files = [run.out / f"round-{earlier}" / "bootstrapped.jsonl" for earlier in pooled]
    wanted = round(run.config.mix_original * kept)

    def rank(record: Conversation) -> int:
        return hash64(str(run.seed), str(number), "original", record.id)

    def bootstrapped() -> Iterator[Conversation]:
        for file in files:
            yield from read_conversations(file, run.schema)

    def aside(record: Conversation) -> bool:
        prompt = record.meta["bootstrap"]["prompt"]  # the same in every round: none has trained it
        return hash64(str(run.seed), "validation", prompt) % _HELD_OUT == 0

    picks = run.config.mode == "nearest" and (run.config.epochs or run.sft.epochs) > 1
    held_out = sum(map(aside, bootstrapped())) if picks else 0
    too_few = held_out < _FEWEST_HELD_OUT and number == run.config.rounds  # no later round has more of them
    if too_few or held_out == sum(map(count_lines, files)):
        held_out = 0

    def records() -> Iterator[Conversation]:
        if wanted:
            drawn = heapq.nsmallest(wanted, map(rank, read_conversations(run.data, run.schema)))
            yield from (record for record in read_conversations(run.data, run.schema) if rank(record) <= drawn[-1])
        yield from (record for record in bootstrapped() if not (held_out and aside(record)))

    validation = filter(aside, bootstrapped()) if held_out >= _FEWEST_HELD_OUT else ()
    write_conversations(folder / VALIDATION_FILE, validation, run.schema)
    write_conversations(folder / TRAINING_FILE, records(), run.schema)
