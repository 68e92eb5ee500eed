"""Which columns of a table hold an exchange."""

from __future__ import annotations

from typing import Any

import pytest

from steerlm.errors import UserError
from steerlm.sources.guessing_columns import FoundColumns, exchange_columns

Row = dict[str, Any]


def look(rows: list[Row], given: dict[str, str] | None = None) -> FoundColumns:
    return exchange_columns("a.csv", rows, list(rows[0]), given or {})


def exchanges(**more: Any) -> list[Row]:
    """Rows under names that tell nothing; more columns hold one of a few values each."""
    return [
        {"eins": f"What of {i}?", "zwei": f"There are {i}.", **{k: v[i % len(v)] for k, v in more.items()}}
        for i in range(60)
    ]


def test_a_few_short_words_are_never_what_is_said() -> None:
    found = look(exchanges(mood=["happy", "sad", "angry"], npc=["merchant"]))
    assert found.columns == {"prompt": "eins", "response": "zwei", "system": "npc"}
    assert not found.certain
    rows = [{"question": r["eins"], "answer kind": "brief" if i % 2 else "long", "text": r["zwei"]}
            for i, r in enumerate(exchanges())]  # fmt: skip
    assert look(rows).columns == {"prompt": "question", "response": "text"}, "a word of its name does not make it one"
    yes = [{**row, "response": "Yes."} for row in rows]
    assert look(yes).columns["response"] == "response", "its whole name does"


def test_a_column_called_npc_may_be_what_the_character_says() -> None:
    rows = [{"Frage": f"What of {i}?", "NPC-Antwort": f"There are {i}.", "npc": "merchant"} for i in range(60)]
    assert look(rows).columns == {"prompt": "Frage", "response": "NPC-Antwort", "system": "npc"}


def test_the_example_keeps_what_was_recognised() -> None:
    rows = [{**row, "answer text": row["zwei"]} for row in exchanges(tone=["warm", "cold"])]
    with pytest.raises(UserError, match=r"is the prompt; it has eins, .*--columns 'prompt=eins,response=answer text'"):
        look(rows)
    only = [{"note": "A", "mood": "sad" if i % 2 else "glad", "n": i} for i in range(20)]
    with pytest.raises(UserError, match=r"it has note, mood, n\. Say so, .*prompt=COLUMN,response=COLUMN"):
        look(only)


@pytest.mark.parametrize("names", [("speaker", "text"), ("role", "content"), ("who", "line")])
def test_a_turn_per_row_is_refused_with_what_to_write(names: tuple[str, str]) -> None:
    who, text = names
    rows = [{"conversation": i // 4, who: ("User", "bot")[i % 2], text: f"What of {i}?"} for i in range(20)]
    with pytest.raises(UserError, match=rf"each row is one turn, and {who} says whose it is.*prompt and response"):
        look(rows)
    if who == "speaker":
        with pytest.raises(UserError, match="each row is one turn, and speaker"):
            look([{**row, who: ("Ann", "Bob")[i % 2]} for i, row in enumerate(rows)])


def test_a_part_that_no_table_has_is_named() -> None:
    rows = [{"player": "Who are you?", "reply": "Nobody."}] * 3
    with pytest.raises(UserError, match=r"--columns respones=reply: .* did you mean 'response'"):
        look(rows, {"prompt": "player", "respones": "reply"})
