from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from steerlm.conversation import Conversation, Message, write_conversations
from steerlm.errors import UserError
from steerlm.studies.rate.items import Comparison, RatedTurn, comparisons, order, rated_turns, show, swapped
from tests.studies.rate.studies import SCHEMA, two_turns, write_answers


def test_every_prompt_with_every_pair_of_systems(tmp_path: Path) -> None:
    files = {
        name: write_answers(tmp_path / f"{name}.jsonl", {f"p{i}": f"{name} {i}" for i in range(count)})
        for name, count in (("a", 4), ("b", 3), ("c", 5))
    }
    found = comparisons(files, None, None, 0)
    assert [(i.prompt, i.systems) for i in found.items if isinstance(i, Comparison)] == [
        (f"p{i}", pair) for i in range(3) for pair in (("a", "b"), ("a", "c"), ("b", "c"))
    ]
    assert found.left_out == {"prompts not answered by every system": 2}
    first = found.items[0]
    assert isinstance(first, Comparison)
    assert [m.content for m in first.context] == ["How do I bake bread? (p0)"]
    assert [[m.content for m in answer] for answer in first.answers] == [["a 0"], ["b 0"]]
    assert Comparison.from_dict(json.loads(json.dumps(first.to_dict()))) == first


def test_a_second_turn_shows_either_systems_own_first_answer(tmp_path: Path) -> None:
    def answers(name: str, first_answer: str) -> Path:
        messages = ("user", "One?"), ("assistant", first_answer), ("user", "Two?"), ("assistant", f"{name} two")
        path = tmp_path / f"{name}.jsonl"
        write_conversations(path, [Conversation("p", tuple(Message(role, text) for role, text in messages))])  # type: ignore[arg-type]
        return path

    [item] = comparisons({"a": answers("a", "same"), "b": answers("b", "same")}, None, None, 0).items
    assert isinstance(item, Comparison)
    assert [m.content for m in item.context] == ["One?", "same", "Two?"]
    [item] = comparisons({"a": answers("a", "mine"), "b": answers("b", "yours")}, None, None, 0).items
    assert isinstance(item, Comparison)
    assert [m.content for m in item.context] == ["One?"]
    assert [[m.content for m in side] for side in item.answers] == [
        ["mine", "Two?", "a two"],
        ["yours", "Two?", "b two"],
    ]


def test_identical_answers_are_left_out_and_counted(tmp_path: Path) -> None:
    a = write_answers(tmp_path / "a.jsonl", {"p0": "same", "p1": "one"})
    b = write_answers(tmp_path / "b.jsonl", {"p0": "same", "p1": "two"})
    found = comparisons({"a": a, "b": b}, None, None, 0)
    assert [item.prompt for item in found.items] == ["p1"]
    assert found.left_out == {"pairs of identical answers": 1}
    with pytest.raises(UserError, match="nothing to compare"):
        comparisons({"a": a, "b": a}, None, None, 0)


def test_mistakes_in_answer_files(tmp_path: Path) -> None:
    a = write_answers(tmp_path / "a.jsonl", {"p0": "x"})
    other_ids = write_answers(tmp_path / "b.jsonl", {"q0": "y"})
    other_question = write_answers(tmp_path / "c.jsonl", {"p0": "y"}, question="What?")
    empty = tmp_path / "d.jsonl"
    empty.write_text("")
    unanswered = tmp_path / "e.jsonl"
    write_conversations(unanswered, [Conversation("p0", (Message("user", "Hi"),))])
    double = tmp_path / "f.jsonl"
    double.write_bytes(a.read_bytes() * 2)
    for path, words in (
        (other_ids, "no prompt id in common"),
        (other_question, "answer different questions"),
        (empty, "holds no conversation"),
        (unanswered, "does not end with an answer"),
        (double, "stands twice"),
        (tmp_path / "none.jsonl", "no such file"),
    ):
        with pytest.raises(UserError, match=words):
            comparisons({"a": a, "x": path}, None, None, 0)
    with pytest.raises(UserError, match="two systems"):
        comparisons({"a": a}, None, None, 0)


def test_answer_files_of_fastchat_and_qlora_with_their_questions(tmp_path: Path) -> None:
    questions, fastchat, qlora = (tmp_path / name for name in ("q.jsonl", "f.jsonl", "g.jsonl"))
    questions.write_text(
        '{"question_id": 81, "turns": ["One?", "Two?"]}\n{"question_id": 82, "text": "Alone?"}\n', encoding="utf-8"
    )
    fastchat.write_text(
        '{"question_id": 81, "model_id": "f", "choices": [{"turns": ["f one", "f two"]}]}\n'
        '{"question_id": 82, "answer_id": "x", "text": "f alone"}\n',
        encoding="utf-8",
    )
    qlora.write_text('{"question_id": 82, "generation": "g alone"}\n', encoding="utf-8")
    files = {"f": fastchat, "g": qlora}
    [item] = comparisons(files, questions, None, 0).items
    assert isinstance(item, Comparison)
    assert [m.content for m in item.context] == ["Alone?"]
    assert [[m.content for m in side] for side in item.answers] == [["f alone"], ["g alone"]]
    other = tmp_path / "h.jsonl"
    other.write_text('{"question_id": 81, "choices": [{"turns": ["f one", "h two"]}]}\n', encoding="utf-8")
    [item] = comparisons({"f": fastchat, "h": other}, questions, None, 0).items
    assert isinstance(item, Comparison)
    assert [m.content for m in item.context] == ["One?", "f one", "Two?"]
    other.write_text('{"question_id": 99, "text": "h"}\n', encoding="utf-8")
    with pytest.raises(UserError, match=r"h\.jsonl: '99' has 1 answers"):
        comparisons({"f": fastchat, "h": other}, questions, None, 0)


