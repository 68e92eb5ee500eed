"""Evaluation with a fake engine whose obedience is known exactly."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError
from scipy import stats

import steerlm.checkpoint.info
import steerlm.checkpoint.models
import steerlm.generation.opening
import steerlm.playground
import steerlm.scorers.spread
from steerlm.attributes import Attribute, AttributeSchema, Value
from steerlm.checkpoint.models import CheckpointInfo
from steerlm.config import EvaluateConfig
from steerlm.conversation import Conversation, Message, Score, write_conversations
from steerlm.errors import UserError
from steerlm.generation.engine import Request, Sample, Sampling
from steerlm.reporting.report import group_table
from steerlm.results.evaluation import evaluation_file
from steerlm.stages.evaluate import observing, stage
from steerlm.stages.evaluate.sweeping import Prompt, coverage, make_plan, read_prompts, sweep_levels
from steerlm.statistics import estimates

SCHEMA = AttributeSchema(
    (
        Attribute("quality", best="max"),
        Attribute("humor"),
        Attribute("toxicity", best="min"),
        Attribute("lang", kind="categorical", categories=("en", "de")),
    )
)
Obey = Callable[[Mapping[str, Any], str], Mapping[str, float]]


class FakeEngine:
    """Answers with the values it was asked for, bent by a rule, written out in the text."""

    def __init__(self, obey: Obey) -> None:
        self.schema = SCHEMA
        self.obey = obey
        self.calls = 0
        self.asked: list[Request] = []

    def room(self, request: Request) -> int:
        return 0 if "too long" in request.messages[-1].content else 100

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[list[Sample]]:
        self.calls += 1
        self.asked += requests
        assert all(self.room(request) for request in requests)
        return [
            [
                Sample(json.dumps(dict(self.obey(r.attributes or {}, r.messages[-1].content))), 7, True)
                for _ in range(r.num_samples)
            ]
            for r in requests
        ]


def exact(attributes: Mapping[str, Any], prompt: str) -> Mapping[str, float]:
    return dict(attributes)


def leaky(attributes: Mapping[str, Any], prompt: str) -> Mapping[str, float]:
    """Humor pulls quality down by half a level per level."""
    return {**attributes, "quality": attributes["quality"] - 0.5 * attributes["humor"]}


def deaf(attributes: Mapping[str, Any], prompt: str) -> Mapping[str, float]:
    return {**attributes, "quality": 2, "humor": 2, "toxicity": 2}


def noisy(attributes: Mapping[str, Any], prompt: str) -> Mapping[str, float]:
    """Half the slope, and noise that depends on the request alone."""
    rng = np.random.default_rng(sum((i + 1) * ord(c) for i, c in enumerate(prompt + str(dict(attributes)))))
    bent = {name: 1 + 0.5 * value + rng.normal(scale=0.5) for name, value in attributes.items() if name != "lang"}
    return {**attributes, **bent}


def read_back(messages: Sequence[Message]) -> dict[str, float]:
    try:
        said = json.loads(messages[-1].content)
    except json.JSONDecodeError:
        return {"quality": 0.0, "humor": 0.0, "toxicity": 0.0}
    return {name: float(said[name]) for name in ("quality", "humor", "toxicity")}


class FakeAttributeModel:
    """Reads the category back, and finds every answer one level funnier than it is."""

    schema = SCHEMA
    fingerprint = "fake"

    def score(
        self, conversations: Sequence[Sequence[Message]], tokens_per_batch: int | None = None
    ) -> list[dict[str, Score] | None]:
        out: list[dict[str, Score] | None] = []
        for messages in conversations:
            if not messages[-1].content.strip():
                out.append(None)
                continue
            values = read_back(messages)
            lang = json.loads(messages[-1].content)["lang"]
            row = {name: Score(value + (name == "humor"), 0.1) for name, value in values.items()}
            out.append({**row, "lang": Score(0.0, 0.0, {c: float(c == lang) for c in ("en", "de")})})
        return out

    def values(self, scores: Mapping[str, Score]) -> dict[str, Value]:
        values: dict[str, Value] = {n: SCHEMA[n].round(s.mean) for n, s in scores.items() if n != "lang"}
        probabilities = scores["lang"].probabilities
        assert probabilities is not None
        return {**values, "lang": max(probabilities, key=lambda c: probabilities[c])}


class World:
    """Fake checkpoints by folder name, and a file of prompts."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.engines: dict[str, FakeEngine] = {}
        self.infos: dict[str, CheckpointInfo] = {}
        self.prompts = folder / "prompts.jsonl"
        self.write_prompts(8)
        for module in (steerlm.checkpoint.models, steerlm.checkpoint.info):
            monkeypatch.setattr(module, "load_info", lambda path: self.infos[Path(path).name])
        monkeypatch.setattr(steerlm.checkpoint.models, "fingerprint", lambda path: f"weights of {Path(path).name}")
        monkeypatch.setattr(
            steerlm.generation.opening,
            "open_engine",
            lambda name, path, precision, size, devices: self.engines[path.name],
        )
        monkeypatch.setattr(
            steerlm.scorers.spread, "open_attribute_model", lambda path, precision, devices: FakeAttributeModel()
        )
        monkeypatch.setattr(steerlm.playground, "measure", read_back)
        self.infos["annotator"] = CheckpointInfo("regression", SCHEMA, "steerlm")

    def write_prompts(self, number: int) -> None:
        rows = [Conversation(f"p{i}", (Message("user", f"Question {i}?"),), group=f"g{i}") for i in range(number)]
        write_conversations(self.prompts, rows)

    def model(self, name: str, obey: Obey, **info: Any) -> Path:
        self.engines[name] = FakeEngine(obey)
        self.infos[name] = CheckpointInfo("sft", SCHEMA, "steerlm", **info)
        return self.folder / name

    def evaluate(self, out: str = "out", annotator: Path | None = None, **models: Path) -> dict[str, Any]:
        stage.evaluate(self.config, models, self.prompts, SCHEMA, self.folder / out, seed=0, annotator=annotator)
        results: dict[str, Any] = json.loads((self.folder / out / "results.json").read_text(encoding="utf-8"))
        return results

    config: EvaluateConfig = EvaluateConfig(measure="playground", settings=("defaults", "extremes", "random"))


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    return World(tmp_path, monkeypatch)


