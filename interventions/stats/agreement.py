"""How well an estimate of a sweep ranks its cells."""

import dataclasses
import warnings

import numpy as np
import xarray as xr


@dataclasses.dataclass(frozen=True)
class Agreement:
    """spearman: rank correlation over all cells, nan when either side is constant. precision: the share of the estimate's
    `k` largest cells, by magnitude, that are among the exact `k` largest. pearson: linear correlation. n: cells."""

    spearman: float
    pearson: float
    precision: float
    k: int
    n: int


def rank_agreement(exact: xr.DataArray, estimate: xr.DataArray, k: int = 20) -> Agreement:
    """Compares the changes that cells make, exact ones with an estimate of them.

    exact: what `sweep` gave, the metric after the patch; its coordinate `baseline` is taken off. Without that coordinate,
        changes. estimate: what `attribution` gave, aligned by label. `k` is at most the number of cells.

    Raises ValueError when the labels differ, or `k` is not positive.
    """
    import scipy.stats  # most of a second, and most who import this package rank nothing

    if k < 1:
        raise ValueError(f"k: expected at least 1, got {k}.")
    if set(exact.dims) != set(estimate.dims) or exact.size != estimate.size:
        raise ValueError(
            f"estimate: expected the cells of exact {dict(exact.sizes)}, got {dict(estimate.sizes)}."
        )
    change = exact - exact.coords["baseline"] if "baseline" in exact.coords else exact
    change, estimate = xr.align(
        change.drop_vars(["baseline", "source"], errors="ignore"), estimate, join="exact"
    )
    x, y = change.values.ravel(), estimate.transpose(*change.dims).values.ravel()
    k = min(k, x.size)
    top = [set(np.argsort(-np.abs(v), kind="stable")[:k].tolist()) for v in (x, y)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", scipy.stats.ConstantInputWarning)
        spearman, pearson = (
            scipy.stats.spearmanr(x, y).statistic,
            scipy.stats.pearsonr(x, y).statistic,
        )
    return Agreement(float(spearman), float(pearson), len(top[0] & top[1]) / k, k, x.size)
