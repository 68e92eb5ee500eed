"""Rankings from paired comparisons: win rates, Elo and Bradley-Terry ratings, and how far the order of the two answers
decides (SteerLM section 4.2 reports Elo ratings by GPT-4 and by people).

All of it starts from `Match`: one verdict on two answers to one prompt. Intervals come from prompts drawn anew
(`estimates.cluster_bootstrap`), because all verdicts on one prompt share its difficulty.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from steerlm.statistics.estimates import (
    MIN_CLUSTERS,
    Estimate,
    FloatArray,
    cluster_counts,
    estimate_share,
    expanded_interval,
)

CENTRE = 1000.0
"""Mean of the Bradley-Terry ratings, and where Elo starts by default."""

_SCALE = 400 / math.log(10)
"""Rating points per unit of log odds: 400 points are odds of 10 to 1."""

_ELO_RESAMPLES = 200
_RESAMPLES = 1000
_CHUNK = 8_000_000  # games held at a time


@dataclass(frozen=True)
class Match:
    """One verdict on two answers to a prompt, in the order in which the judge saw them."""

    prompt: str
    first: str
    second: str
    outcome: float

    def __post_init__(self) -> None:
        assert self.first != self.second, f"{self.first!r} is matched against itself"
        assert self.outcome in (0.0, 0.5, 1.0), self.outcome


@dataclass(frozen=True)
class HeadToHead:
    """One system against another: counts of verdicts in both orders, and the win rate (a tie is half a win)."""

    wins: int
    ties: int
    losses: int
    win_rate: Estimate

    def to_dict(self) -> dict[str, object]:
        return {"wins": self.wins, "ties": self.ties, "losses": self.losses, "win_rate": self.win_rate.to_dict()}


def systems(matches: Sequence[Match]) -> list[str]:
    """Return the names of the systems in order of first appearance."""
    return list(dict.fromkeys(name for match in matches for name in (match.first, match.second)))


# Win rates


def win_rates(matches: Sequence[Match]) -> dict[str, dict[str, HeadToHead]]:
    """Return the head-to-head matrix: `[a][b]` is a against b; pairs that never met are left out."""
    names = systems(matches)
    seen: dict[tuple[str, str], list[tuple[str, float]]] = {}
    for match in matches:
        seen.setdefault((match.first, match.second), []).append((match.prompt, match.outcome))
        seen.setdefault((match.second, match.first), []).append((match.prompt, 1 - match.outcome))
    return {a: {b: _head_to_head(seen[a, b]) for b in names if (a, b) in seen} for a in names}


def _head_to_head(rows: Sequence[tuple[str, float]]) -> HeadToHead:
    prompts, outcomes = [prompt for prompt, _ in rows], [outcome for _, outcome in rows]
    rate = estimate_share(outcomes, prompts)
    return HeadToHead(outcomes.count(1.0), outcomes.count(0.5), outcomes.count(0.0), rate)


def overall_win_rates(matches: Sequence[Match]) -> dict[str, Estimate]:
    """Return each system's win rate over all its verdicts (a tie is half a win), whoever the opponent."""
    rows: dict[str, list[tuple[str, float]]] = {name: [] for name in systems(matches)}
    for match in matches:
        rows[match.first].append((match.prompt, match.outcome))
        rows[match.second].append((match.prompt, 1 - match.outcome))
    return {name: _head_to_head(found).win_rate for name, found in rows.items()}


# The order of the answers


def position_bias(matches: Sequence[Match]) -> Estimate:
    """Return the share of verdicts, ties among them, that the answer shown first wins."""
    return estimate_share([match.outcome == 1.0 for match in matches], [match.prompt for match in matches])