def dials(results: Mapping[str, Any], model: str, scorer: str = "measure") -> dict[str, Any]:
    found: dict[str, Any] = results["models"][model]["scorers"][scorer]["dials"]
    return found


def test_exact_obedience_is_measured_as_exact(world: World):
    results = world.evaluate(sft=world.model("sft", exact))
    assert set(dials(results, "sft")) == {"quality", "humor", "toxicity"}
    for name, dial in dials(results, "sft").items():
        for key, wanted in {"spearman": 1, "mae": 0, "slope": 1, "exact": 1, "monotonicity": 1}.items():
            assert dial[key]["value"] == pytest.approx(wanted, abs=1e-12), (name, key)
            assert dial[key]["low"] == pytest.approx(dial[key]["high"], abs=1e-12)
            assert dial[key]["clusters"] == 8
        assert dial["n"] == 8 * 3 * 5
        assert dial["spearman_per_prompt"]["value"] == pytest.approx(1)
        assert dial["largest_leak"]["value"] == pytest.approx(0, abs=1e-12)
        assert [(row["requested"], row["value"]) for row in dial["curve"]] == [(x, x) for x in range(5)]
    assert results["models"]["sft"]["scorers"]["measure"]["quality_cost"]["humor"]["quality"]["value"] == 0


def test_a_leak_of_a_half_is_measured_as_a_half(world: World):
    results = world.evaluate(sft=world.model("sft", leaky))
    report = results["models"]["sft"]["scorers"]["measure"]
    assert report["leakage"]["humor"]["quality"]["value"] == pytest.approx(-0.5)
    assert report["leakage"]["quality"]["humor"]["value"] == pytest.approx(0, abs=1e-12)
    assert report["leakage"]["humor"]["humor"]["value"] == pytest.approx(1)
    leak = report["largest_leak"]
    assert (leak["dial"], leak["attribute"]) == ("humor", "quality")
    assert leak["value"] == pytest.approx(0.5)
    assert leak["low"] == pytest.approx(0.5)
    assert report["quality_cost"]["humor"]["quality"]["value"] == pytest.approx(-2)


