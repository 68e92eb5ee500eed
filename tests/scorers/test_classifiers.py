"""External classifiers as scorers, against Hugging Face's own text-classification pipeline."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification, BertTokenizerFast, pipeline

from steerlm.attributes import Attribute, AttributeSchema
from steerlm.checkpoint.models import fingerprint
from steerlm.config import ClassifierConfig
from steerlm.conversation import Message
from steerlm.errors import UserError
from steerlm.scorers.classifiers import ClassifierScorer

SCHEMA = AttributeSchema(
    (
        Attribute("toxicity", best="min"),
        Attribute("humor", maximum=9),
        Attribute("lang", kind="categorical", categories=("en", "de")),
    )
)
WORDS = ["you", "are", "kind", "awful", "funny", "the", "cat", "sat", "and", "laughed"]
TEXTS = ["you are awful", "the cat sat", "you are kind and funny and you laughed", "awful " * 40, "the"]


def save(folder: Path, labels: list[str], problem_type: str | None = None, context: int = 64) -> Path:
    """A tiny classifier with random weights that tell texts apart."""
    folder.mkdir(parents=True)
    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]))
    tokenizer = BertTokenizerFast(str(folder / "vocab.txt"), model_max_length=context)
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=context + 2, initializer_range=0.8, id2label=dict(enumerate(labels)),
        label2id={label: i for i, label in enumerate(labels)}, problem_type=problem_type,
    )  # fmt: skip
    torch.manual_seed(3)
    BertForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def scores(folder: Path, labels: dict[str, str], texts: list[str]) -> list[dict[str, float] | None]:
    scorer = ClassifierScorer(ClassifierConfig(model=str(folder), labels=labels), SCHEMA, "fp32")
    rows = scorer.score([(Message("user", "Hm?"), Message("assistant", text)) for text in texts])
    return [None if row is None else {name: score.mean for name, score in row.items()} for row in rows]


def test_it_is_independent_of_all_but_itself(tmp_path: Path) -> None:
    folder = save(tmp_path / "model", ["fine", "toxic"])
    scorer = ClassifierScorer(ClassifierConfig(model=str(folder), labels={"toxic": "toxicity"}), SCHEMA)
    assert scorer.independent_of(["model:other", "human"])
    assert not scorer.independent_of(["human", scorer.who])
    more = ClassifierConfig(model=str(folder), labels={"toxic": "toxicity", "fine": "humor"}, multi_label=True)
    assert not ClassifierScorer(more, SCHEMA).independent_of([scorer.who]), "the same weights, more of their labels"
    assert not scorer.independent_of([f"model:{fingerprint(folder)}"]), "the annotator given as a classifier"


@pytest.mark.parametrize("problem_type", [None, "single_label_classification", "multi_label_classification"])
def test_probabilities_equal_the_pipeline_s(tmp_path: Path, problem_type: str | None) -> None:
    folder = save(tmp_path / "model", ["fine", "toxic", "insult", "funny"], problem_type)
    found = scores(folder, {"toxic": "toxicity", "insult": "toxicity", "funny": "humor"}, TEXTS)
    classify = pipeline("text-classification", model=str(folder), top_k=None)
    for text, row in zip(TEXTS, found, strict=True):
        by_label = {item["label"]: item["score"] for item in classify([text])[0]}
        joined = max if problem_type == "multi_label_classification" else sum
        assert row is not None
        assert row["toxicity"] == pytest.approx(4 * joined((by_label["toxic"], by_label["insult"])), abs=1e-5)
        assert row["humor"] == pytest.approx(9 * by_label["funny"], abs=1e-5)
    values = [row["toxicity"] for row in found if row is not None]
    assert max(values) - min(values) > 0.1, "the classifier of this test tells texts apart"


def test_a_long_answer_is_read_to_its_end_and_its_worst_window_counts(tmp_path: Path) -> None:
    folder = save(tmp_path / "model", ["fine", "toxic"], context=16)
    window = 14  # two of the sixteen are [CLS] and [SEP]
    pieces = [" ".join(["cat"] * window), " ".join(["awful"] * window), "funny you"]
    together, *alone = scores(folder, {"toxic": "toxicity"}, [" ".join(pieces), *pieces])
    assert together is not None
    assert together["toxicity"] == pytest.approx(max(row["toxicity"] for row in alone if row is not None), abs=1e-5)


def test_answers_without_text_have_no_score(tmp_path: Path) -> None:
    folder = save(tmp_path / "model", ["fine", "toxic"])
    assert scores(folder, {"toxic": "toxicity"}, ["", " \n"]) == [None, None]
    mixed = scores(folder, {"toxic": "toxicity"}, ["", "the cat"])
    assert mixed[0] is None
    assert mixed[1] == scores(folder, {"toxic": "toxicity"}, ["the cat"])[0]


def test_mistakes_are_named(tmp_path: Path) -> None:
    folder = save(tmp_path / "model", ["fine", "toxic"])
    with pytest.raises(UserError, match=r"no label 'toxick': did you mean 'toxic'\? \(valid: fine, toxic\)"):
        scores(folder, {"toxick": "toxicity"}, [])
    with pytest.raises(UserError, match=r"unknown attribute 'toxicty': did you mean 'toxicity'"):
        scores(folder, {"toxic": "toxicty"}, [])
    with pytest.raises(UserError, match="'lang' is categorical"):
        scores(folder, {"toxic": "lang"}, [])
    with pytest.raises(UserError, match="regression model, not a classifier"):
        scores(save(tmp_path / "regression", ["a", "b"], "regression"), {"a": "humor"}, [])
    (folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"no \*\.safetensors weights"):
        scores(folder, {"toxic": "toxicity"}, ["the cat"])
    with pytest.raises(UserError, match=r"no such model folder: .*nowhere"):
        scores(tmp_path / "nowhere", {"toxic": "toxicity"}, [])
