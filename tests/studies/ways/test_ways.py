"""Ways to steer, on random models of a few thousand weights: what is asked, what is pushed, what is compared."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from steerlm.__main__ import main
from steerlm.attributes import Attribute, AttributeSchema
from steerlm.checkpoint.info import CheckpointInfo, load_info, save_strengths
from steerlm.checkpoint.models import resize_embeddings, save_model
from steerlm.conversation import Conversation, Message, write_conversations
from steerlm.errors import UserError
from steerlm.generation.demonstrations import Demonstration
from steerlm.generation.plain import PlainModel, Push, add_pushes
from steerlm.generation.requests import Sampling
from steerlm.results.ways import VectorChoice, read_ways
from steerlm.studies.ways.asking import Way, parse_ways
from steerlm.studies.ways.vectors import DialVector
from steerlm.studies.ways.wording import asked_in_words, worded
from tests.tiny import byte_tokenizer, random_model, tiny_llama_config

SCHEMA = AttributeSchema(
    (
        Attribute("words", maximum=2, description="How many words it has.", low="none", high="two", default=1),
        Attribute("sentences", maximum=2, default=1),
    )
)
GREEDY = Sampling(12, temperature=0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A steerable checkpoint, a base without a template, prompts and annotated answers."""
    place = tmp_path_factory.mktemp("ways")
    tokenizer = byte_tokenizer(SCHEMA)
    model = random_model(tiny_llama_config(len(tokenizer)), seed=3)
    resize_embeddings(model, tokenizer)
    save_model(place / "tuned", model, tokenizer, CheckpointInfo("sft", SCHEMA, "steerlm"), "card")
    tokenizer = byte_tokenizer(None)
    tokenizer.chat_template = None
    random_model(tiny_llama_config(len(tokenizer)), seed=1).save_pretrained(place / "base")
    tokenizer.save_pretrained(place / "base")
    asked = [Conversation(f"p{i}", (Message("user", f"Q{i}?"),)) for i in range(5)]
    write_conversations(place / "prompts.jsonl", asked, SCHEMA)
    answers = [
        Conversation(
            f"a{i}",
            (Message("user", f"A{i}?"), Message("assistant", "w " * (i % 3), {"words": i % 3, "sentences": i % 3}))
            if i % 3
            else (Message("user", f"A{i}?"), Message("assistant", ".", {"words": 0, "sentences": 0})),
        )
        for i in range(15)
    ]
    write_conversations(place / "annotated.jsonl", answers, SCHEMA)
    return place


def test_ways_are_read() -> None:
    assert parse_ways(
        "header,words,best-of-8,demonstrations-best-of-4,vector,guided-1.5,guided-2-best-of-4, guided"
    ) == (
        Way("header", "header"),
        Way("words", "words"),
        Way("best-of-8", "words", 8),
        Way("demonstrations-best-of-4", "demonstrations", 4),
        Way("vector", "vector"),
        Way("guided-1.5", "header", 1, 1.5),
        Way("guided-2-best-of-4", "header", 4, 2.0),
        Way("guided", "header", 1, None),
    )
    for text, message in (
        ("wrods", "did you mean 'words'"),
        ("guide", "did you mean 'guided'"),
        ("best-of-1", "at least best-of-2"),
        ("words,words", "each way once"),
        ("", "each way once"),
    ):
        with pytest.raises(UserError, match=message):
            parse_ways(text)


def test_a_setting_in_words() -> None:
    [message] = asked_in_words([Message("user", "Why?")], SCHEMA, {"words": 2, "sentences": 0})
    assert message.content == (
        "Write an answer with these properties:\n"
        "- words: 2 on a scale from 0 = none to 2 = two (How many words it has)\n"
        "- sentences: 0 on a scale from 0 to 2\n\n"
        "Why?"
    )
    shown = worded(Demonstration("Who?", Message("assistant", "I.", {"words": 1, "sentences": 1})), SCHEMA)
    assert "- words: 1 on a scale" in shown.prompt
    assert shown.prompt.endswith("\n\nWho?")


def test_a_push_moves_its_own_row_alone_and_leaves_no_trace(folder: Path) -> None:
    model = PlainModel(folder / "base", "fp32")
    assert not model.has_template
    asked = [(Message("user", "Same?"),)] * 2
    plain = model.answers(asked, [0, 0], GREEDY)
    width = model.activations(asked[0], "Yes.", [0, 1]).shape[1]
    vectors = torch.zeros(2, width)
    vectors[1] = torch.linspace(-9, 9, width)
    pushed = model.answers(asked, [0, 0], GREEDY, add_pushes([Push(0, vectors / 2), Push(0, vectors / 2)]))
    assert pushed[0] == plain[0]
    assert pushed[1] != plain[1]
    assert model.answers(asked, [0, 0], GREEDY) == plain
    assert len(add_pushes([Push(0, vectors), Push(1, vectors), Push(0, vectors)])) == 2


def test_activations_are_the_means_over_the_answer(folder: Path) -> None:
    model = PlainModel(folder / "base", "fp32")
    asked = (Message("user", "Q?"),)
    prompt = model.ids(asked)
    said = model._tokenizer("Yes.", add_special_tokens=False).input_ids
    with torch.no_grad():
        states = model._model(torch.tensor([[*prompt, *said]]), output_hidden_states=True).hidden_states
    expected = torch.stack([states[k + 1][0, -len(said) :].mean(0) for k in (0, 1)])
    assert torch.allclose(model.activations(asked, "Yes.", [0, 1]), expected, atol=1e-5)


