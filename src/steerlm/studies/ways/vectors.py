"""An activation vector per dial: the difference of mean activations over answers at its high and low end.

Layer and strength are those with the smallest error on validation prompts. Turned to a level, the dial pushes by its
place between the ends: not at all in the middle of the scale.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from safetensors.torch import load_file, save

from steerlm.attributes import Attribute, AttributeSchema
from steerlm.conversation import Message
from steerlm.errors import UserError
from steerlm.generation.demonstrations import Demonstration, Demonstrations
from steerlm.generation.guidance import Wish
from steerlm.generation.plain import PlainModel, Push
from steerlm.generation.requests import Sampling
from steerlm.results.codec import read_result, write_result
from steerlm.results.ways import VectorChoice
from steerlm.stages.evaluate.panel import Panelist
from steerlm.statistics.estimates import FloatArray
from steerlm.storage.claims import claim, digest_of
from steerlm.storage.files import atomic_writer
from steerlm.storage.progress import progress

MOST_EXAMPLES = 48
"""Answers on either side of a dial."""
FEWEST_EXAMPLES = 4
VALIDATION_PROMPTS = 4
DEPTHS = (0.4, 0.55, 0.7)
STRENGTHS = (1.0, 2.0, 4.0)


class DialVector(NamedTuple):
    """How a dial pushes."""

    choice: VectorChoice
    vector: torch.Tensor

    def push(self, attribute: Attribute, levels: Sequence[Wish]) -> Push:
        """Return what is added for answers at some levels."""
        places = torch.tensor([2 * attribute.to_unit(float(level)) - 1 for level in levels])
        return Push(self.choice.layer, places[:, None] * self.choice.strength * self.vector / 2)


@dataclass(frozen=True)
class Fitting:
    """What vectors are made from.

    Attributes:
        key: says which model it is.
        scorers: per dial who measures it.
        taken: prompts that are no validation prompts, because they are asked in the evaluation.
    """

    model: PlainModel
    key: str
    shown: Demonstrations
    scorers: Mapping[str, Panelist]
    sampling: Sampling
    taken: frozenset[str]
    seed: int


def fit_vectors(fitting: Fitting, schema: AttributeSchema, out: Path) -> dict[str, DialVector]:
    """Return a vector per ordinal dial that somebody measures; kept in `out`.

    Raises:
        UserError: too few answers at either end of a dial.
    """
    examples = [(e.prompt, e.answer.content, dict(e.answer.attributes or {})) for e in fitting.shown.examples]
    parts = [fitting.key, examples, vars(fitting.sampling), fitting.seed, sorted(fitting.taken)]
    files = {name: out / f"{name}.json" for name in fitting.scorers}
    key = digest_of(*parts, {name: scorer.scorer.who for name, scorer in fitting.scorers.items()})
    claim(out / "vectors.inputs.json", dict.fromkeys(files, key), otherwise="replace", outputs=files)
    found = {}
    for name, path in progress(files.items(), len(files), "activation vectors"):
        tensors = path.with_suffix(".safetensors")
        if not path.is_file():
            made = _fit(fitting, schema[name])
            with atomic_writer(tensors) as stream:  # save_file's can be read by their owner alone
                stream.write(save({"vector": made.vector.contiguous()}))
            write_result(path, made.choice)
        found[name] = DialVector(read_result(VectorChoice, path), load_file(tensors)["vector"])
    return found


def _fit(fitting: Fitting, attribute: Attribute) -> DialVector:
    model = fitting.model
    low, high = _sides(fitting.shown, attribute)
    layers = sorted({round(depth * (model.num_layers - 1)) for depth in DEPTHS})
    means = [
        torch.stack([model.activations((Message("user", e.prompt),), e.answer.content, layers) for e in side]).mean(0)
        for side in (low, high)
    ]
    differences = means[1] - means[0]
    prompts = _validation(fitting)
    ends = (attribute.minimum, attribute.maximum)
    tried = []
    for (k, layer), strength in itertools.product(enumerate(layers), STRENGTHS):
        choice = VectorChoice(layer, model.num_layers, strength, min(len(low), len(high)), 0.0)
        found = DialVector(choice, differences[k])
        levels = [level for level in ends for _ in prompts]
        asked = [(Message("user", prompt),) for prompt in prompts * len(ends)]
        seeds = [fitting.seed] * len(asked)
        samples = model.answers(asked, seeds, fitting.sampling, [found.push(attribute, levels)])
        turns = [
            (*messages, Message("assistant", "" if sample is None else sample.text))
            for messages, sample in zip(asked, samples, strict=True)
        ]
        error = _error(fitting.scorers[attribute.name], attribute, turns, levels)
        tried.append(found._replace(choice=replace(choice, error=error)))
    return min(tried, key=lambda one: one.choice.error)


def _error(scorer: Panelist, attribute: Attribute, turns: Sequence[Sequence[Message]], levels: Sequence[int]) -> float:
    """Return the mean error in levels; an answer without a score is as wrong as can be."""
    worst = float(attribute.maximum - attribute.minimum)
    errors = []
    for row, level in zip(scorer.measure(turns), levels, strict=True):
        score = None if row is None else row[attribute.name]
        errors.append(worst if score is None else abs(score - level))
    return float(np.mean(errors))


def _sides(shown: Demonstrations, attribute: Attribute) -> tuple[list[Demonstration], list[Demonstration]]:
    """Return answers at the low and at the high end: those in the outer thirds of the scale, farthest out first."""
    valued = [(e, e.value(attribute.name)) for e in shown.examples]
    known = [(e, attribute.to_unit(float(v))) for e, v in valued if isinstance(v, int | float)]
    low = sorted((pair for pair in known if pair[1] <= 1 / 3), key=lambda pair: pair[1])
    high = sorted((pair for pair in known if pair[1] >= 2 / 3), key=lambda pair: -pair[1])
    if min(len(low), len(high)) < FEWEST_EXAMPLES:
        raise UserError(
            f"way 'vector': the demonstrations have {len(low)} answers at the low end of {attribute.name} and "
            f"{len(high)} at its high end; {FEWEST_EXAMPLES} each are needed"
        )
    return [e for e, _ in low[:MOST_EXAMPLES]], [e for e, _ in high[:MOST_EXAMPLES]]


def _validation(fitting: Fitting) -> list[str]:
    free = [p for p in dict.fromkeys(e.prompt for e in fitting.shown.examples) if p not in fitting.taken]
    order: FloatArray = np.random.default_rng(fitting.seed).permutation(len(free)).astype(np.float64)
    return [free[int(i)] for i in order[:VALIDATION_PROMPTS]]
