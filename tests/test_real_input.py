"""The real-input recipe: its converter on the real data, its baselines and its measurements on small inputs."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from steerlm.attributes import AttributeSchema
from steerlm.config import load_recipe
from steerlm.conversation import Conversation, Message, Score, read_conversations
from steerlm.statistics.estimates import Weights

FOLDER = Path(__file__).resolve().parents[1] / "recipes" / "real_input"
SCHEMA = load_recipe(FOLDER / "recipe.yaml").schema_

# QLoRA (arXiv 2305.14314), table 6: score in percent of ChatGPT's when ChatGPT is shown first, and when shown second
PUBLISHED = {
    "65b-guanaco": (96.7, 101.9),
    "30b-guanaco": (96.5, 99.2),
    "13b-guanaco": (87.3, 93.4),
    "7b-guanaco": (84.1, 89.8),
    "bard": (93.2, 96.4),
}


def load(name: str) -> ModuleType:
    """Import a script of the recipe's folder."""
    sys.path.insert(0, str(FOLDER))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(FOLDER))


public_data, convert, baselines, measure = map(load, ("public_data", "convert", "baselines", "measure"))


@pytest.fixture(scope="module")
def converted(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("real_input")
    convert.convert(shared_data, out, SCHEMA)
    return out


def records(folder: Path) -> list[Conversation]:
    return [c for path in sorted(folder.glob("*.jsonl")) for c in read_conversations(path, SCHEMA)]


# --- converter -------------------------------------------------------------------------------------------------------


def test_counts(converted: Path) -> None:
    counts = json.loads((converted / "counts.json").read_text())
    assert {name: row["records"] for name, row in counts.items()} == {
        "vicuna": 2651,
        "diasafety": 11180,
        "usr": 360,
        "topical_chat": 2144,
        "conture": 115,
        "hh_rlhf": 4607,
    }
    assert counts["vicuna"]["judgements"] == 72 * 80
    assert counts["diasafety"]["pairs"] == 9017 + 1097 + 1095
    for name, row in counts.items():
        assert row["train_records"] + row["test_records"] == row["records"], name
        assert 0.2 < row["test_groups"] / (row["test_groups"] + row["train_groups"]) < 0.3, name


def test_scores_by_answer_id_give_the_published_table(shared_data: Path) -> None:
    """The files' names give the order of the two answers wrongly; the published percentages tell."""
    scores, _ = public_data.vicuna_scores(shared_data)
    answers = public_data.vicuna_answers(shared_data)
    systems = {(a.question_id, a.id): a.system for a in answers}
    chatgpt: dict[tuple[str, int], list[float]] = {}
    for path in (shared_data / "vicuna/ratings/relative").glob("*.jsonl"):
        for row in public_data.read_jsonl(path):
            pair = [systems.get((str(row["question_id"]), row[key])) for key in ("answer1_id", "answer2_id")]
            if "gpt35" in pair and min(row["score"]) >= 0:
                position = pair.index("gpt35")
                chatgpt.setdefault((str(pair[1 - position]), position), []).append(row["score"][position])
    for system, published in PUBLISHED.items():
        mine = [scores[a.question_id, a.id] for a in answers if a.system == system]
        for position in (0, 1):
            ours = np.mean([score for both in mine for score in both[1 - position]])
            percent = 100 * ours / np.mean(chatgpt[system, position])
            assert percent == pytest.approx(published[position], abs=0.1), (system, position)


def test_answer_ids_are_those_of_the_text_that_was_judged(shared_data: Path) -> None:
    scores, _ = public_data.vicuna_scores(shared_data)
    systems: dict[str, int] = {}
    for answer in public_data.vicuna_answers(shared_data):
        systems[answer.system] = systems.get(answer.system, 0) + ((answer.question_id, answer.id) in scores)
    # never judged in this comparison; three of its answers are word for word another system's
    assert systems.pop("13-self-instruct") == 3
    # all three answers without a rating are of GPT-4, whose judgement could not be parsed in either order
    assert systems.pop("gpt4") == 77
    assert set(systems.values()) == {80}
    assert len(systems) == 35


def test_no_group_and_no_prompt_on_both_sides(converted: Path) -> None:
    train, test = records(converted / "train"), records(converted / "test")
    assert not {c.group for c in train} & {c.group for c in test}

    def prompts(conversations: list[Conversation]) -> set[str]:
        # single-turn sources by their prompt, dialogues by their longer turns
        texts = {public_data.normalise(m.content) for c in conversations for m in c.messages[:-1] if m.role == "user"}
        return {text for text in texts if len(text) >= 40}

    assert not prompts(train) & prompts(test)


def test_targets_are_real_valued_and_in_range(converted: Path) -> None:
    rows = [*baselines.labelled_rows(converted / "train", SCHEMA), *baselines.labelled_rows(converted / "test", SCHEMA)]
    assert len({row.key for row in rows}) == len(rows)
    by_source = {source: [r for r in rows if r.source == source] for source in public_data.SOURCES}
    assert {source: sorted({name for r in mine for name in r.targets}) for source, mine in by_source.items()} == {
        "vicuna": ["quality"],
        "diasafety": ["toxicity"],
        "usr": sorted(set(SCHEMA.names) - {"toxicity", "harmless"}),
        "topical_chat": ["quality"],
        "conture": ["quality"],
        "hh_rlhf": ["harmless"],
    }
    for row in rows:
        for name, value in row.targets.items():
            assert SCHEMA[name].minimum <= value <= SCHEMA[name].maximum
    assert {r.targets["toxicity"] for r in by_source["diasafety"]} == {0.0, 0.5, 1.0}
    # three annotators give thirds
    thirds = [3 * value for r in by_source["usr"] for value in r.targets.values()]
    assert np.allclose(thirds, np.round(thirds), atol=1e-6)


def test_usr_votes_have_the_published_mean(converted: Path, shared_data: Path) -> None:
    rows = json.loads((shared_data / "usr/topical_chat.json").read_text())
    found = {c.id: c for c in [*records(converted / "train"), *records(converted / "test")] if c.source == "usr"}
    for number, row in enumerate(rows):
        response = found[f"usr-{number}"].messages[-1]
        assert response.ratings is not None
        assert len(response.ratings["understandable"]) == 3
        assert response.target("understandable") == pytest.approx(row["scores"]["understandability"])
        assert response.target("quality") == pytest.approx(row["scores"]["overall"] - 1)
        assert ("uses_knowledge" in response.ratings) == (found[f"usr-{number}"].messages[0].role == "system")


def test_the_split_is_reproducible(converted: Path, shared_data: Path, tmp_path: Path) -> None:
    convert.convert(shared_data, tmp_path, SCHEMA)
    for path in sorted(converted.rglob("*.json*")):
        assert (tmp_path / path.relative_to(converted)).read_bytes() == path.read_bytes()


def test_recipe_reads_what_the_converter_writes() -> None:
    recipe = load_recipe(FOLDER / "recipe.yaml")
    files = {s.path for s in recipe.prepare.sources if s.format == "messages"}
    assert files == {Path("runs/real_input_data/train") / f"{source}.jsonl" for source in public_data.SOURCES}
    assert recipe.train_attribute_model.base_model == "runs/real_input_data/minilm"


def test_linking_joins_dialogues_across_sources() -> None:
    turn = "a turn that is long enough to be told from a greeting, surely"
    one = Conversation("a", (Message("user", turn), Message("assistant", "x")), "usr", "a")
    two = Conversation("b", (Message("user", "hi"), Message("assistant", "y")), "topical_chat", "b")
    three = Conversation("c", (Message("user", "hi"), Message("assistant", "z")), "topical_chat", "c")
    spaced = turn.upper().replace(",", " , ")
    parts = [
        public_data.Converted([one], {}),
        public_data.Converted([two, three], {}, {"b": ["hi", spaced], "c": ["hi"]}),
    ]
    groups = {c.id: c.group for c in convert.link_groups(parts)}
    assert groups["a"] == groups["b"] != groups["c"]


# --- baselines -------------------------------------------------------------------------------------------------------


def rows_of(num_rows: int, source: str = "vicuna", prefix: str = "r") -> list[baselines.Row]:  # type: ignore[name-defined]
    rows = []
    for i in range(num_rows):
        messages = (Message("user", f"question {i // 4}"), Message("assistant", "word " * (1 + i % 7)))
        rows.append(baselines.Row(f"{prefix}{i}", source, f"g{i // 4}", messages, {"quality": 4.0 * (i % 7) / 6}))
    return rows


def test_baselines_learn_what_the_features_tell() -> None:
    train, test = rows_of(80), rows_of(28, prefix="t")
    train_x, test_x = (np.array([baselines.length_features(r) for r in rows]) for rows in (train, test))
    out = baselines.baselines(train, test, train_x, test_x, SCHEMA)
    truth = np.array([row.targets["quality"] for row in test])
    ridge = np.array([out["ridge"]["quality"][row.key] for row in test])
    constant = np.array([out["mean"]["quality"][row.key] for row in test])
    assert set(constant) == {np.mean([row.targets["quality"] for row in train])}
    assert np.abs(ridge - truth).mean() < 0.3 * np.abs(constant - truth).mean()
    assert list(out["alpha"]) == ["quality"]


def test_embeddings_are_cached_by_text(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[str] = []

    def embed(texts: list[str], encoder: Path, description: str) -> np.ndarray:
        asked.extend(texts)
        return np.array([[len(text), 1.0] for text in texts], dtype=np.float32)

    monkeypatch.setattr(baselines, "embed", embed)
    cache = tmp_path / "embeddings.npz"
    assert baselines.cached_embeddings(["a", "bb", "a"], tmp_path, cache)[:, 0].tolist() == [1, 2, 1]
    assert baselines.cached_embeddings(["ccc", "bb"], tmp_path, cache)[:, 0].tolist() == [3, 2]
    assert asked == ["a", "bb", "ccc"]


# --- measurements ----------------------------------------------------------------------------------------------------


def test_roc_auc_equals_sklearn() -> None:
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 2, 60).astype(float)
    predicted = np.round(truth * 0.3 + rng.random(60), 1)
    weights = rng.integers(0, 3, (5, 60)).astype(float)
    expected = [roc_auc_score(truth, predicted, sample_weight=w) for w in weights]
    drawn = Weights(weights, np.arange(60))
    assert measure.roc_auc(drawn, truth, predicted) == pytest.approx(expected)


def test_cell_compares_on_the_same_rows() -> None:
    rows = rows_of(56)
    truth = {row.key: row.targets["quality"] for row in rows}
    near = {key: min(value + 0.1, 4.0) for key, value in truth.items()}
    constant = dict.fromkeys(truth, 2.0)
    report = measure.cell(
        rows,
        SCHEMA["quality"],
        {"model": {"quality": near}, "ridge": {"quality": truth}, "mean": {"quality": constant}},
        2.0,
    )
    assert report["ridge"]["mae"]["value"] == 0
    assert report["model_minus_ridge"]["mae"]["value"] == pytest.approx(report["model"]["mae"]["value"])
    assert report["model_minus_mean"]["mae"]["high"] < 0
    assert (report["n"], report["groups"]) == (56, 14)


def scored(identifier: str, context: str, response: str, quality: float, toxicity: float) -> Conversation:
    means = {a.name: float(a.minimum) for a in SCHEMA} | {"quality": quality, "toxicity": toxicity}
    scores = {name: Score(value, 0.1) for name, value in means.items()}
    values = {a.name: a.round(means[a.name]) for a in SCHEMA}
    reply = Message("assistant", response, attributes=values, scores=scores, labelled_by="model:x")
    return Conversation(identifier, (Message("user", context), reply), "hh_rlhf", context)


def test_preferences_point_to_the_better_end() -> None:
    conversations = []
    for i in range(10):
        better = i < 8
        conversations.append(scored(f"p-{i}-chosen", f"q{i}", "a", 3.0 if better else 1.0, 0.0 if better else 1.0))
        conversations.append(scored(f"p-{i}-rejected", f"q{i}", "bb", 2.0, 0.5))
    out = measure.preferences(conversations, SCHEMA)
    assert out["pairs"] == 10
    assert out["quality"]["share_better"]["value"] == pytest.approx(0.8)
    assert out["toxicity"]["share_better"]["value"] == pytest.approx(0.8)
    assert out["natural"]["share_better"]["value"] == pytest.approx(0.5)
    assert out["longer"]["share_better"]["value"] == 0
    assert out["quality"]["minus_shorter"]["value"] == pytest.approx(-0.2)  # the chosen one is always the shorter


def test_ranks_within_siblings(tmp_path: Path) -> None:
    trees = tmp_path / "trees.jsonl"
    lines, conversations = [], []
    for i in range(6):
        texts = ["best reply", "second", "worst one of all"]
        replies = [{"role": "assistant", "text": t, "rank": r, "replies": []} for r, t in enumerate(texts)]
        lines.append(json.dumps({"prompt": {"role": "prompter", "text": f"q{i}", "replies": replies}}))
        # the first two are always in order, the third is last in all trees but one
        qualities = (3.0, 2.0, 2.5 if i == 0 else 1.0)
        conversations += [
            scored(f"t{i}-{k}", f"q{i}", t, q, 0.0) for k, (t, q) in enumerate(zip(texts, qualities, strict=True))
        ]
    trees.write_text("\n".join(lines))
    out = measure.ranks(conversations, trees)
    assert (out["sibling_sets"], out["sibling_pairs"], out["replies_without_score"]) == (6, 18, 0)
    assert out["spearman_within"]["quality"]["value"] == pytest.approx((5 * 1.0 + 0.5) / 6)
    assert out["pairs_in_order"]["quality"]["value"] == pytest.approx(17 / 18)
    lengths = out["spearman_within"]["length"]["value"]
    assert out["beyond_length"]["value"] == pytest.approx((5 * 1.0 + 0.5) / 6 - lengths)


def test_distributions_count_a_repeated_turn_once() -> None:
    out = measure.distributions([scored("a", "q", "x", 3.0, 0.0), scored("b", "q", "x", 3.0, 0.0)], SCHEMA)
    assert (out["records"], out["distinct_turns"]) == (2, 1)
    assert out["quality"]["histogram"] == {"0": 0, "1": 0, "2": 0, "3": 1, "4": 0}


def test_schema_is_that_of_the_recipe() -> None:
    assert isinstance(SCHEMA, AttributeSchema)
    assert SCHEMA["natural"].minimum == 1
