"""Levels of measures and classifiers: where they are cut, what has none, and what is refused before work begins."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import BertForSequenceClassification, BertTokenizerFast, pipeline

from steerlm.attributes import Attribute, AttributeSchema
from steerlm.config import ClassifierConfig
from steerlm.conversation import Message
from steerlm.errors import UserError
from steerlm.scorers.classifiers import ClassifierScorer
from steerlm.scorers.dials import check_dials, fit_dials, open_dials, open_measures, tellers, without_own_measures
from steerlm.scorers.labelling import open_labels
from steerlm.scorers.levels import quantile_cuts, score_of
from tests.scorers.test_classifiers import save


def schema(*rows: dict[str, object]) -> AttributeSchema:
    return AttributeSchema.from_dict(rows)


def turn(text: str, before: str = "Please go on, and tell me about it.") -> tuple[Message, ...]:
    return Message("user", before), Message("assistant", text)


WORDS = {"name": "length", "measure": "words"}
TURNS = [turn(" ".join(["word"] * n)) for n in range(1, 101)]


def test_quantiles_fill_the_levels_evenly() -> None:
    fitted, undefined = fit_dials(schema(WORDS), TURNS)
    assert fitted["length"].cuts == (21, 41, 61, 81)
    assert undefined == {"length": 0}
    rows = open_dials(fitted)[0].score(TURNS)
    levels = [fitted["length"].round(row["length"].mean) for row in rows]
    assert np.bincount(levels).tolist() == [20] * 5


def test_a_common_figure_has_a_level_of_its_own() -> None:
    figures = [0.0] * 90 + [1.0] * 5 + [2.0] * 3 + [7.0, 9.0]
    assert quantile_cuts(Attribute("x", measure="emoji", maximum=2), figures) == (1, 2)
    assert quantile_cuts(Attribute("x", measure="emoji", maximum=4), figures) == (1, 2, 5, 8)


def test_figures_too_few_or_constant_are_refused() -> None:
    with pytest.raises(UserError, match=r"'x': emoji is 0 on all 300 turns looked at: a dial cannot be learned"):
        quantile_cuts(Attribute("x", measure="emoji"), [0.0] * 300)
    with pytest.raises(UserError, match=r"only 3 different values on 4 turns.*set maximum: 2, or cuts"):
        quantile_cuts(Attribute("x", measure="emoji"), [0.0, 1.0, 2.0, 2.0])


@pytest.mark.parametrize("cuts", [(1.5, 3.0, 10.0, 11.0), (-0.25, 0.0, 0.125, 4.0)])
def test_rounding_a_score_gives_the_level_of_its_figure(cuts: tuple[float, ...]) -> None:
    attribute = Attribute("x", measure="words", cuts=cuts)
    figures = [-1e6, *(cut + d for cut in cuts for d in (-1e-13, 0.0, 1e-13)), 1e6]
    for figure in figures:
        level = sum(figure >= cut for cut in cuts)
        assert attribute.round(score_of(attribute, figure).mean) == level, figure
    means = [score_of(attribute, x).mean for x in np.linspace(-3, 15, 200)]
    assert means == sorted(means)
    assert min(means) >= 0
    assert max(means) <= 4


def test_two_levels() -> None:
    attribute = Attribute("x", measure="questions", maximum=1, cuts=(0.5,))
    assert [score_of(attribute, x).mean for x in (0, 0.5, 3)] == [0, 1, 1]


def test_what_a_text_does_not_define_is_missing_and_counted() -> None:
    turns = [*TURNS, turn("..."), turn("ສະບາຍດີ")]
    wanted = schema(WORDS, {"name": "diversity", "measure": "mtld", "maximum": 1})
    turns += [turn("the cat and the dog and the cat and the bird and a fish " * n) for n in (1, 2)]
    fitted, undefined = fit_dials(wanted, turns)
    assert undefined["length"] == 1
    assert undefined["diversity"] > 1
    assert open_dials(fitted)[0].score([turn("ສະບາຍດີ")]) == [{}]
    assert open_labels(fitted, None).score([turn("ສະບາຍດີ")]) == [None]


TOPIC = {"name": "topic", "categories": ["food", "travel"]}
LANGUAGE = {"name": "language", "measure": "language", "categories": ["en", "de"]}
GERMAN = turn("Das ist ein sehr schöner Tag, und ich freue mich.")
ENGLISH = turn("It is a beautiful day, and I am happy about it.")
FRENCH = turn("C'est une très belle journée, et je suis content.")


def test_categories() -> None:
    fitted, _ = fit_dials(schema(LANGUAGE), [GERMAN, ENGLISH, FRENCH])
    labels = open_labels(fitted, None)
    scores = labels.score([GERMAN, ENGLISH, FRENCH])
    assert [row and labels.values(row) for row in scores] == [{"language": "de"}, {"language": "en"}, None]
    assert labels.labelled_by(["language"]) == "measure:language"
    with pytest.raises(UserError, match=r"none of the 1 turns looked at is 'de'; commonest: en"):
        fit_dials(schema(LANGUAGE), [ENGLISH])


def test_a_short_reply_is_in_the_language_of_the_conversation() -> None:
    short = turn("Ja.", "Kannst du mir bitte sagen, ob der Zug heute fährt?")
    grade = open_measures(schema({"name": "grade", "measure": "flesch_kincaid_grade", "cuts": [0, 1, 2, 3]}))
    assert grade.figures(short)["grade"] is not None
    assert open_measures(schema(LANGUAGE)).figures(short)["language"] is None


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"name": "x", "measure": "wrds"}, "did you mean 'words'"),
        ({"name": "x", "measure": "language"}, "says a category; list those"),
        ({"name": "x", "measure": "words", "categories": ["a", "b"]}, "says a number, which is none of the categories"),
        ({**LANGUAGE, "categories": ["en", "klingon"]}, "valid: af, am"),
        ({"name": "x", "measure": "no_module_of_mine:f"}, "no module 'no_module_of_mine'"),
        ({"name": "x", "classifier": {"model": "/nowhere/at/all", "label": "toxic"}}, "no such model folder: /nowhere"),
    ],
)
def test_what_cannot_work_is_refused(row: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_dials(schema(row))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({**WORDS, "cuts": [5, 3, 8, 9]}, "cuts rise, but 3 stands behind 5"),
        ({**WORDS, "cuts": [5, 5]}, "cuts rise, but 5 stands behind 5"),
        ({**WORDS, "cuts": [1, 2], "maximum": 4}, "2 cuts make 3 levels, but 0..4 has 5"),
        ({**WORDS, "cuts": "1,2"}, "cuts are a list of rising numbers"),
        ({**WORDS, "cuts": [1, "2"]}, "a cut is a finite number, got '2'"),
        ({"name": "x", "cuts": [1, 2]}, "cuts belong to a measure or a classifier"),
        ({**WORDS, "judge": {"ratings": 5}}, "one of measure, judge says its value"),
        ({"name": "x", "judge": {"ratings": 0}}, "judge.ratings is a positive whole number, got 0"),
        ({"name": "x", "judge": {"rating": 5}}, "judge is {ratings: …}"),
        ({"name": "x", "classifier": {"model": "m"}}, "classifier is {model: …, label: …}"),
        ({"name": "x", "classifier": {"model": "m", "label": ""}}, "classifier.label is text"),
        ({"name": "x", "classifier": {"model": "m", "labels": {"a": "b"}}}, "classifier is {model: …, label: …}"),
        ({**TOPIC, "classifier": {"model": "m", "label": "a"}}, "else {model: …, labels: {LABEL: category}}"),
        ({**TOPIC, "classifier": {"model": "m", "labels": {"a": "fod"}}}, "'a' means 'fod': did you mean 'food'"),
        ({**TOPIC, "classifier": {"model": "m", "labels": ["a"]}}, "classifier.labels is a mapping of text"),
        ({**TOPIC, "classifier": {"labels": {"a": "food"}}}, "classifier is {model: …, labels: …}"),
    ],
)
def test_a_schema_that_says_nonsense(row: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        schema(row)


def test_a_schema_says_who_says_what_and_keeps_it() -> None:
    whole = schema(
        {**WORDS, "cuts": [3, 5]},
        {"name": "toxicity", "best": "min", "classifier": {"model": "m", "label": "toxic"}},
        {"name": "warmth", "judge": {"ratings": 7}, "low": "cold", "high": "warm"},
        {"name": "quality"},
    )
    assert [attribute.said_by for attribute in whole] == ["measure", "classifier", "judge", "people"]
    assert whole["length"].maximum == 2
    assert AttributeSchema.from_dict(whole.to_dict()) == whole
    assert whole.learned is not None
    assert whole.learned.names == ("warmth", "quality")
    assert schema(WORDS).learned is None


def test_cuts_of_a_recipe_that_all_texts_miss_are_refused() -> None:
    with pytest.raises(UserError, match=r"lie between 1 and 100, on one side of every cut \(200, 300\)"):
        fit_dials(schema({**WORDS, "cuts": [200, 300]}), TURNS)
    with pytest.raises(UserError, match="words is 5 on all 3 turns looked at"):
        fit_dials(schema({**WORDS, "cuts": [2, 3]}), [TURNS[4]] * 3)


def test_a_measure_stays_independent_of_the_labels_that_it_set() -> None:
    (measures,) = open_dials(schema({**WORDS, "cuts": [3, 5]}))
    assert measures.independent_of({"measure:words", measures.who})
    assert tellers(schema(WORDS), [measures]) == {"length": "measure:words"}


def test_own_functions_of_a_strangers_checkpoint_are_not_called() -> None:
    harmless = without_own_measures(schema({"name": "x", "measure": "os:system", "cuts": [1, 2]}, WORDS))
    assert [a.measure for a in harmless] == ["", "words"]
    assert harmless.signature == "x:0-2,length:0-4"


@pytest.fixture
def classifier(tmp_path: Path) -> Path:
    return save(tmp_path / "classifier", ["fine", "toxic", "insult"])


def test_a_classifier_says_attributes_at_quantiles_of_its_probabilities(classifier: Path) -> None:
    told = [turn(" ".join(words)) for words in itertools.permutations(["you", "are", "awful", "cat", "funny"], 3)]
    told += [turn("you are")] * 3
    rows = [
        {"name": label, "classifier": {"model": str(classifier), "label": label}, "maximum": 2}
        for label in ("toxic", "insult")
    ]
    fitted, undefined = fit_dials(schema(*rows, WORDS | {"cuts": [1, 3]}), told)
    assert undefined == {"toxic": 0, "insult": 0, "length": 0}
    labels = open_labels(fitted, None)
    scores = labels.score(told)
    levels = [labels.values(row)["toxic"] for row in scores if row is not None]
    assert np.bincount(levels).tolist() == [21, 21, 21]
    alone = ClassifierScorer(ClassifierConfig(model=str(classifier), labels={"toxic": "toxic"}), fitted)
    probability = [fitted["toxic"].to_unit(row["toxic"].mean) for row in alone.score(told) if row is not None]
    assert [sum(p >= cut for cut in fitted["toxic"].cuts) for p in probability] == levels
    who = labels.labelled_by(["length", "toxic"])
    assert isinstance(who, dict)
    assert who["length"] == "measure:words"
    assert who["toxic"].startswith("classifier:")
    (_, scorer) = open_dials(fitted)
    assert not scorer.independent_of({who["toxic"]})


def _spread(folder: Path, texts: list[str]) -> None:
    """Change a classifier so that each of its labels is the likeliest of some texts."""
    model, tokenizer = BertForSequenceClassification.from_pretrained(folder), BertTokenizerFast.from_pretrained(folder)
    with torch.no_grad():
        logits = torch.cat([model(**tokenizer(text, return_tensors="pt")).logits for text in texts])
        model.classifier.bias.sub_(logits.mean(dim=0)).mul_(20)
        model.classifier.weight.mul_(20)
    model.save_pretrained(folder)


def test_a_classifier_says_categories(tmp_path: Path) -> None:
    folder = save(tmp_path / "topics", ["LABEL_0", "food", "LABEL_2", "weather"], context=16)
    texts = [" ".join(words) for words in itertools.permutations(["you", "are", "awful", "cat", "funny"], 3)]
    _spread(folder, texts)
    said = {"model": str(folder), "labels": {"LABEL_0": "travel", "LABEL_2": "travel"}}
    wanted = schema({**TOPIC, "classifier": said})
    assert AttributeSchema.from_dict(wanted.to_dict()) == wanted
    texts += [" ".join([*text.split(), *["the", "sat", "laughed"] * 12]) for text in texts[:5]]  # several windows
    told = [turn(text) for text in [*texts, " "]]
    classify = pipeline("text-classification", model=str(folder), top_k=None)
    expected: list[dict[str, float] | None] = []
    for text in texts:
        words = text.split()
        windows = [words[i : i + 14] for i in range(0, len(words), 14)]  # two of the sixteen are [CLS] and [SEP]
        rows = [{row["label"]: row["score"] for row in classify([" ".join(part)])[0]} for part in windows]
        mean = {label: sum(row[label] for row in rows) / len(rows) for label in rows[0]}
        travel = mean["LABEL_0"] + mean["LABEL_2"]
        known = max(travel, mean["food"]) > mean["weather"]
        expected.append(
            {"food": mean["food"] / (travel + mean["food"]), "travel": travel / (travel + mean["food"])}
            if known
            else None
        )
    assert len({row and max(row, key=row.__getitem__) for row in expected}) == 3, "food, travel, neither"
    fitted, undefined = fit_dials(wanted, told)
    assert undefined == {"topic": expected.count(None) + 1}, "what is neither, and the answer without text"
    labels = open_labels(fitted, None, "fp32")
    for row, wished in zip(labels.score(told), [*expected, None], strict=True):
        if wished is None:
            assert row is None
            continue
        assert row is not None
        assert row["topic"].probabilities == pytest.approx(wished, abs=1e-4)
        assert labels.values(row) == {"topic": max(wished, key=wished.__getitem__)}
    who = labels.labelled_by(["topic"])
    assert str(who).startswith("classifier:")
    assert not open_dials(fitted)[0].independent_of({str(who)})


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({}, r"has no label 'travel': .*valid: food, trip.*labels: \{LABEL: travel\}"),
        ({"tripp": "travel"}, r"has no label 'tripp': did you mean 'trip'"),
    ],
)
def test_a_classifier_without_a_category(labels: dict[str, str], message: str, tmp_path: Path) -> None:
    folder = save(tmp_path / "topics", ["food", "trip"])
    said = {"model": str(folder), **({"labels": labels} if labels else {})}
    with pytest.raises(UserError, match=message):
        check_dials(schema({**TOPIC, "classifier": said}))


def test_a_classifier_without_the_label(classifier: Path) -> None:
    with pytest.raises(UserError, match=r"has no label 'toxick': did you mean 'toxic'"):
        check_dials(schema({"name": "x", "classifier": {"model": str(classifier), "label": "toxick"}}))
