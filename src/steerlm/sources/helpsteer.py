"""HelpSteer and HelpSteer2: a prompt, a response and five ratings from 0 to 4 (arXiv 2311.09528, 2406.08673).

29 % of HelpSteer2 is multi-turn, flattened into the prompt with `<extra_id_1>` markers; they are taken apart here, so
that history turns are turns. The file of single annotators' ratings (`disagreements`) has lists in place of numbers:
they are kept.
"""

from __future__ import annotations

from collections.abc import Iterator

from steerlm.conversation import Message
from steerlm.errors import UserError, shell_word
from steerlm.sources.draft import Draft, JsonObject, Labels, expect_object, expect_text, own_id
from steerlm.sources.nemo import prompt_messages

ATTRIBUTES = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")


def convert(row: object, labels: Labels) -> Iterator[Draft]:
    """Yield the one conversation of a row, its last response labelled.

    Raises:
        UserError: no prompt, no response, none of the five columns, or a rating that is no number from 0 to 4.
    """
    row = expect_object(row)
    messages = prompt_messages(expect_text(row, "prompt"), labels)
    response = expect_text(row, "response")
    _check_columns(row)
    labelled = labels.convert({name: row[name] for name in ATTRIBUTES if name in row}, 0, 4)
    messages.append(
        Message(
            "assistant",
            response,
            attributes=labelled.attributes,
            ratings=labelled.ratings,
            labelled_by="human" if labelled.attributes else None,
        )
    )
    yield Draft(tuple(messages), own_id(row, "id"))


def _check_columns(row: JsonObject) -> None:
    """Raise where ratings stand under other names: they would be lost without a word."""
    like = {str(key).strip().lower(): str(key) for key in row if key not in ATTRIBUTES}
    renamed = [(name, like[name]) for name in ATTRIBUTES if name not in row and name in like]
    if renamed:
        (name, found), columns = renamed[0], shell_word(",".join(f"{name}={found}" for name, found in renamed))
        raise UserError(f"the row has no {name!r} but {found!r}; rename the columns, or say --columns {columns}")
    if not any(name in row for name in ATTRIBUTES):
        raise UserError(f"the row has none of {', '.join(ATTRIBUTES)}; it has {', '.join(map(str, row))}")
