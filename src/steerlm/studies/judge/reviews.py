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
from steerlm.scorers.llm.judge import Judgement
from steerlm.scorers.llm.parsing import THREE_WAY, Parsed
from steerlm.storage.files import read_objects

_REVIEWER = re.compile(r"-gpt-?[\d.]+(?:-turbo)?-reviewer(?:-threeclass)?$")
_GENERATIONS = re.compile(r"^answer-|-vicuna-generations-[\w.-]*$")
_SIDES = ("answer1_id", "answer2_id")
_OUTCOMES = {1: 1.0, 2: 0.0, 3: 0.5}
_NOT_PARSED = Parsed(problem="stored as not parsed")


def read_relative_reviews(paths: Sequence[Path], authors: Mapping[str, str] | None = None) -> list[Judgement]:
    """Read reviews with a score for each of two answers; `[-1, -1]` is an output that was not parsed, 0 a score.

    Args:
        paths: JSONL files named `A-vs-B-….jsonl`; read those of one study together.
        authors: answer id -> system, where the files alone do not say whose an answer is.

    Raises:
        UserError: a file whose name or rows are of another form, or answers whose author cannot be told.
    """
    return _read(paths, authors or {}, _relative_score, "vicuna")


def read_pairwise_reviews(paths: Sequence[Path], authors: Mapping[str, str] | None = None) -> list[Judgement]:
    """Read three-way verdicts: 1 the first is better, 2 the second, 3 a tie, -1 not parsed.

    Otherwise as `read_relative_reviews`.
    """
    return _read(paths, authors or {}, _verdict, THREE_WAY)


@dataclass(frozen=True)
class _File:
    """A file of reviews: the two systems of its name, and its rows with their places."""

    path: Path
    names: frozenset[str]
    rows: tuple[tuple[Mapping[str, Any], str], ...]

    def side(self, key: str) -> frozenset[str]:
        return frozenset(str(row[key]) for row, _ in self.rows)


def _read(
    paths: Sequence[Path], authors: Mapping[str, str], parse: Callable[[object, str], Parsed], kind: str
) -> list[Judgement]:
    files = [_read_file(path) for path in paths]
    judgements = []
    for file, systems in zip(files, _sides(files, authors), strict=True):
        for row, place in file.rows:
            parsed, text = parse(row["score"], place), str(row.get("text", ""))
            judgements.append(
                Judgement(
                    question=str(row["question_id"]),
                    turn=1,
                    kind=kind,
                    judge="",
                    systems=systems,
                    text=text,
                    scores=parsed.scores,
                    outcome=parsed.outcome,
                    problem=parsed.problem,
                    # the first generation of tools wrote `error` where the endpoint had failed
                    failed=text == "error",
                )
            )
    return judgements


def _read_file(path: Path) -> _File:
    names = _REVIEWER.sub("", path.name.removesuffix(".gz").removesuffix(".jsonl")).split("-vs-")
    names = [_GENERATIONS.sub("", name) for name in names]
    if len(names) != 2 or names[0] == names[1]:
        raise UserError(f"{path}: the name of a file of reviews is A-vs-B-gpt4-reviewer.jsonl, A and B two systems")
    rows = tuple(read_objects(path))
    for row, place in rows:
        missing = [key for key in ("question_id", *_SIDES, "score") if key not in row]
        if missing:
            raise UserError(f"{place}: a review without {missing[0]!r}; is this a file of reviews?")
    if not rows:
        raise UserError(f"{path} holds no reviews")
    return _File(path, frozenset(names), rows)


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


def _relative_score(raw: object, place: str) -> Parsed:
    if not isinstance(raw, list) or len(raw) != 2 or not all(isinstance(x, int | float) for x in raw):
        raise UserError(f"{place}: score {raw!r} is not a pair of numbers")
    if raw == [-1, -1]:
        return _NOT_PARSED
    first, second = map(float, raw)
    if min(first, second) < 0:
        raise UserError(f"{place}: score {raw!r}: only [-1, -1], not parsed, may be negative")
    return Parsed((first, second), 0.5 if first == second else float(first > second))


def _verdict(raw: object, place: str) -> Parsed:
    if isinstance(raw, bool) or not isinstance(raw, int) or raw not in (*_OUTCOMES, -1):
        raise UserError(f"{place}: score {raw!r} is none of 1, 2, 3 (tie) and -1 (not parsed)")
    return _NOT_PARSED if raw == -1 else Parsed(outcome=_OUTCOMES[raw])
