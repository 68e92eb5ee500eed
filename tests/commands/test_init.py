"""A first recipe: what it holds for which data and model, that it loads and plans, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from steerlm.__main__ import main
from steerlm.attributes import AttributeSchema
from steerlm.config import Recipe, SourceConfig, load_recipe
from steerlm.planning import looking
from steerlm.sources import read_source
from tests.tiny import byte_tokenizer, random_model, tiny_llama_config

COLUMNS = {"prompt": "player", "response": "reply"}
ADJECTIVES = ("old", "quiet", "red", "lucky", "broken", "salty", "golden")


def exchange(i: int) -> tuple[str, str]:
    reply = " ".join(f"The {ADJECTIVES[(i + j) % 7]} mill stands by the river." for j in range(1 + i % 9))
    return f"Where is place {i}?", reply


def rows(count: int = 120) -> list[dict[str, Any]]:
    return [
        {"player": prompt, "reply": reply, "funny": i % 5, "scene": i % 7}
        for i, (prompt, reply) in enumerate(exchange(i) for i in range(count))
    ]


def write(path: Path, data: list[dict[str, Any]]) -> Path:
    """Write rows in the form that the name says."""
    separator = {".csv": ",", ".tsv": "\t"}.get(path.suffix)
    if separator:
        lines = [separator.join(map(str, row.values())) for row in data]
        path.write_text("\n".join([separator.join(data[0]), *lines]), encoding="utf-8")
    elif path.suffix == ".json":
        path.write_text(json.dumps(data), encoding="utf-8")
    elif path.suffix == ".jsonl":
        path.write_text("\n".join(json.dumps(row) for row in data), encoding="utf-8")
    else:
        pyarrow = pytest.importorskip("pyarrow", reason="the data extra is not installed")
        parquet = pytest.importorskip("pyarrow.parquet")
        parquet.write_table(pyarrow.Table.from_pylist(data), path)
    return path


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    tokenizer = byte_tokenizer(None)
    random_model(tiny_llama_config(len(tokenizer))).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(autouse=True)
def _place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    # the speed of a CPU is measured; what it is does not matter here
    monkeypatch.setattr("steerlm.planning.measuring.layer_speed", lambda shape=None, lora=None: 1e10)
    monkeypatch.setattr("steerlm.planning.measuring.copy_speed", lambda: 1e10)


def init(*argv: str | Path, made: str = "dialogue.yaml") -> Recipe:
    assert main(["init", *map(str, argv)]) == 0
    return load_recipe(made)


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".json", ".jsonl", ".parquet"])
def test_every_form_of_file_becomes_a_recipe_that_plans(
    suffix: str, base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = init(write(Path(f"dialogue{suffix}"), rows()), "--base", base)
    said = capsys.readouterr().out
    assert "guessed  prompt is the column 'player', response is the column 'reply'" in said
    assert "not used funny: whole numbers" in said
    assert recipe.schema_["length"].measure == "words"
    assert recipe.train_attribute_model is None
    assert main(["run", "dialogue.yaml", "--dry-run"]) == 0
    assert main(["plan", "dialogue.yaml"]) == 0
    assert "optimizer steps are planned" not in capsys.readouterr().out


@pytest.mark.parametrize(("count", "levels"), [(3, 2), (4, 3), (9, 5)])
def test_a_handful_of_rows_gets_no_more_levels_than_it_fills(count: int, levels: int, base: Path) -> None:
    recipe = init(write(Path("dialogue.csv"), rows(count)), "--base", base)
    length = recipe.schema_["length"]
    assert len(length.levels) == levels
    assert length.default_value == levels // 2
    assert main(["run", "dialogue.yaml", "--dry-run"]) == 0


def test_values_fit_data_and_model(base: Path) -> None:
    recipe = init(write(Path("dialogue.csv"), rows(400)), "--base", base, "--attributes", "length=measure:words")
    sft, records = recipe.train_sft, 320
    steps = sft.epochs * records / (sft.tokens_per_batch / 200)
    assert steps > 200
    assert 200 < sft.max_length <= 512
    assert sft.learning_rate == 2e-3  # a tiny model takes the most
    assert sft.lora is None
    assert recipe.prepare.validation_fraction == 0.2
    assert recipe.evaluate.num_prompts == 32
    assert recipe.evaluate.max_new_tokens <= 448
    text = Path("dialogue.yaml").read_text(encoding="utf-8")
    assert all("#" in line for line in text.splitlines() if line.startswith("  learning_rate:"))
    assert "99.5 % of the conversations" in text


def test_ratings_that_the_owner_names_are_trained_on(base: Path) -> None:
    data = write(Path("dialogue.csv"), rows())
    recipe = init(data, "--base", base, "--columns", "prompt=player,response=reply,rating.humor=funny")
    [humor] = recipe.schema_
    assert (humor.name, humor.minimum, humor.maximum) == ("humor", 0, 4)
    assert recipe.train_sft.labels == "human"
    assert recipe.annotate is None
    assert recipe.train_attribute_model is not None, "the evaluation needs one, to measure the dials"
    half = [{**row, "funny": row["funny"] if i % 2 else ""} for i, row in enumerate(rows())]
    write(data, half)
    recipe = init(data, "--base", base, "--columns", "rating.humor=funny", "--force", "--encoder", "some/encoder")
    assert recipe.train_attribute_model is not None
    assert recipe.train_attribute_model.base_model == "some/encoder"


@pytest.mark.parametrize("column", ["satisfaction", "Satisfaction"])
def test_people_rate_in_the_column_of_that_name_with_its_scale(column: str, base: Path) -> None:
    rated = [{"prompt": p, "response": r, column: 1 + i % 5} for i, (p, r) in enumerate(map(exchange, range(120)))]
    recipe = init(write(Path("dialogue.csv"), rated), "--base", base, "--attributes", "satisfaction=people")
    [satisfaction] = recipe.schema_
    assert (satisfaction.minimum, satisfaction.maximum) == (1, 5)
    assert recipe.prepare.skip_bad_records is False
    assert recipe.train_sft.labels == "human"


def test_ratings_that_json_holds_as_text_or_as_true_and_false_are_read(base: Path) -> None:
    data = [{**row, "quality": str(1 + i % 5), "liked": i % 2 == 0} for i, row in enumerate(rows())]
    columns = "prompt=player,response=reply,rating.quality=quality,rating.liked=liked"
    recipe = init(write(Path("dialogue.jsonl"), data), "--base", base, "--columns", columns)
    assert recipe.schema_["liked"].categories == ("False", "True")
    [source] = recipe.prepare.sources
    labels = [conversation.messages[1].attributes for conversation in read_source(source, recipe.schema_)]
    assert labels[:2] == [{"quality": 1, "liked": "True"}, {"quality": 2, "liked": "False"}]


def test_a_column_beside_alpaca_is_read(base: Path) -> None:
    rated = [
        {"instruction": prompt, "input": "", "output": reply, "rating": 1 + i % 5}
        for i, (prompt, reply) in enumerate(map(exchange, range(120)))
    ]
    recipe = init(write(Path("dialogue.csv"), rated), "--base", base)
    [source] = recipe.prepare.sources
    assert (source.format, source.columns) == ("alpaca", {"rating.rating": "rating"})
    look = looking.look_at_data(source, recipe.schema_)
    assert (look.conversations[0].messages[-1].attributes, look.bad) == ({"rating": 1}, 0)


def test_labels_that_are_not_named_are_left_out(base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = []
    for i, (prompt, reply) in enumerate(map(exchange, range(120))):
        labels = {"humor": i % 5, "mood": ("calm", "angry")[i % 2]}
        said = [{"role": "user", "content": prompt}, {"role": "assistant", "content": reply, "attributes": labels}]
        data.append({"messages": said})
    path = write(Path("dialogue.jsonl"), data)
    recipe = init(path, "--base", base, "--attributes", "length=measure:words,humor=people")
    assert recipe.schema_.names == ("length", "humor")
    assert "not used the ratings mood: name them in --attributes, as in mood=people" in capsys.readouterr().out
    assert main(["run", "dialogue.yaml", "--dry-run"]) == 0


def test_dials_by_name_from_a_file_and_by_a_judge(base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write(Path("dialogue.csv"), rows())
    recipe = init(data, "--base", base, "--attributes", "length=measure:words,grumpiness=judge")
    grumpiness = recipe.schema_["grumpiness"]
    assert grumpiness.judge is not None
    assert grumpiness.judge.ratings == 120  # no more than there are
    assert grumpiness.low
    assert grumpiness.high
    assert recipe.train_attribute_model is not None
    Path("dials.yaml").write_text("- {name: reading, measure: flesch_kincaid_grade, cuts: [5.8, 6, 6.5, 7]}\n")
    assert init(data, "--base", base, "--attributes", "dials.yaml", "--force").schema_["reading"].cuts == (
        5.8,
        6,
        6.5,
        7,
    )
    capsys.readouterr()


def test_commands_that_are_shown_can_be_copied(base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, out = write(Path("dialogue.csv"), rows()), Path("my recipes/a.yaml")
    init(data, "--base", base, "--attributes", "length=measure:words", "--out", out, made=str(out))
    assert "\nrun      steerlm run 'my recipes/a.yaml'\n" in capsys.readouterr().out


def test_what_a_stranger_should_know_of_the_data_is_said(base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [f"{prompt},{reply}" for prompt, reply in map(exchange, range(60))]
    lines[0] = "Where is nothing?,N/A"
    lines[10:20] = [line + ", unquoted" for line in lines[10:20]]
    Path("table.csv").write_text(
        "\n".join(["Frage,Antwort,Note", *(f"{line},{i % 5 + 1}" for i, line in enumerate(lines))])
    )
    recipe = init(Path("table.csv"), "--base", base, "--out", "mine.yaml", made="mine.yaml")
    said = " ".join(capsys.readouterr().out.split())
    assert (recipe.name, recipe.run_dir) == ("mine", Path("runs/mine")), "beside a run of the same data"
    for piece in (
        "say --columns rating.note=Note",
        "50 conversations, 50 different prompts, 10 that cannot be read",
        "a cell that holds the separator stands in quotation marks",
        "warning 17 % of the rows cannot be read",
        "warning 50 conversations teach no dial",
        "warning 1 replies say nothing ('N/A')",
    ):
        assert piece in said
    init(Path("table.csv"), "--base", base, "--columns", "rating.note=Note", made="table.yaml")
    capsys.readouterr()


def test_prompts_are_counted_in_all_of_the_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(looking, "READ", 10)
    source = SourceConfig(name="a", format="table", path=write(Path("a.csv"), rows(40)), columns=COLUMNS)
    look = looking.look_at_data(source, AttributeSchema.preset("oasst"))
    assert (look.records, look.prompts, len(look.conversations)) == (40, 40, 10)


MISTAKES: list[tuple[list[str], str]] = [
    (["dialogue.csv", "--base", "BASE", "--attributes", "length"], "for example length=measure:words or length=judge"),
    (["dialogue.csv", "--base", "BASE", "--out", "taken.yaml"], "taken.yaml is there already; --force"),
    (["nowhere.csv", "--base", "BASE"], "no such file or folder: nowhere.csv"),
    (["dialogue.csv", "--base", "./nowhere"], "--base: no such folder: ./nowhere"),
    (["dialogue.csv", "--base", "BASE", "--columns", "prompt=playr"], "no column 'playr'; it has player, reply"),
    (["dialogue.csv", "--base", "BASE", "--attributes", "length=measure:wrods"], "did you mean 'words'"),
    (["dialogue.csv", "--base", "BASE", "--attributes", "length=measure"], "name the measure"),
    (["dialogue.csv", "--base", "BASE", "--attributes", "rude=jugde"], "did you mean 'judge'"),
    (["dialogue.csv", "--base", "BASE", "--attributes", "rude=judge:many"], "a whole number of ratings"),
    (["dialogue.csv", "--base", "BASE", "--attributes", "rude=classifier:toxic"], "give MODEL:LABEL"),
    (["dialogue.csv", "--base", "BASE", "--attributes", "lang=measure:language"], "lists its categories"),
    (["dialogue.csv", "--base", "BASE", "--name", "a b"], "--name 'a b'"),
    (["same.csv", "--base", "BASE"], "no measure varies enough"),
    (
        ["dialogue.csv", "--base", "BASE", "--attributes", "quality=people"],
        "people are to say quality, but no",
    ),
    (
        ["dialogue.csv", "--base", "BASE", "--attributes", "humour=people", "--columns", "rating.humor=funny"],
        "has such a rating (did you mean 'humor'?",
    ),
    (["dialogue.csv", "--base", "BASE", "--attributes", "helpsteer"], "say --columns rating.helpfulness=COLUMN; else"),
    (
        ["dialogue.csv", "--base", "BASE", "--attributes", "mood=people"],
        "the words calm, sad; for a dial of",
    ),
    (
        ["dialogue.csv", "--base", "BASE", "--attributes", "price=people"],
        "in 'price': numbers from 0 to 190",
    ),
    (["dialogue.csv", "--base", "BASE", "--columns", "prompt=player,respones=reply"], "did you mean 'response'"),
]


@pytest.mark.parametrize(("argv", "words"), MISTAKES, ids=[words for _, words in MISTAKES])
def test_mistakes_leave_nothing_behind(
    argv: list[str], words: str, base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = [{**row, "mood": ("calm", "sad")[i % 2], "price": 10 * i} for i, row in enumerate(rows(20))]
    write(Path("dialogue.csv"), more)
    write(Path("same.csv"), [{"prompt": f"Question {i}?", "response": "Well well."} for i in range(20)])
    Path("taken.yaml").write_text("mine")
    assert main(["init", *[str(base) if word == "BASE" else word for word in argv]]) == 2
    assert words in capsys.readouterr().err
    assert sorted(path.name for path in Path().iterdir()) == ["dialogue.csv", "same.csv", "taken.yaml"]
    assert Path("taken.yaml").read_text() == "mine"


def test_columns_that_are_unclear_are_asked_for_on_a_terminal(
    base: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = [{"first": reply, "second": prompt} for prompt, reply in map(exchange, range(60))]
    answers = iter(["second", "first"])
    monkeypatch.setattr("builtins.input", lambda question: next(answers))
    for stream in ("stdin", "stdout"):
        monkeypatch.setattr(f"sys.{stream}.isatty", lambda: True)
    recipe = init(write(Path("dialogue.jsonl"), data), "--base", base)
    assert recipe.prepare.sources[0].columns == {"prompt": "second", "response": "first"}
    capsys.readouterr()
