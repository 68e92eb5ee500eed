"""Growth: rounds that sample where the data are thin, label, ask people for the few that matter, and train again.

    steerlm grow RECIPE --rounds 3

A round is one of bootstrapping in its mode `nearest`, with other requests: a share of them for settings that the data
hardly hold. Where ratings are wanted, people see the answers of which the attribute model is least sure, and it is
trained again with what they say before it chooses. It ends where a round gains nothing; that round's model is left.

    OUT/round-1/…              as in bootstrapping: prompts, samples, scores, what is kept, train/, done.json
               /settings.json  what was asked for
               /to_rate.jsonl  rate/  ratings.jsonl  labelled.jsonl  train_attribute_model/    where people are asked
    OUT/held_out/round-0.jsonl …
    OUT/model/                 the last round's that gained
    OUT/grow.json  grow.md     a line per round
"""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from steerlm.attributes import Value
from steerlm.checkpoint.models import fingerprint
from steerlm.config import BootstrapConfig, GrowConfig
from steerlm.conversation import read_conversations, write_conversations
from steerlm.errors import UserError
from steerlm.reporting.formatting import estimate_text, markdown_table
from steerlm.results.codec import from_json
from steerlm.runs import RunFolder
from steerlm.scorers.labelling import open_labels
from steerlm.stages.bootstrap.data import Bootstrap, choose_temperature, mix, sample, score, select, write_prompts
from steerlm.stages.bootstrap.selection import Combinations
from steerlm.stages.bootstrap.stage import check_bootstrap, fine_tune, held_out
from steerlm.stages.tuning.held_out import compare
from steerlm.stages.tuning.models import publish
from steerlm.statistics.estimates import Estimate
from steerlm.storage.claims import claim, digest_of_file
from steerlm.storage.files import read_json, write_json, write_text
from steerlm.studies.grow.asking import ask_people, ask_playground, count_ratings, write_unsure
from steerlm.studies.grow.settings import Setting, thin_settings

_HELD_OUT = 256
"""Held-out prompts that say what a round gained: later rounds gain little, which few prompts do not show."""
_REQUESTS = 1024
"""Settings that a round draws from."""


@dataclass(frozen=True)
class GrownRun:
    """What came of it.

    Attributes:
        rounds: records of the rounds that are done.
        waiting: the study that people have to answer before it goes on; None where there is none.
    """

    out: Path
    rounds: Sequence[Mapping[str, Any]]
    waiting: Path | None

    @property
    def table(self) -> str:
        """A line per round, Markdown."""
        return _table(self.rounds)


def grow(folder: RunFolder, model: Path, config: GrowConfig, out: Path, go_on: bool = False) -> GrownRun:
    """Grow a finished run.

    Args:
        folder: the run; what it labelled is where growth starts.
        out: see the module's docstring. Called again, it goes on where it stopped.
        go_on: do not wait for people who have not answered.

    Raises:
        UserError: a recipe or a model that cannot bootstrap, ratings where nothing is learned from them, or an `out`
            that holds something else.
    """
    recipe = folder.recipe
    bootstrapping = _bootstrapping(recipe.bootstrap)
    _check(folder, config)
    data, validation = folder.labelled
    combinations = check_bootstrap(bootstrapping, recipe.train_sft, model, folder.annotator, folder.schema)
    run = Bootstrap(
        bootstrapping, recipe.train_sft, folder.annotator, data, validation, folder.schema, combinations, out,
        recipe.seed, tuple(recipe.prepare.sources),
    )  # fmt: skip
    inputs = {
        "grow": config.model_dump(mode="json", exclude={"rounds"}),
        "bootstrap": bootstrapping.model_dump(mode="json"),
        "model": fingerprint(model),
        "strengths": dict(run.strengths(model)),  # chosen after its training, and so no part of its fingerprint
        "attribute_model": open_labels(folder.schema, folder.annotator).key,
        "data": digest_of_file(data),
        "seed": recipe.seed,
    }
    claim(out / "inputs.json", inputs, otherwise="refuse", holds="a growth")
    rounds: list[Mapping[str, Any]] = []
    waiting = None
    for number in range(1, config.rounds + 1):
        record = _round(folder, run, config, number, model, go_on)
        if isinstance(record, Path):
            waiting = record
            break
        rounds.append(record)
        if not record["gains"]:
            break
        model = out / f"round-{number}" / "train" / "model"
    growth = GrownRun(out, rounds, waiting)
    if rounds and waiting is None:
        if not (out / "model").is_dir() or fingerprint(out / "model") != fingerprint(model):
            publish(model, out / "model")
        write_json(out / "grow.json", {"recipe": recipe.name, "rounds": rounds})
        write_text(out / "grow.md", f"# Growth: {recipe.name}\n\n{growth.table}")
    return growth