def hears_english(attributes: Mapping[str, Any], prompt: str) -> Mapping[str, float]:
    """Follows what is asked in English, and answers the rest from the middle of every scale."""
    return exact(attributes, prompt) if prompt.startswith("What") else deaf(attributes, prompt)


def hears_lang_en(attributes: Mapping[str, Any], prompt: str) -> Mapping[str, float]:
    return exact(attributes, prompt) if attributes["lang"] == "en" else deaf(attributes, prompt)


ASKED = [
    *(("books", f"What is the capital of country number {i}, and why?") for i in range(6)),
    *(("", f"Wie heißt die Hauptstadt von Land Nummer {i}, und warum?") for i in range(5)),
]


@pytest.mark.parametrize(
    ("by", "hears", "prompts"),
    [
        ("source", hears_english, {"books": 6, "unknown": 5}),
        ("prompt_language", hears_english, {"en": 6, "de": 5}),
        ("turn", hears_english, {"turn 1": 6, "turn 2": 5}),
        ("lang", hears_lang_en, {"en": 11, "de": 11}),
    ],
)
def test_groups_are_reported_apart(world: World, by: str, hears: Obey, prompts: Mapping[str, int]):
    earlier = (Message("user", "Guten Tag zusammen!"), Message("assistant", "Guten Tag, was kann ich tun?"))
    rows = [
        Conversation(f"p{i}", (*(() if source else earlier), Message("user", text)), source)
        for i, (source, text) in enumerate(ASKED)
    ]
    write_conversations(world.prompts, rows)
    world.config = world.config.model_copy(update={"by": by})
    results = world.evaluate(sft=world.model("sft", hears), annotator=world.folder / "annotator")
    groups = results["models"]["sft"]["groups"]
    assert {name: group["prompts"] for name, group in groups.items()} == prompts
    assert list(groups) == list(prompts)
    follows, deaf_one = groups.values()
    for name, dial in follows["dials"].items():
        # the category is no number, so that all of the attribute's own sweeps are of one group
        assert dial["mae"]["value"] == pytest.approx(0), name
        assert dial["spearman"]["value"] == pytest.approx(1)
        assert deaf_one["dials"][name]["slope"]["value"] == pytest.approx(0)
    total = dials(results, "sft")["humor"]["n"]
    assert follows["dials"]["humor"]["n"] + deaf_one["dials"]["humor"]["n"] == total
    assert follows["categorical"]["lang"]["value"] == pytest.approx(1)
    table = {row["attribute"]: row for row in group_table(evaluation_file(world.folder / "out" / "results.json"))}
    assert list(table["humor"]) == ["attribute", *prompts]
    assert list(table["humor"].values())[1:] == ["1.00 (error 0.00)", "– (error 1.20)"]
    assert list(table["lang"].values())[1] == "1.00 as asked"


def test_a_dial_alone_in_the_header_is_asked_for_alone(world: World):
    world.config = world.config.model_copy(update={"settings": ("alone",)})
    asked = set()

    def obeys(attributes: Mapping[str, Any], prompt: str) -> Mapping[str, float]:
        asked.add(tuple(attributes.items()))
        return {**deaf({"lang": "en"}, prompt), **attributes}

    results = world.evaluate(sft=world.model("sft", obeys))
    assert asked >= {((a.name, level),) for a in SCHEMA for level in a.levels}
    for name, dial in dials(results, "sft").items():
        assert dial["contexts"]["alone"]["mae"]["value"] == pytest.approx(0), name


def test_without_groups_there_are_none(world: World):
    assert "groups" not in world.evaluate(sft=world.model("sft", exact))["models"]["sft"]


@pytest.mark.parametrize("by", ["sources", "humor"])
def test_groups_by_what_is_no_category_are_refused(by: str):
    with pytest.raises(UserError, match=f"evaluate.by '{by}'"):
        EvaluateConfig(by=by).check(SCHEMA)


def test_guidance_of_what_does_not_exist_or_cannot_mix_is_refused():
    EvaluateConfig(guidance={"humor": 2}).check(SCHEMA)
    with pytest.raises(UserError, match="wit"):
        EvaluateConfig(guidance={"wit": 2}).check(SCHEMA)
    with pytest.raises(UserError, match="the engine vllm cannot mix prompts"):
        EvaluateConfig(guidance=2, engine="vllm").check(SCHEMA)
    EvaluateConfig(guidance={"humor": 1}, engine="vllm").check(SCHEMA)
    for strength in (-1, float("inf"), {"humor": -1}):
        with pytest.raises(ValidationError):
            EvaluateConfig.model_validate({"guidance": strength})


