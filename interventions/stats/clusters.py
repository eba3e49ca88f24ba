"""Computes intervals of means over clusters, such as speakers or sentences."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from interventions.stats.roc import Interval

# A resample of few clusters can have almost no spread. Its standard error is then taken to be this
# share of that of the sample, because a division by almost zero would make the interval infinite.
_SMALLEST_ERROR = 0.1


def cluster_mean(
    values: Float[np.ndarray, "n"],
    clusters: Sequence[Any] | np.ndarray,
    *,
    bounds: tuple[float, float] | None = None,
    level: float = 0.95,
    n: int = 2000,
    seed: int = 0,
) -> Interval:
    """Estimates a mean over examples that come in clusters, with a bootstrap-t interval.

    Whole clusters are drawn, because examples of one cluster vary together. The interval is that of
    Hall (1988), which covers skewed values better than percentiles of a bootstrap.

    Args:
        values: float [n_examples].
        clusters: the cluster of each example, such as its speaker.
        bounds: smallest and largest possible value, such as (0, 1) of a share. If all clusters have
            the same mean, the interval depends on them alone.
        level: probability that the interval contains the true mean.
        n: number of bootstrap draws.
        seed: seed of the draws.

    Returns:
        The mean and its interval. Without any spread, the interval covers means of which less than
        the share `1 - 0.025 ** (1 / n_clusters)` would differ; without `bounds` it is infinite.

    Raises:
        ValueError: there are fewer than two clusters, or a value is not finite.

    Example:
        >>> from interventions import stats
        >>> rng = np.random.default_rng(0)
        >>> speakers = np.repeat(np.arange(20), 5)
        >>> values = rng.normal(size=20)[speakers] + rng.normal(size=100)
        >>> mean = stats.cluster_mean(values, speakers)
        >>> mean.low < 0 < mean.high
        True
    """
    values = np.asarray(values, float)
    _, numbers = np.unique(np.asarray(clusters), return_inverse=True)
    n_clusters = int(numbers.max(initial=-1)) + 1
    if values.shape != numbers.shape or not np.isfinite(values).all():
        raise ValueError(
            "values, clusters: expected one finite value and one cluster per example, got the "
            f"shapes {values.shape} and {numbers.shape}."
        )
    if n_clusters < 2:
        raise ValueError(f"clusters: expected two or more, got {n_clusters}.")
    sums, counts = np.bincount(numbers, values), np.bincount(numbers).astype(float)
    mean = float(sums.sum() / counts.sum())
    if np.ptp(sums / counts) == 0:
        return _without_spread(mean, n_clusters, bounds, level)
    draws = np.random.default_rng(seed).integers(n_clusters, size=(n, n_clusters))
    drawn_sums, drawn_counts = sums[draws], counts[draws]
    means = drawn_sums.sum(1) / drawn_counts.sum(1)
    error = _standard_error(sums[None], counts[None], np.array([mean]))[0]
    errors = _standard_error(drawn_sums, drawn_counts, means)
    t = (means - mean) / np.maximum(errors, _SMALLEST_ERROR * error)
    t_low, t_high = np.quantile(t, [(1 - level) / 2, (1 + level) / 2])
    low, high = mean - t_high * error, mean - t_low * error
    if bounds is not None:
        low, high = max(low, bounds[0]), min(high, bounds[1])
    return Interval(mean, float(low), float(high), n_clusters)


def _standard_error(
    sums: Float[np.ndarray, "b c"], counts: Float[np.ndarray, "b c"], means: Float[np.ndarray, "b"]
) -> Float[np.ndarray, "b"]:
    """Returns the standard error of a ratio of sums over clusters, by linearisation."""
    n_clusters = sums.shape[1]
    residuals = sums - means[:, None] * counts
    variance = (residuals**2).sum(1) * n_clusters / (n_clusters - 1)
    return np.sqrt(variance) / counts.sum(1)


def _without_spread(
    mean: float, n_clusters: int, bounds: tuple[float, float] | None, level: float
) -> Interval:
    """Returns the interval of a sample in which all clusters have the same mean."""
    if bounds is None:
        return Interval(mean, -np.inf, np.inf, n_clusters)
    # With this probability of another value per cluster, none would occur in `(1 - level) / 2` of
    # all samples.
    share = 1 - ((1 - level) / 2) ** (1 / n_clusters)
    low, high = bounds
    return Interval(mean, mean - share * (mean - low), mean + share * (high - mean), n_clusters)
