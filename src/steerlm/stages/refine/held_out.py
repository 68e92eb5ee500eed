"""What a further training of a steerable model changed, on held-out prompts, by the attribute model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from steerlm.attributes import AttributeSchema, Value
from steerlm.checkpoint.models import CheckpointInfo, fingerprint
from steerlm.config import TrainSftConfig
from steerlm.errors import UserError
from steerlm.generation.engine import Sampling
from steerlm.scorers.labelling import open_labels
from steerlm.stages.bootstrap.before_after import compare, held_out_answers
from steerlm.stages.bootstrap.selection import Combinations, steerable_info
from steerlm.stages.evaluate.sweeping import seen_combinations
from steerlm.storage.claims import digest_of_file


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
        stage: config.model_dump(mode="json"),
        "train_sft": sft.model_dump(mode="json"),
        "schema": schema.to_dict(),
        "seed": seed,
        "steerable_model": fingerprint(steerable_model),
        "attribute_model": open_labels(schema, attribute_model).key,
        "data": digest_of_file(data),
        "validation": digest_of_file(validation),
    }


@dataclass(frozen=True)
class HeldOut:
    """The same requests to one model after the other: at the best end of every attribute that has one, and at settings
    of the training labels.

    Attributes:
        folder: where the answers are kept.
        prompts: held-out conversations.
        settings: those of the training labels.
    """

    folder: Path
    attribute_model: Path | None
    prompts: Path
    schema: AttributeSchema
    settings: tuple[Mapping[str, Value], ...]
    sampling: Sampling
    batch_size: int
    seed: int

    @property
    def quality(self) -> tuple[str, ...]:
        """The attributes that have a best end."""
        return tuple(attribute.name for attribute in self.schema.ordinal if attribute.best is not None)

    def answers(self, number: int, model: Path) -> list[Any]:
        """Return a model's scored answers after round `number` (0: before the first); computed once."""
        best = {**self.schema.defaults, **{name: self.schema[name].best_value for name in self.quality}}
        return held_out_answers(
            self.folder / f"round-{number}.jsonl",
            model=model,
            attribute_model=self.attribute_model,
            prompts=self.prompts,
            schema=self.schema,
            combinations=Combinations(self.settings, (self.schema.validate(best),), True),
            sampling=self.sampling,
            batch_size=self.batch_size,
            seed=self.seed,
        )

    def compare(self, before: list[Any], after: list[Any]) -> Mapping[str, Any]:
        """Return quality and error before, after and their difference."""
        return compare(before, after, self.schema, self.quality)
