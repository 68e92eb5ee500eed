"""HelpSteer and HelpSteer2: a prompt, a response and five ratings from 0 to 4 (arXiv 2311.09528, 2406.08673).

29 % of HelpSteer2 is multi-turn, flattened into the prompt with `<extra_id_1>` markers; they are taken apart here, so
that history turns are turns. The file of single annotators' ratings (`disagreements`) has lists in place of numbers:
they are kept.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from steerlm.conversation import Message
from steerlm.sources.draft import Draft, Labels, expect_object, expect_text, own_id
from steerlm.sources.nemo import prompt_messages

ATTRIBUTES = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")


def convert(row: Any, labels: Labels) -> Iterator[Draft]:
    """Yield the one conversation of a row, its last response labelled.

    Raises:
        UserError: no prompt, no response, or a rating that is no number from 0 to 4.
    """
    row = expect_object(row)
    messages = prompt_messages(expect_text(row, "prompt"), labels)
    labelled = labels.convert({name: row[name] for name in ATTRIBUTES if name in row}, 0, 4)
    messages.append(
        Message(
            "assistant",
            expect_text(row, "response"),
            attributes=labelled.attributes,
            ratings=labelled.ratings,
            labelled_by="human" if labelled.attributes else None,
        )
    )
    yield Draft(tuple(messages), own_id(row, "id"))
