"""Bootstrap intervals and permutation p-values for grids of cells, with corrections for many cells.

`values` are labelled arrays with a dimension of examples. Every other dimension indexes cells.
Functions that test for an effect expect differences from a baseline. All functions compute all
cells at once. Functions that draw random numbers take a seed.
"""

import numpy as np
import xarray as xr

_MAX_EXACT = 14  # most examples for which all 2^n sign patterns are used


def bootstrap(
    values: xr.DataArray,
    *,
    dim: str = "example",
    level: float = 0.95,
    n: int = 2000,
    seed: int = 0,
    method: str = "bca",
) -> xr.Dataset:
    """Computes the mean over examples and its bootstrap interval for every cell.

    All cells share the same resamples, which keeps the dependence between cells.

    Args:
        values: labelled values with at least two examples along `dim`.
        dim: the dimension of examples.
        level: the coverage of the interval, between 0 and 1.
        n: the number of resamples.
        seed: the seed of the resamples.
        method: "bca" (bias-corrected and accelerated) or "percentile".

    Returns:
        `mean`, `low` and `high` over cells.

    Raises:
        ValueError: fewer than 2 examples, NaN, or an unknown method or dimension.

    Example:
        >>> import xarray as xr
        >>> changes = xr.DataArray([0.8, 1.1, 0.9, 1.2], dims="example")
        >>> interval = bootstrap(changes)
        >>> bool(interval.low < interval["mean"] < interval.high)
        True

    Source: Efron 1987, "Better bootstrap confidence intervals". A test compares the result with
    `scipy.stats.bootstrap`.
    """
    x, template = _examples_by_cells(values, dim)
    if not 0 < level < 1 or method not in ("bca", "percentile"):
        raise ValueError(
            "level, method: expected 0 < level < 1 and 'bca' or 'percentile', "
            f"got {level} and {method!r}."
        )
    means = _resampled_means(x, n, seed)
    tails = np.array([(1 - level) / 2, (1 + level) / 2])[:, None] * np.ones(x.shape[1])
    low, high = _quantiles(means, _bca_tails(x, means, tails) if method == "bca" else tails)
    columns = {"mean": x.mean(0), "low": low, "high": high}
    return xr.Dataset(
        {
            name: template.copy(data=column.reshape(template.shape))
            for name, column in columns.items()
        }
    )


def sign_flip(
    values: xr.DataArray, *, dim: str = "example", n: int = 10_000, seed: int = 0
) -> xr.DataArray:
    """Computes the two-sided sign-flip p-value of every cell.

    Under the null hypothesis, each value and its negative are equally likely.

    Args:
        values: labelled differences with at least two examples along `dim`.
        dim: the dimension of examples.
        n: the number of random sign patterns. p is then at least 1 / (n + 1). With at most 14
            examples, all patterns are used instead, so that p is exact.
        seed: the seed of the patterns.

    Returns:
        p-values over cells.

    Raises:
        ValueError: fewer than 2 examples, NaN, or an unknown dimension.

    Example:
        >>> import xarray as xr
        >>> float(sign_flip(xr.DataArray([1.0, 2.0, 3.0, 0.5], dims="example")))
        0.125
    """
    x, template = _examples_by_cells(values, dim)
    observed, null = _sign_flipped(x, n, seed)
    return template.copy(data=_p_value(observed, null).reshape(template.shape))


def max_sign_flip(
    values: xr.DataArray, *, dim: str = "example", n: int = 10_000, seed: int = 0
) -> xr.DataArray:
    """Computes max-statistic p-values, corrected for the number of cells.

    Compares every cell with the largest effect of any cell under flipped signs. All cells share the
    same signs, which keeps the dependence between cells. If no cell has an effect, the
    smallest p-value is at most 0.05 with a probability of at most 0.05. The mean of each cell is
    divided by the root mean square of its values, so that no noisy cell sets the scale for others.

    Args:
        values: labelled differences with at least two examples along `dim`.
        dim: the dimension of examples.
        n: the number of random sign patterns, see `sign_flip`.
        seed: the seed of the patterns.

    Returns:
        p-values over cells.

    Raises:
        ValueError: fewer than 2 examples, NaN, or an unknown dimension.

    Example:
        >>> import xarray as xr
        >>> changes = [[1.0, 0.1], [2.0, -0.1], [3.0, 0.2], [0.5, -0.2]]
        >>> p = max_sign_flip(xr.DataArray(changes, dims=("example", "head")))
        >>> bool(p[0] < p[1])
        True

    Source: Westfall & Young 1993, "Resampling-based multiple testing", single-step procedure.
    """
    x, template = _examples_by_cells(values, dim)
    observed, null = _sign_flipped(x, n, seed)
    largest = null.max(1, keepdims=True)
    return template.copy(data=_p_value(observed, largest).reshape(template.shape))


