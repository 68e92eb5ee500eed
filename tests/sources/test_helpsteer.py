"""HelpSteer and HelpSteer2 rows (made-up text)."""

from __future__ import annotations

from typing import Any

import pytest

from steerlm.attributes import HELPSTEER, OASST, PAPER, STEERLM, Attribute, AttributeSchema
from steerlm.errors import shell_word
from tests.sources.conftest import Import, turns


def row(**fields: Any) -> dict[str, Any]:
    ratings = {"helpfulness": 3, "correctness": 4, "coherence": 4, "complexity": 1, "verbosity": 2}
    return {"prompt": "Name a tea.", "response": "Sencha.", **ratings, **fields}


def test_a_row_is_one_labelled_exchange(read: Import) -> None:
    (conversation,) = read("helpsteer", row(), schema=HELPSTEER).conversations
    assert turns(conversation) == [("user", "Name a tea."), ("assistant", "Sencha.")]
    message = conversation.messages[1]
    assert message.attributes == {"helpfulness": 3, "correctness": 4, "coherence": 4, "complexity": 1, "verbosity": 2}
    assert (message.ratings, message.labelled_by) == (None, "human")
    assert conversation.id == "s/0"


def test_a_flattened_prompt_is_taken_apart(read: Import) -> None:
    prompt = "Name a tea.\n<extra_id_1>Assistant\nSencha.\n\nIt is green.\n<extra_id_1>User\nAnother one?"
    (conversation,) = read("helpsteer", row(prompt=prompt, response="Assam.")).conversations
    assert turns(conversation) == [
        ("user", "Name a tea."),
        ("assistant", "Sencha.\n\nIt is green."),
        ("user", "Another one?"),
        ("assistant", "Assam."),
    ]
    assert conversation.messages[1].attributes is None
    assert conversation.messages[3].attributes is not None


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("<extra_id_0>System\nBe kind\n<extra_id_1>User\nHi\n<extra_id_1>Assistant\n", ["system", "user"]),
        ("Hi\n<extra_id_1>Assistant", ["user"]),
        ("What does <extra_id_1>User mean?", ["user"]),
        ("Explain:\n  <extra_id_1>User\nplease", ["user"]),
    ],
)
def test_markers_count_at_the_start_of_a_line_only(read: Import, prompt: str, expected: list[str]) -> None:
    (conversation,) = read("helpsteer", row(prompt=prompt)).conversations
    assert [role for role, _ in turns(conversation)] == [*expected, "assistant"]


def test_ratings_of_single_annotators_are_kept(read: Import) -> None:
    given = row(helpfulness=[3, 4, 4], correctness=[2, 2], coherence=[4], complexity=[None, 1], verbosity=None)
    message = read("helpsteer", given, schema=HELPSTEER).conversations[0].messages[1]
    assert message.attributes == {"helpfulness": 4, "correctness": 2, "coherence": 4, "complexity": 1}
    assert message.ratings == {"helpfulness": (3.0, 4.0, 4.0), "correctness": (2.0, 2.0)}
    assert message.target("helpfulness") == pytest.approx(11 / 3)


def test_another_scale_is_reached_linearly_and_the_real_value_kept(read: Import) -> None:
    message = read("helpsteer", row(helpfulness=3), schema=PAPER).conversations[0].messages[1]
    assert message.attributes == {"helpfulness": 7}  # 3 / 4 * 9 = 6.75
    assert message.ratings == {"helpfulness": (6.75,)}
    schema = AttributeSchema((Attribute("helpfulness", minimum=1, maximum=5),))
    message = read("helpsteer", row(helpfulness=3), schema=schema).conversations[0].messages[1]
    assert (message.attributes, message.ratings) == ({"helpfulness": 4}, None)


def test_labels_without_an_attribute_are_dropped_and_counted(read: Import) -> None:
    got = read("helpsteer", row(), row(), schema=OASST)
    assert [c.messages[1].attributes for c in got.conversations] == [None, None]
    assert [c.messages[1].labelled_by for c in got.conversations] == [None, None]
    assert got.dropped == dict.fromkeys(HELPSTEER.names, 2)
    assert read("helpsteer", row(), schema=STEERLM).dropped == {}


@pytest.mark.parametrize(
    ("fields", "piece"),
    [
        ({"helpfulness": 5}, "helpfulness: label 5 is outside this data set's range 0..4"),
        ({"helpfulness": "3"}, "label '3' is not a number"),
        ({"helpfulness": True}, "label True is not a number"),
        ({"helpfulness": [1, 9]}, "label 9 is outside"),
        ({"response": None}, "'response' must be text, got None"),
        ({"response": ""}, "message 1 (assistant) is empty"),
        ({"prompt": "a\n<extra_id_1>User\nb"}, "message 1 has role 'user' where 'assistant' is due"),
        ({"prompt": 3}, "'prompt' must be text"),
    ],
)
def test_bad_rows(read: Import, fields: dict[str, Any], piece: str) -> None:
    got = read("helpsteer", row(), row(**fields), schema=HELPSTEER)
    assert len(got.conversations) == 1
    assert len(got.bad) == 1
    assert got.bad[0].startswith("2: ")
    assert piece in got.bad[0]


def test_a_categorical_attribute_takes_no_number(read: Import) -> None:
    schema = AttributeSchema((Attribute("verbosity", "categorical", categories=("short", "long")),))
    assert "verbosity is categorical in the schema" in read("helpsteer", row(), schema=schema).bad[0]


def test_all_responses_to_a_prompt_share_a_group(read: Import) -> None:
    rows = [row(), row(prompt="name a TEA!", response="Assam."), row(prompt="Name a coffee.")]
    groups = [c.group for c in read("helpsteer", *rows).conversations]
    assert groups[0] == groups[1] != groups[2]
    (alpaca,) = read("alpaca", {"instruction": "Name a tea", "output": "Oolong."}).conversations
    assert alpaca.group == groups[0]


@pytest.mark.parametrize("spell", [str.title, str.upper, lambda name: f" {name}"])
def test_columns_in_another_case_are_an_error_that_names_them(read: Import, spell: Any) -> None:
    given = {spell(key) if key not in ("prompt", "response") else key: value for key, value in row().items()}
    got = read("helpsteer", given, schema=HELPSTEER)
    assert got.conversations == []
    assert f"no 'helpfulness' but {spell('helpfulness')!r}" in got.bad[0]
    columns = ",".join(f"{name}={spell(name)}" for name in HELPSTEER.names)
    assert f"--columns {shell_word(columns)}" in got.bad[0]


def test_rows_without_any_rating_column_are_an_error(read: Import) -> None:
    got = read("helpsteer", {"prompt": "a", "response": "b", "score": 3})
    assert "the row has none of helpfulness, correctness, coherence" in got.bad[0]
    assert "it has prompt, response, score" in got.bad[0]


def test_further_columns_are_counted(read: Import) -> None:
    got = read("helpsteer", row(quality=3, domain="tea", note=None))
    assert got.dropped == {"(column quality)": 1, "(column domain)": 1}
