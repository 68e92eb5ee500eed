"""A setting in words: what somebody types who has no dials."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from steerlm.attributes import Attribute, AttributeSchema
from steerlm.conversation import Message
from steerlm.generation.demonstrations import Demonstration
from steerlm.generation.guidance import Wish


def in_words(schema: AttributeSchema, setting: Mapping[str, Wish]) -> str:
    """Return an instruction that names every attribute of a setting, its level and its scale."""
    lines = [_line(schema[name], value) for name, value in setting.items()]
    return "\n".join(["Write an answer with these properties:", *lines])


def _line(attribute: Attribute, value: Wish) -> str:
    about = f" ({attribute.description.rstrip('.')})" if attribute.description else ""
    name = attribute.name.replace("_", " ")
    if attribute.kind == "categorical":
        return f"- {name}: {value}{about}"
    both = (attribute.minimum, attribute.low), (attribute.maximum, attribute.high)
    ends = [f"{level}{f' = {means}' if means else ''}" for level, means in both]
    return f"- {name}: {value} on a scale from {ends[0]} to {ends[1]}{about}"


def asked_in_words(
    messages: Sequence[Message], schema: AttributeSchema, setting: Mapping[str, Wish]
) -> tuple[Message, ...]:
    """Return a conversation whose last user turn begins with the instruction."""
    *before, last = messages
    return (*before, replace(last, content=f"{in_words(schema, setting)}\n\n{last.content}"))


def worded(demonstration: Demonstration, schema: AttributeSchema) -> Demonstration:
    """Return a demonstration whose prompt asks in words for what its answer is."""
    setting = {name: value for name, value in (demonstration.answer.attributes or {}).items() if name in schema}
    return replace(demonstration, prompt=f"{in_words(schema, setting)}\n\n{demonstration.prompt}")
