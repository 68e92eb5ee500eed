"""The steerable model that a stage trains further: what it must be, what the result depends on, where that appears."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from pydantic import BaseModel

from steerlm.attributes import AttributeSchema, Value
from steerlm.checkpoint.models import CheckpointInfo, fingerprint, load_info
from steerlm.config import TrainSftConfig
from steerlm.errors import UserError
from steerlm.scorers.labelling import open_labels
from steerlm.stages.evaluate.sweeping import seen_combinations
from steerlm.storage.claims import digest_of_file


def steerable_info(steerable_model: Path, attribute_model: Path | None, schema: AttributeSchema) -> CheckpointInfo:
    """Return what a steerable model says of itself; refuse models of another kind or schema."""
    info = load_info(steerable_model)
    if info.kind != "sft" or not info.conditioning:
        raise UserError(
            f"{steerable_model} was not trained with attributes; give a steerable model, as train-sft writes it"
        )
    if attribute_model is not None and load_info(attribute_model).kind == "sft":
        raise UserError(f"{attribute_model} is not an attribute model; give one that train-attribute-model wrote")
    schema.require_same(info.schema.signature, "the recipe", str(steerable_model))
    return info


def require_models(
    steerable_model: Path, attribute_model: Path | None, schema: AttributeSchema
) -> tuple[CheckpointInfo, tuple[Mapping[str, Value], ...]]:
    """Return what the steerable model says of itself, and the settings that its training labels support.

    Complete settings; partial ones where no label of the training was complete.

    Raises:
        UserError: a model of another kind or schema, or one without labels.
    """
    info = steerable_info(steerable_model, attribute_model, schema)
    if attribute_model is None and schema.learned is not None:
        raise UserError(f"no attribute model says {', '.join(schema.learned.names)}; give one")
    known = seen_combinations(info.label_statistics, schema)
    complete = [setting for setting, _ in known if len(setting) == len(schema)]
    settings = tuple(complete or [setting for setting, _ in known if setting])
    if not settings:
        raise UserError(f"{steerable_model} lists no labels of its training: there is no setting to ask for")
    return info, settings


def tuning_inputs(
    stage: str,
    config: BaseModel,
    sft: TrainSftConfig,
    steerable_model: Path,
    attribute_model: Path | None,
    data: Path,
    validation: Path,
    schema: AttributeSchema,
    seed: int,
) -> Mapping[str, object]:
    """Return all that a further training of a steerable model depends on."""
    return {
        stage: config.model_dump(mode="json", exclude={"devices_per_model"}),  # does not change what comes out
        "train_sft": sft.model_dump(mode="json"),
        "schema": schema.to_dict(),
        "seed": seed,
        "steerable_model": fingerprint(steerable_model),
        "attribute_model": open_labels(schema, attribute_model).key,
        "data": digest_of_file(data),
        "validation": digest_of_file(validation),
    }


def publish(model: Path, target: Path) -> None:
    """Make the last round's model appear at `target`, whole; files are shared with it where the disk allows."""
    partial = target.with_name(f".{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        shutil.copytree(model, partial, copy_function=os.link)
    except OSError:  # another disk, or a file system without hard links
        shutil.rmtree(partial, ignore_errors=True)
        shutil.copytree(model, partial)
    if target.exists():
        shutil.rmtree(target)
    os.replace(partial, target)
