"""Judgements in other tools' files: FastChat's `model_judgment` and QLoRA's reviews, read and written.

Read back, a stored verdict counts as it was stored; `reparsed` reads the stored outputs anew with our parsers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson

from steerlm.attributes import AttributeSchema
from steerlm.errors import UserError
from steerlm.scorers.llm.judge import Judgement, judgement_from_dict
from steerlm.scorers.llm.parsing import parse
from steerlm.scorers.llm.protocols import SystemAnswers
from steerlm.scorers.llm.thinking import without_thinking
from steerlm.storage.files import read_objects, write_rows
from steerlm.studies.judge.reviews import read_pairwise_reviews, read_relative_reviews

_REVIEWERS = {"vicuna-general": 1, "vicuna-coding": 2, "vicuna-math": 3}
_FASTCHAT_ERROR = "$ERROR$"


def read_stored(paths: Sequence[Path], authors: Mapping[str, str]) -> list[Judgement]:
    """Read judgements of this tool, FastChat's, or QLoRA's reviews; which of them shows in the first row's keys.

    Args:
        paths: the files; reviews of one study together, as they tell whose answer is whose.
        authors: answer id -> system, for reviews that do not tell.
    """
    by_form: dict[str, list[Path]] = {}
    for path in paths:
        by_form.setdefault(_form(path), []).append(path)
    judgements = []
    for path in by_form.get("ours", []):
        judgements += [judgement_from_dict(row, place) for row, place in read_objects(path)]
    for path in by_form.get("fastchat", []):
        judgements += [judgement for row, place in read_objects(path) for judgement in _from_fastchat(row, place)]
    judgements += read_relative_reviews(by_form.get("relative", []), authors)
    return judgements + read_pairwise_reviews(by_form.get("three-way", []), authors)


def reparsed(judgements: Iterable[Judgement], schema: AttributeSchema | None = None) -> list[Judgement]:
    """Return the judgements with the verdicts that our parsers read in their stored outputs.

    Ratings by rubric stay as they are where the schema does not have their attribute: their scale is not stored.
    """
    found = list(judgements)
    thinkers = {judgement.judge for judgement in found if without_thinking(judgement.text).thought}
    return [_reparsed(judgement, schema, judgement.judge in thinkers) for judgement in found]


def _reparsed(judgement: Judgement, schema: AttributeSchema | None, thinks: bool) -> Judgement:
    attribute = schema[judgement.attribute] if schema is not None and judgement.attribute in schema.names else None
    if judgement.failed or (judgement.kind == "rubric" and attribute is None):
        return judgement
    parsed = parse(judgement.kind, judgement.text, attribute, judgement.finish_reason, thinks)
    return replace(judgement, scores=parsed.scores, outcome=parsed.outcome, problem=parsed.problem)


def write_fastchat(path: Path, judgements: Sequence[Judgement]) -> None:
    """Write MT-bench judgements in FastChat's form: one row per rating, or per pair with both of its orders."""
    singles = [judgement for judgement in judgements if judgement.kind.startswith("single-")]
    pairs: dict[tuple[str, int, frozenset[str]], dict[tuple[str, ...], Judgement]] = {}
    for judgement in judgements:
        if judgement.kind.startswith("pair-"):
            key = (judgement.question, judgement.turn, frozenset(judgement.systems))
            pairs.setdefault(key, {})[judgement.systems] = judgement
    write_rows(path, [*map(_fastchat_single, singles), *map(_fastchat_pair, pairs.values())])


