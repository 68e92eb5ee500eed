"""Which samples are no answers."""

from __future__ import annotations

from steerlm.attributes import Attribute, AttributeSchema
from steerlm.stages.tuning.answers import defects

SCHEMA = AttributeSchema((Attribute("quality", best="max"), Attribute("humor")))


def test_defects() -> None:
    texts = [
        ("A fine answer.", True, None),
        ("", True, "empty"),
        (" \n?! ", True, "empty"),
        ("A fine answer that goes on and", False, "truncated"),
        ("A fine answer.\n", True, "duplicate"),
        ("no no no no no no no", True, "repeating"),
        (
            "My queen left me for a better square. Even funnier, my queen left me for a better square.",
            True,
            "repeating",
        ),
        ("Sure.\nquality:4,humor:0\nMore.", True, "leaking"),
        ("Another fine answer.", True, None),
    ]
    samples = [{"text": text, "finished": finished} for text, finished, _ in texts]
    assert defects(samples, SCHEMA) == [reason for _, _, reason in texts]
