"""Which turns are worth a rating: those that tell an attribute model most about all the others.

A linear model of a turn's words, length and source is the least sure where its posterior variance is largest; each turn
is chosen so that rating it lowers the variance over all turns the most (greedy V-optimal design). That depends on the
turns alone, no label is needed: common kinds of turns are covered first, then rarer ones, and near copies of what is
chosen already not at all.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import sparse
from scipy.sparse.linalg import svds

from steerlm.conversation import Message
from steerlm.scorers.text_measures.words import word_pieces

Floats = npt.NDArray[np.float64]

_DIMENSIONS = 128
_SIDE = 0.1
_FEWEST_TURNS = 3
"""A word or pair of words of fewer turns says nothing about others."""


class Candidate(NamedTuple):
    """A turn that could be rated: its text, the data set it is from, and what a model says of its attributes."""

    text: str
    source: str = ""
    scores: Mapping[str, float] = {}


def candidate_of(message: Message, source: str) -> Candidate:
    """Return a turn with the scores that stand in it: where an attribute model has labelled the data, what it says."""
    # a category's mean is 0 on every turn, which tells none apart
    scores = {name: score.mean for name, score in (message.scores or {}).items()}
    return Candidate(message.content, source, scores)


def choose(candidates: Sequence[Candidate], number: int) -> list[int]:
    """Return the indices of the turns to rate, the most telling first; any beginning of the list is a good choice."""
    return choose_by_features(turn_features(candidates), number)


def turn_features(candidates: Sequence[Candidate]) -> Floats:
    """Return what tells turns apart (N, F): words, pairs of words, length, source, and scores where all have them."""
    parts = [_words(candidates), _scaled(np.array([[math.log1p(len(c.text))] for c in candidates]))]
    sources = sorted({candidate.source for candidate in candidates})
    if len(sources) > 1:
        parts.append(_scaled(np.array([[float(c.source == name) for name in sources] for c in candidates])))
    names = sorted(set.intersection(*(set(c.scores) for c in candidates))) if candidates else []
    if names:
        parts.append(_scaled(np.array([[c.scores[name] for name in names] for c in candidates])))
    # a turn's words count most; length, source and scores see to it that no kind of turn is passed over
    weights = (1.0, *[_SIDE] * (len(parts) - 1))
    together = np.hstack([_of_length(part, weight) for part, weight in zip(parts, weights, strict=True)])
    return np.hstack([together, np.full((len(together), 1), _SIDE)])


def _of_length(rows_N_C: Floats, length: float) -> Floats:
    """Scale rows so that the mean of their squared lengths is that of `length`."""
    scaled: Floats = rows_N_C * (length / math.sqrt(max(float((rows_N_C**2).sum(axis=1).mean()), 1e-12)))
    return scaled


def _scaled(columns_N_C: Floats) -> Floats:
    scaled: Floats = (columns_N_C - columns_N_C.mean(axis=0)) / np.maximum(columns_N_C.std(axis=0), 1e-9)
    return scaled


def _words(candidates: Sequence[Candidate]) -> Floats:
    """Return the main directions of weighted words and pairs of words, rows of equal length."""
    number_of: dict[tuple[str, ...], int] = {}
    rows: list[int] = []
    columns: list[int] = []
    for row, candidate in enumerate(candidates):
        pieces = word_pieces(candidate.text)
        for gram in {(piece,) for piece in pieces} | set(itertools.pairwise(pieces)):
            rows.append(row)
            columns.append(number_of.setdefault(gram, len(number_of)))
    shape = (len(candidates), max(1, len(number_of)))
    counts = sparse.csr_matrix((np.ones(len(rows)), (rows, columns)), shape=shape)
    turns_of = np.asarray(counts.sum(axis=0)).ravel()
    common = turns_of >= _FEWEST_TURNS
    dimensions = min(_DIMENSIONS, int(common.sum()) - 1, len(candidates) - 1)
    if dimensions < 1:
        return np.zeros((len(candidates), 1))
    weighted = counts[:, common] @ sparse.diags(np.log(len(candidates) / turns_of[common]))
    lengths = np.sqrt(np.asarray(weighted.multiply(weighted).sum(axis=1)).ravel())
    weighted = sparse.diags(1 / np.maximum(lengths, 1e-9)) @ weighted
    if not weighted.count_nonzero():  # every turn has the same words
        return np.zeros((len(candidates), 1))
    left, values, _ = svds(weighted, k=dimensions, v0=np.ones(min(weighted.shape)))
    found: Floats = left * values - (left * values).mean(axis=0)
    return found


def choose_by_features(features_N_F: Floats, number: int) -> list[int]:
    """Choose rows one after the other, each the one that lowers the variance summed over all rows the most."""
    scatter_F_F = features_N_F.T @ features_N_F / len(features_N_F) if len(features_N_F) else features_N_F.T
    # rows times the posterior covariance, the variance of each row, and what it has in common with all rows
    weighted_N_F = features_N_F.copy()
    variance_N = (weighted_N_F * features_N_F).sum(axis=1)
    shared_N = ((weighted_N_F @ scatter_F_F) * weighted_N_F).sum(axis=1)
    left_N = np.ones(len(features_N_F), dtype=np.bool_)
    chosen: list[int] = []
    for _ in range(min(number, len(features_N_F))):
        gain_N = np.where(left_N, shared_N / (1 + variance_N), -1.0)
        best = int(gain_N.argmax())
        chosen.append(best)
        left_N[best] = False
        direction_F = weighted_N_F[best].copy()
        along_F = scatter_F_F @ direction_F
        scale = 1 + variance_N[best]
        moved_N = features_N_F @ direction_F
        shared_N = (
            shared_N - 2 * moved_N * (weighted_N_F @ along_F) / scale + moved_N**2 * (direction_F @ along_F) / scale**2
        )
        variance_N = variance_N - moved_N**2 / scale
        weighted_N_F -= np.outer(moved_N / scale, direction_F)
    return chosen
