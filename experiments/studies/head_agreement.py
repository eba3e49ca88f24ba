"""Correlates two effects of the same heads, by resampling recordings and never heads."""

from typing import Any

import numpy as np
import scipy.stats
from jaxtyping import Float

from experiments.studies.evidence import Evidence

_N_DRAWS, _N_SPLITS = 1000, 50
Effect = Float[np.ndarray, "N K"]  # one effect per recording and head


def reliability(effect: Effect, seed: int) -> float:
    """Returns how well the effect of each head repeats between halves of the recordings.

    Returns:
        The mean rank correlation between random halves, corrected to the full number of recordings
        (Spearman 1910, Brown 1910). NaN if all heads have the same effect in one of the halves.

    Example:
        >>> effect = np.tile([0.0, 0.5, 1.0, 1.5], (20, 1))
        >>> round(reliability(effect, seed=0), 2)
        1.0
    """
    rng, n = np.random.default_rng(seed), len(effect)
    correlations = []
    for _ in range(_N_SPLITS):
        order = rng.permutation(n)
        halves = effect[order[: n // 2]].mean(0), effect[order[n // 2 :]].mean(0)
        correlations.append(_rank_correlation(*halves))
    mean = float(np.mean(correlations))
    return 2 * mean / (1 + mean) if mean > -1 else float("nan")


def correlation_of_heads(first: Effect, second: Effect, seed: int) -> Evidence:
    """Estimates the rank correlation of two effects over heads.

    The recordings of both effects are drawn with replacement. The interval holds for other
    recordings and the same heads.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> effects = [np.arange(12) + rng.normal(size=(30, 12)) for _ in range(2)]
        >>> correlation_of_heads(*effects, seed=0).low > 0.9
        True
    """
    rng = np.random.default_rng(seed)
    value = _rank_correlation(first.mean(0), second.mean(0))

    def draw() -> float:
        means = (x[rng.integers(len(x), size=len(x))].mean(0) for x in (first, second))
        return _rank_correlation(*means)

    drawn = np.array([draw() for _ in range(_N_DRAWS)])
    drawn = drawn[np.isfinite(drawn)]
    n = min(len(first), len(second))
    if len(drawn) < _N_DRAWS / 2:
        return Evidence(value, np.nan, np.nan, n)
    low, high = np.quantile(drawn, [0.025, 0.975])
    p = 2 * min((drawn <= 0).mean(), (drawn >= 0).mean()) + 1 / _N_DRAWS
    return Evidence(value, float(low), float(high), n, min(1.0, float(p)), float(drawn.std()))


def _rank_correlation(x: np.ndarray, y: np.ndarray) -> float:
    if len(x) < 3 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return float("nan")  # a constant has no rank correlation
    correlation: Any = scipy.stats.spearmanr(x, y)
    return float(correlation.statistic)
