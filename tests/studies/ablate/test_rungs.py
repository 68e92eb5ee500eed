"""Which rungs there are and which records each of them sees."""

from __future__ import annotations

from pathlib import Path

import pytest

from steerlm.attributes import Attribute, AttributeSchema
from steerlm.config import load_recipe
from steerlm.conversation import Conversation, Message, read_conversations, write_conversations
from steerlm.errors import UserError
from steerlm.studies.ablate.rungs import (
    RUNGS,
    chosen_rungs,
    human_quality,
    in_folder,
    is_labelled,
    parent,
    quality_names,
    write_records,
)
from tests.tiny_recipe import write_tiny_recipe

SCHEMA = AttributeSchema((Attribute("quality", best="max"), Attribute("toxicity", best="min"), Attribute("humor")))


def record(number: str, *labels: dict[str, int] | None, by: str = "human") -> Conversation:
    turns: list[Message] = []
    for values in labels:
        turns += [Message("user", f"{number}?"), Message("assistant", "yes", attributes=values, labelled_by=by)]
    return Conversation(number, tuple(turns))


def test_the_paper_s_table_is_the_ladder() -> None:
    assert [rung.paper for rung in RUNGS] == [79.7, 96.2, 98.1, 102.7, 103.7, 104.2]
    assert [rung.labels for rung in RUNGS] == [None, "human", "human", "predicted", "predicted", "predicted"]
    assert [rung.data for rung in RUNGS] == ["labelled", "labelled", "best", "labelled", "all", "all"]


def test_rungs_keep_the_paper_s_order_whatever_the_user_types(tmp_path: Path) -> None:
    recipe = load_recipe(write_tiny_recipe(tmp_path / "r.yaml", tmp_path / "run"))
    assert [rung.name for rung in chosen_rungs(["more", "plain"], recipe)] == ["plain", "more"]
    assert len(chosen_rungs([], recipe)) == 6
    assert parent(chosen_rungs([], recipe)).name == "more"
    assert parent(chosen_rungs(["bootstrap", "predicted"], recipe)).name == "predicted"


def test_a_recipe_without_bootstrap_has_no_such_rung(tmp_path: Path) -> None:
    recipe = load_recipe(write_tiny_recipe(tmp_path / "r.yaml", tmp_path / "run"), {"bootstrap": None})
    assert [rung.name for rung in chosen_rungs([], recipe)] == ["plain", "human", "best", "predicted", "more"]
    with pytest.raises(UserError, match="section `bootstrap`"):
        chosen_rungs(["bootstrap", "more"], recipe)
    assert quality_names(recipe) == ("toxicity", "helpfulness")


@pytest.mark.parametrize(("names", "said"), [(["humans"], "human"), (["plain", "bootstrap"], "starts from")])
def test_impossible_rungs_are_refused(names: list[str], said: str, tmp_path: Path) -> None:
    recipe = load_recipe(write_tiny_recipe(tmp_path / "r.yaml", tmp_path / "run"))
    with pytest.raises(UserError, match=said):
        chosen_rungs(names, recipe)


def test_the_recipe_moves_into_the_folder_with_everything_that_hangs_on_it(tmp_path: Path) -> None:
    path = write_tiny_recipe(tmp_path / "r.yaml", tmp_path / "run")
    recipe, out = in_folder(path, {"seed": 5}, None)
    assert out == tmp_path / "run-ablation"
    assert recipe.seed == 5
    assert recipe.train_sft.base_model == str(out / "shared" / "playground" / "base_model")
    assert in_folder(path, {}, tmp_path / "elsewhere")[1] == tmp_path / "elsewhere"


def test_a_record_is_as_good_as_its_worst_answer_each_attribute_towards_its_best_end() -> None:
    names = ("quality", "toxicity")
    assert human_quality(record("a", {"quality": 4, "toxicity": 0}), SCHEMA, names) == 4.0
    assert human_quality(record("a", {"quality": 4, "toxicity": 4}), SCHEMA, names) == 2.0
    assert human_quality(record("a", {"quality": 4}, {"quality": 1}), SCHEMA, ("quality",)) == 1.0
    assert human_quality(record("a", {"quality": 4}, None), SCHEMA, ("quality",)) is None
    assert human_quality(record("a", {"quality": 4}, by="model:x"), SCHEMA, ("quality",)) is None


def test_every_kind_of_data_holds_its_records_in_order(tmp_path: Path) -> None:
    records = [
        record("good", {"quality": 3, "humor": 1}),
        record("none", None),
        record("bad", {"quality": 0}),
        record("half", {"quality": 3}, {"humor": 2}),
        record("model", {"quality": 4}, by="model:x"),
        record("good too", {"quality": 3}),
    ]
    assert [is_labelled(r) for r in records] == [True, False, True, True, False, True]
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    write_conversations(source, records, SCHEMA)
    seen = {}
    for data in ("labelled", "best", "all"):
        count = write_records(source, target, data, SCHEMA, ("quality",))
        seen[data] = [r.id for r in read_conversations(target, SCHEMA)]
        assert count == len(seen[data])
    # nobody gave the highest level: the best that occurs counts
    assert seen == {
        "labelled": ["good", "bad", "half", "good too"],
        "best": ["good", "good too"],
        "all": [r.id for r in records],
    }


def test_without_a_human_quality_label_nothing_is_best(tmp_path: Path) -> None:
    write_conversations(tmp_path / "in.jsonl", [record("a", {"humor": 1})], SCHEMA)
    assert write_records(tmp_path / "in.jsonl", tmp_path / "out.jsonl", "best", SCHEMA, ("quality",)) == 0


def test_what_is_measured_stands_beside_what_people_said(tmp_path: Path) -> None:
    schema = AttributeSchema((*SCHEMA, Attribute("length", measure="words", cuts=(1, 2, 3, 4))))
    said = {"quality": 4}
    annotated = Message("assistant", "yes", attributes={"quality": 1, "length": 2}, human=said, labelled_by="model:x")
    nobody = Message("assistant", "yes", attributes={"quality": 1, "length": 2}, labelled_by="model:x")
    rows = [Conversation(str(n), (Message("user", "?"), turn)) for n, turn in enumerate((annotated, nobody))]
    write_conversations(tmp_path / "annotated.jsonl", rows, schema)
    count = write_records(tmp_path / "annotated.jsonl", tmp_path / "seen.jsonl", "labelled", schema, ["quality"], True)
    assert count == 1, "a measure is no rating: a record that only it says anything of is not labelled by people"
    [seen] = read_conversations(tmp_path / "seen.jsonl", schema)
    assert seen.messages[1].human_labels == {"quality": 4, "length": 2}