def test_the_place_on_the_scale_says_how_far() -> None:
    vector = DialVector(VectorChoice(3, 8, 2.0, 9, 0.0), torch.tensor([1.0, 2.0]))
    push = vector.push(SCHEMA["words"], [0, 1, 2])
    assert push.layer == 3
    assert push.vectors.tolist() == [[-1, -2], [0, 0], [1, 2]]


def run(folder: Path, out: Path, ways: str, *more: str) -> int:
    return main(
        [
            "evaluate", "--ways", ways, "--model", f"tuned={folder / 'tuned'}", "--prompts",
            str(folder / "prompts.jsonl"), "--out", str(out), "--set", "max_new_tokens=6", "--set", "precision=fp32",
            *more,
        ]
    )  # fmt: skip


def test_all_ways_on_the_same_prompts(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("steerlm.studies.ways.vectors.STRENGTHS", (2.0,))
    monkeypatch.setattr("steerlm.studies.ways.vectors.DEPTHS", (0.5,))
    more = ["--base", str(folder / "base"), "--demonstrations", str(folder / "annotated.jsonl")]
    ways = "header,words,demonstrations,best-of-3,vector"
    assert run(folder, tmp_path / "out", ways, *more) == 0
    result = read_ways(tmp_path / "out")
    assert result is not None
    assert [way.name for way in result.ways] == ways.split(",")
    assert result.asks == 5 * 2 * 3, "a step of every sweep is asked by itself"
    by_name = {way.name: way for way in result.ways}
    assert by_name["header"].against_header is None
    assert by_name["words"].prompt_tokens is not None
    assert by_name["demonstrations"].prompt_tokens > by_name["words"].prompt_tokens
    assert by_name["best-of-3"].draws == 3
    difference = by_name["words"].by_dial["words"].mae
    assert difference is not None
    expected = by_name["words"].dials["words"].mae.value - by_name["header"].dials["words"].mae.value
    assert difference.value == pytest.approx(expected)
    assert result.vectors["words"].examples == 5
    written = [tmp_path / "out" / "vectors" / f"words.{kind}" for kind in ("safetensors", "json")]
    assert written[0].stat().st_mode == written[1].stat().st_mode, "whoever can read the one can read the other"
    drawn = lines(tmp_path / "out" / "best-of-3" / "samples.jsonl")
    assert {len(row["samples"]) for row in drawn} == {3}
    assert len(lines(tmp_path / "out" / "best-of-3" / "scores-measure.jsonl")[0]["scores"]) == 1
    page = (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    assert "## Ways to steer" in page
    assert "error, this minus header" in page
    printed = capsys.readouterr().out
    assert "best-of-3: chosen by the scorers that also judge" in printed

    def loaded(*_: object) -> None:
        raise AssertionError("everything is on disk")

    monkeypatch.setattr("steerlm.generation.opening.load_engine", loaded)
    monkeypatch.setattr(PlainModel, "answers", loaded)
    assert run(folder, tmp_path / "out", ways, *more) == 0
    assert read_ways(tmp_path / "out") == result


def test_the_dial_that_is_turned_is_guided(folder: Path, tmp_path: Path) -> None:
    assert run(folder, tmp_path / "out", "header,guided-0,guided-3") == 0
    texts = {
        way: [row["samples"][0]["text"] for row in lines(tmp_path / "out" / way / "samples.jsonl")]
        for way in ("header", "guided-0", "guided-3")
    }
    sweeps = {way: [found[i : i + 3] for i in range(0, len(found), 3)] for way, found in texts.items()}
    assert all(len(set(sweep)) == 1 for sweep in sweeps["guided-0"]), "strength 0 switches a dial off"
    assert any(len(set(sweep)) > 1 for sweep in sweeps["header"])
    assert texts["guided-3"] != texts["header"]
    result = read_ways(tmp_path / "out")
    assert result is not None
    assert [way.against_header is None for way in result.ways] == [True, False, False]
    assert {way.model for way in result.ways} == {str(folder / "tuned")}
    assert run(folder, tmp_path / "guided", "words,guided-3", "--base", str(folder / "base")) == 0
    result = read_ways(tmp_path / "guided")
    assert result is not None
    assert [way.against_header is None for way in result.ways] == [False, True], "the header at hand is compared with"


def test_a_model_brings_its_own_strengths(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(folder, tmp_path / "none", "guided") == 2
    assert "brings no strengths" in capsys.readouterr().err
    dial = load_info(folder / "tuned").schema.names[0]
    save_strengths(folder / "tuned", {dial: 3.0})
    try:
        assert run(folder, tmp_path / "out", "guided,guided-3,guided-1") == 0
    finally:
        save_strengths(folder / "tuned", {})
    plans = {way: lines(tmp_path / "out" / way / "samples.jsonl") for way in ("guided", "guided-3", "guided-1")}
    for own, strong, plain in zip(*plans.values(), strict=True):
        assert own["samples"] in (strong["samples"], plain["samples"])
    assert plans["guided"] != plans["guided-1"]


def lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize(
    ("ways", "more", "message"),
    [
        ("words", [], "--base is missing: what words ask"),
        ("vector", ["--base", "BASE"], "--ways vector: give --demonstrations"),
        ("header", ["--model", "other=TUNED"], "compares ways to steer one model"),
        ("header", ["--suite", "humor"], "either --suite or --ways"),
    ],
)
def test_mistakes(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], ways: str, more: list[str], message: str
) -> None:
    more = [text.replace("BASE", str(folder / "base")).replace("TUNED", str(folder / "tuned")) for text in more]
    assert run(folder, tmp_path / "out", ways, *more) == 2
    assert message in capsys.readouterr().err
