"""HH-RLHF pairs (made-up text)."""

from __future__ import annotations

import pytest

from tests.sources.conftest import Import, turns

START = "\n\nHuman: Hi there\n\nAssistant:"


def test_a_pair_is_two_conversations_of_one_group(read: Import) -> None:
    more = f"{START} Hello!\n\nHow are you?\n\nHuman: Fine.\n\nAssistant: "
    got = read("hh_rlhf", {"chosen": f"{more}Good.", "rejected": f"{more}So what."})
    chosen, rejected = got.conversations
    assert turns(chosen) == [
        ("user", "Hi there"),
        ("assistant", "Hello!\n\nHow are you?"),
        ("user", "Fine."),
        ("assistant", "Good."),
    ]
    assert turns(rejected)[-1] == ("assistant", "So what.")
    assert [c.meta for c in got.conversations] == [{"preference": "chosen"}, {"preference": "rejected"}]
    assert [c.id for c in got.conversations] == ["s/0-chosen", "s/0-rejected"]
    assert chosen.group == rejected.group
    assert got.bad == []


def test_a_speaker_inside_a_line_is_text(read: Import) -> None:
    text = f"{START} Human: they said.\nAssistant: no.\n Human: yes."
    (first, _) = read("hh_rlhf", {"chosen": text, "rejected": text}).conversations
    assert turns(first)[1] == ("assistant", "Human: they said.\nAssistant: no.\n Human: yes.")


def test_one_bad_dialogue_does_not_take_the_other_with_it(read: Import) -> None:
    got = read("hh_rlhf", {"chosen": f"{START} ", "rejected": f"{START} Hello"})
    assert [c.id for c in got.conversations] == ["s/0-rejected"]
    assert got.bad == ["1 (chosen): message 1 (assistant) is empty"]


@pytest.mark.parametrize(
    ("chosen", "piece"),
    [
        (f"{START} a\n\nAssistant: b", "1 (chosen): message 2 has role 'assistant' where 'user' is due"),
        (f"Hello{START} a", "'chosen' does not start with"),
        ("", "'chosen' does not start with"),
        (None, "'chosen' must be text"),
    ],
)
def test_bad_dialogues(read: Import, chosen: str | None, piece: str) -> None:
    got = read("hh_rlhf", {"chosen": chosen, "rejected": f"{START} Hello"})
    assert len(got.bad) == 1
    assert piece in got.bad[0]


def test_rows_of_other_formats_are_named(read: Import) -> None:
    assert read("hh_rlhf", {"prompt": "x"}).bad == ["1: the row has no 'chosen'; it has prompt"]


def test_line_ends_of_another_system_and_lists_of_messages(read: Import) -> None:
    text = "\r\n\r\nHuman: Hi\r\n\r\nAssistant: Hello\r\nthere"
    said = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Go away", "weight": 0}]
    chosen, rejected = read("hh_rlhf", {"chosen": text, "rejected": said}).conversations
    assert turns(chosen) == [("user", "Hi"), ("assistant", "Hello\r\nthere")]
    assert (turns(rejected)[1], rejected.messages[1].weight) == (("assistant", "Go away"), 0)
    assert chosen.group == rejected.group


def test_a_comparison_is_a_rating_of_the_attribute_that_is_named(read: Import) -> None:
    more = f"{START} Hello!\n\nHuman: Fine.\n\nAssistant:"
    row = {"chosen": f"{more} Good.", "rejected": f"{more} So what."}
    chosen, rejected = read("hh_rlhf", row, preference="quality").conversations
    assert [message.attributes for message in chosen.messages] == [None, None, None, {"quality": 4}]
    assert (rejected.messages[-1].attributes, rejected.messages[-1].labelled_by) == ({"quality": 0}, "human")
    chosen, rejected = read("hh_rlhf", row, preference="toxicity").conversations  # best at its minimum
    assert (chosen.messages[-1].attributes, rejected.messages[-1].attributes) == ({"toxicity": 0}, {"toxicity": 4})
