"""How sure one may be of a grid of numbers: intervals, p-values, and what many cells do to them.

`values` are labelled, with a dimension of examples (differences to a baseline, where it is a question of no effect); every
other dimension is a cell. All of it is seeded, and vectorised over cells.
"""

import numpy as np
import xarray as xr

_EXACT = 14  # examples up to which all 2^n sign patterns are tried


def bootstrap(
    values: xr.DataArray,
    *,
    dim: str = "example",
    level: float = 0.95,
    n: int = 2000,
    seed: int = 0,
    method: str = "bca",
) -> xr.Dataset:
    """`mean`, `low` and `high` of every cell: the mean over `dim` and its bootstrap interval, "bca" (Efron 1987) or "percentile".

    All cells are resampled alike, so that their differences may be compared. Raises ValueError for fewer than 2 examples, NaN,
    and an unknown method.
    """
    x, rest = _flat(values, dim)
    if not 0 < level < 1 or method not in ("bca", "percentile"):
        raise ValueError(
            f"level, method: expected 0 < level < 1 and 'bca' or 'percentile', got {level} and {method!r}."
        )
    means = _resampled_means(x, n, seed)
    tails = np.array([(1 - level) / 2, (1 + level) / 2])[:, None] * np.ones(x.shape[1])
    low, high = _quantiles(means, _bias_corrected(x, means, tails) if method == "bca" else tails)
    return xr.Dataset(
        {
            name: rest.copy(data=v.reshape(rest.shape))
            for name, v in (("mean", x.mean(0)), ("low", low), ("high", high))
        }
    )


def sign_flip(
    values: xr.DataArray, *, dim: str = "example", n: int = 10_000, seed: int = 0
) -> xr.DataArray:
    """Two-sided p-value of every cell under the null that its values are as likely to have the other sign.

    Up to 14 examples all sign patterns are tried, and p is exact; beyond, `n` random ones, and p is at least 1 / (n + 1).
    """
    x, rest = _flat(values, dim)
    observed, null = _sign_flipped(x, n, seed)
    return rest.copy(data=_p_value(observed, null).reshape(rest.shape))


def any_of_many(
    values: xr.DataArray, *, dim: str = "example", n: int = 10_000, seed: int = 0
) -> xr.DataArray:
    """p-value of every cell against the largest effect anywhere in the grid (Westfall & Young 1993, single step).

    The same signs are flipped in all cells, so their dependence is kept. A cell below 0.05 would be surprising as the best of
    this many. The statistic is studentised: a noisy cell does not set the scale for the others.
    """
    x, rest = _flat(values, dim)
    observed, null = _sign_flipped(x, n, seed)
    return rest.copy(data=_p_value(observed, null.max(1, keepdims=True)).reshape(rest.shape))


def any_of_alike(
    values: xr.DataArray, *, dim: str = "example", n: int = 10_000, seed: int = 0
) -> xr.DataArray:
    """p-value of every cell against the largest mean of the grid, were cells exchangeable: each example's own values, shuffled.

    For effects that any edit has on a fragile example, such as a loop that every second ablation breaks: a cell below 0.05 has
    larger values in the same examples than the best of this many cells picked anew for every example. One-sided: large is notable.
    """
    x, rest = _flat(values, dim)
    rng = np.random.default_rng(seed)
    best = np.array(
        [x.mean(0).max(), *(rng.permuted(x, axis=1).mean(0).max() for _ in range(n))]
    )  # what was observed is one of them
    p = (best[:, None] >= x.mean(0) - 1e-12).mean(0)
    return rest.copy(data=p.reshape(rest.shape))


def fdr(p: xr.DataArray) -> xr.DataArray:
    """p-values adjusted over the whole grid (Benjamini & Hochberg 1995): cells at or below q hold at most a share q of false ones."""
    import scipy.stats

    return p.copy(data=scipy.stats.false_discovery_control(p.values.ravel()).reshape(p.shape))


def _flat(values: xr.DataArray, dim: str) -> tuple[np.ndarray, xr.DataArray]:
    """[examples, cells], and a labelled array of the cells' shape."""
    if dim not in values.dims:
        raise ValueError(f"dim: expected one of {', '.join(map(str, values.dims))}, got {dim!r}.")
    moved = values.transpose(dim, ...).astype(np.float64)
    if moved.sizes[dim] < 2 or np.isnan(moved.values).any():
        raise ValueError(
            f"values: expected at least 2 examples along {dim!r} and no NaN; drop examples without a value first."
        )
    of_examples = [name for name, labels in moved.coords.items() if dim in labels.dims]
    return moved.values.reshape(moved.sizes[dim], -1), moved.drop_vars(of_examples).isel({dim: 0})


def _resampled_means(x: np.ndarray, n: int, seed: int) -> np.ndarray:
    """[n, cells]; a resample is a vector of counts, so all means are one product."""
    counts = np.random.default_rng(seed).multinomial(len(x), np.full(len(x), 1 / len(x)), size=n)
    return counts @ x / len(x)


def _bias_corrected(x: np.ndarray, means: np.ndarray, tails: np.ndarray) -> np.ndarray:
    import scipy.stats  # most of a second: only who asks for such an interval waits for it

    below = ((means < x.mean(0)).mean(0) + (means <= x.mean(0)).mean(0)) / 2
    bias = scipy.stats.norm.ppf(np.clip(below, 1 / (len(means) + 1), 1 - 1 / (len(means) + 1)))
    away = x - x.mean(
        0
    )  # what leaving an example out takes from the mean, but for a factor that cancels
    spread = (away**2).sum(0) ** 1.5
    acceleration = np.divide(
        (away**3).sum(0), 6 * spread, out=np.zeros_like(spread), where=spread > 0
    )
    z = bias + scipy.stats.norm.ppf(tails)
    return scipy.stats.norm.cdf(bias + z / (1 - acceleration * z))


def _quantiles(means: np.ndarray, tails: np.ndarray) -> np.ndarray:
    """The quantiles `tails` [2, cells] of `means` [n, cells], each cell its own."""
    ordered, at = np.sort(means, axis=0), np.clip(tails, 0, 1) * (len(means) - 1)
    low = np.take_along_axis(ordered, np.floor(at).astype(int), 0)
    high = np.take_along_axis(ordered, np.ceil(at).astype(int), 0)
    return low + (high - low) * (at % 1)


def _sign_flipped(x: np.ndarray, n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """|mean| over root mean square, observed [cells] and under flipped signs [patterns, cells].

    Flipping leaves the root mean square alone, so this orders the patterns as Student's t does, without its division by zero.
    """
    scale = np.sqrt((x**2).mean(0))
    scaled = np.divide(x, scale, out=np.zeros_like(x), where=scale > 0) / len(x)
    return np.abs(scaled.sum(0)), np.abs(_signs(len(x), n, seed) @ scaled)


def _signs(n_examples: int, n: int, seed: int) -> np.ndarray:
    if n_examples <= _EXACT:
        bits = np.arange(2**n_examples)[:, None] >> np.arange(n_examples)
        return 1.0 - 2.0 * (bits & 1)
    drawn = np.random.default_rng(seed).choice([-1.0, 1.0], size=(n, n_examples))
    return np.concatenate(
        [np.ones((1, n_examples)), drawn]
    )  # what was observed is one of the patterns


def _p_value(observed: np.ndarray, null: np.ndarray) -> np.ndarray:
    return (null >= observed * (1 - 1e-12)).mean(0)
