from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steerlm.attributes import Attribute
from steerlm.scorers.llm.parsing import (
    Parsed,
    parse,
    parse_letter,
    parse_level,
    parse_rating,
    parse_score_pair,
    parse_three_way,
)
from steerlm.scorers.llm.protocols import PROMPTS

HUMOR = Attribute("humor")
LANG = Attribute("lang", kind="categorical", categories=("en", "de"))


@pytest.mark.parametrize(
    ("text", "scores"),
    [
        ("8 6\nGood.", (8, 6)),
        ("8.5, 9\nGood.", (8.5, 9)),
        ("\n 10 10 \nGood.", (10, 10)),
        ("(7, 3)\nGood.", (7, 3)),
        ("0 5\nNo answer.", (0, 5)),
        ("I solve it: x = 3.\n\n(10, 1)", (10, 1)),
        ("I solve it.\nOutput: (1, 10)", (1, 10)),
        ("The point (9, 4) is wrong.\n\nScores:\nAssistant 1: 10\nAssistant 2: 2\n\nThe first is better.", (10, 2)),
        ("Assistant 1: 9 (right, but a slip)\nAssistant 2: 1 (wrong)", (9, 1)),
        ("Assistant 1: 2/10 (wrong)\n\nAssistant 2: 10/10", (2, 10)),
        ("Scores: (Assistant 1: 4, Assistant 2: 10)", (4, 10)),
        ("**Assistant 1:** 7\n**Assistant 2:** 8", (7, 8)),
        ("Assistant 1:\n1. f(2) = 39\nAssistant 2:\n1. f(2) = 4\nScores: (9, 3)", (9, 3)),
        ("I would give Assistant 1 a score of 9 and Assistant 2 a score of 8.5.", (9, 8.5)),
        ("The output Python tuple is (9, 10).", (9, 10)),
    ],
)
def test_score_pairs(text: str, scores: tuple[float, float]) -> None:
    first, second = scores
    outcome = 0.5 if first == second else float(first > second)
    assert parse("vicuna-math", text) == Parsed(scores, outcome)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "empty output"),
        ("  \n", "empty output"),
        ("Both are good.", "no two scores"),
        ("The endpoints are (10, 4) and (2, -2); the length is 10.", "no two scores"),
        ("Assistant 1: 8\nThat is all.", "no two scores"),
        ("8 6 7\nThree of them.", "no two scores"),
        ("80 60\nPercent.", "off the scale"),
        ("Assistant 1: 8\nAssistant 2: 6\n\nOutput: (6, 8)", "contradicting scores"),
        ("I give Assistant 1 a score of 9 and Assistant 2 a score of 2.\n(2, 9)", "contradicting scores"),
        ("8-6\nA difference.", "no two scores"),
        ("Assistant 1: 10 - 2 = 8 is wrong.\nAssistant 2: 10 - 2 = 8", "no two scores"),
    ],
)
def test_no_score_pair_is_guessed(text: str, problem: str) -> None:
    parsed = parse("vicuna-general", text)
    assert problem in parsed.problem
    assert (parsed.scores, parsed.outcome) == ((), None)


def test_an_output_that_was_cut_off_counts_only_by_its_first_line() -> None:
    assert parse("vicuna-general", "8 6\nThe first is bet", finish_reason="length").scores == (8, 6)
    for kind, text in (
        ("vicuna-math", "Assistant 1: 8\nAssistant 2: 6\nBut on a second loo"),
        ("pair-v2", "If A were right, [[A]] would follow, yet"),
        ("single-v1", "A [[3]] would be harsh, so"),
        ("rubric", "humor: [[4]] seems hi"),
    ):
        parsed = parse(kind, text, HUMOR, finish_reason="length")
        assert parsed.problem == "cut off before its verdict"


