"""A few prepared records as the model will see them."""

from __future__ import annotations

import heapq
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from steerlm.attributes import AttributeSchema
from steerlm.config import HeaderMarks, TemplateName
from steerlm.conversation import Message, read_conversations
from steerlm.scorers.dials import DialMeasures, values_of
from steerlm.storage.hash_set import hash64
from steerlm.template.conversation_encoder import ConversationEncoder
from steerlm.template.installing import Stretch, render


class ShownRecord(NamedTuple):
    """One record: its id, and its text with what is trained told from what is context."""

    id: str
    stretches: list[Stretch]

    def __str__(self) -> str:
        """Return the text with the trained stretches in ⟦ ⟧."""
        return f"{self.id}\n" + "".join(f"⟦{text}⟧" if trained else text for text, trained in self.stretches)


def show(
    data: Path,
    schema: AttributeSchema,
    template: TemplateName | ConversationEncoder,
    count: int,
    seed: int,
    header: HeaderMarks = "levels",
) -> list[ShownRecord]:
    """Draw records of a prepared file and render them, headers included.

    The header of a response shows people's labels as they stand in the file, until `annotate` puts the attribute
    model's in their place, and what is measured.

    Args:
        data: `train.jsonl` of `prepare`, or any file of conversations.
        schema: the attributes; measured ones are shown where they have their cuts.
        template: the chat template that will be trained; where it is the model's own, in its encoder.
        count: how many records, drawn at random.
        header: how it will be written, see `TrainSftConfig.header`.
    """
    records = read_conversations(data, schema)
    drawn = heapq.nsmallest(count, ((hash64(str(seed), record.id), i, record) for i, record in enumerate(records)))
    measured = [attribute for attribute in schema if attribute.measure and (attribute.cuts or attribute.categories)]
    measures = DialMeasures(schema, measured) if measured else None
    labelled = {record.id: _labelled(record.messages, schema, measures) for _, _, record in drawn}
    if isinstance(template, ConversationEncoder):
        return [ShownRecord(record, template.stretches(messages)) for record, messages in labelled.items()]
    return [ShownRecord(record, render(messages, template, schema, header)) for record, messages in labelled.items()]


def _labelled(messages: tuple[Message, ...], schema: AttributeSchema, measures: DialMeasures | None) -> list[Message]:
    found = []
    for end, message in enumerate(messages, 1):
        labels = message.human_labels if message.attributes is None else message.attributes
        if measures is not None and message.role == "assistant":
            [scores] = measures.score([messages[:end]])
            labels = schema.validate({**labels, **values_of(schema, scores or {})})
        found.append(replace(message, attributes=labels))
    return found
