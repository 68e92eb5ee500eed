"""What an attribute model learns from: every assistant turn that somebody labelled (SteerLM, section 3.1).

One example per labelled turn: the conversation up to and including that turn, with the record's own system message and
without attribute headers, which is exactly what annotation scores later. Labels may be partial, so data sets
that were rated on different attributes train one model.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from steerlm.attributes import Attribute, AttributeSchema, Value
from steerlm.batching.batches import EncodedExamples, RegressionExamples
from steerlm.conversation import Message, read_conversations
from steerlm.errors import UserError
from steerlm.scorers.attribute_models import encode_for_scoring
from steerlm.scorers.generative import encode_label, label_steps, longest_label
from steerlm.template.conversation_encoder import ConversationEncoder

AttributeModelKind = Literal["regression", "generative"]
FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True)
class LabelledTurn:
    """An assistant turn with human labels.

    Attributes:
        messages: the conversation up to and including the turn.
        labels: per attribute that is labelled its real-valued level (ordinal) or category.
        source: name of the data set.
        group: what the turn is not independent of: its tree or prompt.
    """

    messages: tuple[Message, ...]
    labels: Mapping[str, float | str]
    source: str
    group: str

    @property
    def ratings(self) -> Mapping[str, tuple[float, ...]]:
        """The individual annotators' ratings."""
        return self.messages[-1].ratings or {}


def labelled_turns(
    path: Path, schema: AttributeSchema, data_schema: AttributeSchema | None = None
) -> Iterator[LabelledTurn]:
    """Stream the turns of a file that carry a label of people or a judge (several ratings count as their mean).

    Args:
        path: JSONL of conversations.
        data_schema: all attributes of the data; None: those that are learned.
    """
    for conversation in read_conversations(path, data_schema or schema):
        for index in conversation.assistant_turns:
            labels = _labels(conversation.messages[index], schema)
            if labels:
                yield LabelledTurn(
                    conversation.messages[: index + 1],
                    labels,
                    conversation.source,
                    conversation.group if conversation.group is not None else conversation.id,
                )


def _labels(message: Message, schema: AttributeSchema) -> dict[str, float | str]:
    labels: dict[str, float | str] = {}
    for attribute in schema:
        judged = message.judged.get(attribute.name)
        if attribute.kind == "ordinal":
            label: float | str | None = message.target(attribute.name)
            if label is None and isinstance(judged, int):
                label = float(judged)
        else:
            category = message.human_labels.get(attribute.name, judged)
            label = None if category is None else str(category)
        if label is not None:
            labels[attribute.name] = label
    return labels


@dataclass(frozen=True)
class AttributeData:
    """Labelled turns ready for training.

    Attributes:
        schema: the K attributes.
        examples: the encoded turns.
        turns: the turns themselves, in the same order; empty where they were not to be kept.
        labels_N_K: labels on the schema's scale, the index of a category, NaN where there is none.
        sources: of every turn.
        groups: of every turn, what it is not independent of.
        num_too_long: labelled turns left out because even their last exchange exceeds the context.
        judges: LLMs that labelled some of the turns.
    """

    schema: AttributeSchema
    examples: RegressionExamples | EncodedExamples
    turns: Sequence[LabelledTurn]
    labels_N_K: FloatArray
    sources: Sequence[str]
    groups: Sequence[str]
    num_too_long: int
    judges: frozenset[str] = frozenset()