def _bootstrapping(config: BootstrapConfig | None) -> BootstrapConfig:
    """Return how answers are drawn and chosen: as the recipe bootstraps, one round, nearest to the request."""
    if config is None:
        raise UserError("grow draws and trains as the recipe's section bootstrap says; add one (an empty one will do)")
    if config.mode != "nearest":
        raise UserError("grow keeps the answers nearest to the request: bootstrap.mode: nearest, without a filter")
    return config.model_copy(update={"rounds": 1})


def _check(folder: RunFolder, config: GrowConfig) -> None:
    recipe = folder.recipe
    if config.ratings and recipe.train_attribute_model is None:
        raise UserError("grow.ratings: the recipe trains no attribute model that could learn from them; set it to 0")
    if config.raters == "playground" and recipe.playground is None:
        raise UserError("grow.raters: playground needs a recipe with a section playground; people is the other choice")


def _round(
    folder: RunFolder, run: Bootstrap, config: GrowConfig, number: int, model: Path, go_on: bool
) -> Mapping[str, Any] | Path:
    """Do one round; returns its record, or the study that people have to answer first."""
    place = run.out / f"round-{number}"
    done = place / "done.json"
    if done.is_file():
        record: Mapping[str, Any] = read_json(done)
        return record
    started = time.monotonic()
    judged = run
    before = held_out(judged, number - 1, model, num_prompts=_HELD_OUT)
    asked = _requests(run, config, number, place)
    # any round may be the last: what is too little to pick the weights is trained
    run = dataclasses.replace(run, combinations=asked, config=run.config.model_copy(update={"rounds": number}))
    run = dataclasses.replace(run, attribute_model=_annotator(folder, run.out, number - 1))
    prompts = write_prompts(run, number, place / "prompts.jsonl")
    temperature = choose_temperature(run, number, model, place)
    sample(run, number, model, place, temperature.value)
    ratings: list[Path] = []
    if config.ratings:
        if _ask(folder, run, config, number, place, go_on) is None:
            return place / "rate"
        ratings = [run.out / f"round-{n}" / "ratings.jsonl" for n in range(1, number + 1)]
        _learn(folder, run, ratings, place)
        run = dataclasses.replace(run, attribute_model=_annotator(folder, run.out, number))
    score(run, place)
    selection = select(run, number, place)
    mix(run, number, place, selection["kept"])
    course = fine_tune(run, number, model)
    after = held_out(judged, number, place / "train" / "model", num_prompts=_HELD_OUT)
    compared = compare(before, after, run.schema, run.config.quality_attributes)
    record = {
        "round": number,
        "prompts": prompts,
        "temperature": temperature.value,
        **selection,
        "trained": course["train"]["records"],
        "ratings": count_ratings(ratings),
        "held_out": compared,
        "gains": _gains(compared),
        "seconds": round(time.monotonic() - started, 1),
    }
    write_json(done, record)
    return record


def _gains(compared: Mapping[str, Any]) -> bool:
    """Whether the dials became more exact or the answers better, beyond chance, and neither worse."""
    error = from_json(Estimate, compared["error"]["mean"]["difference"])
    if "quality" not in compared:
        return error.high < 0
    quality = from_json(Estimate, compared["quality"]["difference"])
    return (error.high < 0 or quality.low > 0) and not (error.low > 0 or quality.high < 0)