def test_thinking_does_not_count() -> None:
    thinking = "<think>\nSay, Assistant 1: 2, Assistant 2: 9, [[B]], [[1]].\n</think>\n\n"
    assert parse("vicuna-general", thinking + "8 6\nThe first.").scores == (8, 6)
    assert parse("pair-v2", thinking + "[[A]]").outcome == 1.0
    for kind in ("vicuna-math", "pair-v2", "single-v1", "rubric"):
        assert parse(kind, thinking + "They are fine.", HUMOR).problem.startswith("no ")
        assert parse(kind, thinking[:-12], HUMOR).problem == "cut off while thinking"
        assert parse(kind, thinking, HUMOR).problem == "empty output (finish reason stop)"


@given(st.text() | st.text(alphabet="()[]AB12,.: \n0Assistant<think>/"), st.sampled_from([*PROMPTS, "rubric"]))
def test_any_output_has_a_verdict_in_range_or_a_problem(text: str, kind: str) -> None:
    parsed = parse(kind, text, HUMOR)
    assert bool(parsed.problem) == (not parsed.scores and parsed.outcome is None)
    assert all(0 <= score <= (4 if kind == "rubric" else 10) for score in parsed.scores)


def test_long_outputs_are_read_in_linear_time() -> None:
    for piece in ("Assistant 1: ", "[[", "(1, ", "rating ", "1 ", "tuple "):
        for kind in ("vicuna-math", "pair-v2", "single-v1", "rubric"):
            parse(kind, piece * 100_000, HUMOR)


@pytest.mark.parametrize(
    ("text", "outcome"),
    [
        ("A is better: [[A]]", 1.0),
        ("[[B]]", 0.0),
        ("A tie. [[C]]\n", 0.5),
        ("Assistant B answers 'My verdict is [[B]]', but that is a trick. [[A]]", 1.0),
        ("[[ A ]]", 1.0),
        ("[A]", None),
        ("[[D]]", None),
        ("Assistant A is better.", None),
        ("[[a]]", None),
    ],
)
def test_letters(text: str, outcome: float | None) -> None:
    parsed = parse_letter(text)
    assert parsed.outcome == outcome
    assert bool(parsed.problem) == (outcome is None)


@pytest.mark.parametrize(
    ("text", "rating"),
    [
        ("Rating: [[5]]", 5),
        ("Rating: [[7.5]]", 7.5),
        ("The answer says 'Rating: [[10]]'. It is wrong. Rating: [[1]]", 1),
        ("Rating: [6]", 6),
        ("See [6] for details.", None),
        ("Rating: 6", None),
        ("Rating: [[11]]", None),
        ("Rating: [[high]]", None),
    ],
)
def test_ratings(text: str, rating: float | None) -> None:
    parsed = parse_rating(text)
    assert parsed.scores == (() if rating is None else (rating,))
    assert bool(parsed.problem) == (rating is None)


@pytest.mark.parametrize(
    ("attribute", "text", "level", "problem"),
    [
        (HUMOR, "Two jokes.\nhumor: [[3]]", 3, ""),
        (HUMOR, "It asks for [[4]]. None.\nhumor: [[0]]", 0, ""),
        (HUMOR, "humor: [[2.5]]", 2.5, ""),
        (HUMOR, "humor: [[5]]", None, "5 is off the scale 0..4"),
        (HUMOR, "humor: [[high]]", None, "'high' is not a number"),
        (HUMOR, "humor: [[-1]]", None, "'-1' is not a number"),
        (HUMOR, "humor: 3", None, "no [[rating]]"),
        (LANG, "German.\nlang: [[de]]", 1, ""),
        (LANG, "lang: [[fr]]", None, "'fr' is not one of en, de"),
    ],
)
def test_levels(attribute: Attribute, text: str, level: float | None, problem: str) -> None:
    assert parse_level(text, attribute) == Parsed(() if level is None else (level,), None, problem)


def test_three_way_verdicts_stand_alone_on_the_last_line() -> None:
    assert [parse_three_way(f"Because.\n{n}\n").outcome for n in (1, 2, 3)] == [1.0, 0.0, 0.5]
    for text in ("", "I choose 3.", "1\nBecause.", "4", "1 2"):
        assert parse_three_way(text).outcome is None


# Stored outputs of real judges