def flip_rate(matches: Sequence[Match]) -> Estimate:
    """Return the share of pairs, among those seen in both orders, whose winner changes with the order.

    From a win to a tie is no flip. Several verdicts on a pair in one order count by their mean.
    """
    seen: dict[tuple[str, str, str], tuple[list[float], list[float]]] = {}
    for match in matches:
        swapped = match.first > match.second
        pair = (match.second, match.first) if swapped else (match.first, match.second)
        both = seen.setdefault((match.prompt, *pair), ([], []))
        both[swapped].append(1 - match.outcome if swapped else match.outcome)
    complete = {key: orders for key, orders in seen.items() if all(orders)}
    flips = [(np.mean(one) - 0.5) * (np.mean(other) - 0.5) < 0 for one, other in complete.values()]
    return estimate_share(flips, [prompt for prompt, _, _ in complete])


# Bradley-Terry


def bradley_terry_intervals(matches: Sequence[Match], *, seed: int = 0) -> dict[str, Estimate]:
    """Fit Bradley-Terry ratings by maximum likelihood, with 95 % intervals from prompts drawn anew.

    They are on Elo's scale (400 points are odds of 10 to 1) with mean 1000. They do not exist, and all are NaN, where
    some group of systems never loses (or never wins, or never plays) against the others (Ford 1957). Where that is so
    in more than one draw in forty, there is no interval, and the note says so.
    """
    names = systems(matches)
    wins_CSS = _wins(matches, names)
    num_clusters = len(wins_CSS)
    values_S = _fit(wins_CSS.sum(axis=0)[None])[0]
    note, draws_RS = "", np.empty((0, len(names)))
    if np.isnan(values_S).any():
        note = "undefined: " + _why_undefined(names, wins_CSS.sum(axis=0))
    elif num_clusters < MIN_CLUSTERS:
        note = f"no interval: {num_clusters} prompts, at least {MIN_CLUSTERS} are needed"
    else:
        counts_RC = cluster_counts(num_clusters, seed, _RESAMPLES).astype(np.float64)
        draws_RS = _fit(np.einsum("rc,cab->rab", counts_RC, wins_CSS, optimize=True))
        draws_RS = draws_RS[np.isfinite(draws_RS).all(axis=1)]
        if len(draws_RS) < 0.975 * _RESAMPLES:
            share = 1 - len(draws_RS) / _RESAMPLES
            note = f"no interval: in {100 * share:.0f} % of the resamples some system wins or loses everything"
            draws_RS = draws_RS[:0]
    return _estimates(matches, names, values_S, draws_RS, note)


def _why_undefined(names: Sequence[str], wins_SS: FloatArray) -> str:
    reasons = [f"{name} never wins" for name, wins in zip(names, wins_SS.sum(axis=1), strict=True) if wins == 0]
    reasons += [f"{name} never loses" for name, losses in zip(names, wins_SS.sum(axis=0), strict=True) if losses == 0]
    return ", ".join(reasons) or "a group of systems never wins against the others, or never meets them"


def _wins(matches: Sequence[Match], names: Sequence[str]) -> FloatArray:
    """Wins per prompt, shape (prompts, systems, systems): `[c, a, b]` counts those of a over b, ties as a half."""
    index = {name: i for i, name in enumerate(names)}
    prompts = {prompt: c for c, prompt in enumerate(dict.fromkeys(match.prompt for match in matches))}
    wins_CSS = np.zeros((len(prompts), len(names), len(names)))
    for match in matches:
        c, a, b = prompts[match.prompt], index[match.first], index[match.second]
        wins_CSS[c, a, b] += match.outcome
        wins_CSS[c, b, a] += 1 - match.outcome
    return wins_CSS