def test_the_dial_that_is_turned_has_the_strength(world: World):
    prompts = read_prompts(world.prompts, SCHEMA, 4, 0)
    plain = make_plan(prompts, SCHEMA, ("defaults", "random"), (), 0)
    guided = make_plan(prompts, SCHEMA, ("defaults", "random"), (), 0, guidance={"humor": 3.0})
    assert not any(ask.strengths for ask in plain.asks)
    for cell, before in zip(guided.cells, plain.cells, strict=True):
        ask = guided.asks[cell.ask]
        assert ask.strengths == ({"humor": 3.0} if cell.dial == "humor" else {})
        assert ask.attributes == plain.asks[before.ask].attributes
    world.config = world.config.model_copy(update={"guidance": 2.0})
    results = world.evaluate(sft=world.model("sft", exact))
    asked = [request.guidance for request in world.engines["sft"].asked]
    assert {name: 2.0 for guidance in asked if guidance for name in guidance} == dict.fromkeys(SCHEMA.names, 2.0)
    assert results["settings"]["guidance"] == 2.0
    assert results["cautions"][0].startswith(
        "The dial that is turned counts more or less than it was trained to (quality 2"
    )


def test_a_deaf_model_shows_no_correlation(world: World):
    dial = dials(world.evaluate(sft=world.model("sft", deaf)), "sft")["humor"]
    assert dial["spearman"]["value"] is None
    assert "constant" in dial["spearman"]["note"]
    assert dial["spearman_per_prompt"]["value"] == 0
    assert dial["monotonicity"]["value"] == 0.5
    assert dial["slope"]["value"] == pytest.approx(0)
    assert dial["mae"]["value"] == pytest.approx(6 / 5)


def test_statistics_equal_scipys_on_the_stored_answers(world: World):
    results = world.evaluate(sft=world.model("sft", noisy))
    dial = dials(results, "sft")["humor"]
    prompts = read_prompts(world.prompts, SCHEMA, 48, 0)
    plan = make_plan(prompts, SCHEMA, world.config.settings, (), 0)
    lines = (world.folder / "out" / "sft" / "samples.jsonl").read_text(encoding="utf-8").splitlines()
    answers = [json.loads(json.loads(line)["samples"][0]["text"]) for line in lines]
    cells = [cell for cell in plan.cells if cell.dial == "humor"]
    x = np.array([float(cell.level) for cell in cells])
    y = np.array([round(answers[cell.ask]["humor"], 6) for cell in cells])
    assert dial["spearman"]["value"] == pytest.approx(stats.spearmanr(x, y).statistic)
    assert dial["slope"]["value"] == pytest.approx(stats.linregress(x, y).slope)
    assert dial["mae"]["value"] == pytest.approx(np.abs(x - y).mean())
    taus = [  # monotonicity is Kendall's tau mapped onto 0..1 where nothing is tied
        stats.kendalltau(x[i : i + 5], y[i : i + 5]).statistic for i in range(0, len(x), 5)
    ]
    assert dial["monotonicity"]["value"] == pytest.approx((np.mean(taus) + 1) / 2)
    clusters = [plan.prompts[plan.asks[cell.ask].prompt].cluster for cell in cells]
    assert dial["slope"] == estimates.cluster_bootstrap(estimates.slope, [x, y], clusters).to_dict()
    assert dial["slope"]["low"] < dial["slope"]["value"] < dial["slope"]["high"]


