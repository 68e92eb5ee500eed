"""The reward of the baselines: what labelled the data sees in an answer, as one number."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from steerlm.conversation import Message, Score
from steerlm.scorers.labelling import SchemaLabels
from steerlm.scorers.protocol import Scores
from steerlm.stages.evaluate.sweeping import Prompt
from steerlm.stages.tuning.quality import predicted_quality
from steerlm.studies.ablate.measuring import without_labels

Reward = Callable[[Sequence[tuple[tuple[Message, ...], str]]], list[float]]
"""What answers (history, text) are worth."""


def reward_of(labels: SchemaLabels, names: Sequence[str]) -> Reward:
    """Return the reward: the mean level of the attributes, as predicted or measured, each towards its best end.

    An answer without text, longer than the attribute model's context, or without one of the levels is worth the least.
    """
    schema = labels.schema
    ends = {name: schema[name].minimum if schema[name].best == "max" else schema[name].maximum for name in names}
    least = predicted_quality(schema, names, {name: Score(float(level), 0.0) for name, level in ends.items()})

    def worth(scores: Scores | None) -> float:
        if scores is None or any(name not in scores for name in names):
            return least
        return predicted_quality(schema, names, scores)

    def reward(answers: Sequence[tuple[tuple[Message, ...], str]]) -> list[float]:
        turns = [(*history, Message("assistant", text)) for history, text in answers]
        return [worth(scores) for scores in labels.score(turns)]

    return reward


def mean_of_known(rewards: Iterable[float | None]) -> float | None:
    """Return the mean of the rewards that are known; None where none is: 0 would be a reward like any other."""
    known = [reward for reward in rewards if reward is not None]
    return sum(known) / len(known) if known else None


def mean_reward(
    model: Path, prompts: Sequence[Prompt], reward: Reward, max_new_tokens: int, temperature: float, batch_size: int
) -> float:
    """Return the mean reward of a plain model's answers; 0 where no prompt fits its context."""
    from steerlm.generation.engine import Request, Sampling, load_engine
    from steerlm.generation.requests import generate_fitting

    engine = load_engine(model, batch_size=batch_size)
    requests = [Request(without_labels(prompt.messages), {}, seed=prompt.seed) for prompt in prompts]
    answers = zip(requests, generate_fitting(engine, requests, Sampling(max_new_tokens, temperature)), strict=True)
    rewards = reward([(request.messages, sample.text) for request, samples in answers for sample in samples])
    return sum(rewards) / max(1, len(rewards))