def _fit(wins_RSS: FloatArray) -> FloatArray:
    """Newton's method on R win matrices at once; returns ratings (R, S), NaN in the rows where none exist."""
    num_systems = wins_RSS.shape[-1]
    games_RSS = wins_RSS + wins_RSS.transpose(0, 2, 1)
    exists_R = _connected(wins_RSS > 0)
    logits_RS = np.zeros(wins_RSS.shape[:2])
    active_R = exists_R.copy()
    for _ in range(200):
        if not active_R.any():
            break
        p_RSS = 1 / (1 + np.exp(logits_RS[:, None, :] - logits_RS[:, :, None]))
        gradient_RS = wins_RSS.sum(axis=2) - (games_RSS * p_RSS).sum(axis=2)
        curvature_RSS = (games_RSS * p_RSS * (1 - p_RSS))[active_R]
        # only differences matter: adding one to every entry pins the mean at zero
        hessian_RSS = np.eye(num_systems) * curvature_RSS.sum(axis=2)[:, :, None] - curvature_RSS + 1.0
        step_RS = np.linalg.solve(hessian_RSS, gradient_RS[active_R][:, :, None])[:, :, 0]
        # a full step can overshoot where one system wins nearly always
        step_RS /= np.maximum(1.0, np.abs(step_RS).max(axis=1, keepdims=True) / 2)
        logits_RS[active_R] += step_RS
        active_R[active_R] = np.abs(step_RS).max(axis=1, initial=0.0) > 1e-9  # convergence is quadratic
    assert not active_R.any(), "Bradley-Terry did not converge"
    ratings_RS = CENTRE + _SCALE * (logits_RS - logits_RS.mean(axis=1, keepdims=True))
    return np.where(exists_R[:, None], ratings_RS, math.nan)


