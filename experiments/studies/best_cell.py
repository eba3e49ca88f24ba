"""Selects the best of many cells and computes a p-value that accounts for the selection."""

from collections.abc import Sequence

import xarray as xr

from experiments.studies.evidence import Evidence
from interventions.stats.intervals import bootstrap, max_permutation


def best_cell(
    outcomes: xr.DataArray, seed: int, candidates: Sequence[int] | None = None
) -> tuple[int, Evidence]:
    """Finds the cell with the largest mean outcome.

    Args:
        outcomes: float [example, cell], at least two examples.
        seed: seed of the bootstrap and of the permutations.
        candidates: cells to choose from; None for all.

    Returns:
        The index of the cell, and its mean with a 95 % interval and a p-value. For the p-value,
        each example's outcomes are permuted over the cells. The mean is compared with the largest
        mean of any cell after such a permutation, so that the selection is accounted for.

    Example:
        >>> outcomes = np.zeros((20, 4))
        >>> outcomes[:, 2] = 1
        >>> best_cell(xr.DataArray(outcomes, dims=("example", "cell")), seed=0)[0]
        2
    """
    outcomes = outcomes.transpose("example", "cell")
    means = outcomes.mean("example").values
    # `max` takes the first of equal cells.
    cells = range(len(means)) if candidates is None else candidates
    best = max(cells, key=lambda cell: means[cell])
    interval = bootstrap(outcomes.isel(cell=best), seed=seed)
    mean, low, high = (float(interval[name]) for name in ("mean", "low", "high"))
    p = float(max_permutation(outcomes, n=2000, seed=seed)[best])
    return best, Evidence(mean, low, high, outcomes.sizes["example"], p)
