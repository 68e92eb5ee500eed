"""OASST trees in their three layouts, with numeric labels (made-up text)."""

from __future__ import annotations

from typing import Any

import pytest

from steerlm.attributes import OASST, PAPER, Attribute, AttributeSchema
from tests.sources.conftest import Import, turns


def node(key: str, role: str, *replies: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"message_id": key, "text": f"text {key}", "role": role, "replies": list(replies), **fields}


def labels(**values: float | None) -> dict[str, Any]:
    return {name: {"value": value, "count": 3} for name, value in values.items()}


TREE = {
    "message_tree_id": "t1",
    "tree_state": "ready_for_export",
    "prompt": node(
        "p", "prompter",
        node("a", "assistant",
             node("q", "prompter",
                  node("c", "assistant", labels=labels(quality=1.0, humor=0.0)),
                  node("d", "assistant")),
             node("r", "prompter"),
             labels=labels(quality=0.75, toxicity=0.0, spam=0.0)),
        node("b", "assistant", labels=labels(quality=0.2)),
        labels=labels(quality=0.5, spam=0.0),
    ),
}  # fmt: skip


def test_one_conversation_per_path_to_a_last_reply(read: Import) -> None:
    got = read("oasst", TREE)
    assert [[text for _, text in turns(c)] for c in got.conversations] == [
        ["text p", "text a", "text q", "text c"],
        ["text p", "text a", "text q", "text d"],
        ["text p", "text b"],
    ]
    assert [role for role, _ in turns(got.conversations[0])] == ["user", "assistant", "user", "assistant"]
    assert [c.id for c in got.conversations] == ["s/t1-0", "s/t1-1", "s/t1-2"]
    assert {c.meta["tree"] for c in got.conversations} == {"t1"}
    assert len({c.group for c in got.conversations}) == 1
    assert got.bad == []


def test_an_unanswered_follow_up_ends_the_path_at_the_reply_before_it_once(read: Import) -> None:
    follow_ups = [node("x", "prompter"), node("y", "prompter")]
    tree = {"message_tree_id": "t", "prompt": node("p", "prompter", node("a", "assistant", *follow_ups))}
    assert [turns(c)[-1] for c in read("oasst", tree).conversations] == [("assistant", "text a")]
    assert read("oasst", {"message_tree_id": "t", "prompt": node("p", "prompter")}).conversations == []


def test_labels_become_levels_and_keep_their_real_value(read: Import) -> None:
    got = read("oasst", TREE, schema=OASST)
    first = got.conversations[0].messages
    assert first[1].attributes == {"quality": 3, "toxicity": 0}
    assert first[1].ratings is None  # 0.75 is level 3 exactly
    assert first[3].attributes == {"quality": 4, "humor": 0}
    assert first[0].attributes is None  # labels of prompts are not used
    last = got.conversations[2].messages[1]
    assert last.attributes == {"quality": 1}
    assert last.ratings == {"quality": (0.8,)}
    assert last.labelled_by == "human"
    assert got.conversations[1].messages[3].attributes is None
    assert got.conversations[1].messages[3].labelled_by is None
    assert got.dropped == {"spam": 1, "(prompt that nobody answered)": 1}  # once per message, not per path


@pytest.mark.parametrize(
    ("value", "of_four", "of_nine"),
    # reference: round(value * 4), as NVIDIA's preparation does it, and round(value * 9), the paper's scale
    [(value, round(value * 4), round(value * 9)) for value in (0.0, 0.1, 0.125, 0.375, 0.5, 0.625, 0.875, 0.99, 1.0)],
)
def test_rounding_is_the_published_one(read: Import, value: float, of_four: int, of_nine: int) -> None:
    tree = {
        "message_tree_id": "t",
        "prompt": node("p", "prompter", node("a", "assistant", labels=labels(quality=value))),
    }
    for schema, level in ((OASST, of_four), (PAPER, of_nine)):
        message = read("oasst", tree, schema=schema).conversations[0].messages[1]
        assert message.attributes == {"quality": level}
        assert message.target("quality") == pytest.approx(value * schema["quality"].maximum)