def test_the_annotator_is_reported_but_never_independent(world: World):
    annotator = world.folder / "annotator"
    results = world.evaluate(sft=world.model("sft", exact), annotator=annotator)
    scorers = {row["id"]: row for row in results["scorers"]}
    assert scorers["measure"]["independent"]
    assert not scorers["annotator"]["independent"]
    assert results["headline_scorer"] == {
        "quality": "measure", "humor": "measure", "toxicity": "measure", "lang": "annotator",
    }  # fmt: skip
    assert dials(results, "sft", "annotator")["humor"]["mae"]["value"] == pytest.approx(1)
    lang = results["models"]["sft"]["scorers"]["annotator"]["categorical"]["lang"]
    assert lang["accuracy"]["value"] == 1
    # the same weights given as a further attribute model are no more independent
    world.config = EvaluateConfig(measure="none", attribute_models=(annotator,))
    results = world.evaluate("again", sft=world.model("sft", exact), annotator=annotator)
    assert [row["independent"] for row in results["scorers"]] == [False, False]


def test_another_attribute_model_is_independent_and_measures_what_it_shares(world: World):
    other = AttributeSchema((Attribute("humor"), Attribute("quality", maximum=9), Attribute("poise")))
    world.infos["other"] = CheckpointInfo("regression", other, "steerlm")
    world.config = EvaluateConfig(measure="none", attribute_models=(world.folder / "other",))
    results = world.evaluate(sft=world.model("sft", exact), annotator=world.folder / "annotator")
    assert results["scorers"][0]["attributes"] == ["humor"]
    assert results["scorers"][0]["independent"]
    assert results["headline_scorer"]["humor"] == "attribute-model-1"
    world.infos["other"] = CheckpointInfo("regression", AttributeSchema((Attribute("poise"),)), "steerlm")
    with pytest.raises(UserError, match=r"poise:0-4.*no attribute and scale in common"):
        world.evaluate(sft=world.model("sft", exact))


def test_comparison_is_paired(world: World):
    """Both models carry the same noise, so their difference is known far better than either."""

    def bent(attributes: Mapping[str, Any], prompt: str) -> Mapping[str, float]:
        before = noisy(attributes, prompt)
        return {**before, "quality": before["quality"] + 0.25}

    results = world.evaluate(sft=world.model("sft", noisy), bootstrap=world.model("bootstrap", bent))
    [comparison] = results["comparisons"]
    assert (comparison["before"], comparison["after"]) == ("sft", "bootstrap")
    at_best = comparison["attributes"]["quality"]["at_best"]
    assert at_best["value"] == pytest.approx(0.25)
    assert at_best["high"] - at_best["low"] < 1e-4
    assert comparison["attributes"]["humor"]["mae"]["value"] == pytest.approx(0, abs=1e-12)
    mae = [dials(results, name)["quality"]["mae"]["value"] for name in ("sft", "bootstrap")]
    assert comparison["attributes"]["quality"]["mae"]["value"] == pytest.approx(mae[1] - mae[0])
    assert comparison["mean"]["mae"]["value"] == pytest.approx((mae[1] - mae[0]) / 3)
    rho = [np.mean([d["spearman"]["value"] for d in dials(results, n).values()]) for n in ("sft", "bootstrap")]
    assert comparison["mean"]["spearman"]["value"] == pytest.approx(rho[1] - rho[0])


