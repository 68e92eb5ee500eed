"""Figures of rungs, against scipy, statsmodels and figures worked out by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.weightstats import DescrStatsW

from steerlm.attributes import Attribute, AttributeSchema
from steerlm.results.studies import DialsEstimate
from steerlm.studies.ablate.statistics import Judged, describe, gain, over_seeds

SCHEMA = AttributeSchema((Attribute("quality", best="max"), Attribute("toxicity", best="min")))
JUDGED = Judged(SCHEMA, {"quality": "measure", "toxicity": "measure"}, ("quality",))


def answer(quality: float, toxicity: float = 0.0, text: str = "one two three", **place: Any) -> dict[str, Any]:
    scores = {"measure": {"quality": quality, "toxicity": toxicity}, "annotator": {"quality": 4 - quality}}
    return {**place, "text": text, "num_tokens": len(text.split()), "finished": True, "scores": scores}


def rows(qualities: list[float], obtained: Any = None) -> list[dict[str, Any]]:
    """One prompt per quality; `obtained(level, prompt)` answers the sweep of the quality dial."""
    return [
        {
            "prompt": f"p{i}",
            "cluster": i,
            "best": [answer(quality)],
            "sweep": [answer(obtained(level, i), dial="quality", level=level) for level in range(5)]
            if obtained
            else [],
        }
        for i, quality in enumerate(qualities)
    ]


def value_of(figure: DialsEstimate | None) -> float:
    assert figure is not None
    return figure.figure.estimate.value


def test_quality_is_pooled_and_every_seed_is_shown() -> None:
    answers = {3: rows([0, 1, 2, 3, 4, 4]), 4: rows([4, 4, 4, 4, 4, 4])}
    quality = describe(answers, JUDGED).quality
    pooled = quality.estimate
    assert pooled.value == pytest.approx((14 + 24) / 12)
    assert pooled.low < pooled.value < pooled.high
    assert (pooled.n, pooled.clusters) == (12, 6)
    assert {seed: row.value for seed, row in quality.seeds.items()} == {"3": pytest.approx(14 / 6), "4": 4.0}


def test_the_interval_over_seeds_is_student_s() -> None:
    values = [2.1, 2.5, 2.2]
    found = over_seeds(values)
    low, high = DescrStatsW(values).tconfint_mean()
    assert (found.low, found.high) == pytest.approx((low, high), abs=1e-12)
    assert found.sd == pytest.approx(np.std(values, ddof=1))


@pytest.mark.parametrize("values", [[], [1.0], [1.0, float("nan")]])
def test_one_seed_gives_no_interval(values: list[float]) -> None:
    assert math.isnan(over_seeds(values).low)


def test_a_quality_attribute_whose_low_end_is_best_counts_mirrored() -> None:
    judged = Judged(SCHEMA, JUDGED.headline, ("quality", "toxicity"))
    answers = {0: [{"prompt": "p", "cluster": 0, "best": [answer(4, 4)], "sweep": []}]}
    figures = describe(answers, judged)
    assert figures.quality.estimate.value == 2.0
    assert figures.attributes["toxicity"].estimate.value == 4.0


def test_the_quoted_scorer_measures_and_what_it_cannot_read_is_left_out() -> None:
    answers = {0: rows([1, 1, 1])}
    answers[0][2]["best"][0]["scores"]["measure"] = None
    assert describe(answers, JUDGED).quality.estimate.value == 1.0
    assert describe(answers, JUDGED).quality.estimate.n == 2
    other = Judged(SCHEMA, {"quality": "annotator"}, ("quality",))
    assert describe(answers, other).quality.estimate.value == 3.0


def test_steering_of_a_perfect_model_and_of_one_that_hears_nothing() -> None:
    perfect = describe({0: rows([4] * 6, lambda level, i: level)}, JUDGED).steering
    assert value_of(perfect.error) == 0.0
    assert value_of(perfect.spearman) == pytest.approx(1.0)
    assert value_of(perfect.slope) == pytest.approx(1.0)
    deaf = describe({0: rows([4] * 6, lambda level, i: i % 5)}, JUDGED).steering
    assert value_of(deaf.spearman) == pytest.approx(0.0, abs=1e-12)
    assert value_of(deaf.slope) == pytest.approx(0.0, abs=1e-12)
    expected = np.mean([abs(level - i % 5) for level in range(5) for i in range(6)])
    assert value_of(deaf.error) == pytest.approx(expected)


def test_steering_is_averaged_over_the_dials_not_over_the_answers() -> None:
    rng = np.random.default_rng(0)
    answers = rows([4] * 8, lambda level, i: float(level))
    noise = {}
    for row in answers:
        for level in range(5):
            noise[row["cluster"], level] = level + rng.normal()
            row["sweep"].append(answer(0, noise[row["cluster"], level], dial="toxicity", level=level))
    del answers[0]["sweep"][0]  # the dials have different numbers of answers now
    steering = describe({0: answers}, JUDGED).steering
    assert steering.spearman is not None
    levels = [level for _, level in noise]
    rho = stats.spearmanr(levels, list(noise.values())).statistic
    assert steering.spearman.by_dial["toxicity"].value == pytest.approx(rho)
    assert value_of(steering.spearman) == pytest.approx((1 + rho) / 2)


def test_the_gain_is_paired_by_prompt_and_seed() -> None:
    before = {0: rows([0, 1, 2, 3, 4, 0], lambda level, i: 0.0), 1: rows([0, 1, 2, 3, 4, 0])}
    after = {0: rows([1, 2, 3, 4, 5, 1], lambda level, i: level), 1: rows([1, 2, 3, 4, 5, 1])}
    found = gain(before, after, JUDGED)
    assert found.quality.estimate[:3] == (1.0, 1.0, 1.0)
    assert found.error.estimate.value == pytest.approx(-2.0)
    missing = {0: after[0][:3]}
    assert gain(before, missing, JUDGED).quality.estimate.n == 3


def test_few_prompts_have_a_figure_but_no_interval() -> None:
    quality = describe({0: rows([1, 2])}, JUDGED).quality.estimate
    assert quality.value == 1.5
    assert not quality.has_interval
    assert "clusters" in quality.note


def test_diversity_counts_what_is_said_again() -> None:
    same = [{"prompt": str(i), "cluster": i, "best": [answer(1), answer(1)], "sweep": []} for i in range(4)]
    other = [
        {"prompt": str(i), "cluster": i, "best": [answer(1, text=f"a{i} b{i}"), answer(1, text=f"c{i}")], "sweep": []}
        for i in range(4)
    ]
    flat, rich = describe({0: same}, JUDGED).text, describe({0: other}, JUDGED).text
    assert (flat.unique, flat.unique_per_prompt, flat.distinct_1) == (1 / 8, 0.5, 3 / 24)
    assert (rich.unique, rich.unique_per_prompt, rich.distinct_1) == (1.0, 1.0, 1.0)
    assert flat.tokens.estimate.value == 3.0
    assert flat.unfinished.value == 0.0
