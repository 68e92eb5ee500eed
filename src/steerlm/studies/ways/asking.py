"""The ways as they are written, and how each of them asks."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple, get_args

import numpy as np

from steerlm.attributes import AttributeSchema
from steerlm.checkpoint.weights import fingerprint_or_name
from steerlm.config import EvaluateConfig
from steerlm.conversation import Message
from steerlm.errors import UserError, did_you_mean
from steerlm.generation.demonstrations import Demonstrations, placed
from steerlm.stages.evaluate.observing import AnswerRow, answer_plan, answer_row, score_answers
from steerlm.stages.evaluate.panel import Panelist
from steerlm.stages.evaluate.sweeping import SweepPlan, guided
from steerlm.storage.claims import claim_file, digest_of
from steerlm.storage.resumable import map_lines, read_rows
from steerlm.studies.ablate.measuring import without_labels
from steerlm.studies.ways.wording import asked_in_words, worded

if TYPE_CHECKING:
    from steerlm.generation.plain import PlainModel, Push
    from steerlm.generation.requests import Sample, Sampling
    from steerlm.studies.ways.vectors import DialVector

Kind = Literal["header", "words", "demonstrations", "vector"]
SHOWN = 3
"""Demonstrations in front of a question."""
_CHUNK = 32


@dataclass(frozen=True)
class Way:
    """A way to steer.

    Attributes:
        name: as it is written.
        draws: answers to choose from.
        strength: how strongly the dial that is turned counts (`steerlm.generation.guidance`); None: as the model says.
    """

    name: str
    kind: Kind
    draws: int = 1
    strength: float | None = 1.0


def parse_ways(text: str) -> tuple[Way, ...]:
    """Read `header,guided,guided-2,words,demonstrations,best-of-8,vector`."""
    ways = []
    for name in (piece.strip() for piece in text.split(",") if piece.strip()):
        match = re.fullmatch(r"(?:(.+?)-)?best-of-(\d+)", name)
        kind, draws = (match[1] or "words", int(match[2])) if match else (name, 1)
        if match and draws < 2:
            raise UserError(f"--ways: {name!r} chooses among {draws}; give at least best-of-2")
        if strength := re.fullmatch(r"guided-(\d+(?:\.\d+)?)", kind):
            ways.append(Way(name, "header", draws, float(strength[1])))
            continue
        if kind == "guided":
            ways.append(Way(name, "header", draws, None))
            continue
        kinds: dict[str, Kind] = {k: k for k in get_args(Kind)}
        if kind not in kinds:
            raise UserError(
                f"--ways: {name!r} is not known: {did_you_mean(kind, [*kinds, 'guided', 'guided-N', 'best-of-N'])}"
            )
        ways.append(Way(name, kinds[kind], draws))
    names = [way.name for way in ways]
    if not names or len(set(names)) < len(names):
        raise UserError(f"--ways: give each way once, got {text!r}")
    return tuple(ways)


@dataclass(frozen=True)
class WaysRun:
    """What is compared.

    Attributes:
        config: the section `evaluate`: scorers, sampling, number of prompts.
        model: the steerable checkpoint.
        base: what the other ways ask: a folder or hub id.
        demonstrations: annotated training answers, for `demonstrations` and `vector`.
        annotator: the attribute model that labelled the training data.
    """

    config: EvaluateConfig
    ways: Sequence[Way]
    model: Path
    base: str
    prompts: Path
    schema: AttributeSchema
    seed: int
    demonstrations: Path | None = None
    annotator: Path | None = None


class PromptLengths(NamedTuple):
    """Means over all requests: tokens of the prompt, and demonstrations in it."""

    tokens: float
    shown: float


class WayQuestions:
    """Asks the base model, which is loaded once, when it is first needed."""

    def __init__(
        self,
        run: WaysRun,
        plan: SweepPlan,
        shown: Demonstrations | None,
        scorers: Mapping[str, Panelist],
        own: Mapping[str, float],
    ) -> None:
        self.run, self.plan, self.shown, self.scorers, self.own = run, plan, shown, scorers, own
        self.vectors: Mapping[str, DialVector] = {}
        self._base: PlainModel | None = None

    def rows(self, way: Way, key: str, out: Path) -> tuple[list[AnswerRow], PromptLengths | None]:
        """Return the answers of a way, and how long its prompts are where that is known."""
        run, config = self.run, self.run.config
        folder = out / way.name
        if way.kind == "header":
            drawing = config.model_copy(update={"samples_per_prompt": way.draws})
            plan = guided(self.plan, self.own if way.strength is None else way.strength)
            rows = answer_plan(drawing, plan, run.model, key, folder, way.name)
            return self._chosen(way, rows, folder), None
        if way.kind == "vector":
            self._fit(out / "vectors")
        conversations = [self._conversation(way, ask) for ask in range(len(self.plan.asks))]
        texts = [[(m.role, m.content) for m in messages] for messages in conversations]
        choices = {name: list(vars(found.choice).values()) for name, found in self.vectors.items()}
        path = folder / "samples.jsonl"
        sampling = self._sampling
        parts = [self._base_key(), way.draws, config.precision, vars(sampling), texts, run.seed]
        claim_file(path, digest_of(*parts, choices if way.kind == "vector" else None))

        def work(chunk: list[int]) -> list[AnswerRow]:
            owners = [ask for ask in chunk for _ in range(way.draws)]
            seeds = [self.plan.prompts[self.plan.asks[ask].prompt].seed + k for ask in chunk for k in range(way.draws)]
            samples = self.base.answers(
                [conversations[ask] for ask in owners], seeds, sampling, self._push(way, owners)
            )
            given: dict[int, list[Sample]] = {ask: [] for ask in chunk}
            for ask, sample in zip(owners, samples, strict=True):
                if sample is not None:
                    given[ask].append(sample)
            return [answer_row(self.plan, ask, given[ask]) for ask in chunk]

        map_lines(path, range(len(conversations)), work, chunk=_CHUNK, description=f"answers of {way.name}")
        shown = [
            (len(c) - len(self.plan.prompts[a.prompt].messages)) / 2
            for c, a in zip(conversations, self.plan.asks, strict=True)
        ]
        lengths = PromptLengths(self.prompt_lengths(conversations, folder), float(np.mean(shown)))
        return self._chosen(way, list(read_rows(path)), folder), lengths

    @property
    def base(self) -> PlainModel:
        if self._base is None:
            from steerlm.generation.plain import PlainModel

            self._base = PlainModel(self.run.base, self.run.config.precision, self.run.config.batch_size)
        return self._base

    @property
    def _sampling(self) -> Sampling:
        from steerlm.generation.requests import Sampling

        config = self.run.config
        return Sampling(config.max_new_tokens, config.temperature, config.top_k)

    def prompt_lengths(self, conversations: Sequence[Sequence[Message]], folder: Path) -> float:
        """Return the mean length of prompts, kept beside the answers."""
        path = folder / "prompts.jsonl"
        claim_file(path, digest_of(self._base_key(), [[m.content for m in messages] for messages in conversations]))
        map_lines(
            path,
            conversations,
            lambda chunk: [len(self.base.ids(messages)) for messages in chunk],
            chunk=256,
            description="",
        )
        return float(np.mean(list(read_rows(path))))

    def _base_key(self) -> str:
        return fingerprint_or_name(self.run.base)

    def _conversation(self, way: Way, ask: int) -> tuple[Message, ...]:
        asked = self.plan.asks[ask]
        messages = without_labels(self.plan.prompts[asked.prompt].messages)
        if way.kind == "vector":
            return messages
        schema = self.run.schema
        words = asked_in_words(messages, schema, asked.attributes)
        if way.kind == "words":
            return words
        assert self.shown is not None
        near = [worded(example, schema) for example in self.shown.choose(messages, asked.attributes, SHOWN)]
        # the farthest are left out where they leave no room for an answer
        for left_out in range(len(near)):
            whole = placed(words, near[left_out:], headers=False)
            if self.base.room(whole) >= self.run.config.max_new_tokens:
                return whole
        return words

    def _fit(self, out: Path) -> None:
        from steerlm.studies.ways.vectors import Fitting, fit_vectors

        assert self.shown is not None
        taken = frozenset(m.content for prompt in self.plan.prompts for m in prompt.messages)
        fitting = Fitting(self.base, self._base_key(), self.shown, self.scorers, self._sampling, taken, self.run.seed)
        self.vectors = fit_vectors(fitting, self.run.schema, out)

    def _push(self, way: Way, asks: Sequence[int]) -> Sequence[Push]:
        """Return the pushes of a way for some asks: each by the dial that it turns, by the level asked for."""
        if way.kind != "vector":
            return ()
        from steerlm.generation.plain import add_pushes

        pushes = []
        for name, found in self.vectors.items():
            attribute = self.run.schema[name]
            swept = [float(self.plan.cells[ask].dial == name) for ask in asks]
            levels = [self.plan.asks[ask].attributes[name] for ask in asks]
            push = found.push(attribute, levels)
            pushes.append(push._replace(vectors=push.vectors * push.vectors.new_tensor(swept)[:, None]))
        return add_pushes(pushes)

    def _chosen(self, way: Way, rows: list[AnswerRow], folder: Path) -> list[AnswerRow]:
        """Keep the answer of each ask that its scorers find nearest to the setting."""
        if way.draws == 1:
            return rows
        scores = {
            s.id: score_answers(s, self.plan, rows, folder / "draws", way.name)
            for s in {scorer.id: scorer for scorer in self.scorers.values()}.values()
        }
        kept = []
        for ask, row in enumerate(rows):
            distances = [
                self._distance(row, {i: s[ask]["scores"][k] for i, s in scores.items()})
                for k in range(len(row["samples"]))
            ]
            best = [row["samples"][int(np.argmin(distances))]] if distances else []
            kept.append(AnswerRow(ask=row["ask"], prompt=row["prompt"], attributes=row["attributes"], samples=best))
        return kept

    def _distance(self, row: AnswerRow, scores: Mapping[str, Mapping[str, float | None] | None]) -> float:
        """Return how far an answer is from its setting: shares of the dials' ranges, 1 for what has no score."""
        far = 0.0
        for name, scorer in self.scorers.items():
            attribute, found = self.run.schema[name], scores[scorer.id]
            score = None if found is None else found[name]
            wanted = float(row["attributes"][name])
            far += 1.0 if score is None else abs(attribute.to_unit(score) - attribute.to_unit(wanted))
        return far
