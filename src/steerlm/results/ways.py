"""What `steerlm evaluate --ways` writes: `ways.json`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from steerlm.attributes import AttributeSchema
from steerlm.results.codec import read_result
from steerlm.results.dials import DialResult, Differences
from steerlm.results.evaluation import PromptCounts, ScorerLabel


@dataclass(frozen=True)
class VectorChoice:
    """The activation vector of a dial, as validation prompts chose it.

    Attributes:
        layer: whose output is pushed, counted from 0; `of` so many.
        strength: how many half differences of means the ends of the scale are pushed by.
        examples: answers on either side that the difference of means comes from.
        error: mean error at the ends of the scale on the validation prompts, in levels.
    """

    layer: int
    of: int
    strength: float
    examples: int
    error: float


@dataclass(frozen=True, kw_only=True)
class WayResult:
    """One way to steer.

    Attributes:
        name: as on the command line.
        model: what answers.
        draws: answers drawn for each one given.
        prompt_tokens: mean length of what the model reads; None where it is not known.
        shown: mean number of demonstrations in a prompt, where the way has them: those that leave room for an answer.
        answer_tokens: mean length of an answer, in tokens of the model.
        unanswered: requests without an answer: the prompt does not fit.
        dials: as the quoted scorer measures them.
        against_header: this way minus the header (turned up, where there is no other), on the same prompts in pairs; a
            positive error is worse; the mean over the dials of the first scorer. None for the header itself.
        by_dial: the same per dial.
    """

    name: str
    model: str
    draws: int
    prompt_tokens: float | None
    shown: float | None = None
    answer_tokens: float
    unanswered: int
    dials: Mapping[str, DialResult]
    against_header: Differences | None
    by_dial: Mapping[str, Differences]


@dataclass(frozen=True, kw_only=True)
class WaysResult:
    """The file.

    Attributes:
        base: the model that the other ways ask.
        headline_scorer: per attribute the scorer that is quoted.
        chosen_by: scorers that also chose among several draws: those ways are as good as choosing can make them.
        vectors: per dial, where a way is `vector`.
    """

    version: int = 0
    attributes: AttributeSchema
    seed: int
    model: str
    base: str
    settings: Mapping[str, object]
    prompts: PromptCounts
    asks: int
    scorers: Sequence[ScorerLabel]
    headline_scorer: Mapping[str, str]
    cautions: Sequence[str]
    ways: Sequence[WayResult]
    vectors: Mapping[str, VectorChoice]

    def scorer(self, attribute: str) -> ScorerLabel:
        """Return who is quoted for an attribute."""
        return next(scorer for scorer in self.scorers if scorer.id == self.headline_scorer[attribute])


def read_ways(folder: Path) -> WaysResult | None:
    """Read the results of a folder, or of the evaluation of a run; None where there are none.

    Raises:
        UserError: a damaged file.
    """
    for path in (folder / "ways.json", folder / "evaluate" / "ways" / "ways.json"):
        if path.is_file():
            return read_result(WaysResult, path)
    return None
