"""The win rate at equal length: judges, and many measures, favour longer answers."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence

import numpy as np
from scipy import stats

from steerlm.errors import needs_extra
from steerlm.statistics.estimates import MIN_CLUSTERS, Estimate
from steerlm.statistics.rankings import Match

_SEPARATED = 15.0
"""Log odds beyond this have no finite estimate; the search was stopped on its way there."""


def length_controlled_win_rate(
    matches: Sequence[Match], system: str, opponent: str, lengths: Mapping[tuple[str, str], float]
) -> Estimate:
    """Return the win rate that a logistic regression predicts for answers of equal length.

    The model is that of length-controlled AlpacaEval (Dubois et al. 2024, section 3) without its term for the prompt:
    logit P(win) = a + b tanh(d / sd(d)), d the difference in length; the win rate at d = 0 is sigmoid(a). Ties count as
    half a win (a fractional logit).

    Args:
        matches: verdicts; those between other systems are passed over.
        lengths: length of the answer, in any one unit, per (system, prompt).

    Returns:
        The win rate with an interval from standard errors clustered by prompt. No value, with a note that says why,
        where all verdicts agree, where length alone decides them or never varies, or where any curve fits so few
        prompts.
    """
    sign = {(system, opponent): 1, (opponent, system): -1}
    own = [match for match in matches if (match.first, match.second) in sign]
    prompts = [match.prompt for match in own]
    num_prompts = len(set(prompts))

    def missing(note: str) -> Estimate:
        return Estimate(math.nan, math.nan, math.nan, len(own), num_prompts, note)

    if not own:
        return missing("no data")
    wins_N = np.array([match.outcome if match.first == system else 1 - match.outcome for match in own])
    difference_N = np.array([lengths[system, prompt] - lengths[opponent, prompt] for prompt in prompts])
    if np.ptp(wins_N) == 0:
        return missing("undefined: all verdicts are the same")
    spread = float(difference_N.std())
    if spread == 0 and difference_N.any():
        return missing("undefined: every answer is longer by as much")
    columns = [np.ones(len(own))] + ([np.tanh(difference_N / spread)] if spread > 0 else [])
    if num_prompts <= len(columns):
        return missing(f"undefined: {num_prompts} prompt(s), at least {len(columns) + 1} are needed")
    with needs_extra("compare", "a win rate at equal length"):
        import statsmodels.api as sm
        from statsmodels.tools.sm_exceptions import ModelWarning, PerfectSeparationWarning

    nearly = "undefined: length alone decides nearly every verdict"
    # on its way to estimates that are not finite the search divides by 0 or ends with a matrix that has no inverse
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("error", ModelWarning)
        try:
            codes = np.unique(prompts, return_inverse=True)[1]
            fit = sm.GLM(wins_N, np.column_stack(columns), family=sm.families.Binomial()).fit(
                cov_type="cluster", cov_kwds={"groups": codes}
            )
        except PerfectSeparationWarning:
            return missing("undefined: length alone decides every verdict")
        except (ModelWarning, np.linalg.LinAlgError):
            return missing(nearly)
    if not fit.converged or np.abs(fit.params).max() > _SEPARATED:
        return missing(nearly)
    value, error = float(fit.params[0]), float(fit.bse[0])
    if num_prompts < MIN_CLUSTERS:
        note = f"no interval: {num_prompts} prompts, at least {MIN_CLUSTERS} are needed"
        return Estimate(_sigmoid(value), math.nan, math.nan, len(own), num_prompts, note)
    margin = float(stats.t.ppf(0.975, num_prompts - 1)) * error
    return Estimate(_sigmoid(value), _sigmoid(value - margin), _sigmoid(value + margin), len(own), num_prompts)


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))
