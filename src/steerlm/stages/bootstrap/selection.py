"""What bootstrapping asks for and which of the samples it keeps (SteerLM, section 3.4).

The paper keeps the attribute combinations that occur in the annotated training data with the best quality, and draws
one uniformly per sample. Which samples are dropped, and how many are kept per prompt, the paper does not say: here
duplicates and samples that are no answers are dropped and counted, and filtering is a choice of the recipe.

Mode `nearest` is ours. A prompt is asked for one of all combinations; of its samples those nearest to it are kept, and
they train what was asked for: chosen so, the request is right more often than the attribute model's level (`docs/
stages/bootstrap.md` has the figures). A prompt without such a sample teaches nothing and is left out, which is most
of what reinforcement learning adds (arXiv 2504.11343).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from steerlm.attributes import AttributeSchema, Value
from steerlm.checkpoint.models import CheckpointInfo
from steerlm.config import BootstrapConfig
from steerlm.conversation import Conversation, Message, Score
from steerlm.errors import UserError
from steerlm.stages.tuning.quality import goodness, predicted_quality, quality_attribute

DROPPED = ("empty", "truncated", "repeating", "leaking", "duplicate", "unscorable")
"""Why a sample is dropped: no words; cut off by the length limit; stuck in repetition; shows attribute text or control
tokens; says the same as another sample of its prompt; does not fit the attribute model's context."""


@dataclasses.dataclass(frozen=True)
class Combinations:
    """The attribute combinations seen in training.

    Attributes:
        all: every one that sets all quality attributes, commonest first.
        best: those with the best quality; none where no attribute counts as quality.
        is_maximum: whether every quality attribute is at its best end there.
    """

    all: tuple[Mapping[str, Value], ...]
    best: tuple[Mapping[str, Value], ...]
    is_maximum: bool

    def summary(self) -> dict[str, object]:
        """Return the JSON form for a report."""
        out: dict[str, object] = {"seen": len(self.all), "best": len(self.best)}
        if self.best:
            out["commonest_best"] = dict(self.best[0])
        if not self.is_maximum:
            out["note"] = (
                "no training label has every quality attribute at its best end (predictions seldom reach the ends of "
                "a scale); the best that does occur was asked for"
            )
        return out


def quality_combinations(info: CheckpointInfo, quality_attributes: Sequence[str], owner: str) -> Combinations:
    """Return the combinations that label every quality attribute, of those a model was trained with, and the best.

    Args:
        info: of the steerable model; its label statistics list the combinations.
        quality_attributes: names; "best" is the highest mean of their levels, each counted towards its best end.
        owner: path of the model, for messages.

    Raises:
        UserError: a quality attribute is unknown or has no best end, or occurs in no training label.
    """
    attributes = [quality_attribute(info.schema, name) for name in quality_attributes]
    rows = [row["attributes"] for row in info.label_statistics.get("combinations", ())]
    complete = tuple(
        info.schema.validate(row) for row in rows if row and all(name in row for name in quality_attributes)
    )
    if not complete:
        raise UserError(
            f"no training label of {owner} sets {', '.join(quality_attributes) or 'an attribute'}; "
            "set bootstrap.quality_attributes to attributes that are labelled"
        )
    if not attributes:
        return Combinations(complete, (), True)
    found = [goodness(attributes, row) for row in complete]
    highest = max(found)
    best = tuple(row for row, value in zip(complete, found, strict=True) if value == highest)
    return Combinations(complete, best, all(best[0][a.name] == a.best_value for a in attributes))


class ScoredSample(NamedTuple):
    """A sample that the attribute model scored.

    Attributes:
        requested: the values that the model was asked for.
        values: the values that the attribute model sees, on the schema's scale.
        scores: what they were rounded from.
        places: where these lie on the scale, see `SchemaLabels.places`; mode `nearest` has them.
    """

    requested: Mapping[str, Value]
    values: Mapping[str, Value]
    scores: Mapping[str, Score]
    places: Mapping[str, float] = {}

    def distances(self) -> list[float]:
        """Return by how many levels each attribute is off; infinite for another category."""
        return [
            abs(self.places.get(name, math.inf) - wanted)
            if not isinstance(wanted, str)
            else _apart(wanted, self.values.get(name))
            for name, wanted in self.requested.items()
        ]


def keep(config: BootstrapConfig, schema: AttributeSchema, samples: Sequence[ScoredSample | None]) -> list[int]:
    """Return which samples of one prompt the recipe's filter keeps, in order.

    Args:
        samples: of one prompt; None where one was dropped before.
    """
    scored = {i: sample for i, sample in enumerate(samples) if sample is not None}
    if config.mode == "nearest":
        near = {i: s.distances() for i, s in scored.items()}
        good = [i for i, distances in near.items() if max(distances, default=0.0) <= config.tolerance]
        return sorted(sorted(good, key=lambda i: sum(near[i]))[: config.keep_per_prompt])
    if config.filter == "agreement":
        return [i for i, s in scored.items() if disagreement(s.requested, s.values) <= config.tolerance]
    quality = {i: predicted_quality(schema, config.quality_attributes, s.scores) for i, s in scored.items()}
    if config.filter == "top":
        return sorted(sorted(quality, key=lambda i: -quality[i])[: config.keep_per_prompt])
    if config.filter == "minimum":
        return [i for i, value in quality.items() if value >= config.minimum_quality]
    return list(quality)


def disagreement(requested: Mapping[str, Value], values: Mapping[str, Value]) -> float:
    """Return the most levels by which a value differs from the one asked for; infinite for another category."""
    return max((_apart(wanted, values.get(name)) for name, wanted in requested.items()), default=0.0)


def _apart(wanted: Value, value: Value | None) -> float:
    if isinstance(wanted, str) or value is None or isinstance(value, str):
        return 0.0 if wanted == value else math.inf
    return float(abs(wanted - value))


def bootstrapped_record(
    prompt: Conversation,
    number: int,
    round_number: int,
    text: str,
    sample: ScoredSample,
    labelled_by: str | Mapping[str, str] | None,
    as_requested: bool = False,
) -> Conversation:
    """Return a sample as a record that is conditioned on what the attribute model sees in it, or on what was requested.

    Earlier responses of the prompt are context: the original data train them already. What was asked for stands in
    the record's `bootstrap`, for the curious; training does not look at it.
    """
    context = (dataclasses.replace(m, weight=0) if m.role == "assistant" else m for m in prompt.messages)
    labels = sample.requested if as_requested else sample.values
    response = Message("assistant", text, attributes=labels, scores=sample.scores, labelled_by=labelled_by)
    return Conversation(
        f"{prompt.id}/bootstrap-{round_number}-{number}",
        (*context, response),
        "bootstrap",
        prompt.group,
        {"bootstrap": {"round": round_number, "prompt": prompt.id, "requested": sample.requested}},
    )
