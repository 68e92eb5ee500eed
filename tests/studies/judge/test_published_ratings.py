"""What QLoRA published (Dettmers et al. 2023, tables 1 and 6), recomputed from the ratings that it published."""

from __future__ import annotations

from pathlib import Path

import pytest

from steerlm.scorers.llm.judge import Judgement, to_matches
from steerlm.statistics.rankings import bradley_terry_intervals, elo, flip_rate, position_bias
from steerlm.statistics.score_ratios import ScoreRatio, score_ratios
from steerlm.studies.judge.reviews import read_pairwise_reviews, read_relative_reviews
from steerlm.studies.judge.summary import to_scored_pairs

PUBLISHED_ELO = {
    "gpt4": 1348, "65b-guanaco": 1022, "30b-guanaco": 992, "vicuna-13b": 974,
    "gpt35": 966, "13b-guanaco": 916, "bard": 902, "7b-guanaco": 879,
}  # fmt: skip
BRADLEY_TERRY = {
    "gpt4": 1366.303, "65b-guanaco": 1020.366, "30b-guanaco": 989.220, "vicuna-13b": 971.516,
    "gpt35": 963.914, "13b-guanaco": 913.215, "bard": 899.196, "7b-guanaco": 876.269,
}  # fmt: skip
# percent of ChatGPT as printed: ChatGPT's answer first, the system's first, mean
PERCENTAGES = {
    "bard": (93.2, 96.4, 94.8), "vicuna-13b": (91.2, 98.7, 94.9),
    "65b-guanaco": (96.7, 101.9, 99.3), "65b-alpaca": (63.0, 77.9, 70.7), "65b-flan": (37.0, 59.6, 48.4),
    "30b-guanaco": (96.5, 99.2, 97.8), "30b-alpaca": (67.2, 79.7, 73.6), "30b-flan": (26.3, 49.7, 38.0),
    "13b-guanaco": (87.3, 93.4, 90.4), "13b-alpaca": (63.8, 76.7, 69.4), "13b-hh-rlhf": (55.5, 69.1, 62.5),
    "13b-unnatural-instructions": (50.6, 69.8, 60.5), "13b-chip2": (49.2, 69.3, 59.5),
    "13b-longform": (44.9, 62.0, 53.6), "13b-self-instruct": (38.0, 60.5, 49.1), "13b-flan": (32.4, 61.2, 47.0),
    "7b-guanaco": (84.1, 89.8, 87.0), "7b-alpaca": (57.3, 71.2, 64.4), "7b-flan": (33.3, 56.1, 44.8),
}  # fmt: skip
# Both have three reviews without scores, in one order only. Their two orders come out as printed, the mean does not,
# and no rule was found that gives the printed one.
OTHER_MEANS = {"13b-alpaca": 70.5, "13b-self-instruct": 49.7}


@pytest.fixture(scope="module")
def pairwise(shared_data: Path) -> list[Judgement]:
    return read_pairwise_reviews(sorted((shared_data / "vicuna/ratings/pairwise").glob("*.jsonl")))


@pytest.fixture(scope="module")
def ratios(shared_data: Path) -> dict[str, ScoreRatio]:
    reviews = read_relative_reviews(sorted((shared_data / "vicuna/ratings/relative").glob("*.jsonl")))
    assert len(reviews) == 72 * 80
    assert sum(not review.scores for review in reviews) == 60
    return score_ratios(to_scored_pairs(reviews), "gpt-3.5")


def test_unparsed_verdicts_are_counted(pairwise):
    assert len(pairwise) == 56 * 80
    assert sum(review.outcome is None for review in pairwise) == 13


def test_bradley_terry(pairwise):
    found = {name: rating.value for name, rating in bradley_terry_intervals(to_matches(pairwise)).items()}
    assert found == pytest.approx(BRADLEY_TERRY, abs=1e-3)


def test_elo_of_500_games(pairwise):
    found = elo(to_matches(pairwise), games_per_run=500, orderings=4000)
    assert {name: estimate.value for name, estimate in found.items()} == pytest.approx(PUBLISHED_ELO, abs=5)


def test_position_bias_and_flips(pairwise):
    matches = to_matches(pairwise)
    assert 100 * position_bias(matches).value == pytest.approx(56.2, abs=0.05)
    assert 100 * flip_rate(matches).value == pytest.approx(20.5, abs=0.05)
    assert flip_rate(matches).n == 2227


@pytest.mark.parametrize("system", PERCENTAGES)
def test_percent_of_chatgpt(ratios, system):
    reference_first, system_first, mean = PERCENTAGES[system]
    found = ratios[system]
    assert 100 * found.reference_first.value == pytest.approx(reference_first, abs=0.1)
    assert 100 * found.system_first.value == pytest.approx(system_first, abs=0.1)
    assert 100 * found.pooled.value == pytest.approx(OTHER_MEANS.get(system, mean), abs=0.1)


def test_percent_of_chatgpt_where_the_table_is_at_odds_with_its_ratings(ratios):
    # The table prints GPT-4's two orders the other way round than everybody else's; the mean is the same.
    gpt4 = ratios["gpt4"]
    assert 100 * gpt4.reference_first.value == pytest.approx(110.1, abs=0.1)
    assert 100 * gpt4.system_first.value == pytest.approx(119.4, abs=0.1)
    assert 100 * gpt4.pooled.value == pytest.approx(114.5, abs=0.1)
    # Its row of Open Assistant 33B repeats Vicuna-13B's figures; the ratings of that system say 79.5.
    assert 100 * ratios["30b-huggingchat"].pooled.value == pytest.approx(79.5, abs=0.1)
