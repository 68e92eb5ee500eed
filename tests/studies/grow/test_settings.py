"""Where the data are thin, and which answers people are asked about."""

from __future__ import annotations

import itertools
from collections import Counter
from pathlib import Path
from typing import Any

import orjson

from steerlm.attributes import Attribute, AttributeSchema
from steerlm.config import PlaygroundConfig
from steerlm.conversation import Conversation, Message, read_conversations, write_conversations
from steerlm.studies.grow.asking import ask_people, ask_playground, count_ratings, write_unsure
from steerlm.studies.grow.settings import thin_settings
from steerlm.studies.rate.store import invite, open_study, record

SCHEMA = AttributeSchema((Attribute("humor"), Attribute("lang", "categorical", categories=("en", "de", "fr"))))


def seen(*rows: tuple[int, str, int]) -> Counter[Any]:
    return Counter({(("humor", humor), ("lang", lang)): count for humor, lang, count in rows})


def test_thin_settings_are_within_a_step_and_have_little_around_them() -> None:
    data = seen((0, "en", 100), (1, "en", 50), (1, "de", 40), (2, "en", 1))
    found = thin_settings(data, SCHEMA, 9, seed=0)
    # one step away from what occurs, and furthest from the hundred
    assert {tuple(setting.values()) for setting in found} == {(3, "en"), (2, "fr")}
    assert thin_settings(data, SCHEMA, 9, seed=0) == found
    assert len(thin_settings(data, SCHEMA, 1, seed=0)) == 1
    reach = {
        tuple(setting.values())
        for seed, count in itertools.product(range(3), (1, 99))
        for setting in thin_settings(seen((2, "en", 5)), SCHEMA, count, seed)
    }
    assert reach <= {(2, "en"), (1, "en"), (3, "en"), (2, "de"), (2, "fr")}


def test_partial_settings_say_nothing() -> None:
    assert thin_settings(Counter({(("humor", 2),): 9}), SCHEMA, 5, 0) == []


RATED = AttributeSchema((Attribute("humor"), Attribute("quality", best="max")))


def round_folder(folder: Path) -> Path:
    """Three prompts with two answers each; the spreads are wide for the second answer to b and the first to c."""
    prompts = [Conversation(name, (Message("user", f"Ask {name}"),), group=name) for name in "abc"]
    write_conversations(folder / "prompts.jsonl", prompts, RATED)
    spreads = {"a": ((0.1, 1.0), (0.1, 1.1)), "b": ((0.1, 1.0), (0.4, 1.0)), "c": ((0.2, 1.4), (0.1, 1.3))}

    def line(name: str) -> dict[str, Any]:
        rows = [
            {
                "dropped": None,
                "values": {"humor": 1, "quality": 2},
                "scores": {"humor": {"mean": 1, "std": humor}, "quality": {"mean": 2, "std": quality}},
            }
            for humor, quality in spreads[name]
        ]
        return {"id": name, "samples": [*rows, {"dropped": "empty"}]}

    samples = [{"text": text, "requested": {"humor": 1}} for text in ("One.", "Two.", "")]
    for file, rows in (
        ("samples.jsonl", [{"id": name, "samples": samples} for name in "abc"]),
        ("scored.jsonl", [line(name) for name in "abc"]),
    ):
        (folder / file).write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))
    return folder


def test_people_see_the_answers_that_the_model_is_least_sure_of(tmp_path: Path) -> None:
    folder = round_folder(tmp_path)
    write_unsure(folder, RATED, 2)
    chosen = [(r.id, r.messages[-1].content) for r in read_conversations(folder / "to_rate.jsonl", RATED)]
    assert chosen == [("b/grow-1", "Two."), ("c/grow-0", "One.")]


def test_it_waits_for_people_and_takes_what_they_say(tmp_path: Path) -> None:
    folder = round_folder(tmp_path)
    write_unsure(folder, RATED, 2)
    assert ask_people(folder, RATED, 0, go_on=False) is None
    study = open_study(folder / "rate")
    [anna] = invite(study, ["Anna"])
    record(study, anna, 0, {"humor": "3", "quality": "4"}, swapped=False)
    assert ask_people(folder, RATED, 0, go_on=False) is None, "one of two is not all"
    record(study, anna, 1, {"": "skip"}, swapped=False)
    path = ask_people(folder, RATED, 0, go_on=False)
    assert path == folder / "ratings.jsonl"
    [rated] = read_conversations(path, RATED)
    assert rated.messages[-1].human_labels == {"humor": 3, "quality": 4}
    assert count_ratings([path]) == 2


def test_without_people_it_goes_on_with_nothing(tmp_path: Path) -> None:
    folder = round_folder(tmp_path)
    write_unsure(folder, RATED, 2)
    path = ask_people(folder, RATED, 0, go_on=True)
    assert path is not None
    assert count_ratings([path]) == 0


MIXED = AttributeSchema(
    (Attribute("humor"), Attribute("length", maximum=1, measure="words", cuts=(2.0,)), Attribute("creativity"))
)
LEARNED = AttributeSchema((MIXED["humor"], MIXED["creativity"]))


def test_what_is_measured_is_rated_by_nobody(tmp_path: Path) -> None:
    turns = (Message("user", "What are the benefits of running?"), Message("assistant", "Yes."))
    write_conversations(tmp_path / "to_rate.jsonl", [Conversation("a/grow-0", turns)], MIXED)
    world = PlaygroundConfig(label_noise=0, annotator_bias=0, missing_fraction=0, annotators_per_response=2)
    path = ask_playground(tmp_path, LEARNED, world, 0)
    [rated] = read_conversations(path, LEARNED)
    assert rated.messages[-1].ratings == dict.fromkeys(LEARNED.names, (0.0, 0.0))
    assert count_ratings([path]) == 4


def test_the_playground_rates_by_what_is_true(tmp_path: Path) -> None:
    schema = AttributeSchema.from_dict(
        [{"name": name} for name in ("toxicity", "humor", "creativity", "helpfulness", "verbosity")]
    )
    turns = (Message("user", "What are the benefits of running?"), Message("assistant", "Yes."))
    write_conversations(tmp_path / "to_rate.jsonl", [Conversation("a/grow-0", turns)], schema)
    world = PlaygroundConfig(label_noise=0, annotator_bias=0, missing_fraction=0, annotators_per_response=2)
    [rated] = read_conversations(ask_playground(tmp_path, schema, world, 0), schema)
    assert rated.messages[-1].ratings == dict.fromkeys(schema.names, (0.0, 0.0))
    assert rated.messages[-1].labelled_by == "human"
