"""People's ratings as training data for the attribute model (SteerLM, section 3.1)."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

from steerlm.attributes import Attribute, AttributeSchema, Value
from steerlm.conversation import Conversation, Message, write_conversations
from steerlm.errors import UserError
from steerlm.studies.rate.items import RatedTurn
from steerlm.studies.rate.store import Study, read_answers, read_items


@dataclass(frozen=True)
class ExportedRatings:
    """What was written: how many conversations, rated turns and single ratings, and categories without a majority."""

    conversations: int
    turns: int
    ratings: int
    undecided: int


def export_ratings(study: Study, path: Path) -> ExportedRatings:
    """Write every conversation with a rated turn as a record that `steerlm train-attribute-model` reads.

    An ordinal attribute's `ratings` list what each annotator said and `attributes` holds their rounded mean; of a
    categorical one `attributes` holds what most annotators said, and nothing where no category has more than the
    others. Labels that the conversations carried before are not written: what is exported is what people said here.
    """
    if study.schema is None:
        raise UserError(f"{study.folder} compares systems: only a study of ratings makes training data")
    items = read_items(study)
    answers = read_answers(study)
    skipped = {(a.annotator, a.item) for a in answers if a.attribute == "" and a.value == "skip"}
    values: dict[int, dict[str, list[Value]]] = {}
    for answer in answers:
        if answer.attribute and (answer.annotator, answer.item) not in skipped:
            value = study.schema[answer.attribute].parse(answer.value)
            values.setdefault(answer.item, {}).setdefault(answer.attribute, []).append(value)
    if not values:
        raise UserError(f"{study.folder} holds no rating yet")
    conversations: dict[str, Conversation] = {}
    undecided = 0
    for index in sorted(values):
        item = items[index]
        assert isinstance(item, RatedTurn)
        conversation = conversations.get(item.conversation.id, item.conversation)
        message = _label(conversation.messages[item.turn], values[index], study.schema)
        undecided += len(values[index].keys() - (message.attributes or {}).keys())
        conversations[conversation.id] = conversation.with_message(item.turn, message)
    num_ratings = sum(len(given) for of_item in values.values() for given in of_item.values())
    written = write_conversations(path, conversations.values(), study.schema)
    return ExportedRatings(written, len(values), num_ratings, undecided)


def _label(message: Message, values: dict[str, list[Value]], schema: AttributeSchema) -> Message:
    attributes: dict[str, Value] = {}
    ratings: dict[str, tuple[float, ...]] = {}
    for attribute in schema:
        given = values.get(attribute.name)
        if not given:
            continue
        if attribute.kind == "ordinal":
            ratings[attribute.name] = levels = tuple(float(level) for level in given)
            attributes[attribute.name] = attribute.round(sum(levels) / len(levels))
        else:
            winner = _majority(attribute, given)
            if winner is not None:
                attributes[attribute.name] = winner
    return replace(message, attributes=attributes, ratings=ratings or None, labelled_by="human")


def _majority(attribute: Attribute, given: list[Value]) -> Value | None:
    counts = Counter(given)
    most = max(counts.values())
    winners = [category for category in attribute.categories if counts[category] == most]
    return winners[0] if len(winners) == 1 else None