def test_labels_follow_the_schemas_order_and_range(read: Import) -> None:
    schema = AttributeSchema((Attribute("humor", minimum=1, maximum=5), Attribute("quality")))
    reply = node("a", "assistant", labels=labels(quality=1.0, humor=0.5))
    message = read("oasst", {"prompt": node("p", "prompter", reply)}, schema=schema).conversations[0].messages[1]
    assert list((message.attributes or {}).items()) == [("humor", 3), ("quality", 4)]


def test_deleted_and_empty_messages_go_with_what_is_below_them(read: Import) -> None:
    tree = node(
        "p", "prompter",
        node("a", "assistant", node("q", "prompter", node("c", "assistant")), deleted=True),
        node("b", "assistant", review_result=False, labels=labels(quality=0.0)),
        node("e", "assistant", text=" "),
    )  # fmt: skip
    got = read("oasst", {"message_tree_id": "t", "prompt": tree})
    # rejected in review, yet kept: the paper trains on good and bad replies alike
    assert [turns(c)[-1][1] for c in got.conversations] == ["text b"]
    assert got.dropped == {"(deleted or empty message)": 2, "(message below a deleted or empty one)": 2}
    assert read("oasst", {"prompt": node("p", "prompter", deleted=True)}).conversations == []


def test_labels_that_are_null_or_unrated_are_no_labels(read: Import) -> None:
    replies = [node("a", "assistant", labels=None), node("b", "assistant", labels=labels(quality=None))]
    got = read("oasst", {"prompt": node("p", "prompter", *replies)})
    assert [c.messages[1].attributes for c in got.conversations] == [None, None]


@pytest.mark.parametrize(
    ("row", "piece"),
    [
        ({"prompt": node("p", "prompter", node("a", "assistant", labels=labels(quality=1.2)))}, "label 1.2 is outside"),
        ({"prompt": node("p", "prompter", node("a", "bot"))}, "role 'bot' is not one of prompter, assistant"),
        ({"prompt": node("p", "prompter", node("a", "assistant", text=None))}, "'text' must be text"),
        ({"prompt": node("p", "prompter", node("a", "prompter", node("b", "assistant")))}, "where 'assistant' is due"),
        ({"prompt": "hello"}, "must be a JSON object"),
        ({"title": "x"}, "the row has no 'text'; it has title"),
    ],
)  # fmt: skip
def test_what_is_no_tree_is_a_bad_record(read: Import, row: dict[str, Any], piece: str) -> None:
    got = read("oasst", TREE, row)
    assert len(got.conversations) == 3
    assert len(got.bad) == 1
    assert got.bad[0].startswith("2")
    assert piece in got.bad[0]


def flat(tree: dict[str, Any]) -> list[dict[str, Any]]:
    """The hub's layout: one row per message, labels as columns."""
    rows: list[dict[str, Any]] = []

    def walk(message: dict[str, Any], parent: str | None) -> None:
        row = {key: value for key, value in message.items() if key != "replies"}
        given = row.get("labels")
        if given is not None:
            row["labels"] = {"name": list(given), "value": [label["value"] for label in given.values()]}
        rows.append({**row, "parent_id": parent, "message_tree_id": tree["message_tree_id"]})
        for reply in message["replies"]:
            walk(reply, message["message_id"])

    walk(tree["prompt"], None)
    return rows


def test_the_three_layouts_give_the_same_conversations(read: Import) -> None:
    other = {"message_tree_id": "t2", "prompt": node("P", "prompter", node("A", "assistant"))}
    trees = read("oasst", TREE, other).conversations
    assert read("oasst", *flat(TREE), *flat(other)).conversations == trees
    bare = read("oasst", {**TREE["prompt"], "message_id": "t1"}).conversations
    assert [c.messages for c in bare] == [c.messages for c in trees[:3]]
    as_list = [{**row, "labels": _pairs(row.get("labels"))} for row in flat(TREE)]
    assert read("oasst", *as_list).conversations == trees[:3]


def _pairs(columns: dict[str, Any] | None) -> list[dict[str, Any]] | None:
    if columns is None:
        return None
    return [{"name": name, "value": value} for name, value in zip(columns["name"], columns["value"], strict=True)]


def test_flat_rows_without_their_root_are_reported(read: Import) -> None:
    got = read("oasst", *flat(TREE)[1:])
    assert got.conversations == []
    assert got.bad == ["1: the messages of tree 't1' have no root"]