def test_samples_are_drawn_by_seed_and_keep_their_order(tmp_path: Path) -> None:
    files = {n: write_answers(tmp_path / f"{n}.jsonl", {f"p{i:02}": f"{n} {i}" for i in range(40)}) for n in "ab"}
    one, again, other = ([i.prompt for i in comparisons(files, None, 10, seed).items] for seed in (1, 1, 2))
    assert one == again == sorted(one)
    assert len(set(one)) == 10
    assert one != other
    assert len(comparisons(files, None, 100, 0).items) == 40
    with pytest.raises(UserError, match="--num-prompts 0"):
        comparisons(files, None, 0, 0)


def test_rated_turns_carry_no_label_of_anybody(tmp_path: Path) -> None:
    path = tmp_path / "chats.jsonl"
    asked = Conversation("open", (Message("user", "Anybody?"),))
    write_conversations(path, [two_turns("c0", labelled=True), asked], SCHEMA)
    last = rated_turns(path, "last", None, 0)
    assert [item.turn for item in last.items if isinstance(item, RatedTurn)] == [4]
    assert last.left_out == {"conversations without an assistant turn": 1}
    every = rated_turns(path, "all", None, 0).items
    assert [item.turn for item in every if isinstance(item, RatedTurn)] == [2, 4]
    item = every[0]
    assert isinstance(item, RatedTurn)
    assert item.prompt == "group-c0"
    assert item.conversation == two_turns("c0")
    assert RatedTurn.from_dict(json.loads(json.dumps(item.to_dict()))) == item
    shown = show(item, False, SCHEMA)
    assert [m["content"] for m in shown["context"]] == ["Be brief.", "Hello c0"]
    assert shown["answers"] == [[{"role": "assistant", "content": "Hi c0"}]]


def test_order_and_side_are_random_but_fixed_per_annotator() -> None:
    orders = [order(0, name, 200) for name in ("ana", "ana", "ben")]
    assert orders[0] == orders[1] != orders[2]
    assert sorted(orders[0]) == list(range(200))
    assert orders[0] != list(range(200))
    assert order(1, "ana", 200) != orders[0]
    sides = Counter(swapped(0, name, item) for name in ("ana", "ben") for item in range(200))
    assert 150 < sides[True] < 250
    agreeing = sum(swapped(0, "ana", item) == swapped(0, "ben", item) for item in range(200))
    assert 60 < agreeing < 140
    # from sha256sum: a study that is under way must not change with a new version
    assert order(0, "ana", 5) == [4, 0, 2, 1, 3]
    assert [swapped(0, "ana", item) for item in range(5)] == [False, False, True, False, False]


def test_labels_are_shown_to_be_confirmed_where_the_study_says_so(tmp_path: Path) -> None:
    path = tmp_path / "chats.jsonl"
    write_conversations(path, [two_turns("c0", labelled=True)], SCHEMA)
    item = rated_turns(path, "last", None, 0, prefill=SCHEMA).items[0]
    assert isinstance(item, RatedTurn)
    labels = two_turns("c0", labelled=True).messages[4].attributes
    assert labels
    assert item.prefill == dict(labels)
    assert item.conversation == two_turns("c0"), "what is exported is what people say"
    assert RatedTurn.from_dict(json.loads(json.dumps(item.to_dict()))) == item
    assert show(item, False, SCHEMA)["prefill"] == dict(labels)


def test_telling_turns_are_chosen_and_copies_of_them_are_not(tmp_path: Path) -> None:
    path = tmp_path / "chats.jsonl"
    said = ["yes, of course I can help you with that"] * 60
    said += [
        f"the {animal} {verb} over the {thing}"
        for animal in ("cat", "dog")
        for verb in ("jumps", "climbs", "flies")
        for thing in ("wall", "hill")
    ]
    records = [
        Conversation(f"r{i}", (Message("user", "Hm?"), Message("assistant", text))) for i, text in enumerate(said)
    ]
    write_conversations(path, records)
    chosen = rated_turns(path, "all", 12, 0, "uncertain").items
    texts = [item.conversation.messages[1].content for item in chosen if isinstance(item, RatedTurn)]
    assert len(texts) == 12
    assert texts.count(said[0]) <= 5
    drawn = rated_turns(path, "all", 12, 0).items
    random = [item.conversation.messages[1].content for item in drawn if isinstance(item, RatedTurn)]
    assert len(set(texts)) > len(set(random))