def test_interrupted_anywhere_ends_with_the_same_bytes(world: World, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(observing, "CHUNK", 50)
    models = {"sft": world.model("sft", noisy), "bootstrap": world.model("bootstrap", exact)}
    annotator = world.folder / "annotator"
    world.evaluate("whole", annotator, **models)
    files = sorted(p.relative_to(world.folder / "whole") for p in (world.folder / "whole").rglob("*.json*"))
    files = [name for name in files if not name.name.endswith(".inputs.json")]
    # two models with answers and two scorers each, the same with words of labels and one scorer, and the results
    assert len(files) == 11
    whole = [(world.folder / "whole" / name).read_bytes() for name in files]

    original = FakeEngine.generate
    budget = 3

    def dies(self: FakeEngine, requests: Sequence[Request], sampling: Sampling) -> list[list[Sample]]:
        nonlocal budget
        budget -= 1
        if budget < 0:
            raise KeyboardInterrupt
        return original(self, requests, sampling)

    monkeypatch.setattr(FakeEngine, "generate", dies)
    with pytest.raises(KeyboardInterrupt):
        world.evaluate("cut", annotator, **models)
    assert not (world.folder / "cut" / "results.json").exists()
    with (world.folder / "cut" / "sft" / "samples.jsonl.partial").open("ab") as stream:
        stream.write(whole[0][:100])  # half a line, as a kill leaves it
    budget = 1000
    world.evaluate("cut", annotator, **models)
    calls = 1000 - budget
    assert [(world.folder / "cut" / name).read_bytes() for name in files] == whole
    words = whole[files.index(Path("sft/label_words/samples.jsonl"))].count(b"\n")
    chunks = -(-json.loads(whole[files.index(Path("results.json"))])["asks"] // 50) + -(-words // 50)
    assert calls == 2 * chunks - 3  # nothing that was stored was asked again
    budget = 0
    world.evaluate("cut", annotator, **models)  # and done is done


def test_answers_of_another_model_or_setting_are_replaced(world: World):
    world.evaluate(sft=world.model("sft", deaf))
    world.config = EvaluateConfig(measure="playground", num_prompts=6)
    results = world.evaluate(sft=world.model("sft", exact))
    assert dials(results, "sft")["humor"]["mae"]["value"] == 0
    assert dials(results, "sft")["humor"]["clusters"] == 6


def test_several_samples_and_unanswerable_prompts(world: World):
    rows = [Conversation(f"p{i}", (Message("user", f"Question {i}?"),)) for i in range(6)]
    rows.append(Conversation("long", (Message("user", "far too long"),)))
    write_conversations(world.prompts, rows)
    world.config = EvaluateConfig(measure="playground", samples_per_prompt=3, settings=("defaults",))
    results = world.evaluate(sft=world.model("sft", exact))
    assert dials(results, "sft")["humor"]["n"] == 6 * 5 * 3
    assert dials(results, "sft")["humor"]["clusters"] == 6
    answers = results["models"]["sft"]["answers"]
    assert answers["defaults"]["answers"] == 18
    assert answers["defaults"]["unanswered"] == 1
    assert answers["defaults"]["duplicate"]["value"] == pytest.approx(2 / 3)


def test_empty_answers_count_as_answers(world: World, monkeypatch: pytest.MonkeyPatch):
    """The exact measure reads them as they are, an attribute model cannot, and the statistics say how many."""
    original = FakeEngine.generate

    def mute_at_four(self: FakeEngine, requests: Sequence[Request], sampling: Sampling) -> list[list[Sample]]:
        answers = original(self, requests, sampling)
        return [
            [Sample("", 1, True)] if (request.attributes or {})["humor"] == 4 else samples
            for request, samples in zip(requests, answers, strict=True)
        ]

    monkeypatch.setattr(FakeEngine, "generate", mute_at_four)
    results = world.evaluate(sft=world.model("sft", exact), annotator=world.folder / "annotator")
    curve = dials(results, "sft")["humor"]["curve"]
    assert [row["value"] for row in curve] == [0, 1, 2, 3, 0]
    curve = dials(results, "sft", "annotator")["humor"]["curve"]
    assert [row["requested"] for row in curve] == [0, 1, 2, 3]
    assert results["models"]["sft"]["answers"]["all"]["degenerate"]["value"] > 0


def test_answer_statistics(world: World):
    said = {"quality": 1, "humor": 1, "toxicity": 1}
    results = world.evaluate(sft=world.model("sft", lambda attributes, prompt: said))
    answers = results["models"]["sft"]["answers"]["all"]
    assert answers["characters"]["value"] == len(json.dumps(said))
    assert answers["words"]["value"] == 6
    assert answers["unique_words"]["value"] == 4
    assert answers["tokens"]["value"] == 7
    assert answers["unfinished"]["value"] == answers["refusal"]["value"] == 0
    assert answers["answers"] == results["asks"]


def test_examples_show_one_prompt_at_several_levels(world: World):
    results = world.evaluate(sft=world.model("sft", exact))
    sweeps = [sweep for sweep in results["examples"]["sweeps"] if sweep["dial"] == "humor"]
    assert len(sweeps) == 2
    for sweep in sweeps:
        assert [(reply["requested"], reply["obtained"]) for reply in sweep["replies"]] == [(0, 0.0), (2, 2.0), (4, 4.0)]
        assert [reply["attributes"]["quality"] for reply in sweep["replies"]] == [4, 4, 4]
    assert sweeps[0]["messages"] != sweeps[1]["messages"]


def test_too_few_prompts_give_no_interval_and_say_so(world: World):
    world.write_prompts(3)
    dial = dials(world.evaluate(sft=world.model("sft", noisy)), "sft")["humor"]
    assert dial["mae"]["value"] is not None
    assert dial["mae"]["low"] is None
    assert "3 clusters" in dial["mae"]["note"]


def test_results_hold_no_nan_and_the_summary_is_small(world: World):
    world.model("sft", deaf)
    summary = stage.evaluate(
        world.config, {"sft": world.folder / "sft"}, world.prompts, SCHEMA, world.folder / "out", seed=0
    )
    json.dumps(summary, allow_nan=False)
    assert summary["models"]["sft"]["humor"]["mae"] == pytest.approx(1.2)
    text = (world.folder / "out" / "results.json").read_text(encoding="utf-8")
    assert not re.search(r"\bNaN\b|Infinity", text)


def test_models_that_cannot_be_evaluated(world: World, tmp_path: Path):
    with pytest.raises(UserError, match="at least one model"):
        world.evaluate()
    with pytest.raises(UserError, match="trained without attributes"):
        world.evaluate(plain=world.model("plain", exact, conditioning=False))
    world.infos["other"] = CheckpointInfo("sft", AttributeSchema.preset("oasst"), "steerlm")
    with pytest.raises(UserError, match="schema mismatch"):
        world.evaluate(other=tmp_path / "other")
    with pytest.raises(UserError, match="may hold letters"):
        stage.evaluate(world.config, {"a/b": tmp_path}, world.prompts, SCHEMA, tmp_path / "o", seed=0)
    world.prompts.write_text("")
    with pytest.raises(UserError, match="holds no prompts"):
        world.evaluate(sft=world.model("sft", exact))


def test_label_quality_against_the_exact_measure(world: World):
    """Human labels one level off, predicted ones half the time exact and half the time one off: ratio 0.5."""

    def turn(i: int) -> Message:
        said = {"quality": 2, "humor": i % 4, "toxicity": 0}
        labels = {"humor": i % 4 + i // 4 % 2}
        scores = {"humor": Score(i % 4 + 0.25, 0.1)}
        human = {"humor": i % 4 + 1}
        return Message("assistant", json.dumps(said), attributes=labels, human=human, scores=scores)

    rows = [Conversation(f"c{i}", (Message("user", "Hm?"), turn(i)), group=f"g{i}") for i in range(16)]
    rows.append(Conversation("unrated", (Message("user", "Hm?"), Message("assistant", "x", {"humor": 4}))))
    data = world.folder / "train.jsonl"
    write_conversations(data, rows)
    world.model("sft", exact)
    stage.evaluate(
        world.config,
        {"sft": world.folder / "sft"},
        world.prompts,
        SCHEMA,
        world.folder / "out",
        seed=0,
        annotated=[data],
    )
    results = json.loads((world.folder / "out" / "results.json").read_text(encoding="utf-8"))
    [(name, report)] = results["label_quality"].items()
    assert name == "train.jsonl"
    assert set(report) == {"humor"}
    assert report["humor"]["n"] == 16
    assert report["humor"]["human"]["value"] == 1
    assert report["humor"]["predicted"]["value"] == 0.5
    assert report["humor"]["predicted_score"]["value"] == 0.25
    assert report["humor"]["ratio"]["value"] == 0.5
    assert report["humor"]["ratio"]["low"] < 0.5 < report["humor"]["ratio"]["high"]


# The plan


def test_plan_is_deterministic_and_shares_equal_asks(world: World):
    prompts = read_prompts(world.prompts, SCHEMA, 4, 0)
    assert len(prompts) == 4
    plan = make_plan(prompts, SCHEMA, ("defaults",), (), 0)
    assert plan == make_plan(prompts, SCHEMA, ("defaults",), (), 0)
    # 5 + 5 + 5 + 2 steps per prompt, of which the default setting occurs in four sweeps
    assert len(plan.cells) == 4 * 17
    assert len(plan.asks) == 4 * 14
    assert [ask.prompt for ask in plan.asks] == sorted(ask.prompt for ask in plan.asks)


def test_a_sweep_moves_its_own_dial_only(world: World):
    prompts = read_prompts(world.prompts, SCHEMA, None, 0)
    plan = make_plan(prompts, SCHEMA, ("defaults", "extremes", "random", "alone"), (), 0)
    for series in {cell.series for cell in plan.cells}:
        cells = [cell for cell in plan.cells if cell.series == series]
        settings = [plan.asks[cell.ask].attributes for cell in cells]
        dial = cells[0].dial
        assert [setting[dial] for setting in settings] == list(SCHEMA[dial].levels)
        assert len({tuple(v for k, v in setting.items() if k != dial) for setting in settings}) == 1
        if cells[0].context == "extremes":
            others = [settings[0][a.name] for a in SCHEMA if a.name != dial]
            assert all(v in (0, 4, "en", "de") for v in others)
        assert (len(settings[0]) == 1) == (cells[0].context == "alone")


def test_random_settings_come_from_the_training_labels(world: World):
    seen: list[tuple[Mapping[str, Value], int]] = [
        ({"quality": q, "humor": h, "toxicity": t, "lang": "en"}, 3)
        for q in range(5)
        for t in range(5)
        for h in ((0, 1, 2, 3, 4) if q > 0 else (0,))  # nobody jokes in a bad answer
    ]
    prompts = read_prompts(world.prompts, SCHEMA, None, 0)
    plan = make_plan(prompts, SCHEMA, ("random",), seen, 0)
    settings = [plan.asks[cell.ask].attributes for cell in plan.cells if cell.dial == "humor"]
    assert {setting["lang"] for setting in settings} == {"en"}
    assert 0 not in {setting["quality"] for setting in settings}
    assert len({setting["toxicity"] for setting in settings}) > 1
    report = coverage(plan, SCHEMA, seen, len(seen))
    assert (report.combinations, report.possible, report.records) == (105, 250, 315)
    assert 0.5 < report.contexts["random"].seen < 1
    assert 0 < report.contexts["random"].distance < 1


def test_random_settings_hold_every_category_equally_often_where_they_are_compared() -> None:
    schema = AttributeSchema((Attribute("language", kind="categorical", categories=("en", "de", "fr")), *SCHEMA))
    prompts = [Prompt(str(i), (Message("user", f"Q{i}"),), i, i) for i in range(120)]
    rest = {attribute.name: attribute.levels[-1] for attribute in SCHEMA}
    seen = [({"language": "en", **rest}, 900), ({"language": "de", **rest}, 2)]  # French was never seen
    plan = make_plan(prompts, schema, ("random",), seen, 0, even="language")
    cells = [cell for cell in plan.cells if cell.dial == SCHEMA.names[0]]
    counts = Counter(plan.asks[cell.ask].attributes["language"] for cell in cells)
    assert set(counts) == {"en", "de"}
    assert 0.4 < counts["de"] / len(cells) < 0.6


def test_coverage_by_hand(world: World):
    prompts = read_prompts(world.prompts, SCHEMA, 1, 0)
    plan = make_plan(prompts, SCHEMA, ("defaults",), (), 0)
    seen = [({"quality": 4, "humor": 0, "toxicity": 0, "lang": "en"}, 1)]
    report = coverage(plan, SCHEMA, seen, 1).contexts["defaults"]
    assert report.settings == 14
    assert report.seen == pytest.approx(1 / 14)
    # three dials at distances 1..4 from their default, and the other language
    assert report.distance == pytest.approx((3 * (1 + 2 + 3 + 4) + 1) / 14)


def test_long_scales_are_swept_over_ten_levels():
    assert sweep_levels(Attribute("words", maximum=300)) == (0, 33, 67, 100, 133, 167, 200, 233, 267, 300)
    assert sweep_levels(Attribute("paper", maximum=9)) == tuple(range(10))


def test_prompts_end_with_their_last_user_turn_and_occur_once(world: World):
    turns = (Message("user", "A?"), Message("assistant", "B."), Message("user", "C?"), Message("assistant", "D."))
    rows = [
        Conversation("1", turns, group="x"),
        Conversation("2", (*turns[:3], Message("assistant", "E.")), group="x"),
        Conversation("3", turns[:1], group="y"),
    ]
    write_conversations(world.prompts, rows)
    prompts = read_prompts(world.prompts, SCHEMA, None, 0)
    assert [(p.id, len(p.messages), p.cluster) for p in prompts] == [("1", 3, 0), ("3", 1, 1)]
