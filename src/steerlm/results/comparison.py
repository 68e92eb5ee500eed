"""What `steerlm compare` writes: `results.json` of a comparison."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from steerlm.attributes import Value
from steerlm.results.codec import FLAT
from steerlm.results.evaluation import SaidTurn
from steerlm.statistics.estimates import Estimate


@dataclass(frozen=True)
class PromptsCompared:
    """Prompts: their file, how many were asked, and how many all systems answered."""

    file: str
    asked: int
    compared: int


@dataclass(frozen=True)
class ComparisonDraws:
    """How answers were sampled."""

    max_new_tokens: int
    temperature: float
    top_k: int
    batch_size: int
    precision: str


@dataclass(frozen=True)
class MissingAnswer:
    """A prompt without an answer, and why."""

    id: str
    problem: str


@dataclass(frozen=True, kw_only=True)
class ComparedSystem:
    """One side, and how many answers it has; `missing_examples` are the first of those that it lacks."""

    kind: str
    where: str
    model: str = ""
    setting: Mapping[str, Value] | None = None
    answered: int
    missing: int
    missing_examples: Sequence[MissingAnswer]


@dataclass(frozen=True, kw_only=True)
class DecidedBy:
    """How pairs were decided: by a scorer (with weights and a margin for ties) or by a judge (with a protocol)."""

    kind: str
    label: str
    weights: Mapping[str, float] | None = None
    tie_margin: float | None = None
    protocol: str = ""
    undecided: int


@dataclass(frozen=True)
class PairRecord:
    """One system against another; `length_controlled`: the win rate for answers of equal length."""

    wins: int
    ties: int
    losses: int
    win_rate: Estimate
    length_controlled: Estimate


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """Who wins.

    Attributes:
        elo_games_per_run: games per random order of the verdicts.
        position_bias: share won by the answer that was shown first; None where every pair was seen in one order.
        flip_rate: share of pairs that have another winner in the other order.
    """

    matches: int
    ties: int
    win_rate: Mapping[str, Estimate]
    bradley_terry: Mapping[str, Estimate]
    elo: Mapping[str, Estimate]
    elo_games_per_run: int
    head_to_head: Mapping[str, Mapping[str, PairRecord]]
    position_bias: Estimate | None = None
    flip_rate: Estimate | None = None

    @property
    def best_first(self) -> list[str]:
        """The systems by win rate."""
        return sorted(self.win_rate, key=lambda name: -self.win_rate[name].value)


@dataclass(frozen=True, kw_only=True)
class AnswerDescription:
    """What one system's answers are like: four means per answer, two figures of all together, and shares."""

    characters: Estimate
    words: Estimate
    unique_words: Estimate
    words_per_sentence: Estimate
    distinct_1: float
    distinct_2: float
    empty: Estimate
    refusal: Estimate
    label_leak: Estimate
    degenerate: Estimate
    unfinished: Estimate | None = None


@dataclass(frozen=True)
class SystemReply:
    """What a system said, and how many comparisons it won with it."""

    system: str
    text: str
    points: float


@dataclass(frozen=True)
class SideBySide:
    """A prompt and what every system said."""

    id: str
    messages: Sequence[SaidTurn]
    answers: Sequence[SystemReply]


@dataclass(frozen=True, kw_only=True)
class ComparisonResult:
    """A `results.json` of `steerlm compare`; `notes` are what a reader must know first."""

    version: int = 0
    seed: int
    prompts: PromptsCompared
    generation: ComparisonDraws
    systems: Mapping[str, ComparedSystem]
    decided_by: DecidedBy
    notes: Sequence[str]
    ranking: Ranking = field(metadata=FLAT)
    scores: Mapping[str, Mapping[str, Estimate]]
    answers: Mapping[str, AnswerDescription]
    examples: Sequence[SideBySide]
