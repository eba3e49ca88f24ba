"""Computes intervals of mean out-of-fold scores, whose rows depend on each other."""

import functools

import numpy as np
import xarray as xr
from jaxtyping import Shaped

from interventions.stats import cluster_mean
from interventions.stats.groups import DEPENDENCE, group_scores
from interventions.stats.intervals import bootstrap

_ROUNDING = 1e-9  # largest width of the interval of scores that agree up to rounding
# Factor of the width of an interval, by the assumption about predictions of different folds.
_FACTORS = {"dependent": DEPENDENCE, "independent": 1.0}


def score_intervals(
    score: xr.DataArray,
    groups: Shaped[np.ndarray, "row"] | None,
    bounds: tuple[float, float],
    level: float,
    variance: str,
) -> xr.Dataset:
    """Computes the mean over rows and its interval for every probe.

    Args:
        score: one score per row, with the dimension "row".
        groups: the group of each row, such as the speaker; None if rows are independent.
        bounds: smallest and largest possible score.
        level: coverage of the interval.
        variance: "dependent" or "independent"; see `Bank.summary`.

    Returns:
        A Dataset of `mean`, `low` and `high`.

    Raises:
        ValueError: `variance` is unknown.
    """
    if variance not in _FACTORS:
        expected = " or ".join(map(repr, _FACTORS))
        raise ValueError(f"variance: expected {expected}, got {variance!r}.")
    if groups is None:
        groups = np.arange(score.sizes["row"])
    by_group = xr.apply_ufunc(
        functools.partial(group_scores, groups=groups),
        score,
        input_core_dims=[["row"]],
        output_core_dims=[["group"]],
        vectorize=True,
    )
    interval = bootstrap(by_group, dim="group", level=level)
    mean, n_groups = interval["mean"], by_group.sizes["group"]
    # The bootstrap interval of scores that all agree has no width. The probability of another
    # score can still be as large as that of another outcome in a sample of equal outcomes.
    unseen = (
        1 - cluster_mean(np.ones(n_groups), np.arange(n_groups), bounds=(0, 1), level=level).low
    )
    wide = {"low": mean - unseen * (mean - bounds[0]), "high": mean + unseen * (bounds[1] - mean)}
    has_spread = interval.high - interval.low > _ROUNDING
    limits = {
        name: (mean + _FACTORS[variance] * (interval[name] - mean)).clip(*bounds) for name in wide
    }
    return interval.assign({name: limits[name].where(has_spread, wide[name]) for name in wide})