def flat_row(key: str | int | None, parent: str | int | None, role: str, **fields: Any) -> dict[str, Any]:
    return {"message_id": key, "parent_id": parent, "text": f"text {key}", "role": role, **fields}


def test_orphans_are_counted_with_all_below_them(read: Import) -> None:
    rows = [
        flat_row(1, None, "prompter", message_tree_id="t"),
        flat_row(2, 1, "assistant", message_tree_id="t"),
        flat_row(4, 99, "prompter", message_tree_id="t"),
        flat_row(5, 4, "assistant", message_tree_id="t", labels=labels(quality=1.0)),
        flat_row(6, 7, "prompter", message_tree_id="t"),  # a circle has no root either
        flat_row(7, 6, "assistant", message_tree_id="t"),
    ]
    got = read("oasst", *rows)
    assert [turns(c) for c in got.conversations] == [[("user", "text 1"), ("assistant", "text 2")]]
    assert got.dropped == {"(message whose parent is missing)": 4}


@pytest.mark.parametrize("tree", [{}, {"message_tree_id": None}, {"message_tree_id": ""}, {"message_tree_id": "one"}])
@pytest.mark.parametrize("mixed", [False, True])
def test_every_root_is_a_tree(read: Import, tree: dict[str, Any], mixed: bool) -> None:
    rows = [
        flat_row("1", None, "prompter", **tree),
        flat_row("2", "1", "assistant", **tree),
        flat_row("3", "", "prompter", **tree),
        flat_row("4", "3", "assistant", labels=labels(quality=1.0), **tree),
    ]
    got = read("oasst", *([rows[i] for i in (3, 0, 2, 1)] if mixed else rows))
    assert [turns(c)[-1][1] for c in got.conversations] == ["text 2", "text 4"]
    assert got.conversations[1].messages[1].attributes == {"quality": 4}
    assert len({c.id for c in got.conversations}) == len({c.group for c in got.conversations}) == 2
    assert (got.bad, got.dropped) == ([], {})


def test_a_message_that_stands_twice_and_prompts_nobody_answered(read: Import) -> None:
    rows = [flat_row("1", None, "prompter"), flat_row("2", "1", "assistant"), flat_row("2", "1", "assistant")]
    got = read("oasst", *rows, flat_row("3", None, "prompter"))
    assert len(got.conversations) == 1
    assert got.bad == ["3: message_id '2' stands twice"]
    assert got.dropped == {"(prompt that nobody answered)": 1}


def test_deleted_is_read_in_every_form(read: Import) -> None:
    rows = [flat_row("1", None, "prompter", deleted="False"), flat_row("2", "1", "assistant", deleted=0)]
    assert len(read("oasst", *rows).conversations) == 1
    assert read("oasst", {**rows[0], "deleted": "true"}, rows[1]).conversations == []


def test_ranks_are_ratings_of_the_attribute_that_is_named(read: Import) -> None:
    replies = [node(key, "assistant", rank=rank) for key, rank in (("a", 2), ("b", 0), ("c", 5), ("d", None))]
    tree = {"message_tree_id": "t", "prompt": node("p", "prompter", *replies)}
    found = {c.messages[-1].content: c.messages[-1] for c in read("oasst", tree, preference="quality").conversations}
    assert {key: message.target("quality") for key, message in found.items()} == {
        "text a": 2.0,
        "text b": 4.0,
        "text c": 0.0,
        "text d": None,
    }
    assert {c.messages[-1].attributes is None for c in read("oasst", tree).conversations} == {True}


def test_a_rank_without_another_compares_nothing_and_a_label_wins(read: Import) -> None:
    alone = {"message_tree_id": "t", "prompt": node("p", "prompter", node("a", "assistant", rank=0))}
    assert read("oasst", alone, preference="quality").conversations[0].messages[-1].attributes is None
    said = [node(key, "assistant", rank=i, labels=labels(quality=0.25)) for i, key in enumerate("ab")]
    tree = {"message_tree_id": "t", "prompt": node("p", "prompter", *said)}
    ranked = read("oasst", tree, preference="quality").conversations
    assert [c.messages[-1].attributes for c in ranked] == [{"quality": 1}, {"quality": 1}]
    worded = {"message_tree_id": "t", "prompt": node("p", "prompter", node("a", "assistant", rank="first"))}
    assert "'rank' must be a number, got 'first'" in read("oasst", worded, preference="quality").bad[0]
