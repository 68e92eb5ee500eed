"""What `steerlm ablate` and `steerlm baselines` write: `ablation.json` and `baselines.json`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from steerlm.attributes import AttributeSchema, Value
from steerlm.results.codec import FLAT
from steerlm.results.evaluation import ScorerLabel
from steerlm.statistics.estimates import Estimate


@dataclass(frozen=True)
class OverSeeds:
    """Mean, standard deviation and 95 % t interval of one figure per seed."""

    n: int
    mean: float
    sd: float
    low: float
    high: float


@dataclass(frozen=True)
class SeededEstimate:
    """A figure of all seeds together, of every seed, and how much the seeds differ."""

    estimate: Estimate = field(metadata=FLAT)
    seeds: Mapping[str, Estimate]
    over_seeds: OverSeeds


@dataclass(frozen=True)
class DialsEstimate:
    """A figure over all dials, and of each."""

    figure: SeededEstimate = field(metadata=FLAT)
    by_dial: Mapping[str, Estimate]


@dataclass(frozen=True)
class DialFigures:
    """How a model follows its dials; nothing where none was measured."""

    error: DialsEstimate | None = None
    spearman: DialsEstimate | None = None
    slope: DialsEstimate | None = None


@dataclass(frozen=True)
class TextFigures:
    """Length and diversity of the answers where the best is asked for."""

    answers: int
    unanswered: int
    tokens: SeededEstimate
    unfinished: Estimate
    distinct_1: float
    distinct_2: float
    unique: float
    unique_per_prompt: float


@dataclass(frozen=True)
class ModelFigures:
    """What one rung or method is worth: quality where the best is asked for, the attributes then, and the dials."""

    quality: SeededEstimate
    attributes: Mapping[str, SeededEstimate]
    steering: DialFigures
    text: TextFigures


@dataclass(frozen=True)
class Gain:
    """After minus before, in pairs: of the quality, and of the dials' error."""

    quality: SeededEstimate
    error: SeededEstimate


@dataclass(frozen=True, kw_only=True)
class RungCourse:
    """What a rung trained on, and what it took.

    Attributes:
        tokens: of one epoch; `trained_tokens` are those of responses.
        spent_tokens: all that went through the model.
        bootstrapped: answers of its own among the records.
    """

    records: int
    tokens: int
    trained_tokens: int
    spent_tokens: int
    sampled_tokens: int
    epochs: float
    steps: int
    best_step: int | None
    validation_loss: float | None
    starts_from: str
    bootstrapped: int | None = None
    seconds: float
    peak_memory_mib: int | None


@dataclass(frozen=True)
class RungTraining:
    """A rung's training with one seed."""

    seed: int
    course: RungCourse = field(metadata=FLAT)


@dataclass(frozen=True, kw_only=True)
class RungResult:
    """One rung; `gain` is over the rung before it, `versus` over every one below."""

    adds: str
    data: str
    labels: str | None
    paper: float | None
    steerable: bool
    training: Sequence[RungTraining]
    seconds: Sequence[float]
    figures: ModelFigures = field(metadata=FLAT)
    gain: Gain | None
    versus: Mapping[str, Gain]


@dataclass(frozen=True)
class StudyDraws:
    """What of the section `evaluate` says how answers are drawn."""

    num_prompts: int | None
    samples_per_prompt: int
    temperature: float
    top_k: int
    max_new_tokens: int


@dataclass(frozen=True, kw_only=True)
class MachineFacts:
    """Where it was run."""

    python: str
    platform: str
    cpus: int
    cpu: str = ""
    packages: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class StudySubject:
    """What was studied: a recipe, with several seeds, on held-out prompts.

    Attributes:
        quality_attributes: those whose mean level counts.
        quality_scale: highest and lowest level.
        best_setting: what every prompt is asked for.
        prompts: how many; `swept`: on how many of them every dial is turned.
    """

    recipe: str
    seeds: Sequence[int]
    attributes: AttributeSchema
    quality_attributes: Sequence[str]
    quality_scale: Sequence[float]
    best_setting: Mapping[str, Value]
    prompts: int
    swept: int


@dataclass(frozen=True, kw_only=True)
class StudyConditions:
    """How everything was trained, and who measured it; `headline`: per attribute the scorer that is quoted."""

    training: Mapping[str, object]
    scorers: Sequence[ScorerLabel]
    headline: Mapping[str, str]
    environment: MachineFacts

    @property
    def quoted(self) -> list[ScorerLabel]:
        """The scorers that the figures quote."""
        scorers = {scorer.id: scorer for scorer in self.scorers}
        return [scorers[scorer_id] for scorer_id in dict.fromkeys(self.headline.values())]


@dataclass(frozen=True, kw_only=True)
class AblationResult:
    """An `ablation.json`."""

    version: int = 0
    subject: StudySubject = field(metadata=FLAT)
    settings: StudyDraws
    conditions: StudyConditions = field(metadata=FLAT)
    notes: Sequence[str]
    rungs: Mapping[str, RungResult]


@dataclass(frozen=True)
class Measurement:
    """Who measured a model's answers; `headline`: per attribute the scorer that is quoted."""

    steerable: bool
    scorers: Sequence[ScorerLabel]
    headline: Mapping[str, str]


@dataclass(frozen=True)
class RungDone:
    """The summary of a rung that is trained and measured."""

    training: RungCourse
    measured: Measurement


@dataclass(frozen=True, kw_only=True)
class MethodCourse:
    """What a method trained on, and what it took; what chose its weights where several were tried."""

    share: float | None = None
    validation_reward: float | None = None
    records: int
    steps: int
    best_step: int | None = None
    epochs: float | None = None
    spent_tokens: int
    sampled_tokens: int
    seconds: float
    peak_memory_mib: int | None
    learning_rate: float | None = None
    trials: Sequence[Mapping[str, object]] | None = None


@dataclass(frozen=True)
class MethodTraining:
    """A method's training with one seed."""

    seed: int
    course: MethodCourse = field(metadata=FLAT)


@dataclass(frozen=True)
class MethodDone:
    """The summary of a method that is trained and, unless others only go on from it, measured."""

    training: MethodCourse
    measured: Measurement | None = None


@dataclass(frozen=True, kw_only=True)
class TrialCourse:
    """What DPO or RLOO took with one learning rate.

    Attributes:
        pairs: that DPO learned from.
        prompts: that RLOO answered; `first_reward` and `last_reward` are over the first and last tenth of its steps,
            None where none was logged.
    """

    learning_rate: float
    pairs: int | None = None
    prompts: int | None = None
    steps: int
    epochs: float | None = None
    trained_tokens: int
    sampled_tokens: int
    first_reward: float | None = None
    last_reward: float | None = None
    seconds: float = 0.0
    peak_memory_mib: int | None = None
    validation_reward: float | None = None


@dataclass(frozen=True, kw_only=True)
class MethodResult:
    """One method; `by_annotator` is its quality as the attribute model sees it."""

    what: str
    steerable: bool
    training: Sequence[MethodTraining]
    figures: ModelFigures = field(metadata=FLAT)
    by_annotator: SeededEstimate
    minus_steerlm: Gain | None


@dataclass(frozen=True, kw_only=True)
class BaselinesResult:
    """A `baselines.json`."""

    version: int = 0
    subject: StudySubject = field(metadata=FLAT)
    samples_per_prompt: int
    settings: StudyDraws
    baselines: Mapping[str, object]
    conditions: StudyConditions = field(metadata=FLAT)
    methods: Mapping[str, MethodResult]
