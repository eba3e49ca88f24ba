"""Correlates two effects of the same heads, by resampling sources and never heads."""

from typing import Any

import numpy as np
import scipy.stats
import xarray as xr
from jaxtyping import Float, Int

from experiments.studies.evidence import Evidence

_N_DRAWS, _N_SPLITS = 1000, 50


def reliability(effect: xr.DataArray, seed: int) -> float:
    """Returns how well the effect of each head repeats between halves of the sources.

    Args:
        effect: one effect per recording and head [example, cell], with the coordinate `source`
            [example].
        seed: seed of the halves.

    Returns:
        The mean rank correlation between random halves, corrected to the full number of sources
        (Spearman 1910, Brown 1910). NaN if all heads have the same effect in one of the halves.

    Example:
        >>> effects = np.tile([0.0, 0.5, 1.0, 1.5], (20, 1))
        >>> sources = {"source": ("example", np.arange(20))}
        >>> effect = xr.DataArray(effects, coords=sources, dims=("example", "cell"))
        >>> round(reliability(effect, seed=0), 2)
        1.0
    """
    rng, sums = np.random.default_rng(seed), _SumsOfSources(effect)
    correlations = []
    for _ in range(_N_SPLITS):
        order = rng.permutation(sums.n)
        halves = sums.mean(order[: sums.n // 2]), sums.mean(order[sums.n // 2 :])
        correlations.append(_rank_correlation(*halves))
    mean = float(np.mean(correlations))
    return 2 * mean / (1 + mean) if mean > -1 else float("nan")


def correlation_of_heads(first: xr.DataArray, second: xr.DataArray, seed: int) -> Evidence:
    """Estimates the rank correlation of two effects over heads.

    The sources of both effects are drawn with replacement. The interval holds for other sources and
    the same heads.

    Args:
        first: one effect per recording and head [example, cell], with the coordinate `source`.
        second: the same for another effect.
        seed: seed of the draws.

    Example:
        >>> values = np.arange(12) + np.random.default_rng(0).normal(size=(2, 30, 12))
        >>> sources = {"source": ("example", np.arange(30))}
        >>> effects = [xr.DataArray(x, coords=sources, dims=("example", "cell")) for x in values]
        >>> correlation_of_heads(*effects, seed=0).low > 0.9
        True
    """
    rng, effects = np.random.default_rng(seed), (_SumsOfSources(first), _SumsOfSources(second))
    value = _rank_correlation(*(sums.mean(np.arange(sums.n)) for sums in effects))

    def draw() -> float:
        means = (sums.mean(rng.integers(sums.n, size=sums.n)) for sums in effects)
        return _rank_correlation(*means)

    drawn = np.array([draw() for _ in range(_N_DRAWS)])
    drawn = drawn[np.isfinite(drawn)]
    n = min(sums.n for sums in effects)
    if len(drawn) < _N_DRAWS / 2:
        return Evidence(value, np.nan, np.nan, n)
    low, high = np.quantile(drawn, [0.025, 0.975])
    p = 2 * min((drawn <= 0).mean(), (drawn >= 0).mean()) + 1 / _N_DRAWS
    return Evidence(value, float(low), float(high), n, min(1.0, float(p)), float(drawn.std()))


class _SumsOfSources:
    """Sums of the effects of each source, which means of chosen sources are computed from."""

    def __init__(self, effect: xr.DataArray):
        values = effect.transpose("example", "cell").values
        names, source = np.unique(effect.source.values, return_inverse=True)
        self.n = len(names)
        self._sums = np.zeros((self.n, values.shape[1]))
        np.add.at(self._sums, source, values)
        self._counts = np.bincount(source)

    def mean(self, sources: Int[np.ndarray, "n"]) -> Float[np.ndarray, "K"]:
        """Averages each head's effect over the recordings of the given sources."""
        return self._sums[sources].sum(0) / self._counts[sources].sum()


def _rank_correlation(x: np.ndarray, y: np.ndarray) -> float:
    if len(x) < 3 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return float("nan")  # a constant has no rank correlation
    correlation: Any = scipy.stats.spearmanr(x, y)
    return float(correlation.statistic)
