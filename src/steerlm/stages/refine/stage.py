"""SteerLM 2.0 (HelpSteer2, arXiv 2406.08673): refine a steerable model by its own answers.

    steerlm refine RECIPE

The model Q'(y|a,x) answers training prompts at settings from the whole range that the training labels have. What each
answer should weigh is known up to a factor, by Bayes' rule: P(y|a,x) ~ P(a|x,y) P(y|x), the first from the attribute
model, the second from the model without a header. Training pulls Q(y|a,x) towards that: all answers to a request weigh
against each other, good and bad, and nothing is filtered. Several rounds sample anew from the last model.

    OUT/round-1/requests.jsonl    prompts and what is asked for
               /samples.jsonl     what was said, one request per line
               /scored.jsonl      log P(a|x,y), or why a response is dropped
               /response.jsonl    log P(y|x)      /steered.jsonl   log Q'(y|a,x)
               /train.jsonl       the groups, in NeMo-Aligner's format for SteerLM 2.0     /validation.jsonl
               /train/            the fine-tuning
    OUT/held_out/round-0.jsonl    answers to held-out prompts before the first round, -1 after it, …
    OUT/model/                    the last round's model
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from steerlm.attributes import AttributeSchema, Value
from steerlm.checkpoint.models import fingerprint, load_info
from steerlm.config import RefineConfig, TrainSftConfig
from steerlm.errors import UserError, refuse_ranks
from steerlm.generation.engine import Sampling, said
from steerlm.sources.response_groups import read_groups, write_groups
from steerlm.stages.refine.data import (
    HELD_OUT,
    Refinement,
    divergence,
    encode_groups,
    gather,
    sample,
    score,
    training_section,
    weigh,
    write_requests,
)
from steerlm.stages.tuning.groups import tune_on_groups
from steerlm.stages.tuning.held_out import HeldOut
from steerlm.stages.tuning.models import publish, require_models, tuning_inputs
from steerlm.storage.claims import claim, digest_of_file
from steerlm.storage.cluster import Cluster
from steerlm.storage.files import write_json
from steerlm.training.distributed import ranks
from steerlm.training.losses import refinement_loss


def refine(
    config: RefineConfig,
    *,
    sft: TrainSftConfig,
    steerable_model: Path,
    attribute_model: Path | None,
    data: Path,
    validation: Path,
    schema: AttributeSchema,
    out: Path,
    seed: int,
    cluster: Cluster | None = None,
) -> dict[str, object]:
    """Pull a steerable model towards P(y|a,x).

    Args:
        sft: the section of the fine-tuning; a round is trained like it, where `config` says nothing else.
        attribute_model: says log P(a|x,y); None where the measures and classifiers of the schema say everything.
        data: training conversations, whose prompts are answered.
        validation: held-out conversations: before and after are compared on their prompts.
        schema: the attributes, those of both models.
        out: see the module's docstring. Called again after an interruption, it goes on where it stopped.
        cluster: where prompts are answered and answers scored; None = in this process. The files are the same.

    Returns:
        What is in `out/report.json`: per round what was sampled, dropped and kept, how many responses carry a group's
        weight, KL(w||b) on held-out groups before and after, and the error of the dials before and after.

    Raises:
        UserError: a model of another kind or schema, no request to draw, too few responses, or an `out` that holds
            something else.
    """
    requests = _check(config, steerable_model, attribute_model, schema)
    prior = config.response_model or steerable_model
    inputs = {
        **tuning_inputs("refine", config, sft, steerable_model, attribute_model, data, validation, schema, seed),
        "response_model": fingerprint(prior),
        "groups": None if config.groups is None else digest_of_file(config.groups),
    }
    claim(out / "inputs.json", inputs, otherwise="refuse", holds="a refinement")
    if cluster is not None:
        cluster = replace(cluster, devices=config.devices_per_model)
    run = Refinement(config, sft, attribute_model, data, validation, schema, requests, prior, out, seed, cluster)
    model = steerable_model
    rounds = []
    for number in range(1, config.rounds + 1):
        rounds.append(_round(run, number, model))
        model = out / f"round-{number}" / "train" / "model"
    if ranks().is_main_process and not (out / "report.json").is_file():
        publish(model, out / "model")
    report = {
        "requests": len(requests),
        "scorer": inputs["attribute_model"],
        "rounds": rounds,
        "warnings": [text for row in rounds for text in _warnings(row)],
    }
    if ranks().is_main_process:
        write_json(out / "report.json", report)
    return report


def _check(
    config: RefineConfig, steerable_model: Path, attribute_model: Path | None, schema: AttributeSchema
) -> tuple[Mapping[str, Value], ...]:
    """Refuse what cannot work before anything is computed; returns the settings that can be asked for."""
    if config.groups is None:
        refuse_ranks(
            "refine", "several devices sample with --ray, and train on a round's train.jsonl: --set refine.groups=FILE"
        )
    _, requests = require_models(steerable_model, attribute_model, schema)
    response_model = config.response_model
    if response_model is not None:
        other = load_info(response_model)
        if other.kind != "sft":
            raise UserError(f"refine.response_model: {response_model} is a {other.kind} attribute model")
        schema.require_same(other.schema.signature, "the recipe", str(response_model))
    return requests


def _round(run: Refinement, number: int, model: Path) -> dict[str, object]:
    """Sample, score, weigh, train, compare; each part is skipped where its result exists."""
    folder, config = run.out / f"round-{number}", run.config
    held_out = HeldOut(
        run.out / "held_out",
        run.attribute_model,
        run.validation,
        run.schema,
        run.requests,
        Sampling(config.max_new_tokens, config.temperature, config.top_k, config.top_p),
        config.batch_size,
        run.seed,
        config.devices_per_model,
    )
    with ranks().main_process_first():  # what is sampled and weighed: one process, the others find the files
        before = held_out.answers(number - 1, model)
        sampled = _sampled(run, number, model, folder)
    files = [folder / "train.jsonl", folder / "validation.jsonl"]
    course = tune_on_groups(
        training_section(run, model),
        lambda start: encode_groups(files, run.schema, start, folder / "train"),
        "refine",
        refinement_loss,
        run.schema,
        folder / "train",
        run.seed + number,
        {"round": number, "groups": [digest_of_file(file)[:16] for file in files]},
    )
    with ranks().main_process_first():
        after = held_out.answers(number, folder / "train" / "model")
    report = {
        "round": number,
        **sampled,
        "divergence_before": divergence(files[1], run.schema),
        "training": course,
        "held_out": held_out.compare(before, after),
    }
    if ranks().is_main_process:
        write_json(folder / "report.json", report)
    return report


def _sampled(run: Refinement, number: int, model: Path, folder: Path) -> Mapping[str, object]:
    """Write the groups of a round; returns what was sampled, dropped and held out."""
    if run.config.groups is not None:
        return _split(run, run.config.groups, folder)
    write_requests(run, number, folder)
    sample(run, number, model, folder)
    score(run, folder)
    weigh(run, folder, "response", run.prior, header=False)
    weigh(run, folder, "steered", model, header=True)
    return gather(run, folder)


def _warnings(row: Mapping[str, Any]) -> Iterator[str]:
    """Yield what a person should look at."""
    before, after = row["divergence_before"], row["training"]["validation_loss"]
    if after >= before:
        yield (
            f"round {row['round']}: KL(w||b) on {row['groups']['validation']} held-out requests did not fall "
            f"({before:.3f} -> {after:.3f}): lower refine.learning_rate or refine.epochs, or sample for more prompts"
        )


def _split(run: Refinement, groups: Path, folder: Path) -> dict[str, object]:
    """Hold some of the given groups out; returns how many there are of each."""
    counts = {}
    for name, wanted in (("train", False), ("validation", True)):
        numbers: dict[object, int] = {}  # a prompt with several requests is held out with all of them
        chosen = (
            group
            for group in read_groups(groups, run.schema)
            if (numbers.setdefault(said(group.messages), len(numbers)) % HELD_OUT == 0) == wanted
        )
        counts[name] = write_groups(folder / f"{name}.jsonl", chosen, run.schema)
    if not counts["train"]:
        raise UserError(f"refine.groups: {groups} has one prompt alone; there must be some to validate on, too")
    return {"groups": counts}