def max_permutation(
    values: xr.DataArray, *, dim: str = "example", n: int = 10_000, seed: int = 0
) -> xr.DataArray:
    """Computes max-statistic p-values under the null that cells are exchangeable.

    Permutes each example's values across cells, and compares every cell's mean with the largest
    mean of a permutation. Use this test where many edits change the same examples, for example
    where half of all ablations end the same repetition loop. A small p-value then means that the
    cell changes more examples than the best of equally effective cells would by chance. The test is
    one-sided, because only large values count.

    Args:
        values: labelled values with at least two examples along `dim`.
        dim: the dimension of examples.
        n: the number of permutations. p is at least 1 / (n + 1).
        seed: the seed of the permutations.

    Returns:
        p-values over cells.

    Raises:
        ValueError: fewer than 2 examples, NaN, or an unknown dimension.

    Example:
        >>> import numpy as np, xarray as xr
        >>> broken = xr.DataArray(np.eye(8)[[3] * 12], dims=("example", "head"))
        >>> int(max_permutation(broken, n=200).values.argmin())
        3
    """
    x, template = _examples_by_cells(values, dim)
    rng = np.random.default_rng(seed)
    # The observed order is one of the permutations, so p is never 0.
    best = np.array([x.mean(0).max(), *(rng.permuted(x, axis=1).mean(0).max() for _ in range(n))])
    p = (best[:, None] >= x.mean(0) - 1e-12).mean(0)  # 1e-12 allows for rounding
    return template.copy(data=p.reshape(template.shape))


def fdr(p: xr.DataArray) -> xr.DataArray:
    """Adjusts p-values for the false discovery rate over the whole grid.

    Args:
        p: p-values over cells.

    Returns:
        Adjusted p-values of the same shape. Among the cells with an adjusted p-value of at most q,
        the expected share of false discoveries is at most q.

    Example:
        >>> import xarray as xr
        >>> fdr(xr.DataArray([0.01, 0.04], dims="head")).values.tolist()
        [0.02, 0.04]

    Source: Benjamini & Hochberg 1995, "Controlling the false discovery rate".
    """
    import scipy.stats  # imported here because the import takes most of a second

    return p.copy(data=scipy.stats.false_discovery_control(p.values.ravel()).reshape(p.shape))


def _examples_by_cells(values: xr.DataArray, dim: str) -> tuple[np.ndarray, xr.DataArray]:
    """Returns values [examples, cells] in float64, and a labelled array of cells.

    The labelled array is a template for results. Its values are not used.
    """
    if dim not in values.dims:
        raise ValueError(f"dim: expected one of {', '.join(map(str, values.dims))}, got {dim!r}.")
    moved = values.transpose(dim, ...).astype(np.float64)
    if moved.sizes[dim] < 2 or np.isnan(moved.values).any():
        raise ValueError(
            f"values: expected at least 2 examples along {dim!r} and no NaN; "
            "drop examples without a value first."
        )
    per_example = [name for name, labels in moved.coords.items() if dim in labels.dims]
    return moved.values.reshape(moved.sizes[dim], -1), moved.drop_vars(per_example).isel({dim: 0})


def _resampled_means(x: np.ndarray, n: int, seed: int) -> np.ndarray:
    """Computes means [n, cells] as one product with the counts of each example per resample."""
    counts = np.random.default_rng(seed).multinomial(len(x), np.full(len(x), 1 / len(x)), size=n)
    return counts @ x / len(x)


def _bca_tails(x: np.ndarray, means: np.ndarray, tails: np.ndarray) -> np.ndarray:
    """Corrects the tail probabilities [2, cells] for bias and skewness."""
    import scipy.stats  # imported here because the import takes most of a second

    # The share of resampled means below the mean. Equal means count half.
    below = ((means < x.mean(0)).mean(0) + (means <= x.mean(0)).mean(0)) / 2
    bias = scipy.stats.norm.ppf(np.clip(below, 1 / (len(means) + 1), 1 - 1 / (len(means) + 1)))
    # The jackknife's influence values, up to a factor that cancels in the acceleration.
    influence = x - x.mean(0)
    spread = (influence**2).sum(0) ** 1.5
    acceleration = np.divide(
        (influence**3).sum(0), 6 * spread, out=np.zeros_like(spread), where=spread > 0
    )
    z = bias + scipy.stats.norm.ppf(tails)
    return scipy.stats.norm.cdf(bias + z / (1 - acceleration * z))


def _quantiles(means: np.ndarray, tails: np.ndarray) -> np.ndarray:
    """Computes quantiles of `means` [n, cells] at the probabilities `tails` [2, cells]."""
    ordered, position = np.sort(means, axis=0), np.clip(tails, 0, 1) * (len(means) - 1)
    low = np.take_along_axis(ordered, np.floor(position).astype(int), 0)
    high = np.take_along_axis(ordered, np.ceil(position).astype(int), 0)
    return low + (high - low) * (position % 1)


def _sign_flipped(x: np.ndarray, n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns |mean| / root mean square: observed [cells], and per sign pattern [patterns, cells].

    This statistic orders the patterns as |t| does, because flipping keeps the root mean square.
    Unlike t, the statistic is finite when all values are equal.
    """
    scale = np.sqrt((x**2).mean(0))
    scaled = np.divide(x, scale, out=np.zeros_like(x), where=scale > 0) / len(x)
    return np.abs(scaled.sum(0)), np.abs(_signs(len(x), n, seed) @ scaled)


def _signs(n_examples: int, n: int, seed: int) -> np.ndarray:
    """Returns all sign patterns [patterns, examples], or `n` random ones for many examples."""
    if n_examples <= _MAX_EXACT:
        bits = np.arange(2**n_examples)[:, None] >> np.arange(n_examples)
        return 1.0 - 2.0 * (bits & 1)
    random_signs = np.random.default_rng(seed).choice([-1.0, 1.0], size=(n, n_examples))
    # The observed signs are one of the patterns, so p is never 0.
    return np.concatenate([np.ones((1, n_examples)), random_signs])


def _p_value(observed: np.ndarray, null: np.ndarray) -> np.ndarray:
    """Computes the share of null values that are at least `observed`, up to rounding."""
    return (null >= observed * (1 - 1e-12)).mean(0)
