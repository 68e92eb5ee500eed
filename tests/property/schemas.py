"""Strategies: schemas, settings and conversations of every form."""

from __future__ import annotations

from hypothesis import strategies as st

from steerlm.attributes import Attribute, AttributeSchema, Value
from steerlm.conversation import Conversation, Message, Score

NAMES = st.from_regex(r"[a-z][a-z0-9_]{0,8}", fullmatch=True)
CATEGORIES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,5}", fullmatch=True)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40).filter(str.strip)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 20) | st.floats(allow_nan=True) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)


@st.composite
def attributes(draw: st.DrawFn, name: str) -> Attribute:
    if draw(st.booleans()):
        minimum = draw(st.integers(0, 3))
        return Attribute(name, minimum=minimum, maximum=minimum + draw(st.integers(1, 9)))
    return Attribute(name, "categorical", categories=tuple(draw(st.lists(CATEGORIES, min_size=2, unique=True))))


@st.composite
def schemas(draw: st.DrawFn) -> AttributeSchema:
    names = draw(st.lists(NAMES, min_size=1, max_size=5, unique=True))
    return AttributeSchema(tuple(draw(attributes(name)) for name in names))


@st.composite
def settings(draw: st.DrawFn, schema: AttributeSchema) -> dict[str, Value]:
    """A full or partial setting, in schema order."""
    return {a.name: draw(st.sampled_from(a.levels)) for a in schema if draw(st.booleans())}


@st.composite
def conversations(draw: st.DrawFn, schema: AttributeSchema, *, plain: bool = False) -> Conversation:
    """A well-formed conversation; `plain` ones carry attributes only."""
    messages = [Message("system", draw(TEXT))] if draw(st.booleans()) else []
    for _ in range(draw(st.integers(1, 3))):
        messages.append(Message("user", draw(TEXT)))
        labels = draw(settings(schema)) or None
        if plain or labels is None:
            messages.append(Message("assistant", draw(TEXT), attributes=labels))
            continue
        ordinal = [name for name in labels if schema[name].kind == "ordinal"]
        messages.append(
            Message(
                "assistant",
                draw(TEXT),
                attributes=labels,
                human=draw(settings(schema)) or None,
                ratings={name: (float(labels[name]), float(labels[name])) for name in ordinal} or None,
                scores={name: Score(float(labels[name]), 0.5, {str(labels[name]): 1.0}) for name in ordinal} or None,
                labelled_by=draw(st.sampled_from(["human", "model:abc", "measure"])),
            )
        )
    if draw(st.booleans()):
        messages.append(Message("user", draw(TEXT)))
    group = draw(st.none() | TEXT)
    return Conversation(
        draw(TEXT), tuple(messages), draw(st.text(max_size=5)), group, {"topic": draw(st.integers(0, 9))}
    )