def _connected(beats_RSS: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Whether every system reaches every other along wins (or ties), shape (R,)."""
    num_systems = beats_RSS.shape[-1]
    reach_RSS = (beats_RSS | np.eye(num_systems, dtype=bool)).astype(np.float64)
    for _ in range(num_systems.bit_length()):
        reach_RSS = np.minimum(1.0, reach_RSS @ reach_RSS)
    return np.asarray((reach_RSS > 0).all(axis=(1, 2)))


# Elo


def elo(
    matches: Sequence[Match],
    *,
    k: float = 32.0,
    start: float = CENTRE,
    orderings: int = 10_000,
    games_per_run: int | None = None,
    seed: int = 0,
) -> dict[str, Estimate]:
    """Rate by Elo, averaged over random orderings of the matches, as the paper does (K 32, start 1000, 10,000).

    Args:
        games_per_run: games drawn without replacement for each ordering; None = all. Ratings drift apart with the
            number of games, so only equal numbers compare.
        seed: of the orderings and the resamples.

    Returns:
        Per system the mean final rating. The 95 % interval is over prompts drawn anew, each draw averaged over
        orderings; the orderings' own noise is taken out of it.
    """
    names = systems(matches)
    board = _board(matches, names, k)
    codes = {prompt: c for c, prompt in enumerate(dict.fromkeys(match.prompt for match in matches))}
    prompts_M = np.array([codes[match.prompt] for match in matches], dtype=np.int64)
    rng = np.random.default_rng((seed, len(matches)))
    values_S = _play(board, [np.arange(len(matches))], orderings, games_per_run, start, rng)[0].mean(axis=0)
    if len(codes) < MIN_CLUSTERS:
        note = f"no interval: {len(codes)} prompts, at least {MIN_CLUSTERS} are needed"
        return _estimates(matches, names, values_S, np.empty((0, len(names))), note)
    counts_RC = cluster_counts(len(codes), seed, _ELO_RESAMPLES)
    games = [np.repeat(np.arange(len(matches)), counts_C[prompts_M]) for counts_C in counts_RC]
    runs_RKS = _play(board, games, max(2, orderings // _ELO_RESAMPLES), games_per_run, start, rng)
    return _estimates(matches, names, values_S, _without_ordering_noise(runs_RKS), "")


@dataclass(frozen=True)
class _Board:
    """The matches as arrays; one more at the end, that changes nothing, fills up shorter schedules."""

    first: NDArray[np.int64]
    second: NDArray[np.int64]
    outcome: FloatArray
    k: FloatArray
    num_systems: int


def _board(matches: Sequence[Match], names: Sequence[str], k: float) -> _Board:
    index = {name: i for i, name in enumerate(names)}
    return _Board(
        np.array([*(index[match.first] for match in matches), 0]),
        np.array([*(index[match.second] for match in matches), 1]),
        np.array([*(match.outcome for match in matches), 0.5]),
        np.array([k] * len(matches) + [0.0]),
        len(names),
    )


def _play(
    board: _Board,
    games: Sequence[NDArray[np.int64]],
    orderings: int,
    games_per_run: int | None,
    start: float,
    rng: np.random.Generator,
) -> FloatArray:
    """Play each of G lists of games in random orders; returns final ratings, shape (G, orderings, systems)."""
    length = max(len(played) for played in games)
    length = length if games_per_run is None else min(length, games_per_run)
    num_runs = len(games) * orderings
    ratings_NS = np.full((num_runs, board.num_systems), float(start))
    block = max(1, _CHUNK // max(1, length))
    for begin in range(0, num_runs, block):
        ratings_BS = ratings_NS[begin : begin + block]
        schedule_BT = np.full((len(ratings_BS), length), len(board.k) - 1, dtype=np.int32)
        for row, run in zip(schedule_BT, range(begin, num_runs), strict=False):
            order = rng.permutation(games[run // orderings])[:length]
            row[: len(order)] = order
        _play_block(board, ratings_BS, schedule_BT)
    return ratings_NS.reshape(len(games), orderings, board.num_systems)


def _play_block(board: _Board, ratings_BS: FloatArray, schedule_BT: NDArray[np.int32]) -> None:
    """Play the t-th game of every run at once, for all t; changes the ratings in place."""
    rows = np.arange(len(ratings_BS))
    for games_B in np.ascontiguousarray(schedule_BT.T):
        first_B, second_B = board.first[games_B], board.second[games_B]
        difference_B = ratings_BS[rows, first_B] - ratings_BS[rows, second_B]
        change_B = board.k[games_B] * (board.outcome[games_B] - 1 / (1 + 10 ** (-difference_B / 400)))
        ratings_BS[rows, first_B] += change_B
        ratings_BS[rows, second_B] -= change_B


def _without_ordering_noise(runs_RKS: FloatArray) -> FloatArray:
    """Shrink the resamples' means so that they vary as prompts make them vary, not as K random orders do."""
    means_RS = runs_RKS.mean(axis=1)
    centre_S, total_S = means_RS.mean(axis=0), means_RS.var(axis=0, ddof=1)
    noise_S = runs_RKS.var(axis=1, ddof=1).mean(axis=0) / runs_RKS.shape[1]
    share_S = np.clip(1 - np.divide(noise_S, total_S, out=np.ones_like(noise_S), where=total_S > 0), 0.0, 1.0)
    shrunk_RS: FloatArray = centre_S + (means_RS - centre_S) * np.sqrt(share_S)
    return shrunk_RS


def _estimates(
    matches: Sequence[Match], names: Sequence[str], values_S: FloatArray, draws_RS: FloatArray, note: str
) -> dict[str, Estimate]:
    """Put values and draws together, with each system's own number of verdicts and prompts."""
    out = {}
    for s, name in enumerate(names):
        played = [match for match in matches if name in (match.first, match.second)]
        num_prompts = len({match.prompt for match in played})
        low, high = math.nan, math.nan
        own_note = note
        won = {match.outcome if match.first == name else 1 - match.outcome for match in played}
        if len(draws_RS) and len(won) == 1:
            # no draw of prompts can differ, which is not the certainty that it looks like
            own_note = "no interval: all verdicts on it are the same"
        elif len(draws_RS):
            low, high = expanded_interval(draws_RS[:, s], num_prompts)
        out[name] = Estimate(float(values_S[s]), low, high, len(played), num_prompts, own_note)
    return out
