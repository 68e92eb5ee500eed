"""Rankings against choix, statsmodels, a straightforward Elo loop, and figures worked out by hand."""

from __future__ import annotations

import itertools
import math

import choix
import numpy as np
import pytest
import statsmodels.api as sm

from steerlm.statistics.length_control import length_controlled_win_rate
from steerlm.statistics.rankings import (
    Match,
    bradley_terry_intervals,
    elo,
    flip_rate,
    overall_win_rates,
    position_bias,
    win_rates,
)


def bradley_terry(matches: list[Match]) -> dict[str, float]:
    return {name: rating.value for name, rating in bradley_terry_intervals(matches).items()}


STRENGTHS = {"a": 1.2, "b": 0.4, "c": 0.0, "d": -1.0}


def tournament(seed: int = 0, prompts: int = 30, ties: float = 0.2) -> list[Match]:
    """Every pair on every prompt in both orders, decided by fixed strengths."""
    rng = np.random.default_rng(seed)
    matches = []
    for prompt, (first, second) in itertools.product(range(prompts), itertools.permutations(STRENGTHS, 2)):
        p = 1 / (1 + math.exp(STRENGTHS[second] - STRENGTHS[first]))
        outcome = 0.5 if rng.random() < ties else float(rng.random() < p)
        matches.append(Match(str(prompt), first, second, outcome))
    return matches


@pytest.mark.parametrize("ties", [0.0, 0.3])
def test_bradley_terry_equals_choix(ties):
    matches = tournament(ties=ties)
    names = sorted(STRENGTHS)
    # choix has no ties: everything counts twice, a tie as one win each
    wins = []
    for match in matches:
        pair = names.index(match.first), names.index(match.second)
        wins += {1.0: [pair] * 2, 0.0: [pair[::-1]] * 2, 0.5: [pair, pair[::-1]]}[match.outcome]
    theta = choix.ilsr_pairwise(len(names), wins, tol=1e-13)
    expected = 1000 + 400 / math.log(10) * (theta - theta.mean())
    found = bradley_terry(matches)
    assert [found[name] for name in names] == pytest.approx(expected, abs=1e-6)
    assert np.mean(list(found.values())) == pytest.approx(1000, abs=1e-9)


def test_two_systems_have_a_closed_form():
    matches = [Match(str(i), "x", "y", 1.0) for i in range(10)] + [Match("10", "y", "x", 1.0)]
    ratings = bradley_terry(matches)
    assert ratings["x"] - ratings["y"] == pytest.approx(400, abs=1e-9)  # odds of 10 to 1


def test_nearly_undefeated_systems_converge():
    matches = [Match(str(i), "x", "y", 1.0) for i in range(999)] + [Match("t", "x", "y", 0.5)]
    assert bradley_terry(matches)["x"] - bradley_terry(matches)["y"] == pytest.approx(400 * math.log10(1999), abs=1e-6)


def test_the_order_shown_changes_no_rating():
    matches = tournament(5, prompts=10)
    mirrored = [Match(m.prompt, m.second, m.first, 1 - m.outcome) for m in matches]
    assert bradley_terry(mirrored) == pytest.approx(bradley_terry(matches), abs=1e-9)
    for name, rate in overall_win_rates(matches).items():
        assert overall_win_rates(mirrored)[name].value == pytest.approx(rate.value)
    first, second = position_bias(matches).value, position_bias(mirrored).value
    assert first + second == pytest.approx(np.mean([m.outcome != 0.5 for m in matches]))
    assert flip_rate(mirrored).value == flip_rate(matches).value


@pytest.mark.parametrize(
    "matches",
    [
        [Match(str(i), "x", "y", 1.0) for i in range(8)],
        [Match(str(i), *pair, o) for i in range(8) for pair in ("xy", "vw") for o in (0.0, 1.0)],
    ],
    ids=["undefeated", "two islands"],
)
def test_no_ratings_where_none_exist(matches):
    assert all(math.isnan(rating) for rating in bradley_terry(matches).values())
    estimate = bradley_terry_intervals(matches)["x"]
    assert math.isnan(estimate.value)
    assert ("y never wins, x never loses" if len(matches) == 8 else "a group of systems never") in estimate.note


def test_interval_is_refused_where_a_single_prompt_keeps_the_ratings_finite():
    matches = [Match(str(i), "x", "y", 1.0) for i in range(20)] + [Match("20", "x", "y", 0.0)]
    estimate = bradley_terry_intervals(matches)["x"]
    assert estimate.value > 1000
    assert math.isnan(estimate.low)
    assert "of the resamples some system wins or loses everything" in estimate.note


def test_bradley_terry_intervals_cover_the_truth():
    truth = 400 / math.log(10) * (np.array(list(STRENGTHS.values())) - np.mean(list(STRENGTHS.values())))
    covered = []
    for seed in range(40):
        found = bradley_terry_intervals(tournament(seed, prompts=25, ties=0.0))
        covered += [
            found[name].low <= 1000 + rating <= found[name].high for name, rating in zip(STRENGTHS, truth, strict=True)
        ]
    assert 0.90 <= np.mean(covered) <= 0.99


