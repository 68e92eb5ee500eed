"""Step 4: bootstrap (SteerLM, section 3.4).

    steerlm bootstrap RECIPE

The steerable model answers its own training prompts, the attribute model scores the answers, and a second fine-tuning
learns from them. In mode `paper` the best quality seen in training is asked for, and what the attribute model predicts
is trained, not what was requested; how many answers per prompt, where the second fine-tuning starts, and how it mixes
with the first one's data the paper does not say: those are choices of the recipe. In mode `nearest` any setting seen in
training is asked for, and the answers that come nearest to it train it. Every round reports what it changed on
held-out prompts.

    OUT/round-1/prompts.jsonl       the prompts, one per line
               /temperature-0.7/…   trials of temperatures, where one is chosen
               /samples.jsonl       what was asked for and said, one prompt per line
               /scored.jsonl        what the attribute model says, and which samples are dropped, one prompt per line
               /bootstrapped.jsonl  the records that are kept
               /training.jsonl      the same after the original records mixed in
               /validation.jsonl    those of every tenth prompt, which pick the weights (nearest, several epochs)
               /train/              the second fine-tuning
    OUT/held_out/round-0.jsonl      answers to held-out prompts before the first round, -1 after it, …
    OUT/model/                      the last round's model

Under `accelerate launch` or torchrun the first process prepares the data, while the others wait; all of them train.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from steerlm.attributes import AttributeSchema
from steerlm.checkpoint.models import fingerprint, load_info
from steerlm.config import BootstrapConfig, SourceConfig, TrainSftConfig, check_guidance
from steerlm.errors import UserError
from steerlm.runs import is_main_process
from steerlm.scorers.labelling import open_labels
from steerlm.stages.bootstrap.data import (
    TRAINING_FILE,
    VALIDATION_FILE,
    Bootstrap,
    choose_temperature,
    mix,
    sample,
    score,
    select,
    write_prompts,
)
from steerlm.stages.bootstrap.selection import Combinations, quality_combinations
from steerlm.stages.train_sft import train_sft
from steerlm.stages.tuning.held_out import NUM_PROMPTS, compare, held_out_answers
from steerlm.stages.tuning.models import publish, steerable_info
from steerlm.storage.claims import claim, digest_of_file
from steerlm.storage.cluster import Cluster
from steerlm.storage.files import count_lines, write_json

_POLL_S = 0.5
_HELD_OUT_TEMPERATURE = 0.7
_JUDGED_BY_ITSELF = (
    "quality and fidelity are judged by what also labelled the training data and the samples; "
    "`steerlm evaluate` adds independent measures"
)
_JUDGED_BY_ANOTHER = "quality and fidelity are judged by another attribute model than the one that chose the samples"


def bootstrap(
    config: BootstrapConfig,
    *,
    sft: TrainSftConfig,
    sft_model: Path,
    attribute_model: Path | None,
    data: Path,
    validation: Path,
    schema: AttributeSchema,
    out: Path,
    seed: int,
    sources: Sequence[SourceConfig] = (),
    cluster: Cluster | None = None,
) -> dict[str, Any]:
    """Let a steerable model teach itself.

    Args:
        sft: the section of the first fine-tuning; the second one is like it.
        attribute_model: labels the samples; None where the schema's measures and classifiers say everything.
        data: annotated training conversations: their prompts are sampled, and their records mixed in.
        validation: annotated held-out conversations.
        schema: the attributes, those of both models and of the data.
        out: see the module's docstring. Called again after an interruption, it goes on where it stopped.
        sources: weight and epochs by source name of the original records, from the recipe's `prepare` section.
        cluster: where the training prompts are answered and the answers scored; None = in this process. The files are
            the same.

    Returns:
        What is in `out/report.json`: the combinations asked for, and per round the samples drawn, dropped and kept,
        the course of training, and quality and fidelity before and after.

    Raises:
        UserError: a model of another kind or schema, training labels without the quality attributes, human labels or
            a plain baseline to bootstrap from, no sample left, or an `out` that holds something else.
    """
    config = config.with_quality(schema)
    combinations = check_bootstrap(config, sft, sft_model, attribute_model, schema)
    if cluster is not None:
        cluster = replace(cluster, devices=config.devices_per_model)
    run = Bootstrap(
        config,
        sft,
        attribute_model,
        data,
        validation,
        schema,
        combinations,
        out,
        seed,
        tuple(sources),
        cluster,
    )
    if not is_main_process():
        _train_along(run, sft_model)
        return {}
    scorer = open_labels(schema, attribute_model).key
    strengths = dict(run.strengths(sft_model))
    inputs = _inputs(config, sft, sft_model, strengths, scorer, data, validation, schema, seed, sources)
    claim(out / "inputs.json", inputs, otherwise="refuse", holds="a bootstrap")
    judge = scorer if config.judge is None else open_labels(schema, config.judge).key
    model = sft_model
    rounds = []
    for number in range(1, config.rounds + 1):
        rounds.append(_round(run, number, model))
        model = out / f"round-{number}" / "train" / "model"
    if not (out / "report.json").is_file():
        publish(model, out / "model")
    report = {
        "combinations": combinations.summary(),
        "scorer": {
            "attribute_model": scorer,
            "judge": judge,
            "independent": judge != scorer,
            "note": _JUDGED_BY_ITSELF if judge == scorer else _JUDGED_BY_ANOTHER,
        },
        "rounds": rounds,
    }
    write_json(out / "report.json", report)
    return report


def check_bootstrap(
    config: BootstrapConfig, sft: TrainSftConfig, sft_model: Path, attribute_model: Path | None, schema: AttributeSchema
) -> Combinations:
    """Refuse what cannot work before anything is computed; returns the combinations to ask for."""
    info = steerable_info(sft_model, attribute_model, schema)
    if config.judge is not None and load_info(config.judge).kind == "sft":
        raise UserError(f"bootstrap.judge: {config.judge} is not an attribute model")
    check_guidance("bootstrap.guidance", config.guidance, config.engine, schema)
    if sft.labels == "human" or not sft.conditioning:
        raise UserError(
            "bootstrap conditions on the attribute model's values, which human labels are on another scale than; "
            "set train_sft.labels: predicted and train_sft.conditioning: true, or leave bootstrap out"
        )
    if config.mode == "nearest" and attribute_model is None and schema.learned is not None:
        names = ", ".join(schema.learned.names)
        raise UserError(f"no attribute model says whether {names} came out as asked; give one")
    return quality_combinations(info, config.quality_attributes, str(sft_model))


def _inputs(
    config: BootstrapConfig,
    sft: TrainSftConfig,
    sft_model: Path,
    strengths: dict[str, float],
    scorer: str,
    data: Path,
    validation: Path,
    schema: AttributeSchema,
    seed: int,
    sources: Sequence[SourceConfig],
) -> dict[str, Any]:
    """Return all that the result depends on."""
    return {
        "bootstrap": config.model_dump(mode="json", exclude={"devices_per_model"}),
        "train_sft": sft.model_dump(mode="json"),
        "schema": schema.to_dict(),
        "seed": seed,
        "sources": [source.model_dump(mode="json") for source in sources],
        "sft_model": fingerprint(sft_model),
        "strengths": strengths,
        "attribute_model": scorer,
        "judge": None if config.judge is None else fingerprint(config.judge),
        "data": digest_of_file(data),
        "validation": digest_of_file(validation),
    }


def _train_along(run: Bootstrap, model: Path) -> None:
    """Be one of several processes but the first, which prepares the data: all of them train."""
    for number in range(1, run.config.rounds + 1):
        folder = run.out / f"round-{number}"
        while not (folder / TRAINING_FILE).is_file():
            time.sleep(_POLL_S)
        fine_tune(run, number, model)
        model = folder / "train" / "model"


def _round(run: Bootstrap, number: int, model: Path) -> dict[str, Any]:
    """Sample, score, select, train, compare; each part is skipped where its result exists."""
    folder = run.out / f"round-{number}"
    prompts = write_prompts(run, number, folder / "prompts.jsonl")
    before = held_out(run, number - 1, model)
    temperature = choose_temperature(run, number, model, folder)
    sample(run, number, model, folder, temperature.value)
    score(run, folder)
    selection = select(run, number, folder)
    mix(run, number, folder, selection["kept"])
    course = fine_tune(run, number, model)
    after = held_out(run, number, folder / "train" / "model")
    report = {
        "round": number,
        "prompts": prompts,
        "temperature": temperature.summary(),
        **selection,
        "training": course,
        "held_out": compare(before, after, run.schema, run.config.quality_attributes),
    }
    write_json(folder / "report.json", report)
    return report


def fine_tune(run: Bootstrap, number: int, model: Path) -> Any:
    """Train a round on what `mix` wrote; what it held out picks the weights, else the original validation data."""
    folder = run.out / f"round-{number}"
    own = folder / VALIDATION_FILE
    return train_sft(
        training_section(run, model),
        folder / TRAINING_FILE,
        own if count_lines(own) else run.validation,
        run.schema,
        folder / "train",
        run.seed + number,
        run.sources,
    )


def training_section(run: Bootstrap, model: Path) -> TrainSftConfig:
    """Return the section of the second fine-tuning."""
    config = run.config
    changes: dict[str, Any] = {"base_model": run.sft.base_model if config.start_from == "base" else str(model)}
    changes["learning_rate"] = config.learning_rate_after(run.sft.learning_rate)
    changes["warmup_steps"] = run.sft.further_warmup
    changes["eval_steps"] = None  # the first training's may be more steps than there are
    if config.epochs is not None:
        changes |= {"epochs": config.epochs, "max_steps": -1}
    return run.sft.model_copy(update=changes)


def held_out(run: Bootstrap, number: int, model: Path, num_prompts: int = NUM_PROMPTS) -> list[Any]:
    """Return the model's scored answers to held-out prompts after round `number` (0: before the first)."""
    return held_out_answers(
        run.out / "held_out" / f"round-{number}.jsonl",
        model=model,
        attribute_model=run.config.judge or run.attribute_model,
        prompts=run.validation,
        schema=run.schema,
        best=run.combinations.best,
        seen=run.combinations.all,
        sampling=run.sampling(run.config.temperature or _HELD_OUT_TEMPERATURE),
        batch_size=run.config.batch_size,
        seed=run.seed,
        num_prompts=num_prompts,
        devices=run.config.devices_per_model,
    )
