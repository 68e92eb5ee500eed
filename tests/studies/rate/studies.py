"""Small studies to test with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from steerlm.attributes import Attribute, AttributeSchema
from steerlm.conversation import Conversation, Message, write_conversations
from steerlm.studies.rate.items import comparisons, rated_turns
from steerlm.studies.rate.store import Study, create_study, invite, record

SCHEMA = AttributeSchema(
    (
        Attribute("humor", description="How funny it tries to be."),
        Attribute("helpfulness", maximum=9, best="max"),
        Attribute("lang", kind="categorical", categories=("en", "de")),
    )
)


def write_answers(path: Path, answers: Mapping[str, str], question: str = "How do I bake bread?") -> Path:
    """Write stored answers: prompt id -> answer."""
    write_conversations(
        path,
        [
            Conversation(key, (Message("user", f"{question} ({key})"), Message("assistant", text)))
            for key, text in answers.items()
        ],
    )
    return path


def comparison(folder: Path, num_prompts: int = 6, systems: Sequence[str] = ("plain", "steered")) -> Study:
    """Make a study of comparisons with answers `NAME says I`."""
    files = {
        name: write_answers(folder / f"{name}.jsonl", {f"p{i}": f"{name} says {i}" for i in range(num_prompts)})
        for name in systems
    }
    items = comparisons(files, None, None, 0)
    return create_study(folder / "study", items, question="Which?", schema=None, systems=list(files), seed=0)


def two_turns(key: str, labelled: bool = False) -> Conversation:
    """A conversation of two exchanges."""
    labels = {"humor": 3, "helpfulness": 1, "lang": "de"} if labelled else None
    by = "model:abc" if labelled else None
    return Conversation(
        key,
        (
            Message("system", "Be brief."),
            Message("user", f"Hello {key}"),
            Message("assistant", f"Hi {key}", attributes=labels, labelled_by=by),
            Message("user", f"And then? {key}"),
            Message("assistant", f"Then this, {key}", attributes=labels, labelled_by=by),
        ),
        source="test",
        group=f"group-{key}",
        meta={"meta": {"kept": key}},
    )


def rating(folder: Path, num_conversations: int = 6, *, all_turns: bool = False) -> Study:
    """Make a study of ratings."""
    path = folder / "chats.jsonl"
    write_conversations(path, [two_turns(f"c{i}", labelled=True) for i in range(num_conversations)], SCHEMA)
    items = rated_turns(path, "all" if all_turns else "last", None, 0)
    return create_study(folder / "study", items, question="How?", schema=SCHEMA, systems=[], seed=0)


def vote(study: Study, name: str, item: int, values: Mapping[str, str], swapped: bool = False) -> None:
    """Record answers as the server would."""
    record(study, invite(study, [name])[0], item, values, swapped)