def test_intervals_are_clustered_by_prompt():
    matches = tournament(3)
    independent = [Match(f"{i}", m.first, m.second, m.outcome) for i, m in enumerate(matches * 4)]
    repeated = [Match(m.prompt, m.first, m.second, m.outcome) for m in matches * 4]
    for rate in (lambda m: bradley_terry_intervals(m)["a"], lambda m: elo(m, orderings=6000)["a"]):
        once, four, grown = rate(matches), rate(repeated), rate(independent)
        # the same verdicts four times over say no more; four times as many prompts halve the interval
        assert four.high - four.low == pytest.approx(once.high - once.low, rel=0.3)
        assert grown.high - grown.low < 0.7 * (once.high - once.low)
    assert (once.n, once.clusters, four.n) == (180, 30, 720)


def test_elo_equals_a_straightforward_loop():
    matches = [
        Match("p", "x", "y", 1.0),
        Match("q", "y", "z", 0.5),
        Match("r", "z", "x", 0.0),
        Match("s", "x", "z", 0.0),
    ]
    finals = []
    for order in itertools.permutations(matches):
        ratings = dict.fromkeys("xyz", 1000.0)
        for match in order:
            expected = 1 / (1 + 10 ** ((ratings[match.second] - ratings[match.first]) / 400))
            change = 32 * (match.outcome - expected)
            ratings[match.first] += change
            ratings[match.second] -= change
        finals.append([ratings[name] for name in "xyz"])
    found = elo(matches, orderings=20_000)
    # the mean over all 24 orders, up to the noise of drawing them
    noise = 4 * np.std(finals, axis=0) / math.sqrt(20_000) + 1e-9
    assert np.all(np.abs([found[name].value for name in "xyz"] - np.mean(finals, axis=0)) < noise)
    assert "no interval: 4 prompts" in found["x"].note


def test_elo_of_one_game_and_of_games_drawn():
    one = elo([Match("p", "x", "y", 1.0)], k=20, start=1500, orderings=3)
    assert (one["x"].value, one["y"].value) == (1510, 1490)
    matches = [Match(str(i), "x", "y", 1.0) for i in range(50)]
    assert elo(matches, games_per_run=1, orderings=10)["x"].value == 1016
    assert elo(matches, games_per_run=2, orderings=10)["x"].value < elo(matches, orderings=10)["x"].value


def test_elo_claims_no_certainty_about_a_system_that_always_loses():
    matches = [m for m in tournament(2, prompts=12) if "d" not in (m.first, m.second)]
    matches += [Match(str(i), "a", "d", 1.0) for i in range(12)]
    found = elo(matches, orderings=400)
    assert found["d"].note == "no interval: all verdicts on it are the same"
    assert math.isnan(found["d"].low)
    assert found["b"].low < found["b"].value < found["b"].high


def test_elo_is_a_function_of_its_seed():
    matches = tournament(1, prompts=8)
    assert elo(matches, orderings=50, seed=4) == elo(matches, orderings=50, seed=4)
    assert elo(matches, orderings=50, seed=4) != elo(matches, orderings=50, seed=5)


def test_win_rates_count_both_orders():
    matches = [
        Match("p", "x", "y", 1.0),
        Match("p", "y", "x", 1.0),
        Match("q", "x", "y", 0.5),
        Match("q", "x", "z", 0.0),
    ]
    matrix = win_rates(matches)
    assert (matrix["x"]["y"].wins, matrix["x"]["y"].ties, matrix["x"]["y"].losses) == (1, 1, 1)
    assert matrix["x"]["y"].win_rate.value == matrix["y"]["x"].win_rate.value == 0.5
    assert (matrix["z"]["x"].wins, matrix["z"]["x"].win_rate.value) == (1, 1.0)
    assert "y" not in matrix["z"]
    assert overall_win_rates(matches)["x"].value == pytest.approx(1.5 / 4)
    assert overall_win_rates(matches)["x"].clusters == 2


def test_position_bias_and_flips():
    matches = [
        Match("p", "x", "y", 1.0), Match("p", "y", "x", 1.0),  # whoever comes first wins: a flip
        Match("q", "x", "y", 1.0), Match("q", "y", "x", 0.0),  # x either way
        Match("r", "x", "y", 1.0), Match("r", "y", "x", 0.5),  # win and tie: no flip
        Match("s", "x", "y", 0.0), Match("s", "y", "x", 0.0),  # whoever comes second wins: a flip
        Match("t", "x", "y", 1.0),  # one order only: no pair
    ]  # fmt: skip
    assert position_bias(matches).value == pytest.approx(5 / 9)
    assert flip_rate(matches).value == pytest.approx(2 / 4)
    assert flip_rate(matches).n == 4
    assert flip_rate(matches[-1:]).note == "no data"


