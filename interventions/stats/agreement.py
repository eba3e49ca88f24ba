"""Measures how well an estimate ranks the cells of a sweep."""

import dataclasses
import warnings

import numpy as np
import xarray as xr


@dataclasses.dataclass(frozen=True)
class Agreement:
    """The agreement of an estimate with the exact changes of the cells of a sweep.

    Attributes:
        spearman: rank correlation over all cells; NaN if the estimate or the exact changes are
            constant.
        pearson: linear correlation over all cells; NaN as for `spearman`.
        precision: the share of the `k` cells with the largest estimates that are also among the `k`
            cells with the largest exact changes, compared by magnitude.
        k: the number of largest cells that `precision` compares.
        n: the number of cells.

    Example:
        >>> Agreement(spearman=0.9, pearson=0.8, precision=0.75, k=20, n=144).precision
        0.75
    """

    spearman: float
    pearson: float
    precision: float
    k: int
    n: int


def rank_agreement(exact: xr.DataArray, estimate: xr.DataArray, k: int = 20) -> Agreement:
    """Compares the exact changes of a sweep's cells with an estimate of them.

    Args:
        exact: the result of `sweep`, from which its coordinate `baseline` is subtracted. Values
            without this coordinate must be changes already.
        estimate: the result of `attribution`. Its cells are matched by label.
        k: how many of the largest cells `precision` compares, at most all cells.

    Returns:
        The correlations and the precision at `k`.

    Raises:
        ValueError: the labels differ, or `k` is not positive.

    Example:
        >>> import xarray as xr
        >>> exact = xr.DataArray([[0.1, 2.0], [-3.0, 0.2]], dims=("layer", "head"))
        >>> rank_agreement(exact, exact + 0.05, k=2).precision
        1.0
    """
    import scipy.stats  # imported here because the import takes most of a second

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
    exact_changes = change.values.ravel()
    estimates = estimate.transpose(*change.dims).values.ravel()
    k = min(k, exact_changes.size)
    exact_top, estimated_top = (_largest(values, k) for values in (exact_changes, estimates))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", scipy.stats.ConstantInputWarning)
        # The results become arrays, because the stubs of scipy give their fields no types.
        spearman = float(np.asarray(scipy.stats.spearmanr(exact_changes, estimates))[0])
        pearson = float(np.asarray(scipy.stats.pearsonr(exact_changes, estimates))[0])
    precision = len(exact_top & estimated_top) / k
    return Agreement(spearman, pearson, precision, k, exact_changes.size)


def _largest(values: np.ndarray, k: int) -> set[int]:
    """Returns the indices of the `k` largest magnitudes. Of equal values, the first is taken."""
    return set(np.argsort(-np.abs(values), kind="stable")[:k].tolist())
