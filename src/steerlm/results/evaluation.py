"""What `steerlm evaluate` writes: `results.json` of a run's evaluation, and of each of the paper's experiments."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, get_args

from steerlm.attributes import AttributeSchema, Value
from steerlm.errors import UserError
from steerlm.results.codec import from_json
from steerlm.results.dials import CategoryResult, CurvePoint, DialLeak, DialResult, Differences, Following
from steerlm.results.steerability import Steerability
from steerlm.statistics.estimates import Estimate
from steerlm.storage.files import read_json


@dataclass(frozen=True)
class ScorerLabel:
    """Who measured.

    Attributes:
        independent: whether it had no part in labelling the training data.
    """

    id: str
    label: str
    independent: bool
    attributes: Sequence[str]

    @property
    def text(self) -> str:
        """Its label, and whether it counts."""
        return self.label if self.independent else f"{self.label} (not independent)"


@dataclass(frozen=True)
class PromptCounts:
    """Prompts used, and the groups that they fall into."""

    used: int
    clusters: int


@dataclass(frozen=True)
class AnswerDraws:
    """What of the section `evaluate` says how answers are drawn.

    Attributes:
        settings: what the other dials stand at.
    """

    settings: Sequence[str]
    samples_per_prompt: int
    temperature: float
    top_k: int
    max_new_tokens: int


@dataclass(frozen=True)
class GroupResult:
    """How the dials follow on one group of requests, as the quoted scorers measure them.

    Attributes:
        categorical: share of answers in the category asked for.
    """

    prompts: int
    dials: Mapping[str, Following]
    categorical: Mapping[str, Estimate]


@dataclass(frozen=True)
class Unscored:
    """What a scorer left open: of all `answers` those without any score, and those without some of them."""

    answers: int
    none: int
    partly: int


@dataclass(frozen=True)
class LevelScore:
    """The mean score, 0 to 1, at one level of a suite."""

    level: Value
    paper_levels: Sequence[int]
    score: Estimate


@dataclass(frozen=True)
class SuiteScores:
    """Scores by level, and the score at the highest level minus that at the lowest."""

    levels: Sequence[LevelScore]
    rise: Estimate


@dataclass(frozen=True, kw_only=True)
class ScorerResult:
    """What one scorer says of one model.

    Attributes:
        leakage: per dial i and attribute j the change of j per level of i; its diagonal is each dial's own slope.
        responses: the mean of every j at every level of i.
        quality_cost: per dial, for the attributes whose best end is the highest, the change from the dial's lowest to
            its highest level.
        suite: where the evaluation is one of the paper's experiments.
    """

    dials: Mapping[str, DialResult]
    leakage: Mapping[str, Mapping[str, Estimate]]
    responses: Mapping[str, Mapping[str, Sequence[CurvePoint]]]
    largest_leak: DialLeak | None
    quality_cost: Mapping[str, Mapping[str, Estimate]]
    categorical: Mapping[str, CategoryResult]
    unscored: Unscored | None
    suite: SuiteScores | None = None


@dataclass(frozen=True)
class ContextCoverage:
    """Settings asked for: the share seen in training exactly, and the mean distance to the nearest seen, in levels."""

    settings: int
    seen: float
    distance: float


@dataclass(frozen=True)
class LevelPairs:
    """Which levels of two attributes occur together in training.

    Attributes:
        counts: a row per level of `first`, a column per level of `second`; None for long scales.
    """

    first: str
    second: str
    seen: int
    possible: int
    counts: Sequence[Sequence[int]] | None


@dataclass(frozen=True)
class Coverage:
    """Which of the settings asked for the training labels support."""

    combinations: int
    possible: int
    records: int
    contexts: Mapping[str, ContextCoverage]
    pairs: Sequence[LevelPairs]


@dataclass(frozen=True, kw_only=True)
class AnswerStatistics:
    """What a model's answers are like.

    Attributes:
        unanswered: prompts longer than the context.
        refusal: share; so are the four after it.
        unfinished: cut off at the longest length.
        duplicate: said before to the same prompt in the group.
        distinct_1: over all answers together; so is `distinct_2`.
    """

    answers: int
    unanswered: int
    tokens: Estimate | None = None
    characters: Estimate | None = None
    words: Estimate | None = None
    unique_words: Estimate | None = None
    sentences: Estimate | None = None
    words_per_sentence: Estimate | None = None
    flesch_reading_ease: Estimate | None = None
    flesch_kincaid_grade: Estimate | None = None
    refusal: Estimate | None = None
    label_leak: Estimate | None = None
    degenerate: Estimate | None = None
    unfinished: Estimate | None = None
    duplicate: Estimate | None = None
    distinct_1: float
    distinct_2: float


@dataclass(frozen=True, kw_only=True)
class ModelResult:
    """One model's evaluation.

    Attributes:
        answers: at the `defaults`, where they were asked for, and over `all` settings.
        effects: per ordinal dial and text statistic the change per level.
        scorers: by the scorer's id.
        label_words: per attribute by how many levels words of its label in the text move it, while its dial stands
            still; None where that was not tried.
        unseen_label_words: the same over spellings that occur in no training.
        steerability: of single and mixed requests, by the quoted scorers.
        groups: by source or language of the prompts or by a category asked for, where the section says so.
    """

    fingerprint: str
    coverage: Coverage
    answers: Mapping[str, AnswerStatistics]
    effects: Mapping[str, Mapping[str, Estimate]]
    scorers: Mapping[str, ScorerResult]
    label_words: Mapping[str, Estimate] | None = None
    unseen_label_words: Mapping[str, Estimate] | None = None
    steerability: Steerability | None = None
    groups: Mapping[str, GroupResult] | None = None


@dataclass(frozen=True)
class SaidTurn:
    """A turn of an example."""

    role: str
    content: str


@dataclass(frozen=True)
class SweepReply:
    """One answer of an example: what was asked for and obtained (None: not measured), and the whole setting."""

    requested: Value
    obtained: float | str | None
    attributes: Mapping[str, Value]
    text: str


@dataclass(frozen=True)
class SweepExample:
    """The same prompt at several levels of a dial."""

    dial: str
    messages: Sequence[SaidTurn]
    replies: Sequence[SweepReply]


@dataclass(frozen=True)
class SweepExamples:
    """Answers to look at, of one model."""

    model: str
    sweeps: Sequence[SweepExample]


@dataclass(frozen=True)
class PairedDifferences:
    """Two models on the same sweeps, in pairs: the mean over the dials, and each."""

    before: str
    after: str
    scorer: str
    mean: Differences
    attributes: Mapping[str, Differences]


@dataclass(frozen=True)
class LabelQuality:
    """Errors of labels against the truth, in levels.

    Attributes:
        n: turns that carry both labels.
        ratio: error of the predicted labels by that of the human ones.
        predicted_score: error of the predictions before rounding.
    """

    n: int
    human: Estimate
    predicted: Estimate
    ratio: Estimate
    predicted_score: Estimate | None = None


@dataclass(frozen=True, kw_only=True)
class PublishedScores:
    """The paper's row; no scores where it published no figure."""

    scores: Sequence[float] | None
    measured_by: str = ""
    prompts: int = 0
    note: str