def length_data(bias: float, seed: int = 0) -> tuple[list[Match], dict[tuple[str, str], float]]:
    """x has no merit of its own; longer answers win, and those of x are longer on average."""
    rng = np.random.default_rng(seed)
    matches, lengths = [], {}
    for i in range(400):
        prompt = str(i)
        lengths["x", prompt], lengths["y", prompt] = rng.normal(130, 30), rng.normal(100, 30)
        gap = lengths["x", prompt] - lengths["y", prompt]
        x_wins = float(rng.random() < 1 / (1 + math.exp(-bias * gap)))
        matches += [Match(prompt, "x", "y", x_wins), Match(prompt, "y", "x", 1 - x_wins)]
    return matches, lengths


def test_length_controlled_win_rate_takes_the_length_out():
    matches, lengths = length_data(bias=0.05)
    assert win_rates(matches)["x"]["y"].win_rate.low > 0.6
    controlled = length_controlled_win_rate(matches, "x", "y", lengths)
    assert controlled.low < 0.5 < controlled.high
    mirrored = length_controlled_win_rate(matches, "y", "x", lengths)
    assert mirrored.value == pytest.approx(1 - controlled.value, abs=1e-9)
    assert (controlled.n, controlled.clusters) == (800, 400)


def test_length_controlled_win_rate_leaves_a_blind_judge_alone():
    matches, lengths = length_data(bias=0.0)
    plain, controlled = win_rates(matches)["x"]["y"].win_rate, length_controlled_win_rate(matches, "x", "y", lengths)
    assert controlled.low < plain.value < controlled.high


def test_length_controlled_win_rate_equals_a_logistic_regression():
    matches, lengths = length_data(bias=0.02, seed=2)
    gap = np.array([lengths["x", m.prompt] - lengths["y", m.prompt] for m in matches])
    wins = np.array([m.outcome if m.first == "x" else 1 - m.outcome for m in matches])
    design = np.column_stack([np.ones(len(gap)), np.tanh(gap / gap.std())])
    intercept = sm.Logit(wins, design).fit(disp=False, tol=1e-12).params[0]
    found = length_controlled_win_rate(matches, "x", "y", lengths)
    assert found.value == pytest.approx(1 / (1 + math.exp(-intercept)), abs=1e-6)
    # both orders agree here, so that the interval must be that of one verdict per prompt
    single = length_controlled_win_rate(matches[::2], "x", "y", lengths)
    assert found.high - found.low == pytest.approx(single.high - single.low, rel=0.02)


def test_length_controlled_win_rate_says_why_it_is_missing():
    lengths = {(name, str(i)): 10.0 + i * (name == "x") for name in "xy" for i in range(20)}
    same = [Match(str(i), "x", "y", 1.0) for i in range(20)]
    assert "all verdicts are the same" in length_controlled_win_rate(same, "x", "y", lengths).note
    lengths = {(name, str(i)): 10.0 + (i - 9.5) * (name == "x") for name in "xy" for i in range(20)}
    decided = [Match(str(i), "x", "y", float(i > 9.5)) for i in range(20)]
    assert "length alone" in length_controlled_win_rate(decided, "x", "y", lengths).note
    assert length_controlled_win_rate(same, "x", "z", lengths).note == "no data"
    equal = {(name, str(i)): 10.0 for name in "xy" for i in range(20)}
    assert length_controlled_win_rate(decided, "x", "y", equal).value == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("wins", "gaps", "note"),
    [
        ([[1], [0]], [3, 5], "undefined: 2 prompt(s), at least 3 are needed"),
        ([[1, 1], [0, 1]], [3, 5], "undefined: 2 prompt(s), at least 3 are needed"),
        ([[1, 0]], [0], "undefined: 1 prompt(s), at least 2 are needed"),
        ([[1], [0], [1], [1]], [3, 3, 3, 3], "undefined: every answer is longer by as much"),
        ([[0], [0], [0.5], [1]], [5, 9, 5, 0], "undefined: length alone decides nearly every verdict"),
        ([[0], [0], [1], [1], [1]], [-1, 2, 2, 3, 4], "undefined: length alone decides nearly every verdict"),
    ],
)
def test_without_finite_estimates_there_is_no_win_rate_at_equal_length(wins, gaps, note):
    matches = [Match(str(i), "x", "y", float(win)) for i, both in enumerate(wins) for win in both]
    lengths = {(name, str(i)): 10.0 + gap * (name == "x") for name in "xy" for i, gap in enumerate(gaps)}
    estimate = length_controlled_win_rate(matches, "x", "y", lengths)
    assert math.isnan(estimate.value)
    assert estimate.note == note


def test_few_prompts_get_no_interval():
    matches = [Match(str(i % 3), "x", "y", float(i % 2)) for i in range(12)]
    lengths = {(name, str(i)): float(len(name) + 3 * i * (name == "x")) for name in "xy" for i in range(3)}
    for estimate in (
        win_rates(matches)["x"]["y"].win_rate,
        bradley_terry_intervals(matches)["x"],
        elo(matches, orderings=10)["x"],
        length_controlled_win_rate(matches, "x", "y", lengths),
        position_bias(matches),
    ):
        assert math.isfinite(estimate.value)
        assert math.isnan(estimate.low)
        assert "no interval: 3" in estimate.note
