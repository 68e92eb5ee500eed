"""The paper's two steering experiments as named suites: one dial, a few levels, prompts of a kind.

    steerlm evaluate --suite toxicity --model final=MODEL --prompts harmless-base-test.jsonl.gz --out OUT
    steerlm evaluate --suite humor --model final=MODEL --out OUT

`toxicity` turns its dial on red-team first turns, `humor` on requests for jokes; all other dials stand at their
defaults. What the paper published stands beside the results: a mean Perspective score per toxicity level; for humor it
shows two anecdotes and no figure.
"""

from __future__ import annotations

import dataclasses
import importlib.resources
from dataclasses import dataclass

import numpy as np

from steerlm.attributes import Attribute, AttributeSchema, Value
from steerlm.config import SourceConfig, SourceFormat, format_and_path
from steerlm.conversation import Conversation, Message
from steerlm.errors import UserError
from steerlm.results.evaluation import LevelScore, PublishedScores, SuiteDescription, SuiteName, SuiteScores
from steerlm.sources import read_source
from steerlm.sources.rows import BadRecords
from steerlm.stages.evaluate.fidelity import Sweeps
from steerlm.stages.evaluate.sweeping import Prompt, as_prompts
from steerlm.statistics.estimates import FloatArray, Weights, mean

_PAPER_LEVELS = (0, 3, 6, 9)
_PAPER_MAXIMUM = 9
PUBLISHED = {
    "toxicity": PublishedScores(
        scores=[0.063, 0.086, 0.096, 0.104],
        measured_by="Perspective API, mean score",
        prompts=100,
        note="Dong et al. 2023 (arXiv 2310.05344); no interval was published",
    ),
    "humor": PublishedScores(
        scores=None, note="Dong et al. 2023 (arXiv 2310.05344) show two anecdotes and publish no figure"
    ),
}
"""The paper's rows, by suite."""


@dataclass(frozen=True)
class Suite:
    """One of the paper's experiments on a schema.

    Attributes:
        name: also the name of the dial.
        levels: the levels of the schema that stand at the same share of its range as the paper's 0, 3, 6, 9 of 0..9.
        source: where the prompts come from, in words.
    """

    name: SuiteName
    levels: tuple[Value, ...]
    prompts: tuple[Prompt, ...]
    source: str

    def describe(self) -> SuiteDescription:
        """Say what it is, with what the paper published."""
        return SuiteDescription(
            name=self.name,
            dial=self.name,
            levels=list(self.levels),
            paper_levels=list(_PAPER_LEVELS),
            source=self.source,
            published=PUBLISHED[self.name],
        )


def make_suite(name: SuiteName, schema: AttributeSchema, prompts: str | None, num_prompts: int, seed: int) -> Suite:
    """Choose a suite's prompts and levels.

    Args:
        name: `toxicity` or `humor`.
        schema: must have an ordinal attribute of that name.
        prompts: a file, as `PATH` or `FORMAT:PATH`; `toxicity` reads HH-RLHF by default; of every
            dialogue the first turn is taken. None takes the joke requests shipped here, for `humor`.
        num_prompts: at most so many, drawn at random.
        seed: of the draw and of the answers' sampling.

    Raises:
        UserError: no such attribute or a categorical one; `toxicity` without prompts; an unusable file.
    """
    if name not in schema or schema[name].kind != "ordinal":
        raise UserError(f"suite {name!r} needs an ordinal attribute {name!r}; the model's are {schema.signature}")
    if prompts is None:
        if name == "toxicity":
            raise UserError(
                "suite 'toxicity' asks red-team questions: give an HH-RLHF file with --prompts (in a recipe: "
                "evaluate.toxicity_prompts), for example harmless-base/test.jsonl.gz"
            )
        rows = [Conversation(f"joke/{i}", (Message("user", text),)) for i, text in enumerate(joke_requests())]
        source = "joke requests shipped with steerlm"
    else:
        rows, source = _first_turns(prompts, schema, "hh_rlhf" if name == "toxicity" else "messages")
    return Suite(name, suite_levels(schema[name]), as_prompts(rows, num_prompts, seed), source)


def joke_requests() -> list[str]:
    """Return a hundred requests for something funny: jokes, puns, captions, small scenes."""
    file = importlib.resources.files("steerlm.stages.evaluate") / "joke_requests.txt"
    return file.read_text(encoding="utf-8").splitlines()


def suite_levels(attribute: Attribute) -> tuple[Value, ...]:
    """Return the levels equivalent to the paper's 0, 3, 6 and 9: the same share of the range, rounded, each once."""
    equivalent = [attribute.round(attribute.from_unit(level / _PAPER_MAXIMUM)) for level in _PAPER_LEVELS]
    return tuple(dict.fromkeys(equivalent))


def _first_turns(prompts: str, schema: AttributeSchema, default: SourceFormat) -> tuple[list[Conversation], str]:
    """Read the first user turn of every dialogue in a file, each once."""
    source_format, path = format_and_path(prompts)
    source = SourceConfig(name="prompts", format=source_format or default, path=path)
    first: dict[str, Conversation] = {}
    # a dialogue with an empty or doubled turn further on still has a first one, but nothing is lost without it
    for conversation in read_source(source, schema, bad=BadRecords()):
        opening = next(message for message in conversation.messages if message.role == "user")
        text = opening.content.strip()
        if text:
            turn = (dataclasses.replace(opening, content=text),)
            first.setdefault(text, dataclasses.replace(conversation, messages=turn))
    if not first:
        raise UserError(f"{path} holds no first turn to ask")
    return list(first.values()), f"{len(first)} different first turns of {path.name} ({source.format})"


def level_scores(sweeps: Sweeps, attribute: Attribute, suite: Suite) -> SuiteScores:
    """Return the mean score per level on a scale of 0..1, which is what the paper reports, from the same prompts."""
    rows = sweeps.of(suite.name, suite.name)
    unit = (sweeps.obtained[suite.name] - attribute.minimum) / (attribute.maximum - attribute.minimum)
    levels = []
    for level in suite.levels:
        at = rows & (sweeps.requested == float(level))
        paper = [p for p in _PAPER_LEVELS if attribute.round(attribute.from_unit(p / _PAPER_MAXIMUM)) == level]
        levels.append(LevelScore(level, paper, sweeps.estimate(mean, at, unit)))
    top, bottom = float(suite.levels[-1]), float(suite.levels[0])

    def rise(weights: Weights, x: FloatArray, y: FloatArray) -> FloatArray:
        return mean(weights.take(x == top), y[x == top]) - mean(weights.take(x == bottom), y[x == bottom])

    ends = rows & np.isin(sweeps.requested, (top, bottom))
    return SuiteScores(levels, sweeps.estimate(rise, ends, sweeps.requested, unit))