@dataclass(frozen=True)
class SuiteDescription:
    """One of the paper's experiments: its dial and levels, the paper's levels, and where the prompts come from."""

    name: str
    dial: str
    levels: Sequence[Value]
    paper_levels: Sequence[int]
    source: str
    published: PublishedScores

    @property
    def paper(self) -> dict[int, float]:
        """The paper's score by its level."""
        return dict(zip(self.paper_levels, self.published.scores or (), strict=False))


SuiteName = Literal["toxicity", "humor"]
SUITES: tuple[SuiteName, ...] = get_args(SuiteName)


class HeadlineDial(NamedTuple):
    """A dial as the scorer measures it that the headline quotes."""

    model: str
    attribute: str
    dial: DialResult
    scorer: ScorerLabel


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """A `results.json` of `steerlm evaluate`.

    Attributes:
        settings: the recipe's section `evaluate`; where it names no `guidance`, that of the last model.
        headline_scorer: per attribute the scorer that is quoted.
        cautions: what a reader must know first.
        comparisons: neighbouring models in pairs.
        label_quality: per annotated file and attribute.
        suite: where it is one of the paper's experiments; it has no comparisons then, and no label quality.
    """

    version: int = 0
    attributes: AttributeSchema
    seed: int
    settings: Mapping[str, object]
    prompts: PromptCounts
    asks: int
    scorers: Sequence[ScorerLabel]
    headline_scorer: Mapping[str, str]
    cautions: Sequence[str]
    models: Mapping[str, ModelResult]
    examples: SweepExamples
    comparisons: Sequence[PairedDifferences] | None = None
    label_quality: Mapping[str, Mapping[str, LabelQuality]] | None = None
    suite: SuiteDescription | None = None

    @property
    def drawing(self) -> AnswerDraws:
        """How answers were drawn."""
        return from_json(AnswerDraws, self.settings)

    @property
    def final(self) -> str:
        """Name of the last model."""
        return list(self.models)[-1]

    @property
    def final_model(self) -> ModelResult:
        """The last model's evaluation."""
        return self.models[self.final]

    def scorer(self, scorer_id: str) -> ScorerLabel:
        return next(scorer for scorer in self.scorers if scorer.id == scorer_id)

    def headline_dials(self) -> Iterator[HeadlineDial]:
        """Yield every model's dials as the quoted scorers measure them."""
        for model, result in self.models.items():
            for attribute, scorer in self.headline_scorer.items():
                dial = result.scorers[scorer].dials.get(attribute)
                if dial is not None:
                    yield HeadlineDial(model, attribute, dial, self.scorer(scorer))

    def side_curves(self, dial: str, model: str) -> dict[str, Sequence[CurvePoint]]:
        """Return how the other attributes of the same scale respond to a dial, by its quoted scorer."""
        schema = self.attributes
        scale = (schema[dial].minimum, schema[dial].maximum)
        responses = self.models[model].scorers[self.headline_scorer[dial]].responses.get(dial, {})
        return {
            name: points
            for name, points in responses.items()
            if name != dial and (schema[name].minimum, schema[name].maximum) == scale
        }


def read_evaluation(run_dir: Path) -> Evaluation | None:
    """Read the evaluation of a run folder, or of a folder with a `results.json`; None where there is none.

    Raises:
        UserError: a damaged file, or the results of another command (compare, judge and rate write such a file too).
    """
    for path in (run_dir / "evaluate" / "results.json", run_dir / "results.json"):
        if path.is_file():
            return evaluation_file(path)
    return None


def evaluation_file(path: Path) -> Evaluation:
    """Read a `results.json` that must be one of `steerlm evaluate`."""
    value = read_json(path)
    if not isinstance(value, dict) or "headline_scorer" not in value:
        raise UserError(f"{path} holds no evaluation; give a run folder, or one that `steerlm evaluate` wrote")
    try:
        return from_json(Evaluation, value)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