def read_attribute_data(
    path: Path,
    encoder: ConversationEncoder,
    kind: AttributeModelKind,
    max_length: int,
    *,
    keep_turns: bool,
    data_schema: AttributeSchema | None = None,
) -> AttributeData:
    """Read and encode the labelled turns of a file.

    Args:
        path: JSONL of conversations.
        kind: regression (labels as numbers) or generative (labels as tokens behind the conversation).
        max_length: most tokens of an example, the label included; older exchanges are dropped to meet it.
        keep_turns: whether to keep the text, which a report needs and training does not.
        data_schema: all attributes of the data; None: those that are learned.

    Raises:
        UserError: a malformed file, or no labelled turn in it that fits.
    """
    schema = encoder.schema
    room = max_length - (longest_label(label_steps(encoder)) if kind == "generative" else 0)
    turns: list[LabelledTurn] = []
    labels: list[list[float]] = []
    prompts: list[int] = []
    sources: list[str] = []
    groups: list[str] = []
    num_too_long = 0
    judges: set[str] = set()

    def encoded() -> Iterator[tuple[list[int], LabelledTurn, list[float]]]:
        nonlocal num_too_long
        for turn in labelled_turns(path, schema, data_schema):
            ids = encode_for_scoring(encoder, turn.messages, room)
            if ids is None:
                num_too_long += 1
                continue
            labels.append(label_row(turn.labels, schema))
            prompts.append(_prompt_number(turn.messages))
            sources.append(turn.source)
            groups.append(turn.group)
            judges.update(who for who in turn.messages[-1].tellers if who.startswith("judge:"))
            if keep_turns:
                turns.append(turn)
            yield ids, turn, labels[-1]

    examples: RegressionExamples | EncodedExamples
    if kind == "regression":
        examples = RegressionExamples(((ids, row) for ids, _, row in encoded()), prompts=prompts)
    else:
        examples = EncodedExamples((_with_label(encoder, ids, turn) for ids, turn, _ in encoded()), prompts=prompts)
    if not labels:
        too_long = f" that fits into {max_length} tokens ({num_too_long} do not)" if num_too_long else ""
        raise UserError(
            f"{path} has no labelled assistant turn{too_long}: an attribute model learns from `attributes`, `human` "
            "or `ratings` that people set"
        )
    labels_N_K = np.array(labels, dtype=np.float32)
    return AttributeData(schema, examples, turns, labels_N_K, sources, groups, num_too_long, frozenset(judges))


def _prompt_number(messages: Sequence[Message]) -> int:
    """Return a number for what was said before the first response: labelled turns with the same may share tokens."""
    digest = hashlib.blake2b(digest_size=8)
    for message in messages:
        if message.role == "assistant":
            break
        digest.update(f"{message.role} {message.content}\0".encode())
    return int.from_bytes(digest.digest(), "little", signed=True)


def label_row(labels: Mapping[str, float | str], schema: AttributeSchema) -> list[float]:
    """Return labels as K numbers: the level, the index of the category, or NaN."""

    def number(attribute: Attribute) -> float:
        label = labels.get(attribute.name)
        if label is None:
            return math.nan
        return attribute.categories.index(label) if isinstance(label, str) else label

    return [number(attribute) for attribute in schema]


def _with_label(encoder: ConversationEncoder, ids: list[int], turn: LabelledTurn) -> tuple[list[int], list[bool]]:
    """Append the label, of which only the tokens behind its opening are trained."""
    values: dict[str, Value] = {}
    for name, label in turn.labels.items():
        values[name] = label if isinstance(label, str) else encoder.schema[name].round(label)
    label_ids = encode_label(encoder, values)
    return [*ids, *label_ids], [False] * (len(ids) + 1) + [True] * (len(label_ids) - 1)


def require_all_labelled(labels_N_K: FloatArray, schema: AttributeSchema, path: Path) -> None:
    """Raise unless every attribute has a label somewhere."""
    unlabelled = [a.name for a, column_N in zip(schema, labels_N_K.T, strict=True) if np.isnan(column_N).all()]
    if unlabelled:
        raise UserError(
            f"{path} has no label at all for {', '.join(map(repr, unlabelled))}: leave the attribute out of the "
            "recipe's `attributes`, or add data that is labelled with it"
        )


def label_codes(labels_N_K: FloatArray, schema: AttributeSchema) -> npt.NDArray[np.int16]:
    """Return the index of the level of every label (ordinal: of the nearest one), -1 where there is none."""
    codes_N_K = np.full(labels_N_K.shape, -1, dtype=np.int16)
    for k, attribute in enumerate(schema):
        for n in np.flatnonzero(~np.isnan(labels_N_K[:, k])):
            label = float(labels_N_K[n, k])
            ordinal = attribute.kind == "ordinal"
            codes_N_K[n, k] = attribute.round(label) - attribute.minimum if ordinal else int(label)
    return codes_N_K
