"""Strengths are chosen by the error that is left; a fake engine exaggerates as guidance does."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

import steerlm.checkpoint.models
import steerlm.generation.opening
from steerlm.attributes import Attribute, AttributeSchema
from steerlm.checkpoint.info import CheckpointInfo, load_info, save_info, save_strengths
from steerlm.config import EvaluateConfig, TuneGuidanceConfig
from steerlm.conversation import Conversation, Message, write_conversations
from steerlm.errors import UserError
from steerlm.generation.engine import Request, Sample, Sampling
from steerlm.results.evaluation import evaluation_file
from steerlm.stages.evaluate.stage import evaluate
from steerlm.stages.evaluate.sweeping import read_prompts
from steerlm.stages.tune_guidance import TunedGuidance, TuningRun, spare_prompts, tune_guidance

SCHEMA = AttributeSchema(
    (
        Attribute("length", measure="words", cuts=(3, 5, 7, 9)),
        Attribute("questions", measure="questions", maximum=2, cuts=(1, 2)),
        Attribute("quality", best="max"),
    )
)
WORDS = (2, 4, 6, 8, 10)


class FaintEngine:
    """Length follows at half a step until strength 3; questions follow as they are; from 8 on it stammers."""

    schema = SCHEMA

    def __init__(self) -> None:
        self.asked: list[Request] = []

    def room(self, request: Request) -> int:
        return 100

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[list[Sample]]:
        self.asked += requests
        return [[Sample(self._text(request), 7, True)] for request in requests]

    def _text(self, request: Request) -> str:
        wanted, strengths = request.attributes or {}, request.guidance or {}
        if strengths.get("length", 1) >= 8:
            return "so so so so so so so so so so so so so so so so so so so so so so so so so so so so so so"
        share = min(1.0, strengths.get("length", 1) / 3)
        level = round(2 + share * (float(wanted["length"]) - 2))
        words = [f"word{i}" for i in range(WORDS[level])]
        asked = int(wanted["questions"]) if strengths.get("questions", 1) == 1 else 0
        ends = ["?"] * asked + ["."] * (len(words) - asked)
        return " ".join(word + end for word, end in zip(words, ends, strict=True))


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> FaintEngine:
    fake = FaintEngine()
    monkeypatch.setattr(steerlm.generation.opening, "open_engine", lambda *_: fake)
    monkeypatch.setattr(steerlm.checkpoint.models, "fingerprint", lambda _: "same")
    return fake


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    save_info(folder, CheckpointInfo("sft", SCHEMA, "steerlm"))
    return folder


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.jsonl"
    said = [Conversation(f"p{i}", (Message("user", f"Say {i}"),), "s", f"g{i // 2}") for i in range(12)]
    write_conversations(path, said, SCHEMA)
    return path


def tuned(model: Path, prompts: Path, out: Path, *strengths: float) -> TunedGuidance:
    config = TuneGuidanceConfig(strengths=strengths or (1, 2, 3, 4, 8), num_prompts=3)
    run = TuningRun(config, EvaluateConfig(num_prompts=4), model, SCHEMA, None, 0)
    return tune_guidance(run, read_prompts(prompts, SCHEMA, 3, 0), out)


def test_each_dial_gets_the_strength_of_the_least_error(
    engine: FaintEngine, model: Path, prompts: Path, tmp_path: Path
) -> None:
    found = tuned(model, prompts, tmp_path / "out")
    # the weakest that reaches every level; what follows anyhow stays as it was trained; nobody measures quality
    assert found["strengths"] == {"length": 3.0, "questions": 1.0}
    assert found["errors"]["length"][2] == 0 < found["errors"]["length"][0]  # type: ignore[operator]
    assert found["degenerate"]["length"][-1] == 1 > found["degenerate"]["length"][0] == 0
    assert not any(found["degenerate"]["questions"])  # what falls apart is its own matter for each dial
    assert load_info(model).strengths == {"length": 3.0}
    asked = len(engine.asked)
    assert tuned(model, prompts, tmp_path / "out") == found
    assert len(engine.asked) == asked  # everything was on disk


def test_a_strength_at_which_answers_fall_apart_is_not_taken(
    engine: FaintEngine, model: Path, prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # stammering, but of the right number of words
    def stammer(request: Request) -> str:
        strength = (request.guidance or {}).get("length", 1)
        return " ".join(["so"] * 40) if strength > 1 else "one two three four five six."

    monkeypatch.setattr(engine, "_text", stammer)
    found = tuned(model, prompts, tmp_path / "out", 2, 1)
    assert found["tried"] == [1, 2]
    assert found["degenerate"]["length"][1] > 0.2
    assert found["strengths"]["length"] == 1


def test_an_evaluation_takes_the_models_own_strengths_unless_it_names_some(
    engine: FaintEngine, model: Path, prompts: Path, tmp_path: Path
) -> None:
    save_strengths(model, {"length": 3.0})

    def run(name: str, **fields: object) -> dict[str, float | None]:
        config = EvaluateConfig.model_validate({"num_prompts": 4, "settings": ["defaults"], **fields})
        summary = evaluate(config, {"m": model}, prompts, SCHEMA, tmp_path / name, seed=0)
        return {dial: figures["mae"] for dial, figures in summary["models"]["m"].items()}

    own = run("own")
    assert own["length"] == 0
    assert {strength for request in engine.asked for strength in (request.guidance or {}).items()} == {("length", 3.0)}
    engine.asked.clear()
    assert run("plain", guidance=1)["length"] > 0  # type: ignore[operator]
    assert not any(request.guidance for request in engine.asked)
    assert own["questions"] == run("other", guidance={"length": 2})["questions"]


def test_each_of_several_models_has_its_own_strengths(
    engine: FaintEngine, model: Path, prompts: Path, tmp_path: Path
) -> None:
    models = {"plain": tmp_path / "plain", "tuned": model}
    models["plain"].mkdir()
    save_info(models["plain"], CheckpointInfo("sft", SCHEMA, "steerlm"))
    save_strengths(model, {"length": 3.0})
    config = EvaluateConfig(num_prompts=4, settings=("defaults",))

    def errors(name: str, **models: Path) -> dict[str, float]:
        summary = evaluate(config, models, prompts, SCHEMA, tmp_path / name, seed=0)["models"]
        return {name: found["length"]["mae"] for name, found in summary.items()}

    alone = {name: errors(f"{name} alone", **{name: folder})[name] for name, folder in models.items()}
    assert alone["plain"] > alone["tuned"] == 0
    assert errors("both", **models) == errors("the other way round", **dict(reversed(models.items()))) == alone
    results = evaluation_file(tmp_path / "both" / "results.json")
    assert "(plain: as trained; tuned: length 3; `evaluate.guidance`)" in results.cautions[0]
    assert results.settings["guidance"] == {"length": 3.0}
    assert results.comparisons, "the same sweeps"


def test_prompts_of_the_evaluation_and_their_groups_are_left_alone(prompts: Path, tmp_path: Path) -> None:
    evaluation = EvaluateConfig(num_prompts=4)
    drawn = read_prompts(prompts, SCHEMA, 4, 0)
    spare = spare_prompts(prompts, SCHEMA, evaluation, 0, 8)

    def groups(found: Sequence[object]) -> set[int]:
        return {int(prompt.id[1:]) // 2 for prompt in found}  # type: ignore[attr-defined]

    assert spare
    assert not groups(drawn) & groups(spare)
    assert spare_prompts(prompts, SCHEMA, evaluation, 0, 2) == spare_prompts(prompts, SCHEMA, evaluation, 0, 2)
    with pytest.raises(UserError, match=r"has 12, of which it draws 12\. Lower evaluate\.num_prompts"):
        spare_prompts(prompts, SCHEMA, EvaluateConfig(num_prompts=None), 0, 8)
    others = EvaluateConfig(num_prompts=None, prompts=tmp_path / "others.jsonl")
    assert len(spare_prompts(prompts, SCHEMA, others, 0, 99)) == 12


def test_a_model_without_dials_or_measures_is_refused(
    engine: FaintEngine, model: Path, prompts: Path, tmp_path: Path
) -> None:
    save_info(model, CheckpointInfo("sft", SCHEMA, "steerlm", conditioning=False))
    with pytest.raises(UserError, match="trained without attributes"):
        tuned(model, prompts, tmp_path / "out")
    plain = AttributeSchema((Attribute("humor"),))
    save_info(model, CheckpointInfo("sft", plain, "steerlm"))
    run = TuningRun(TuneGuidanceConfig(), EvaluateConfig(), model, plain, None, 0)
    with pytest.raises(UserError, match="name its attribute model with --annotator"):
        tune_guidance(run, read_prompts(prompts, SCHEMA, 3, 0), tmp_path / "out")


def test_strengths_are_checked_when_they_are_read(model: Path) -> None:
    info = CheckpointInfo("sft", SCHEMA, "steerlm", strengths={"length": 2.0})
    save_info(model, info)
    assert load_info(model) == info
    for said, problem in (
        ('{"strengths": {"lenght": 2}}', "did you mean 'length'"),
        ('{"strengths": {"length": -1}}', "must be a number from 0, got -1"),
        ('{"strengths": 3}', "is damaged"),
        ("{", "is damaged"),
    ):
        (model / "guidance.json").write_text(said)
        with pytest.raises(UserError, match=problem):
            load_info(model)
