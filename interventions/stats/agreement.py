"""Compares how an estimate and exact values of a sweep rank its cells."""

import dataclasses
import warnings

import numpy as np
import xarray as xr


@dataclasses.dataclass(frozen=True)
class Agreement:
    """How well an estimate ranks the cells of a sweep.

    Attributes:
        spearman: rank correlation over all cells; NaN when either side is constant.
        pearson: linear correlation over all cells; NaN when either side is constant.
        precision: the share of the estimate's `k` largest cells, by magnitude, that are among the
            `k` largest exact ones.
        k: the number of largest cells compared.
        n: the number of cells.
    """

    spearman: float
    pearson: float
    precision: float
    k: int
    n: int


def rank_agreement(exact: xr.DataArray, estimate: xr.DataArray, k: int = 20) -> Agreement:
    """Compares the exact changes of a sweep's cells with an estimate of them.

    Args:
        exact: the result of `sweep`, metric values after the patch; its coordinate `baseline` is
            subtracted. An array without that coordinate holds changes.
        estimate: the result of `attribution`, changes; cells are matched by label.
        k: how many of the largest cells are compared; at most the number of cells.

    Returns:
        The correlations and the precision at `k`, see `Agreement`.

    Raises:
        ValueError: the labels differ, or `k` is not positive.

    Example:
        >>> import xarray as xr
        >>> exact = xr.DataArray([[0.1, 2.0], [-3.0, 0.2]], dims=("layer", "head"))
        >>> rank_agreement(exact, exact + 0.05, k=2).precision
        1.0
    """
    import scipy.stats  # imported here because it takes most of a second

    if k < 1:
        raise ValueError(f"k: expected at least 1, got {k}.")
    if set(exact.dims) != set(estimate.dims) or exact.size != estimate.size:
        raise ValueError(
            f"estimate: expected the cells of exact {dict(exact.sizes)}, "
            f"got {dict(estimate.sizes)}."
        )
    change = exact - exact.coords["baseline"] if "baseline" in exact.coords else exact
    change, estimate = xr.align(
        change.drop_vars(["baseline", "source"], errors="ignore"), estimate, join="exact"
    )
    x, y = change.values.ravel(), estimate.transpose(*change.dims).values.ravel()
    k = min(k, x.size)
    exact_top, estimated_top = (_largest(values, k) for values in (x, y))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", scipy.stats.ConstantInputWarning)
        # The stubs of scipy give the fields of both results no types.
        spearman, pearson = (
            float(np.asarray(result)[0])
            for result in (scipy.stats.spearmanr(x, y), scipy.stats.pearsonr(x, y))
        )
    precision = len(exact_top & estimated_top) / k
    return Agreement(spearman, pearson, precision, k, x.size)


def _largest(values: np.ndarray, k: int) -> set[int]:
    """Indices of the `k` largest values by magnitude; a stable sort settles ties."""
    return set(np.argsort(-np.abs(values), kind="stable")[:k].tolist())