def test_stored_score_pairs(shared_data: Path) -> None:
    """QLoRA's 5,760 relative reviews: 5,700 have stored scores, 156 of them read by hand; ours agree with them all.

    The 60 stored as not parsed do state their scores, at the end, as the math prompt asks; each of these parses was
    checked by reading the output.
    """
    kinds = {1: "vicuna-general", 2: "vicuna-coding", 3: "vicuna-math"}
    found: Counter[tuple[str, str]] = Counter()
    for path in sorted((shared_data / "vicuna/ratings/relative").glob("*.jsonl")):
        for line in path.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            parsed = parse(kinds[row["reviewer_id"]], row["text"])
            stored = "not stored" if row["score"] == [-1, -1] else "stored"
            agreed = "same" if list(parsed.scores) == row["score"] else parsed.problem or "other"
            found[stored, agreed] += 1
    assert found == {("stored", "same"): 5700, ("not stored", "other"): 60}


def test_stored_three_way_verdicts(shared_data: Path) -> None:
    """QLoRA's 4,480 three-way reviews: the verdicts, and the very 13 failures, of the published files.

    8 are the word `error` of a failed request. The other 5 say in a sentence that they choose 3 or cannot choose; the
    prompt asks for the number alone on the last line.
    """
    failures = []
    for path in sorted((shared_data / "vicuna/ratings/pairwise").glob("*.jsonl")):
        names = path.name.replace("-vicuna-generations-topp0.9-temp0.7", "").split("-gpt-4-reviewer")[0]
        for line in path.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            parsed = parse_three_way(row["text"])
            assert parsed.outcome == {1: 1.0, 2: 0.0, 3: 0.5, -1: None}[row["score"]]
            if parsed.problem:
                failures.append((names, row["question_id"], row["text"] == "error"))
    in_words = [
        ("13b-guanaco-vs-7b-guanaco", 70),
        ("13b-guanaco-vs-answer-gpt4", 67),
        ("65b-guanaco-vs-answer-vicuna-13b", 69),
        ("7b-guanaco-vs-answer-vicuna-13b", 69),
        ("answer-bard-vs-13b-guanaco", 69),
    ]
    assert [failure[:2] for failure in failures if not failure[2]] == in_words
    failed = [("7b-guanaco-vs-30b-guanaco", question) for question in (10, 16, 18, 25, 30, 38, 50, 51)]
    assert [failure[:2] for failure in failures if failure[2]] == failed


def test_stored_prometheus_feedback_states_no_verdict_and_none_is_guessed(shared_data: Path) -> None:
    """Prometheus' 1,920 GPT-4 feedbacks are stored without their scores, which stand beside them; all 1,920 are 1..5.

    Some speak of scores in passing. One kept its `[RESULT] Score: 1`, a form that our rubric does not ask for.
    """
    quality = Attribute("quality", minimum=1, maximum=5)
    problems: Counter[str] = Counter()
    scores: Counter[int] = Counter()
    in_passing = []
    for name in ("vicuna_eval", "mt_bench_eval"):
        for row in json.loads((shared_data / f"prometheus_eval/{name}.json").read_text(encoding="utf-8")):
            scores.update(row["gpt4_score"])
            for text in row["gpt4_feedback"]:
                problems[parse("rubric", text, quality).problem] += 1
                problems[parse("single-v1", text).problem] += 1
                in_passing += re.findall(r"score of \d", text)
    assert problems == {"no [[rating]]": 3840}
    assert len(in_passing) == 20
    assert sorted(scores) == [1, 2, 3, 4, 5]
    assert sum(scores.values()) == 1920


def test_stored_vicuna_blog_reviews(shared_data: Path) -> None:
    """The original Vicuna reviews; the folder was announced but did not come with the data."""
    files = sorted((shared_data / "vicuna_blog_eval").rglob("*review*.jsonl"))
    if not files:
        pytest.skip(f"no original Vicuna reviews at {shared_data / 'vicuna_blog_eval'}")
    for path in files:
        for line in path.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            parsed = parse_score_pair(row["text"])
            if row["score"] != [-1, -1]:
                assert list(parsed.scores) == row["score"], (path.name, row["question_id"])
