"""Demonstrations: training answers near the requested setting, as earlier turns in front of the question.

    from steerlm.generation.demonstrations import placed, read_demonstrations
    shown = read_demonstrations("runs/x/annotate/train.jsonl", schema)
    messages = placed(request.messages, shown.choose(request.messages, request.attributes, 3))

What a setting means is then to be seen rather than known: a model that was never trained with attributes can follow it
(`headers=False`), and one that was gets examples on top of its header. Near is first of all near in the setting, as
`server.feasibility` measures it, and then near in what the prompt says.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from steerlm.attributes import AttributeSchema, Value
from steerlm.conversation import Message, read_conversations
from steerlm.errors import UserError
from steerlm.generation.embedding import LetterEmbedder, Vectors
from steerlm.generation.guidance import Wish
from steerlm.storage.hash_set import hash64

MOST_EXAMPLES = 10_000
"""Examples kept in memory, drawn evenly where the data hold more."""
_PROMPT_WEIGHT = 0.25
"""What a prompt with nothing in common costs, in ranges of a dial."""


@dataclass(frozen=True)
class Demonstration:
    """A question and its answer, which make sense without anything before them.

    Attributes:
        prompt: what was asked.
        answer: what was said, with the attributes that it has.
    """

    prompt: str
    answer: Message

    def value(self, name: str) -> float | str | None:
        """Return a value of the answer, as exactly as it is known."""
        score = (self.answer.scores or {}).get(name)
        label = (self.answer.attributes or {}).get(name)
        return label if score is None or isinstance(label, str) else score.mean


class Demonstrations:
    """The examples to choose from."""

    def __init__(self, examples: Sequence[Demonstration], schema: AttributeSchema) -> None:
        """Embed the prompts."""
        if not examples:
            raise UserError("there are no demonstrations: no first answer of the data has attributes of this schema")
        prompts = [example.prompt for example in examples]
        self.examples, self.schema = tuple(examples), schema
        self.embedder = LetterEmbedder(prompts)
        self.vectors: Vectors = self.embedder(prompts)
        self._places_N_K = np.array([[_place(schema, n, e.value(n)) for n in schema.names] for e in examples])

    def choose(
        self,
        messages: Sequence[Message],
        wanted: Mapping[str, Wish],
        count: int,
        allowed: Callable[[Demonstration], bool] | None = None,
    ) -> list[Demonstration]:
        """Return the examples nearest to a setting and a prompt, the nearest last: next to the question.

        Args:
            messages: the conversation; its last user turn is the prompt. An example with the same prompt is left out,
                and of examples with one prompt or one answer the nearest is taken.
            wanted: the setting, full or partial.
            count: how many, at most.
            allowed: which examples may be shown; None = all.
        """
        asked = next((m.content for m in reversed(messages) if m.role == "user"), "")
        [vector] = self.embedder([asked])
        far_N = self._distances(wanted) + _PROMPT_WEIGHT * (1 - self.vectors @ vector)
        found: list[Demonstration] = []
        seen = {asked}
        for i in np.argsort(far_N, kind="stable"):
            example = self.examples[int(i)]
            said = {example.prompt, example.answer.content}
            if len(found) == count:
                break
            if not said & seen and (allowed is None or allowed(example)):
                found.append(example)
                seen |= said
        return found[::-1]

    def _distances(self, wanted: Mapping[str, Wish]) -> npt.NDArray[np.float64]:
        """Return how far the examples are from a setting: shares of the dials' ranges, a category or no label 1."""
        far_N = np.zeros(len(self.examples))
        for name, wish in wanted.items():
            apart_N = np.abs(self._places_N_K[:, self.schema.names.index(name)] - _place(self.schema, name, wish))
            if self.schema[name].kind == "categorical":
                apart_N = np.where(apart_N == 0, 0.0, 1.0)
            far_N += np.nan_to_num(apart_N, nan=1.0)
        return far_N


def _place(schema: AttributeSchema, name: str, value: Wish | float | None) -> float:
    attribute = schema[name]
    if value is None:
        return float("nan")
    if isinstance(value, str):
        return float(attribute.categories.index(value))
    return attribute.to_unit(value)


def read_demonstrations(
    path: str | Path,
    schema: AttributeSchema,
    *,
    most: int = MOST_EXAMPLES,
    trained: AttributeSchema | None = None,
) -> Demonstrations:
    """Read examples from annotated conversations: the first exchange of each, where its answer has attributes.

    Args:
        path: JSONL, for example `annotate/train.jsonl` of a run.
        most: so many are kept; which does not depend on the order of the file.
        trained: those of the attributes that the model was trained on; None = all.

    Raises:
        UserError: a malformed file, another schema, or no example in it.
    """
    ranked = ((hash64(example.prompt, example.answer.content), example) for example in _examples(Path(path), schema))
    kept = [example for _, example in heapq.nsmallest(most, ranked, key=lambda pair: pair[0])]
    if not kept:
        raise UserError(f"{path}: no first answer has attributes; give annotated conversations (annotate/train.jsonl)")
    return Demonstrations(kept, trained or schema)


def _examples(path: Path, schema: AttributeSchema) -> Iterator[Demonstration]:
    for record in read_conversations(path, schema):
        turns = [message for message in record.messages if message.role != "system"]
        if len(turns) > 1 and turns[0].role == "user" and turns[1].role == "assistant" and turns[1].attributes:
            yield Demonstration(turns[0].content, turns[1])


def placed(
    messages: Sequence[Message], demonstrations: Sequence[Demonstration], headers: bool = True
) -> tuple[Message, ...]:
    """Return a conversation with demonstrations as its first turns, behind the system message.

    Args:
        headers: whether each carries its own attributes, as an earlier answer of a steerable model does.
    """
    first = 1 if messages and messages[0].role == "system" else 0
    shown = []
    for example in demonstrations:
        attributes: Mapping[str, Value] | None = example.answer.attributes if headers else None
        shown += [Message("user", example.prompt), Message("assistant", example.answer.content, attributes=attributes)]
    return (*messages[:first], *shown, *messages[first:])


def with_demonstrations(
    shown: Demonstrations,
    request: Sequence[Message],
    wanted: Mapping[str, Wish],
    count: int,
    room: Callable[[tuple[Message, ...]], int],
    needed: int,
    allowed: Callable[[Demonstration], bool] | None = None,
) -> tuple[tuple[Message, ...], int]:
    """Return a conversation with as many demonstrations as leave room for an answer, and how many these are.

    Args:
        count: how many, at most; the farthest are left out first.
        room: says how many tokens a conversation leaves for its answer.
    """
    chosen = shown.choose(request, wanted, count, allowed)
    for left_out in range(len(chosen)):
        messages = placed(request, chosen[left_out:])
        if room(messages) >= needed:
            return messages, len(chosen) - left_out
    return tuple(request), 0