def _requests(run: Bootstrap, config: GrowConfig, number: int, place: Path) -> Combinations:
    """Return what a round asks for: settings where the data are thin, and any that occur."""
    path = place / "settings.json"
    if not path.is_file():
        seen = _seen(run, number)
        thin = thin_settings(seen, run.schema, round(config.thin_share * _REQUESTS), run.seed + number)
        known = [dict(setting) for setting in seen]
        draw = np.random.default_rng((run.seed, number))
        rest = [known[int(i)] for i in draw.integers(len(known), size=_REQUESTS - len(thin))]
        write_json(path, {"thin": thin, "seen": rest})
    stored = read_json(path)
    asked = tuple(run.schema.validate(setting) for setting in (*stored["thin"], *stored["seen"]))
    return dataclasses.replace(run.combinations, all=asked)


def _seen(run: Bootstrap, number: int) -> Counter[Setting]:
    """Count the settings of the data and of what earlier rounds kept, commonest first."""
    counts: Counter[Setting] = Counter()
    kept = [run.out / f"round-{n}" / "bootstrapped.jsonl" for n in range(1, number)]
    for file in (run.data, *kept):
        for record in read_conversations(file, run.schema):
            for turn in record.assistant_turns:
                labels: Mapping[str, Value] = record.messages[turn].attributes or {}
                if labels:
                    counts[tuple(run.schema.validate(labels).items())] += 1
    return Counter(dict(counts.most_common()))


def _annotator(folder: RunFolder, out: Path, number: int) -> Path | None:
    """Return the attribute model after a round: the latest that learned from ratings, or the run's."""
    for n in range(number, 0, -1):
        path = out / f"round-{n}" / "train_attribute_model" / "model"
        if path.is_dir():
            return path
    return folder.annotator


def _ask(folder: RunFolder, run: Bootstrap, config: GrowConfig, number: int, place: Path, go_on: bool) -> Path | None:
    """Return the ratings of the answers that the attribute model is least sure of; None: people have yet to give them.

    The scores that say which these are stand in `scored_first.jsonl`: the model that learns from them gives others.
    """
    recipe, learned = folder.recipe, folder.schema.learned
    assert learned is not None
    if not (place / "to_rate.jsonl").is_file():
        score(run, place)
        write_unsure(place, run.schema, config.ratings)
        (place / "scored.jsonl").replace(place / "scored_first.jsonl")
    if config.raters == "playground":
        assert recipe.playground is not None
        return ask_playground(place, learned, recipe.playground, run.seed)
    return ask_people(place, learned, run.seed + number, go_on)


def _learn(folder: RunFolder, run: Bootstrap, ratings: Sequence[Path], place: Path) -> None:
    """Train the attribute model with what people have said so far; nothing where they said nothing."""
    from steerlm.stages.train_attribute_model.stage import train_attribute_model

    config, learned = folder.recipe.train_attribute_model, folder.schema.learned
    assert config is not None
    assert learned is not None
    train, validation = folder.taught
    rated = [record for file in ratings for record in read_conversations(file, learned)]
    if not rated:
        return
    labelled = place / "labelled.jsonl"
    if not labelled.is_file():
        write_conversations(labelled, itertools.chain(read_conversations(train, run.schema), rated), run.schema)
    seed = run.seed if config.init_seed is None else config.init_seed
    train_attribute_model(
        config, labelled, validation, learned, place / "train_attribute_model", seed, folder.schema, run.sources
    )


def _table(rounds: Sequence[Mapping[str, Any]]) -> str:
    header = ["round", "answers drawn", "kept", "trained on", "ratings so far", "error in levels", "change",
              "quality where the best is asked for", "change", "", "seconds"]  # fmt: skip
    rows = []
    for row in rounds:
        error, quality = row["held_out"]["error"]["mean"], row["held_out"].get("quality")
        cells = [
            "" if part is None else estimate_text(from_json(Estimate, part[key]), 2)
            for part in (error, quality)
            for key in ("after", "difference")
        ]
        counts = [f"{row[key]:,}" for key in ("samples", "kept", "trained", "ratings")]
        verdict = "taken" if row["gains"] else "no gain: left"
        rows.append([str(row["round"]), *counts, *cells, verdict, f"{row['seconds']:.0f}"])
    return markdown_table(header, rows)
