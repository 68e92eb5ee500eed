"""Attribute models, measures and classifiers as rewards: how near an answer comes to what it was asked for.

    from steerlm import attribute_rewards
    rewards = attribute_rewards("runs/x/train_attribute_model/model", schema)
    GRPOTrainer(model, reward_funcs=rewards, args=GRPOConfig(multi_objective_aggregation="normalize_then_sum", …),
                train_dataset=dataset)          # columns `prompt` and `attributes`, the request

One reward per attribute, each normalised by itself before they are summed (GDPO, arXiv 2601.05242), trains all dials at
once, where one reward for a goal trains that goal.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from steerlm.attributes import Attribute, AttributeSchema, Value
from steerlm.conversation import Message, Score, message_from_dict
from steerlm.errors import UserError
from steerlm.scorers.labelling import open_labels
from steerlm.scorers.protocol import Scorer, Scores, Turn

RewardFunction = Callable[..., list[float | None]]
"""A reward in TRL's signature: `prompts`, `completions` and the dataset's columns by name."""

_LEAST = -1.0
"""Reward of an answer that nothing can be said of: as far away as can be."""


def attribute_rewards(model: str | Path | Scorer | None, schema: AttributeSchema) -> list[RewardFunction]:
    """Return one reward per attribute, in TRL's signature: minus the distance between requested and obtained.

    Each is named after its attribute. Prompts and completions are texts or lists of messages. What was asked for stands
    in the dataset's column `attributes`, a mapping per row; an attribute that a row does not ask for has no reward
    there (None, which TRL leaves out). Answers are scored once for all rewards.

    Args:
        model: folder of an attribute model, or a scorer; None where measures and classifiers of the schema say
            everything.

    Returns:
        Functions whose rewards lie between -1 (the other end of the scale, or an answer that cannot be scored) and 0.

    Raises:
        UserError: an attribute model of another schema; when called, a request off the schema, or no column.
    """
    score: Callable[[Sequence[Turn]], Sequence[Scores | None]]
    if model is None or isinstance(model, (str, Path)):
        score = open_labels(schema, None if model is None else Path(model)).score
    else:
        lacking = [name for name in schema.names if name not in model.attributes]
        if lacking:
            raise UserError(f"{model.label} says nothing of {', '.join(lacking)}; give a scorer of all attributes")
        score = model.score
    last: tuple[object, Sequence[Scores | None]] | None = None

    def scored(prompts: Sequence[Any], completions: Sequence[Any]) -> Sequence[Scores | None]:
        nonlocal last
        turns = [_turn(prompt, said) for prompt, said in zip(prompts, completions, strict=True)]
        if last is None or last[0] != turns:
            last = (turns, score(turns))
        return last[1]

    return [_reward(attribute, schema, scored) for attribute in schema]


def _reward(
    attribute: Attribute,
    schema: AttributeSchema,
    scored: Callable[[Sequence[Any], Sequence[Any]], Sequence[Scores | None]],
) -> RewardFunction:
    def reward(
        prompts: Sequence[Any],
        completions: Sequence[Any],
        attributes: Sequence[Mapping[str, object] | None] | None = None,
        **columns: object,
    ) -> list[float | None]:
        if attributes is None:
            raise UserError("the dataset has no column `attributes`: what each prompt asks for, {name: value}")
        requests = [schema.validate(_given(row)).get(attribute.name) for row in attributes]
        if all(request is None for request in requests):
            return [None] * len(requests)
        return [
            None if request is None else _closeness(attribute, request, scores)
            for request, scores in zip(requests, scored(prompts, completions), strict=True)
        ]

    reward.__name__ = attribute.name
    return reward


def _given(row: Mapping[str, object] | None) -> dict[str, object]:
    """Return a request; `datasets` fills what a row does not name with None."""
    return {name: value for name, value in (row or {}).items() if value is not None}


def _closeness(attribute: Attribute, request: Value, scores: Scores | None) -> float:
    score: Score | None = None if scores is None else scores.get(attribute.name)
    if score is None:
        return _LEAST
    if attribute.kind == "categorical":
        assert score.probabilities is not None
        return score.probabilities.get(str(request), 0.0) - 1.0
    assert isinstance(request, int)
    return max(_LEAST, -abs(attribute.to_unit(score.mean) - attribute.to_unit(request)))


def _turn(prompt: Any, completion: Any) -> list[Message]:
    history = [Message("user", prompt)] if isinstance(prompt, str) else [_message(message) for message in prompt]
    said = completion if isinstance(completion, str) else completion[-1]["content"]
    return [*history, Message("assistant", said)]


def _message(message: Any) -> Message:
    return message if isinstance(message, Message) else message_from_dict(message)
