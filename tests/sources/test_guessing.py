"""What is guessed of data that nobody has described, and what is not."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest

from steerlm.attributes import OASST
from steerlm.config import SourceConfig
from steerlm.errors import UserError
from steerlm.sources import read_source
from steerlm.sources.guessing import SourceGuess, guess_source


def guess(path: Path, text: str, columns: dict[str, str] | None = None, wanted: str | None = None) -> SourceGuess:
    path.write_text(text, encoding="utf-8")
    return guess_source(str(path), path, columns or {}, wanted)


def lines(*rows: object) -> str:
    return "\n".join(orjson.dumps(row).decode() for row in rows)


def table(header: str, *rows: str, repeat: int = 5) -> str:
    return "\n".join([header, *rows * repeat]) + "\n"


@pytest.mark.parametrize(
    ("row", "name"),
    [
        ({"message_tree_id": "a", "prompt": {}}, "oasst"),
        ({"chosen": "a", "rejected": "b"}, "hh_rlhf"),
        ({"messages": [{"role": "user", "content": "a"}]}, "messages"),
        ({"conversations": [{"from": "human", "value": "a"}]}, "sharegpt"),
        ({"conversations": [{"from": "User", "value": "a", "label": None}], "mask": "User"}, "nemo"),
        ({"instruction": "a", "input": "", "output": "b"}, "alpaca"),
        ({"prompt": "a", "response": "b", "helpfulness": 1, "correctness": 1, "coherence": 1}, "helpsteer"),
    ],
)
def test_public_formats_are_known_by_their_keys(tmp_path: Path, row: dict[str, object], name: str) -> None:
    found = guess(tmp_path / "a.jsonl", lines(row, row))
    assert (found.format, found.certain, found.columns) == (name, True, {})


def test_labels_of_our_own_format_and_of_public_ones_are_dials(tmp_path: Path) -> None:
    def row(values: object) -> dict[str, object]:
        reply = {"role": "assistant", "content": "b", "attributes": values}
        return {"messages": [{"role": "user", "content": "a"}, reply]}

    rows = [row({"toxicity": 0, "style": "old", "odd": "x"}), row({"toxicity": 3, "style": "new"}), row(None)]
    toxicity, style = guess(tmp_path / "a.jsonl", lines(*rows)).rated
    assert (toxicity.attribute.minimum, toxicity.attribute.maximum, toxicity.attribute.best) == (0, 3, "min")
    assert toxicity.share == pytest.approx(2 / 3)
    assert style.attribute.categories == ("new", "old")
    signed = {"schema": "toxicity:0-9,style:old|new", **row({"toxicity": 3})}
    [toxicity] = guess(tmp_path / "s.jsonl", lines(signed)).rated
    assert toxicity.attribute.maximum == 9
    helpful = {"prompt": "a", "response": "b", "helpfulness": 1, "correctness": 1, "coherence": 1}
    found = guess(tmp_path / "b.jsonl", lines(helpful)).rated
    assert [rated.attribute.name for rated in found][:2] == ["helpfulness", "correctness"]
    tree = {"message_tree_id": "a", "prompt": {"labels": None, "replies": [{"labels": {"quality": {"value": 0.5}}}]}}
    assert guess(tmp_path / "c.jsonl", lines(tree)).rated[0].attribute.name == "quality"
    assert guess(tmp_path / "d.jsonl", lines({"message_tree_id": "a", "prompt": {"labels": None}})).rated == ()


def test_labels_of_our_own_format_that_are_no_levels_are_named(tmp_path: Path) -> None:
    def row(**labels: object) -> dict[str, object]:
        reply = {"role": "assistant", "content": "b", "attributes": labels}
        return {"messages": [{"role": "user", "content": "a"}, reply]}

    found = guess(tmp_path / "a.jsonl", lines(row(wit=0.5, score=70, pun=1), row(wit=0.7, score=90, pun=4), {"x": 1}))
    assert [rated.attribute.name for rated in found.rated] == ["pun"]
    assert [unused.column for unused in found.unused] == ["wit", "score"]


def test_columns_are_found_by_name(tmp_path: Path) -> None:
    text = table("npc,player,reply,scene", "A guard,Who are you?,Nobody.,3", "A witch,And you?,Guess who.,4")
    found = guess(tmp_path / "a.csv", text)
    assert found.format == "table"
    assert found.columns == {"prompt": "player", "response": "reply", "system": "npc"}
    assert found.certain
    assert found.rated == ()
    assert [unused.column for unused in found.unused] == ["scene"]
    assert "prompt is the column 'player'" in found.said[0]
    short = guess(tmp_path / "b.csv", table("prompt,response,code", "Hi,Yo,abc"))
    assert (short.columns, short.certain) == ({}, True), "their names say it, however short the texts are"


def test_two_columns_of_text_are_taken_in_their_order_and_that_is_no_certainty(tmp_path: Path) -> None:
    found = guess(tmp_path / "a.tsv", table("first\tsecond", "Who are you?\tNobody.", "And you?\tGuess who."))
    assert found.columns == {"prompt": "first", "response": "second"}
    assert not found.certain


def test_ratings_are_columns_of_levels_that_are_called_so(tmp_path: Path) -> None:
    text = table(
        "prompt,response,quality,Style rating,price", "Who?,Me and you.,1,0,10.5", "What?,This and that.,5,2,9.0"
    )
    quality, style = guess(tmp_path / "a.csv", text).rated
    assert (quality.attribute.minimum, quality.attribute.maximum, quality.attribute.best) == (1, 5, "max")
    assert (style.column, style.attribute.name) == ("Style rating", "style_rating")
    assert (style.attribute.minimum, style.attribute.maximum, style.share) == (0, 2, 1.0)


def test_ratings_beside_the_keys_of_a_public_format(tmp_path: Path) -> None:
    rows = [{"instruction": f"Say {i}.", "input": "", "output": "b", "rating": 1 + i % 5} for i in range(20)]
    [rating] = guess(tmp_path / "a.jsonl", lines(*rows)).rated
    assert (rating.column, rating.attribute.minimum, rating.attribute.maximum) == ("rating", 1, 5)
    for wanted in (None, "alpaca"):
        found = guess(tmp_path / "a.jsonl", lines(*rows), {"rating.humor": "rating"}, wanted)
        assert (found.format, found.columns) == ("alpaca", {})
        assert [rated.attribute.name for rated in found.rated] == ["humor"]
    with pytest.raises(UserError, match="no column 'ratign'; it has instruction"):
        guess(tmp_path / "a.jsonl", lines(*rows), {"rating.humor": "ratign"})
    talk = [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]
    found = guess(tmp_path / "b.jsonl", lines(*({"conversations": talk, "rating": 1 + i % 5} for i in range(20))))
    assert found.rated == ()
    assert "say --columns rating.rating=rating" in found.unused[0].why


def test_the_files_of_a_folder_are_alike(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(table("prompt,response", "Who are you?,Nobody at all."))
    (tmp_path / "b.csv").write_text(table("prompt,response,note", "Who are you?,Nobody at all.,x"))
    assert guess_source(str(tmp_path), tmp_path, {}).format == "table"
    (tmp_path / "c.jsonl").write_text(lines({"id": 1, "messages": []}))
    with pytest.raises(UserError, match=r"c\.jsonl has id, messages but .*a\.csv has prompt, response"):
        guess_source(str(tmp_path), tmp_path, {})


def test_what_the_user_says_wins(tmp_path: Path) -> None:
    text = table("prompt,response,better,funny", "Who are you?,x,Nobody.,1", "And you?,y,Guess who.,4")
    found = guess(tmp_path / "a.csv", text, {"response": "better", "rating.humor": "funny"})
    assert found.columns == {"response": "better"}
    [humor] = found.rated
    assert (humor.column, humor.attribute.name, humor.attribute.maximum) == ("funny", "humor", 4)
    assert guess(tmp_path / "b.jsonl", lines({"messages": []}), wanted="sharegpt").format == "sharegpt"


def test_a_list_of_turns_under_another_name(tmp_path: Path) -> None:
    row = [{"speaker": "user", "text": "a"}, {"speaker": "bot", "text": "b"}]
    found = guess(tmp_path / "a.jsonl", lines({"talk": row, "n": 1}, {"talk": row}))
    assert (found.format, found.columns) == ("sharegpt", {"messages": "talk"})
    source = SourceConfig(name="a", format=found.format, path=tmp_path / "a.jsonl", columns=dict(found.columns))
    first = next(read_source(source, OASST))
    assert [message.content for message in first.messages] == ["a", "b"]
    both = lines({"talk": row, "more": row})
    with pytest.raises(UserError, match="If talk holds the turns of a conversation, say --columns messages=talk"):
        guess(tmp_path / "b.jsonl", both + "\n" + both)
    assert guess(tmp_path / "b.jsonl", both, {"messages": "more"}).columns == {"messages": "more"}
    text = table("player,dialogue", "Who are you?,Nobody at all.", "And you?,Guess who.")
    assert guess(tmp_path / "c.csv", text).columns == {"prompt": "player", "response": "dialogue"}


def test_a_column_of_a_few_words_is_a_dial_of_categories_where_the_user_says_so(tmp_path: Path) -> None:
    text = table("prompt,response,mood", "Who are you?,Nobody at all.,calm", "And you?,Guess who.,angry")
    assert guess(tmp_path / "a.csv", text).rated == ()
    [mood] = guess(tmp_path / "a.csv", text, {"rating.mood": "mood"}).rated
    assert mood.attribute.categories == ("angry", "calm")


def test_a_table_without_a_header_is_doubted(tmp_path: Path) -> None:
    [doubt] = guess(tmp_path / "a.csv", table("Who are you?,Nobody.", "And you?,Guess who.")).doubts
    assert "put a row of names above it" in doubt
    assert guess(tmp_path / "b.csv", table("prompt,response", "Who are you?,Nobody.")).doubts == ()


@pytest.mark.parametrize(
    ("text", "columns", "wanted", "words"),
    [
        (table("one,two,three", "Hello there,Hello you,Hello all"), {}, None, "cannot tell which column is the prompt"),
        (table("text", "Hello there"), {}, None, "An exchange needs what the user says and the reply"),
        (
            table("prompt,response,Stern", "Hello,Hello you,1"),
            {"rating.Stern": "Stern"},
            None,
            "for example rating.stern=Stern",
        ),
        (
            table("prompt,response,x", "Hello,Hello you,2 stars", "Hi,Hi you,3 stars"),
            {"rating.x": "x"},
            None,
            "one word",
        ),
        (
            table("prompt,response", "Hello there,Hello you"),
            {"prompt": "no"},
            None,
            "no column 'no'; it has prompt, re",
        ),
        (table("prompt,response,x", "Hello,Hello you,9999"), {"rating.humor": "x"}, None, "it always says 9999"),
        (table("prompt,response,x", "Hello,Hello you,a,b", "Hi,Hi you,"), {"rating.x": "x"}, None, "neither levels"),
        ("prompt,response\n", {}, None, "holds no row"),
        (table("prompt,response", "Hello,Hello you"), {}, "tabel", "did you mean 'table'"),
    ],
)
def test_mistakes(tmp_path: Path, text: str, columns: dict[str, str], wanted: str | None, words: str) -> None:
    with pytest.raises(UserError, match=words):
        guess(tmp_path / "a.csv", text, columns, wanted)


def test_rows_that_are_no_objects(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no objects with keys but list"):
        guess(tmp_path / "a.jsonl", "[1, 2]\n[3]")


def test_an_object_around_the_rows_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="one object: save the list under 'data' as a file of its own"):
        guess(tmp_path / "a.json", lines({"version": 1, "data": [{"prompt": "a", "response": "b"}]}))
    with pytest.raises(UserError, match=r"b.json:1:2: malformed JSON.*belongs into a file of its own"):
        guess(tmp_path / "b.json", '{\n "data": [\n  {"prompt": "a", "response": "b"}\n ]\n}\n')
