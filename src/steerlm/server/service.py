"""What the routes share: what draws the answers, the attribute model, the policy, and who is being answered."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from steerlm.attributes import AttributeSchema
from steerlm.checkpoint.info import CheckpointInfo
from steerlm.conversation import Message, Role
from steerlm.errors import UserError
from steerlm.generation.demonstrations import Demonstrations
from steerlm.scorers.attribute_models import LoadedAttributeModel, load_attribute_model
from steerlm.scorers.dials import check_dials, without_own_measures
from steerlm.scorers.labelling import SchemaLabels, open_labels
from steerlm.scorers.protocol import Scores
from steerlm.server.backend import Backend
from steerlm.server.errors import ApiError
from steerlm.server.feasibility import TrainedCombinations
from steerlm.server.metrics import Metrics
from steerlm.server.policy import Policy
from steerlm.server.proposing import Proposer
from steerlm.server.steering import Dials

_SCORING_TOKENS = 4096


class Scored(NamedTuple):
    """Scores of conversations (None: too long for the attribute model), and how many tokens it read."""

    scores: list[Scores | None]
    num_tokens: int


@dataclass(eq=False)
class Service:
    """A deployment.

    Attributes:
        names: the model's name in the API, and others that it is called by.
        backend: draws the answers.
        schema: the attributes it was trained on.
        trained: which combinations of them.
        policy: locks, presets, limits.
        attribute_model: scores answers, together with the measures that the model's schema names; None where there
            are neither.
        created: when the server started, in Unix seconds.
        metrics: counters and gauges.
        demonstrations: training answers that can be shown; None where no file was given.
        proposer: proposes settings; None where no file was given.
        strengths: how strongly dials count that are turned away from their default, as the model says.
    """

    names: tuple[str, ...]
    backend: Backend
    schema: AttributeSchema
    trained: TrainedCombinations
    policy: Policy
    attribute_model: LoadedAttributeModel | SchemaLabels | None
    created: int
    metrics: Metrics
    demonstrations: Demonstrations | None = None
    proposer: Proposer | None = None
    strengths: Mapping[str, float] = field(default_factory=dict)
    _running: Counter[str | None] = field(default_factory=Counter)
    # one worker: scoring waits in line rather than take the processor from decoding
    _scoring: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, "steerlm-scoring"))

    @property
    def name(self) -> str:
        return self.names[0]

    def dials(self, caller: str | None) -> Dials:
        """Return what a caller, named by its key, may set."""
        cannot_mix = self.backend.cannot_mix
        strengths = {} if cannot_mix else self.strengths
        return Dials(self.schema, self.policy.locks(caller), self.policy, strengths, cannot_mix)

    @contextlib.contextmanager
    def admitted(self, caller: str | None) -> Iterator[None]:
        """Count a request of a caller while it runs."""
        most = self.policy.limits.max_requests_per_key
        if self._running[caller] >= most:
            raise ApiError("too_many_requests", f"too many requests at the same time, at most {most}; try again")
        self._running[caller] += 1
        try:
            yield
        finally:
            self._running[caller] -= 1

    async def score(self, conversations: Sequence[Sequence[Message]]) -> Scored:
        """Score the last turn of each conversation."""
        model = self.attribute_model
        if model is None:
            message = "scores need an attribute model; start the server with --attribute-model"
            raise ApiError("no_attribute_model", message)
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._scoring, _score, model, conversations)
        except UserError as error:
            raise ApiError("invalid_messages", str(error), "messages") from None

    async def close(self) -> None:
        """End all threads and connections."""
        await self.backend.close()
        self._scoring.shutdown(cancel_futures=True)


def answer_scorer(schema: AttributeSchema, attribute_model: Path | None) -> LoadedAttributeModel | SchemaLabels | None:
    """Return what scores answers: an attribute model, and the exact measures that the schema names.

    Own functions and classifiers that a checkpoint names are not called: it may be a stranger's.
    """
    measured = tuple(a for a in without_own_measures(schema) if a.measure and (a.cuts or a.kind == "categorical"))
    model = None if attribute_model is None else load_attribute_model(attribute_model)
    theirs = model.schema.attributes if model is not None else ()
    if not measured or any(a.name == b.name for a in measured for b in theirs):
        return model
    try:
        check_dials(AttributeSchema(measured))
    except UserError:  # a package for it is not installed: the model is served without these scores
        return model
    return open_labels(AttributeSchema((*theirs, *measured)), attribute_model, loaded=model)


def _score(model: LoadedAttributeModel | SchemaLabels, conversations: Sequence[Sequence[Message]]) -> Scored:
    if isinstance(model, SchemaLabels):
        return _score_all(model, conversations)
    scorable = [messages for messages in conversations if messages[-1].content.strip()]
    encoded = iter(model.encode([alternating(messages) for messages in scorable]))
    rows = [next(encoded) if messages[-1].content.strip() else None for messages in conversations]
    num_tokens = sum(len(row) for row in rows if row is not None)
    return Scored(model.score_encoded(rows, _SCORING_TOKENS), num_tokens)


def _score_all(labels: SchemaLabels, conversations: Sequence[Sequence[Message]]) -> Scored:
    learned = Scored([None] * len(conversations), 0) if labels.model is None else _score(labels.model, conversations)
    said = [alternating(messages) if messages[-1].content.strip() else None for messages in conversations]
    asked = [messages for messages in said if messages is not None]
    measured = iter(labels.measures.score(asked) if labels.measures is not None else [None] * len(asked))
    rows = [None if messages is None else next(measured) for messages in said]
    return Scored(labels.merge(conversations, learned.scores, rows), learned.num_tokens)


def alternating(messages: Sequence[Message]) -> list[Message]:
    """Return a conversation in the form that attribute models know: system first, then user and assistant in turn.

    Neighbours of one role are joined; what the assistant said before anybody asked, or said empty, is left out. Where
    only a system message asks, it is taken for the user's.
    """
    system = [message.content for message in messages if message.role == "system"]
    turns: list[Message] = []
    for message in messages:
        if message.role == "system" or not message.content.strip():
            continue
        if turns and turns[-1].role == message.role:
            turns[-1] = Message(message.role, f"{turns[-1].content}\n\n{message.content}")
        elif turns or message.role == "user" or message is messages[-1]:
            turns.append(message)
    role: Role = "system" if turns and turns[0].role == "user" else "user"
    return [Message(role, "\n\n".join(system)), *turns] if system else turns


def trained_schema(info: CheckpointInfo) -> AttributeSchema:
    """Return the attributes that a checkpoint was trained on."""
    statistics: Mapping[str, Mapping[str, object]] = info.label_statistics.get("attributes", {})
    # a checkpoint without statistics (made elsewhere) is taken at its word
    names = [name for name in info.schema.names if name not in statistics or statistics[name]["n"]]
    if not info.conditioning or not names:
        raise UserError(
            "this model was trained without attributes: there is nothing to steer; serve it with any server"
        )
    return AttributeSchema(tuple(info.schema[name] for name in names))


def random_seed() -> int:
    """Return a seed for a request that brings none."""
    return secrets.randbits(62)
