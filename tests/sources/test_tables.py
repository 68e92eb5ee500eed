"""CSV, TSV and columns of other names (made-up text)."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from steerlm.attributes import OASST, Attribute, AttributeSchema
from steerlm.config import SourceConfig, SourceFormat
from steerlm.conversation import Conversation
from steerlm.errors import UserError
from steerlm.sources import parse_columns, read_source
from steerlm.sources.rows import BadRecords, read_file_rows
from tests.sources.conftest import turns

NAMES = {"prompt": "player", "response": "reply", "system": "npc", "rating.humor": "funny"}
HEADER = "player,reply,npc,funny,level"


def load(
    path: Path,
    text: str | bytes,
    *,
    bad: BadRecords | None = None,
    schema: AttributeSchema = OASST,
    columns: dict[str, str] = NAMES,
    source_format: SourceFormat = "table",
) -> list[Conversation]:
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    source = SourceConfig(name="s", format=source_format, path=path, columns=columns)
    return list(read_source(source, schema, bad, Counter()))


def test_a_table_of_chats(tmp_path: Path) -> None:
    text = HEADER + '\nHi,"Hello, ""you""\nthere",A smith,3,7\n\nBye,So long,,,8\nA,B,,nan,\n'
    first, second, third = load(tmp_path / "a.csv", text)
    assert turns(first) == [("system", "A smith"), ("user", "Hi"), ("assistant", 'Hello, "you"\nthere')]
    assert (first.messages[2].attributes, first.messages[2].labelled_by) == ({"humor": 3}, "human")
    assert turns(second) == [("user", "Bye"), ("assistant", "So long")]
    assert second.messages[1].attributes is third.messages[1].attributes is None
    assert [c.id for c in (first, second, third)] == ["s/0", "s/1", "s/2"]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", "player,reply,npc,funny\r\nHi,Hé,,2.5\r\n"),
        ("a.csv", "player;reply;npc;funny\nHi;Hé;;2.5\n"),
        ("a.tsv", "player\treply\tnpc\tfunny\nHi\tHé\t\t2.5\n"),
        ("a.CSV", '"player","reply","npc","funny"\n"Hi","Hé","","2.5"'),
        ("a.csv", "\ufeffplayer,reply,npc,funny\nHi,Hé,,2.5\n"),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_every_dialect_gives_the_same_conversation(tmp_path: Path, name: str, text: str, packed: bool) -> None:
    content = gzip.compress(text.encode()) if packed else text.encode()
    (conversation,) = load(tmp_path / (name + ".gz" if packed else name), content)
    assert turns(conversation) == [("user", "Hi"), ("assistant", "Hé")]
    assert conversation.messages[1].attributes == {"humor": 3}
    assert conversation.messages[1].ratings == {"humor": (2.5,)}


def test_a_column_of_ratings_replaces_those_of_its_attribute_and_no_others(tmp_path: Path) -> None:
    said = {
        "role": "assistant", "content": "x", "attributes": {"humor": 1, "quality": 2},
        "ratings": {"humor": [0, 1], "quality": [2, 3]}, "human": {"humor": 0}, "labelled_by": "judge:m",
    }  # fmt: skip
    text = json.dumps({"messages": [{"role": "user", "content": "Hi"}, said], "funny": 4}) + "\n"
    columns = {"rating.humor": "funny"}
    (read,) = load(tmp_path / "a.jsonl", text, columns=columns, source_format="messages")
    rated = read.messages[1]
    assert (rated.attributes, rated.ratings) == ({"humor": 4, "quality": 2}, {"quality": (2.0, 3.0)})
    assert rated.labelled_by == {"humor": "human", "quality": "judge:m"}
    assert rated.target("humor") == 4.0
    assert rated.human_labels == {"humor": 4, "quality": 3}


@pytest.mark.parametrize("key", ["weight", "train", "training", "trainable", "loss", "loss_mask"])
def test_a_column_keeps_rows_out_of_training(tmp_path: Path, key: str) -> None:
    said = {"no": 0, "No": 0, "0": 0, "0.0": 0, "FALSE": 0, "yes": 1, "1": 1, "": 1, "0.5": 1}
    text = f"prompt,response,{key}\n" + "".join(f"Hi,x,{flag}\n" for flag in said)
    assert [c.messages[1].weight for c in load(tmp_path / "a.csv", text, columns={})] == list(said.values())
    bad = BadRecords()
    named = load(tmp_path / "a.csv", text.replace(key, "use"), columns={key: "use"}, bad=bad)
    assert [c.messages[1].weight for c in named] == list(said.values())[:-1]
    assert f"{key} must be 0 or 1, false or true, got '0.5'" in bad.examples[0]


def test_several_annotators_categories_are_what_most_of_them_say(tmp_path: Path) -> None:
    schema = AttributeSchema((Attribute("mood", "categorical", categories=("sad", "glad", "calm")),))
    said = (["sad", "glad", "glad"], ["sad", "glad"], ["calm"], ["calm", None], [])
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"prompt": "Hi", "response": "x", "mood": mood}) + "\n" for mood in said))
    dropped = Counter[str]()
    found = read_source(SourceConfig(name="s", format="table", path=path), schema, None, dropped)
    moods = [(conversation.messages[1].attributes or {}).get("mood") for conversation in found]
    assert moods == ["glad", None, "calm", "calm", None]
    assert dropped == {"(categories of mood without a majority)": 1}


def test_half_stars_fill_every_level(tmp_path: Path) -> None:
    text = "prompt,response,humor\n" + "".join(f"Hi,x,{half / 2}\n" for half in range(9))
    levels = [read.messages[1].attributes["humor"] for read in load(tmp_path / "a.csv", text, columns={})]
    assert levels == [0, 1, 1, 2, 2, 3, 3, 4, 4]


def test_numbers_as_text_rate_in_every_kind_of_file(tmp_path: Path) -> None:
    rated = ["2", " 3.0 ", "2.5", "n/a", "", ["1", 2]]
    text = "".join(json.dumps({"prompt": "Hi", "response": "x", "humor": humor}) + "\n" for humor in rated)
    found = [read.messages[1] for read in load(tmp_path / "a.jsonl", text, columns={})]
    assert [(message.attributes or {}).get("humor") for message in found] == [2, 3, 3, None, None, 2]
    assert [(message.ratings or {}).get("humor") for message in found] == [None, None, (2.5,), None, None, (1.0, 2.0)]
    with pytest.raises(UserError, match=r"a\.jsonl:1: humor: rating 'two' is not a number"):
        load(tmp_path / "a.jsonl", text.replace('"2"', '"two"'), columns={})


def test_true_and_false_name_categories(tmp_path: Path) -> None:
    schema = AttributeSchema((Attribute("liked", "categorical", categories=("False", "True")),))
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"prompt": "Hi", "response": "x", "liked": liked}) + "\n" for liked in (0, 1)))
    source = SourceConfig(name="s", format="table", path=path)
    with pytest.raises(UserError, match="liked: '0' is not one of False, True"):
        list(read_source(source, schema))
    path.write_text(path.read_text().replace("0", "false").replace("1", "true"))
    assert [read.messages[1].attributes for read in read_source(source, schema)] == [
        {"liked": "False"},
        {"liked": "True"},
    ]


def test_a_column_like_an_attribute_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no 'quality' but 'Quality'; .* --columns rating.quality=Quality"):
        load(tmp_path / "a.csv", "prompt,response,Quality\nHi,x,3\n", columns={})
    (read,) = load(tmp_path / "a.csv", "prompt,response,Quality\nHi,x,3\n", columns={"rating.quality": "Quality"})
    assert read.messages[1].attributes == {"quality": 3}


@pytest.mark.parametrize(
    ("text", "piece"),
    [
        (HEADER.title() + "\nHi,x,,1,2\n", "a.csv:2: there is no column 'funny': did you mean 'Funny'"),
        (HEADER + "\nHi,x,,7,2\n", "a.csv:2: humor: rating 7 is outside 0..4"),
        (HEADER + "\nHi,x,,very,2\n", "a.csv:2: humor: rating 'very' is not a number"),
        (HEADER + "\nHi,x\n", "a.csv:2: 2 cells in a table of 5 columns"),
        (HEADER + "\nHi,x,,1,2,3\n", "6 cells in a table of 5 columns"),
        (HEADER + '\nHi,"x\n', "a.csv:2: malformed table: unexpected end of data"),
        (HEADER + '\n"Hi" he said,x,,1,2\n', "a cell that begins with a quotation mark ends with one"),
        (HEADER + "\rHi,x,,1,2\r", "a.csv:1: lines end with a carriage return alone; convert them: tr '\\r' '\\n' < "),
        (HEADER + "\nHi,,,1,2\n", "a.csv:2: message 1 (assistant) is empty"),
        ("player,player\nHi,x\n", "a.csv:1: the column 'player' stands twice"),
        ((HEADER + "\nok,x,,1,2\nHi,caf\u00e9,,1,2\n").encode("latin-1"), "a.csv:3: not UTF-8 text"),
        ((HEADER + "\nHi,x,,1,2\n").encode("utf-16"), "a.csv: not UTF-8 text but UTF-16"),
        (HEADER + "\nHi,x\0,,1,2\n", "a.csv:2: a NUL character"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_table_is_said_with_its_place(tmp_path: Path, text: str | bytes, piece: str) -> None:
    with pytest.raises(UserError) as error:
        load(tmp_path / "a.csv", text)
    assert piece in str(error.value)


def test_a_table_of_other_names_is_an_error_that_says_how_to_name_them(tmp_path: Path) -> None:
    for text, say in (
        ("player,reply\nHi,x\n", "--columns prompt=player,response=reply"),
        ("prompt,reply\nHi,x\n", "--columns response=reply"),
        ("The player,reply\nHi,x\n", "--columns 'prompt=The player,response=reply'"),
    ):
        with pytest.raises(UserError, match=rf"a\.csv:2: the row has no 'response'; it has .*, reply; say {say}$"):
            load(tmp_path / "a.csv", text, columns={})
    with pytest.raises(UserError, match=r"it has a, b \(--skip-bad-records counts"):
        load(tmp_path / "a.csv", "a,b\nHi,x\n", columns={})


def test_bad_rows_of_a_table_are_skipped_and_counted_by_reason(tmp_path: Path) -> None:
    bad = BadRecords()
    text = HEADER + "\na,b,,1,2\nHi,x\nBye,x\nc,d,,9,2\ne,,,1,2\nf,g,,1,2\n"
    assert [c.id for c in load(tmp_path / "a.csv", text, bad=bad)] == ["s/0", "s/5"]
    assert bad.reasons == {
        "… cells in a table of … columns": 2,
        "humor: rating … is outside …..…": 1,
        "message … (assistant) is empty": 1,
    }


def test_columns_called_as_attributes_are_their_ratings(tmp_path: Path) -> None:
    schema = AttributeSchema((Attribute("mood", "categorical", categories=("glad", "sad")), *OASST))
    text = "id,prompt,response,quality,mood,note\n7,Hi,Hello,4,sad,x\n8,Hi,Hey,,,\n"
    first, second = load(tmp_path / "a.csv", text, columns={}, schema=schema)
    assert (first.id, first.messages[1].attributes) == ("s/7", {"mood": "sad", "quality": 4})
    assert second.messages[1].attributes is None


def chat(role: str, text: str, *roles: str) -> dict[str, Any]:
    return {"chat": [{role: roles[0], text: "Hi"}, {role: roles[1], text: "Hello"}]}


PLAIN = {"q": "Hi", "a": "Hello"}
RENAMED: list[tuple[SourceFormat, dict[str, Any], dict[str, str]]] = [
    ("table", PLAIN, {"prompt": "q", "response": "a"}),
    ("alpaca", PLAIN, {"prompt": "q", "response": "a"}),
    ("alpaca", PLAIN, {"instruction": "q", "output": "a"}),
    ("helpsteer", {**PLAIN, "Verbosity": 1}, {"prompt": "q", "response": "a", "verbosity": "Verbosity"}),
    ("messages", chat("role", "content", "user", "assistant"), {"messages": "chat"}),
    ("sharegpt", chat("from", "value", "human", "gpt"), {"conversations": "chat"}),
    ("nemo", chat("from", "value", "User", "Assistant"), {"conversations": "chat"}),
]


@pytest.mark.parametrize(("source_format", "row", "columns"), RENAMED)
@pytest.mark.parametrize("suffix", ["jsonl", "json", "csv", "parquet"])
def test_columns_work_for_every_importer_and_reader(
    tmp_path: Path, source_format: SourceFormat, row: dict[str, Any], columns: dict[str, str], suffix: str
) -> None:
    row = {**row, "funny": 3, "zone": "east"}
    path = tmp_path / f"a.{suffix}"
    if suffix == "parquet":
        pyarrow = pytest.importorskip("pyarrow")
        pytest.importorskip("pyarrow.parquet").write_table(pyarrow.Table.from_pylist([row]), path)
        content = path.read_bytes()
    elif suffix == "csv":
        cells = [json.dumps(value) if isinstance(value, list) else str(value) for value in row.values()]
        content = "\n".join(",".join('"' + c.replace('"', '""') + '"' for c in line) for line in (row, cells)).encode()
    else:
        content = json.dumps([row] if suffix == "json" else row).encode()
    given = {**columns, "rating.humor": "funny"}
    (conversation,) = load(path, content, source_format=source_format, columns=given)
    assert turns(conversation) == [("user", "Hi"), ("assistant", "Hello")]
    assert (conversation.messages[1].attributes or {})["humor"] == 3
    assert "rating.humor" not in conversation.meta
    typo = {**given, "system" if source_format != "messages" else "group": "Zone"}
    if source_format != "helpsteer":
        with pytest.raises(UserError, match="there is no column 'Zone': did you mean 'zone'"):
            load(path, content, source_format=source_format, columns=typo)


def test_names_that_nobody_reads_are_told_before_the_data(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="format alpaca reads no 'promt': did you mean 'prompt'"):
        load(tmp_path / "a.csv", HEADER, source_format="alpaca", columns={"promt": "player"})
    with pytest.raises(UserError, match="unknown attribute 'humour': did you mean 'humor'"):
        load(tmp_path / "a.csv", HEADER, columns={"rating.humour": "funny"})


def test_columns_of_the_command_line() -> None:
    assert parse_columns("prompt=player,response=reply,rating.humor=funny") == {
        "prompt": "player", "response": "reply", "rating.humor": "funny",
    }  # fmt: skip
    assert parse_columns('prompt=the player,"response=reply, first"') == {
        "prompt": "the player",
        "response": "reply, first",
    }
    for text, piece in (("prompt", "'prompt'"), ("=x", "'=x'"), ("prompt=", "'prompt='"), ("a=1,a=2", "stands twice")):
        with pytest.raises(UserError, match=piece):
            parse_columns(text)


def test_a_large_cell_and_a_table_without_rows(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("prompt,response\nHi," + "x" * 1_000_000 + "\n")
    assert len(next(read_file_rows(tmp_path / "a.csv")).value["response"]) == 1_000_000  # type: ignore[index]
    for text in ("", "\n", "prompt,response\n"):
        (tmp_path / "a.csv").write_text(text)
        assert list(read_file_rows(tmp_path / "a.csv")) == []
