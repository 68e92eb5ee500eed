"""Stored reviews of answer pairs, as QLoRA published them: who is who, the verdicts, and what could not be parsed.

A file `A-vs-B-gpt4-reviewer.jsonl` holds reviews of two systems' answers, always in one order. The name says which two,
but not reliably which came first: in most of QLoRA's relative files the order is the reverse of the name. So the
answers' ids decide: the side of a file that holds mostly the same answers as a side of A-vs-C is A's. (Mostly: equal
texts, such as empty answers, have equal ids, whoever gave them.)
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from steerlm.errors import UserError, did_you_mean
from steerlm.statistics.rankings import Match
from steerlm.statistics.score_ratios import ScoredPair
from steerlm.storage.files import parse_json_line, read_lines

_REVIEWER = re.compile(r"-gpt-?[\d.]+(?:-turbo)?-reviewer(?:-threeclass)?$")
_GENERATIONS = re.compile(r"^answer-|-vicuna-generations-[\w.-]*$")
_SIDES = ("answer1_id", "answer2_id")
_OUTCOMES = {1: 1.0, 2: 0.0, 3: 0.5}


@dataclass(frozen=True)
class Review:
    """One review of two answers.

    Attributes:
        path: the file.
        line: in the file, from 1.
        prompt: id of the question.
        first: system whose answer was shown first.
        second: system whose answer was shown second.
        text: what the reviewer wrote.
        score: as stored: two scores (relative) or 1, 2, 3 (pairwise); None where the output had not been parsed.
    """

    path: Path
    line: int
    prompt: str
    first: str
    second: str
    text: str
    score: tuple[float, float] | int | None


def read_relative_reviews(paths: Sequence[Path], authors: Mapping[str, str] | None = None) -> list[Review]:
    """Read reviews with a score for each of two answers; `[-1, -1]` is an output that was not parsed, 0 a score.

    Args:
        paths: JSONL files named `A-vs-B-….jsonl`; read those of one study together.
        authors: answer id -> system, where the files alone do not say whose an answer is.

    Raises:
        UserError: a file whose name or rows are of another form, or answers whose author cannot be told.
    """
    return _read(paths, authors or {}, _relative_score)


def read_pairwise_reviews(paths: Sequence[Path], authors: Mapping[str, str] | None = None) -> list[Review]:
    """Read three-way verdicts: 1 the first is better, 2 the second, 3 a tie, -1 not parsed.

    Otherwise as `read_relative_reviews`.
    """
    return _read(paths, authors or {}, _verdict)


def review_matches(reviews: Sequence[Review]) -> list[Match]:
    """Return the verdicts; of two scores the higher wins. Reviews that were not parsed are left out: count them."""
    matches = []
    for review in reviews:
        if isinstance(review.score, tuple):
            first, second = review.score
            outcome = 0.5 if first == second else float(first > second)
        elif review.score is not None:
            outcome = _OUTCOMES[review.score]
        else:
            continue
        matches.append(Match(review.prompt, review.first, review.second, outcome))
    return matches


def review_scores(reviews: Sequence[Review]) -> list[ScoredPair]:
    """Return the scores of relative reviews; those that were not parsed are left out: count them."""
    scored = [(review, review.score) for review in reviews if isinstance(review.score, tuple)]
    return [ScoredPair(review.prompt, review.first, review.second, *score) for review, score in scored]


@dataclass(frozen=True)
class _File:
    """A file of reviews: the two systems of its name, and its rows with their line numbers."""

    path: Path
    names: frozenset[str]
    rows: tuple[tuple[int, Mapping[str, Any]], ...]

    def side(self, key: str) -> frozenset[str]:
        return frozenset(str(row[key]) for _, row in self.rows)


_Score = tuple[float, float] | int | None


def _read(paths: Sequence[Path], authors: Mapping[str, str], parse: Callable[[Any, str], _Score]) -> list[Review]:
    files = [_read_file(path) for path in paths]
    reviews = []
    for file, (first, second) in zip(files, _sides(files, authors), strict=True):
        for line, row in file.rows:
            score = parse(row["score"], f"{file.path}:{line}")
            prompt, text = str(row["question_id"]), str(row.get("text", ""))
            reviews.append(Review(file.path, line, prompt, first, second, text, score))
    return reviews


def _read_file(path: Path) -> _File:
    names = _REVIEWER.sub("", path.name.removesuffix(".gz").removesuffix(".jsonl")).split("-vs-")
    names = [_GENERATIONS.sub("", name) for name in names]
    if len(names) != 2 or names[0] == names[1]:
        raise UserError(f"{path}: the name of a file of reviews is A-vs-B-gpt4-reviewer.jsonl, A and B two systems")
    rows = []
    for number, line in read_lines(path):
        row = parse_json_line(line, path, number)
        missing = [key for key in ("question_id", *_SIDES, "score") if not isinstance(row, dict) or key not in row]
        if missing:
            raise UserError(f"{path}:{number}: a review without {missing[0]!r}; is this a file of reviews?")
        rows.append((number, row))
    if not rows:
        raise UserError(f"{path} holds no reviews")
    return _File(path, frozenset(names), tuple(rows))


def _sides(files: Sequence[_File], authors: Mapping[str, str]) -> list[tuple[str, str]]:
    """Tell per file whose answers were shown first and whose second."""
    sides = [(f, key, file.side(key)) for f, file in enumerate(files) for key in _SIDES]
    candidates: dict[tuple[int, str], frozenset[str]] = {}
    for f, key, answers in sides:
        same = [files[g].names for g, _, others in sides if _mostly_equal(answers, others)]
        known = Counter(authors[answer] for answer in answers if answer in authors)
        allowed = frozenset(name for name, count in known.items() if count > len(answers) / 2) or files[f].names
        candidates[f, key] = frozenset.intersection(*same, allowed)
    for f, file in enumerate(files):
        for one, other in (_SIDES, _SIDES[::-1]):
            if len(candidates[f, one]) == 1:
                candidates[f, other] -= candidates[f, one]
        found = [candidates[f, key] for key in _SIDES]
        if not all(found):
            unknown = sorted({authors[a] for key in _SIDES for a in file.side(key) if a in authors} - file.names)
            hint = (
                f": {unknown[0]!r} is neither of them; {did_you_mean(unknown[0], sorted(file.names))}"
                if unknown
                else ""
            )
            raise UserError(
                f"{file.path}: its answers are not those of the two systems in its name, {_and(file.names)}{hint}"
            )
        if any(len(names) > 1 for names in found):
            raise UserError(
                f"{file.path}: cannot tell which answers are whose of {_and(file.names)}: no other file here holds the "
                "same answers; read the files of one study together, or give the authors of the answers"
            )
    return [(min(candidates[f, _SIDES[0]]), min(candidates[f, _SIDES[1]])) for f in range(len(files))]


def _mostly_equal(one: frozenset[str], other: frozenset[str]) -> bool:
    return 2 * len(one & other) > min(len(one), len(other))


def _and(names: frozenset[str]) -> str:
    return " and ".join(sorted(names))


def _relative_score(raw: Any, place: str) -> tuple[float, float] | None:
    if not isinstance(raw, list) or len(raw) != 2 or not all(isinstance(x, int | float) for x in raw):
        raise UserError(f"{place}: score {raw!r} is not a pair of numbers")
    if raw == [-1, -1]:
        return None
    if min(raw) < 0:
        raise UserError(f"{place}: score {raw!r}: only [-1, -1], not parsed, may be negative")
    return float(raw[0]), float(raw[1])


def _verdict(raw: Any, place: str) -> int | None:
    if raw not in (*_OUTCOMES, -1) or isinstance(raw, bool):
        raise UserError(f"{place}: score {raw!r} is none of 1, 2, 3 (tie) and -1 (not parsed)")
    return None if raw == -1 else int(raw)