def write_reviews(folder: Path, judgements: Sequence[Judgement], systems: Mapping[str, SystemAnswers]) -> None:
    """Write Vicuna judgements as reviews in QLoRA's form, one file `A-vs-B.jsonl` per pair and order."""
    files: dict[tuple[str, ...], list[dict[str, object]]] = {}
    for judgement in judgements:
        if judgement.kind not in _REVIEWERS:
            continue
        ids = [systems[name].answer_ids[judgement.question] for name in judgement.systems]
        text = orjson.dumps([judgement.question, *ids, judgement.judge])
        row: dict[str, object] = {
            "review_id": hashlib.sha256(text).hexdigest()[:22],
            "question_id": _number(judgement.question),
            "answer1_id": ids[0],
            "answer2_id": ids[1],
            "reviewer_id": _REVIEWERS[judgement.kind],
            "metadata": {"judge": judgement.judge},
            "text": judgement.text,
            "score": list(judgement.scores) or [-1, -1],
        }
        files.setdefault(judgement.systems, []).append(row)
    for (first, second), rows in files.items():
        write_rows(folder / f"{first.replace('/', '_')}-vs-{second.replace('/', '_')}.jsonl", rows)


def _form(path: Path) -> str:
    row, place = next(read_objects(path), ({}, str(path)))
    if "kind" in row and "systems" in row:
        return "ours"
    if "judge" in row and ("judgment" in row or "g1_judgment" in row):
        return "fastchat"
    if "answer1_id" in row:
        return "relative" if isinstance(row.get("score"), list) else "three-way"
    raise UserError(f"{place}: neither a judgement of steerlm judge, nor FastChat's, nor a review of QLoRA's form")


def _from_fastchat(row: Mapping[str, Any], place: str) -> list[Judgement]:
    try:
        judge, kind = row["judge"]
        question, turn = str(row["question_id"]), int(row.get("turn", 1))
        common = {"question": question, "turn": turn, "kind": kind, "judge": judge}
        if "judgment" in row:
            score, text = float(row["score"]), row["judgment"]
            return [
                Judgement(
                    **common,
                    systems=(row["model"],),
                    text=text,
                    scores=(score,) if score >= 0 else (),
                    problem="" if score >= 0 else "stored as not parsed",
                    failed=text == _FASTCHAT_ERROR,
                    user_prompt=row.get("user_prompt", ""),
                )
            ]
        found = []
        for game, (first, second) in (("g1", ("model_1", "model_2")), ("g2", ("model_2", "model_1"))):
            outcome = {first: 1.0, second: 0.0, "tie": 0.5}.get(row[f"{game}_winner"])
            text = row[f"{game}_judgment"]
            found.append(
                Judgement(
                    **common,
                    systems=(row[first], row[second]),
                    text=text,
                    outcome=outcome,
                    problem="stored as not parsed" if outcome is None else "",
                    failed=text == _FASTCHAT_ERROR,
                    user_prompt=row.get(f"{game}_user_prompt", ""),
                )
            )
        return found
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{place}: no judgement of FastChat's form ({error!r})") from None


def _fastchat_single(judgement: Judgement) -> dict[str, object]:
    return {
        "question_id": _number(judgement.question),
        "model": judgement.systems[0],
        "judge": [judgement.judge, judgement.kind],
        "user_prompt": judgement.user_prompt,
        "judgment": _FASTCHAT_ERROR if judgement.failed else judgement.text,
        "score": judgement.scores[0] if judgement.scores else -1,
        "turn": judgement.turn,
    }


def _fastchat_pair(both: Mapping[tuple[str, ...], Judgement]) -> dict[str, object]:
    one = next(iter(both.values()))
    models = dict(zip(one.systems, ("model_1", "model_2"), strict=True))
    row: dict[str, object] = {
        "question_id": _number(one.question),
        "model_1": one.systems[0],
        "model_2": one.systems[1],
        "judge": [one.judge, one.kind],
        "turn": one.turn,
    }
    for game, shown in (("g1", one.systems), ("g2", one.systems[::-1])):
        judgement = both[shown]
        winner = {1.0: models[shown[0]], 0.0: models[shown[1]], 0.5: "tie", None: "error"}[judgement.outcome]
        row[f"{game}_winner"] = winner
        row[f"{game}_user_prompt"] = judgement.user_prompt
        row[f"{game}_judgment"] = _FASTCHAT_ERROR if judgement.failed else judgement.text
    return row


def _number(question: str) -> int | str:
    """FastChat's and QLoRA's question ids are integers."""
    return int(question) if question.isascii() and question.isdecimal() and str(int(question)) == question else question
