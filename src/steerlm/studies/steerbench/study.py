"""Run SteerBench on systems, and on rules that bound what its figures can mean.

    steerlm evaluate --suite steerbench --texts answers.jsonl --model tuned=MODEL --out OUT
    steerlm evaluate --suite steerbench --probe steerbench.csv --model gpt=https://host/v1#name --out OUT

Systems are asked in the benchmark's own words (mode `words`, comparable with published figures), or by dials where a
model has an attribute per goal (mode `dials`: it is told the target itself, which is more than words say). The two are
never mixed in a table.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from steerlm.attributes import AttributeSchema, Value
from steerlm.conversation import Message
from steerlm.errors import UserError
from steerlm.results.codec import VERSION, write_result
from steerlm.results.steerbench import (
    GoalMovement,
    MeasuredBy,
    Mode,
    PolicyResult,
    ProbeDescription,
    RowGroup,
    SteerbenchResult,
)
from steerlm.scorers.goal_measures import GOAL_MEASURES, GOALS, GoalMeasures
from steerlm.scorers.levels import score_of
from steerlm.stages.evaluate.sweeping import prompt_seed
from steerlm.stages.pairs.edits import LENGTHS, edits_of
from steerlm.stages.pairs.stage import INSTRUCTION, content_overlap
from steerlm.statistics.estimates import FloatArray, cluster_bootstrap, mean
from steerlm.statistics.steerability import bins_of, linear_response, movements, steering_figures, summarise
from steerlm.storage.claims import claim_file, digest_of
from steerlm.storage.resumable import map_lines, read_rows
from steerlm.studies.compare.answering import AnswerSampling, answer_prompts
from steerlm.studies.compare.systems import ComparedPrompt, System
from steerlm.studies.judge.formats import read_answers
from steerlm.studies.steerbench.probe import PUBLISHED_BOUNDS, Bounds, Probe, ProbeRow, fit_bounds, make_probe
from steerlm.studies.steerbench.wording import clean_response, instruction

SHORTEST_TEXT, LONGEST_TEXT = 50, 2048
"""Tokens of a source text."""
_CHUNK = 64
_READING, _FORMALITY, _LENGTH = (GOALS.index(name) for name in ("reading_difficulty", "formality", "text_length"))


@dataclass(frozen=True)
class ProbeSize:
    """How much is asked; the benchmark has 64 texts, 32 requests each, 3 of 4 goals active."""

    texts: int = 64
    goals: int = 32
    active: int = 3

    def __post_init__(self) -> None:
        if not 1 <= self.active <= len(GOALS):
            raise UserError(f"--active must be 1 to {len(GOALS)}, got {self.active}")


def probe_of_texts(
    paths: Sequence[Path], measures: TextMeasures, out: Path, *, size: ProbeSize, fitted: bool, seed: int
) -> Probe:
    """Draw a probe from texts of one's own.

    Args:
        paths: files of answers (conversations, FastChat's or QLoRA's); every answer of 50 to 2,048 tokens counts.
        out: receives `texts.jsonl`, their measures.
        size: how much is drawn.
        fitted: scale by what these texts measure instead of the benchmark's own bounds.

    Raises:
        UserError: no usable text, or an unreadable file.
    """
    found = dict.fromkeys(
        turn for path in paths for turns in read_answers(path, path.stem).answers.values() for turn in turns
    )
    texts = list(found)
    raw = measures(texts, out / "texts.jsonl", "measures of the texts")
    usable = [i for i, n in enumerate(raw[:, _LENGTH]) if SHORTEST_TEXT <= n <= LONGEST_TEXT]
    if not usable:
        raise UserError(
            f"none of the {len(texts)} texts of {' and '.join(map(str, paths))} has {SHORTEST_TEXT} to {LONGEST_TEXT} "
            "tokens"
        )
    texts, raw = [texts[i] for i in usable], raw[usable]
    names = ", ".join(path.name for path in paths) if len(paths) < 4 else f"{len(paths)} files"
    return make_probe(
        texts,
        raw,
        f"{len(texts)} texts of {names}",
        bounds=fit_bounds(raw) if fitted else PUBLISHED_BOUNDS,
        num_texts=size.texts,
        num_goals=size.goals,
        active=size.active,
        seed=seed,
    )


def steerbench(
    systems: Sequence[System],
    probe: Probe,
    measures: TextMeasures,
    out: Path,
    *,
    modes: Sequence[Mode],
    generation: AnswerSampling,
    seed: int,
) -> SteerbenchResult:
    """Run the probe on rules and systems.

    Args:
        systems: what is asked; may be none.
        probe: the texts and requests.
        measures: measures texts and answers.
        out: receives answers, measures and `steerbench.json`; called again, it goes on.
        modes: `words`, `dials` or both; a system without the dials is asked in words alone.
        generation: how answers are drawn; the benchmark takes the likeliest token.
        seed: of the order of the phrases and of the draws.

    Raises:
        UserError: `dials` where no system has them; an endpoint that gives out.
    """
    with_dials = {s.name for s in systems if s.schema is not None and all(goal in s.schema for goal in GOALS)}
    if modes == ("dials",) and len(with_dials) < len(systems):
        lacking = next(s.name for s in systems if s.name not in with_dials)
        raise UserError(f"system {lacking!r} has no dials {', '.join(GOALS)}; ask it in words (--mode words)")
    policies = [
        _policy(probe, name, "reference", label, answers, measures, out)
        for name, label, answers in _rules(probe, measures, out)
    ]
    silent: list[str] = []
    for system, mode in itertools.product(systems, modes):
        if mode == "dials" and system.name not in with_dials:
            continue
        prompts = _prompts(probe, system.schema if mode == "dials" else None, seed)
        asked = replace(system, name=f"{system.name}-{mode}")
        found = answer_prompts(asked, prompts, generation, out)
        answers = [None if answer.text is None else clean_response(answer.text) for answer in found]
        if any(answer is not None for answer in answers):
            policies.append(_policy(probe, system.name, mode, system.shown, answers, measures, out))
        else:
            silent.append(f"{system.name} has no row ({mode}): it answered none of the requests ({found[0].problem}).")
    fitted, real_words = probe.bounds is not PUBLISHED_BOUNDS, measures.measures.real_words is not None
    result = SteerbenchResult(
        version=VERSION,
        probe=ProbeDescription(
            source=probe.source,
            published=probe.published,
            texts=len(probe.texts),
            rows=len(probe.rows),
            bounds=probe.bounds.to_dict(),
            bounds_from="fitted" if fitted else "published",
            seed=seed,
        ),
        measured_by=MeasuredBy(measures.measures.versions, real_words),
        cautions=[*silent, *_cautions(probe, policies, fitted, real_words)],
        policies=policies,
    )
    write_result(out / "steerbench.json", result)
    return result


class TextMeasures:
    """Measures texts, each once in a run; what is new in a call is kept in a file of its own."""

    def __init__(self, measures: GoalMeasures) -> None:
        self.measures = measures
        self._known: dict[str, Sequence[float]] = {}

    def __call__(self, texts: Sequence[str], path: Path, doing: str) -> FloatArray:
        """Return the raw values, shape (N, 4); reads them where `path` has them."""
        new = [text for text in dict.fromkeys(texts) if text not in self._known]
        claim_file(path, digest_of(dict(self.measures.versions), sorted(self.measures.real_words or ()), new))
        map_lines(path, new, lambda chunk: self.measures(chunk).tolist(), chunk=_CHUNK, description=doing)
        self._known |= zip(new, read_rows(path), strict=True)
        return np.array([self._known[text] for text in texts], dtype=np.float64).reshape(len(texts), len(GOALS))


def _prompts(probe: Probe, schema: AttributeSchema | None, seed: int) -> list[ComparedPrompt]:
    """Ask in words, or by the dials of a schema."""
    random = np.random.RandomState(seed)
    prompts = []
    for number, row in enumerate(probe.rows):
        words_ = instruction(row.delta, random) if schema is None else INSTRUCTION
        said = Message("user", f"{words_}\n\n{probe.texts[row.text]}")
        setting = None if schema is None else levels_of(schema, row.target, probe.bounds)
        prompts.append(ComparedPrompt(f"{row.text}/{number}", (said,), "", prompt_seed(seed, number), setting))
    return prompts


def levels_of(schema: AttributeSchema, point: FloatArray, bounds: Bounds) -> Mapping[str, Value]:
    """Return the setting nearest to a point of the goals' space; attributes that are no goals stand at defaults.

    An attribute that is measured as its goal is has that level that its cuts give the point's raw value; of others the
    levels are taken to be evenly spaced between the bounds.
    """
    levels: dict[str, Value] = {}
    for goal, measure, z, raw in zip(GOALS, GOAL_MEASURES, point, bounds.raw(point), strict=True):
        attribute = schema[goal]
        cut = attribute.measure == measure and bool(attribute.cuts)
        place = score_of(attribute, float(raw)).mean if cut else attribute.from_unit(float(z))
        levels[goal] = attribute.round(place)
    return schema.validate({**schema.defaults, **levels})


def _rules(probe: Probe, measures: TextMeasures, out: Path) -> Iterable[tuple[str, str, list[str | None]]]:
    """Yield the trivial policies: name, what it does, and what it answers to every row."""
    for name, label, edit in (
        ("copy", "the source text, unchanged", lambda text: text),
        ("truncate", "its first half", LENGTHS["keep half"]),
        ("repeat", "the text twice", LENGTHS["twice"]),
    ):
        made = [edit(text) for text in probe.texts]
        yield name, label, [made[row.text] for row in probe.rows]
    candidates = [[text, *edits_of(text).values()] for text in probe.texts]
    every = [text for texts in candidates for text in texts]
    points = probe.bounds.scale(measures(every, out / "edits.jsonl", "measures of the edits"))
    place = dict(zip(every, points, strict=True))
    chosen: list[str | None] = []
    for row in probe.rows:
        texts = candidates[row.text]
        reached = np.array([place[text] for text in texts])
        tiled = np.tile(row.source, (len(texts), 1)), np.tile(row.delta, (len(texts), 1))
        figures = steering_figures(movements(*tiled, reached))
        chosen.append(texts[int(np.lexsort((figures.side_effects, figures.steering_error))[0])])
    yield "oracle", "of edits by rule the one with the smallest error, known in hindsight", chosen


def _policy(
    probe: Probe,
    name: str,
    mode: Mode,
    label: str,
    answers: Sequence[str | None],
    measures: TextMeasures,
    out: Path,
) -> PolicyResult:
    given = [(row, text) for row, text in zip(probe.rows, answers, strict=True) if text is not None]
    path = out / "measures" / f"{name}-{mode}.jsonl"
    raw = measures([text for _, text in given], path, f"measures of {name}")
    reached = probe.bounds.scale(raw)
    rows = [row for row, _ in given]
    columns = _Columns.of(rows, reached)
    together = columns.delta[:, _READING] * columns.delta[:, _FORMALITY]
    response = linear_response(*columns.unbinned[:2])
    mixed = columns.binned._replace(requested=columns.unbinned.requested)
    overlaps = [content_overlap(probe.texts[row.text], text) for row, text in given]
    return PolicyResult(
        name=name,
        mode=mode,
        label=label,
        unanswered=len(answers) - len(given),
        figures=columns.group(np.ones(len(rows), dtype=np.bool_)),
        correlated=columns.group(together > 0),
        anticorrelated=columns.group(together < 0),
        goals={goal: columns.goal(k) for k, goal in enumerate(GOALS)},
        leakage={
            goal: dict(zip(GOALS, map(float, line), strict=True))
            for goal, line in zip(GOALS, response.matrix, strict=True)
        },
        r2=response.r2,
        overlap=cluster_bootstrap(mean, [overlaps], columns.text),
        published_side_effects=float(np.median(steering_figures(mixed).side_effects)),
    )


class _Columns:
    """Rows as columns, and their movements."""

    def __init__(self, text: np.ndarray, source: FloatArray, delta: FloatArray, reached: FloatArray) -> None:
        self.text, self.source, self.delta, self.reached = text, source, delta, reached
        self.binned = movements(source, delta, reached)
        self.unbinned = movements(source, delta, reached, cuts=False)

    @classmethod
    def of(cls, rows: Sequence[ProbeRow], reached: FloatArray) -> _Columns:
        return cls(
            np.array([row.text for row in rows]),
            np.array([row.source for row in rows]),
            np.array([row.delta for row in rows]),
            reached,
        )

    def group(self, mask: np.ndarray) -> RowGroup:
        """Return the figures of some rows, drawn again by source text."""
        binned, unbinned = (
            summarise(steering_figures(type(m)(*(x[mask] for x in m))), self.text[mask])
            for m in (self.binned, self.unbinned)
        )
        return RowGroup(binned, unbinned)

    def goal(self, k: int) -> GoalMovement:
        """Return what became of a goal."""
        asked = ~np.isnan(self.delta[:, k])
        left = bins_of(self.source[:, k], self.reached[:, k]) != bins_of(self.source[:, k], self.source[:, k])
        return GoalMovement(
            asked=int(asked.sum()),
            still=_share(~left[asked]),
            strayed=_share(left[~asked]),
            at_one=_share(self.reached[:, k] == 1),
        )


def _share(hits: np.ndarray) -> float:
    return float(hits.mean()) if len(hits) else float("nan")


def _cautions(probe: Probe, policies: Sequence[PolicyResult], fitted: bool, real_words: bool) -> list[str]:
    found = []
    if fitted:
        found.append("Scaled by these texts' own percentiles: the figures do not compare with published ones.")
    elif not probe.published:
        found.append(
            "Other source texts than the benchmark's, scaled by its bounds: published figures show the order of "
            "magnitude, no more."
        )
    if not real_words:
        found.append(
            "Diversity counts every word; the original drops what is not in a list of English words (--real-words)."
        )
    for policy in policies:
        if policy.unanswered:
            found.append(f"{policy.name}: {policy.unanswered} of {len(probe.rows)} requests have no answer.")
        saturated = [goal for goal, moved in policy.goals.items() if moved.at_one > 0.5]
        if saturated:
            found.append(
                f"{policy.name}: most answers end at the upper end of {' and '.join(saturated)}, where bins say little."
            )
    return found
