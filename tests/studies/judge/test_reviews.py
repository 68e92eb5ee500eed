"""Stored reviews: who is who whatever the file's name says, what was not parsed, and refusals."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from steerlm.errors import UserError
from steerlm.scorers.llm.judge import to_matches
from steerlm.statistics.score_ratios import ScoredPair, score_ratios
from steerlm.studies.judge.reviews import read_pairwise_reviews, read_relative_reviews
from steerlm.studies.judge.summary import to_scored_pairs


def write_reviews(path: Path, sides: str, scores: list, first_id: int = 1) -> Path:
    """Reviews of the answers `<side><question>`, in the order of `sides` whatever the file is called."""
    rows = [
        {
            "question_id": q,
            "answer1_id": f"{sides[0]}{q}",
            "answer2_id": f"{sides[1]}{q}",
            "text": f"review {q}",
            "score": score,
        }
        for q, score in enumerate(scores, first_id)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def study(tmp_path) -> list[Path]:
    """Systems a, b against r, and against each other; every second name lies about the order."""
    return [
        write_reviews(tmp_path / "a-vs-r-gpt4-reviewer.jsonl", "ra", [[10, 5], [9, 6], [-1, -1], [8, 8]]),
        write_reviews(tmp_path / "r-vs-a-gpt4-reviewer.jsonl", "ar", [[6, 9], [7, 7], [0, 10], [9, 8]]),
        write_reviews(tmp_path / "b-vs-r-gpt4-reviewer.jsonl", "br", [[9, 9], [3, 6], [2, 8], [4, 8]]),
    ]


def test_the_answers_say_who_was_first_not_the_name(study):
    reviews = read_relative_reviews(study)
    assert [r.systems for r in reviews[::4]] == [("r", "a"), ("a", "r"), ("b", "r")]
    first = reviews[0]
    assert (first.question, first.text, first.scores) == ("1", "review 1", (10.0, 5.0))
    assert (reviews[2].scores, reviews[2].problem) == ((), "stored as not parsed")


def test_equal_answers_of_different_systems_do_not_confuse(tmp_path, study):
    for path, key in ((study[0], "answer2_id"), (study[2], "answer1_id")):
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        rows[1][key] = "the-empty-answer"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert [r.systems for r in read_relative_reviews(study)[1::4]] == [("r", "a"), ("a", "r"), ("b", "r")]


def test_a_file_alone_needs_the_authors(study):
    with pytest.raises(UserError, match="cannot tell which answers are whose of a and r"):
        read_relative_reviews(study[:1])
    reviews = read_relative_reviews(study[:1], {f"r{q}": "r" for q in range(5)})
    assert {r.systems for r in reviews} == {("r", "a")}
    with pytest.raises(UserError, match="not those of the two systems in its name, a and r"):
        read_relative_reviews(study[:1], {f"r{q}": "someone else" for q in range(5)})


def test_percentages_of_a_reference(study):
    ratios = score_ratios(to_scored_pairs(read_relative_reviews(study)), "r")
    assert ratios["a"].reference_first.value == pytest.approx(19 / 27)  # the unparsed row counts on neither side
    assert ratios["a"].system_first.value == pytest.approx(22 / 34)  # a zero is a score
    assert ratios["a"].pooled.value == pytest.approx(41 / 61)
    assert (ratios["a"].pooled.n, ratios["a"].pooled.clusters) == (7, 4)
    assert ratios["b"].reference_first.note == "no data"
    assert ratios["b"].pooled == ratios["b"].system_first


def test_the_interval_of_a_ratio_is_that_of_the_sums():
    pairs = [ScoredPair(str(i), "s", "r", 2.0 * (i % 7), float(i % 7)) for i in range(1, 40)]
    ratio = score_ratios(pairs, "r")["s"].pooled
    assert (ratio.value, ratio.low, ratio.high) == (2.0, 2.0, 2.0)  # proportional: no prompt changes the ratio


def test_matches_of_scores_and_of_verdicts(tmp_path, study):
    matches = to_matches(read_relative_reviews(study))
    assert [m.outcome for m in matches[:3]] == [1.0, 1.0, 0.5]
    assert len(matches) == 11
    verdicts = [
        write_reviews(tmp_path / "x-vs-y-gpt-4-reviewer-threeclass.jsonl", "yx", [1, 2, 3, -1]),
        write_reviews(tmp_path / "answer-z-vs-y-gpt-4-reviewer-threeclass.jsonl", "yz", [1, 1, 1, 1]),
    ]
    reviews = read_pairwise_reviews(verdicts)
    assert [r.outcome for r in reviews[:4]] == [1.0, 0.0, 0.5, None]
    assert [(m.first, m.second, m.outcome) for m in to_matches(reviews)[:4]] == [
        ("y", "x", 1.0), ("y", "x", 0.0), ("y", "x", 0.5), ("y", "z", 1.0)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("score", "read", "message"),
    [
        (4, read_pairwise_reviews, r"4 is none of 1, 2, 3 \(tie\) and -1"),
        ([1, 2], read_pairwise_reviews, r"\[1, 2\] is none of"),
        (3, read_relative_reviews, "3 is not a pair of numbers"),
        ([5, -1], read_relative_reviews, r"only \[-1, -1\], not parsed, may be negative"),
    ],
)
def test_unknown_scores_are_refused_with_their_place(tmp_path, score, read, message):
    path = write_reviews(tmp_path / "x-vs-y-gpt4-reviewer.jsonl", "xy", [score])
    with pytest.raises(UserError, match=message) as error:
        read([path], {"x1": "x", "y1": "y"})
    assert f"{path}:1" in str(error.value)


def test_files_of_another_kind_are_refused(tmp_path):
    with pytest.raises(UserError, match="the name of a file of reviews is A-vs-B"):
        read_relative_reviews([write_reviews(tmp_path / "reviews.jsonl", "xy", [[1, 2]])])
    other = tmp_path / "x-vs-y-gpt4-reviewer.jsonl"
    other.write_text('{"question_id": 1, "text": "an answer"}\n')
    with pytest.raises(UserError, match=r":1: a review without 'answer1_id'"):
        read_relative_reviews([other])
    other.write_text("")
    with pytest.raises(UserError, match="holds no reviews"):
        read_relative_reviews([other])
