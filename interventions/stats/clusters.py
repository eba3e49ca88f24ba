"""Computes intervals of means over clusters, such as speakers or sentences."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from interventions.stats.roc import Interval

# A resample of few clusters can have almost no spread. Its standard error is then replaced by this
# share of the sample's standard error, because a division by almost zero would make the interval
# almost infinite. In simulations of 8 to 100 clusters with bounded values, of which most are equal,
# 0.25 makes intervals up to half as wide as 0.1 does, and they still cover the mean in 94 % of
# cases. Values without bounds can have rare large ones, which only the wide intervals cover.
_SMALLEST_ERROR, _SMALLEST_ERROR_UNBOUNDED = 0.25, 0.1


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

    Draws whole clusters, because examples of one cluster vary together. The interval follows Hall
    (1988). For skewed values, it covers the mean more reliably than percentiles of a bootstrap.

    Args:
        values: float [n_examples].
        clusters: the cluster of each example, such as its speaker.
        bounds: smallest and largest possible value, such as (0, 1) for a share. Without bounds, the
            interval is infinite if all clusters have the same mean.
        level: probability that the interval contains the true mean.
        n: number of bootstrap draws.
        seed: seed of the draws.

    Returns:
        The mean and its interval. If all clusters have the same mean, the interval reaches from the
        mean towards each bound, by `1 - ((1 - level) / 2) ** (1 / n_clusters)` of the distance.

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
    sums, counts = _sums_of_clusters(values, clusters)
    mean, n_clusters = float(sums.sum() / counts.sum()), len(sums)
    if np.ptp(sums / counts) == 0:
        return _without_spread(mean, n_clusters, bounds, level)
    low, high = _interval_ends(
        mean, *_studentised_means(sums, counts, bounds, n, seed), bounds, level
    )
    return Interval(mean, low, high, n_clusters)


class ClusterTest(NamedTuple):
    """The test of a mean over clusters.

    Attributes:
        interval: the mean and its 95 % interval, from the same draws as the p-value.
        p: two-sided p-value.
        error: standard error of the mean. If all clusters agree, half the width of the interval,
            divided by 1.96.
    """

    interval: Interval
    p: float
    error: float


def cluster_test(
    values: Float[np.ndarray, "n"],
    clusters: Sequence[Any] | np.ndarray,
    null: float = 0.0,
    *,
    bounds: tuple[float, float] | None = None,
    n: int = 2000,
    seed: int = 0,
) -> ClusterTest:
    """Tests a mean over examples that come in clusters.

    Args:
        values: float [n_examples].
        clusters: the cluster of each example.
        null: the mean under the null hypothesis.
        bounds: smallest and largest possible value.
        n: number of bootstrap draws.
        seed: seed of the draws.

    Returns:
        The interval, which is that of `cluster_mean`, the p-value and the standard error. The
        p-value is below 0.05 if and only if the interval excludes the null, up to the resolution of
        the draws.

    Example:
        >>> from interventions import stats
        >>> values = np.random.default_rng(0).normal(loc=1.0, size=30)
        >>> stats.cluster_test(values, np.arange(30)).p < 0.01
        True
    """
    sums, counts = _sums_of_clusters(values, clusters)
    mean, n_clusters = float(sums.sum() / counts.sum()), len(sums)
    if np.ptp(sums / counts) == 0:
        interval = _without_spread(mean, n_clusters, bounds, 0.95)
        p = _p_without_spread(mean, null, n_clusters, bounds)
        return ClusterTest(interval, p, (interval.high - interval.low) / (2 * 1.96))
    error, t = _studentised_means(sums, counts, bounds, n, seed)
    observed = (mean - null) / error
    # The observed sample counts as one more draw, so that p is never zero.
    tails = [(np.sum(t >= observed) + 1) / (n + 1), (np.sum(t <= observed) + 1) / (n + 1)]
    low, high = _interval_ends(mean, error, t, bounds, 0.95)
    p = min(1.0, 2 * float(min(tails)))
    return ClusterTest(Interval(mean, low, high, n_clusters), p, error)


def _sums_of_clusters(
    values: Float[np.ndarray, "n"], clusters: Sequence[Any] | np.ndarray
) -> tuple[Float[np.ndarray, "c"], Float[np.ndarray, "c"]]:
    """Returns the sum and the number of the values of each cluster. Checks the arguments."""
    values = np.asarray(values, float)
    _, cluster_of_example = np.unique(np.asarray(clusters), return_inverse=True)
    n_clusters = int(cluster_of_example.max(initial=-1)) + 1
    if values.shape != cluster_of_example.shape or not np.isfinite(values).all():
        raise ValueError(
            "values, clusters: expected one finite value and one cluster per example, got the "
            f"shapes {values.shape} and {cluster_of_example.shape}."
        )
    if n_clusters < 2:
        raise ValueError(f"clusters: expected two or more, got {n_clusters}.")
    return np.bincount(cluster_of_example, values), np.bincount(cluster_of_example).astype(float)


def _studentised_means(
    sums: Float[np.ndarray, "c"],
    counts: Float[np.ndarray, "c"],
    bounds: tuple[float, float] | None,
    n: int,
    seed: int,
) -> tuple[float, Float[np.ndarray, "n"]]:
    """Returns the standard error, and the studentised means of n bootstrap draws of clusters."""
    n_clusters, mean = len(sums), sums.sum() / counts.sum()
    drawn_clusters = np.random.default_rng(seed).integers(n_clusters, size=(n, n_clusters))
    drawn_sums, drawn_counts = sums[drawn_clusters], counts[drawn_clusters]
    means = drawn_sums.sum(1) / drawn_counts.sum(1)
    error = float(_standard_error(sums[None], counts[None], np.array([mean]))[0])
    errors = _standard_error(drawn_sums, drawn_counts, means)
    smallest = _SMALLEST_ERROR_UNBOUNDED if bounds is None else _SMALLEST_ERROR
    return error, (means - mean) / np.maximum(errors, smallest * error)


def _interval_ends(
    mean: float,
    error: float,
    t: Float[np.ndarray, "n"],
    bounds: tuple[float, float] | None,
    level: float,
) -> tuple[float, float]:
    """Returns the ends of the bootstrap-t interval, limited to the possible values."""
    t_low, t_high = np.quantile(t, [(1 - level) / 2, (1 + level) / 2])
    low, high = mean - t_high * error, mean - t_low * error
    if bounds is not None:
        low, high = max(low, bounds[0]), min(high, bounds[1])
    return float(low), float(high)


def _standard_error(
    sums: Float[np.ndarray, "b c"], counts: Float[np.ndarray, "b c"], means: Float[np.ndarray, "b"]
) -> Float[np.ndarray, "b"]:
    """Returns the standard errors of the means of b samples of c clusters, by linearisation."""
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
    # If each cluster had another value with this probability, `(1 - level) / 2` of all samples
    # would contain no cluster with another value.
    share = 1 - ((1 - level) / 2) ** (1 / n_clusters)
    low, high = bounds
    return Interval(mean, mean - share * (mean - low), mean + share * (high - mean), n_clusters)


def _p_without_spread(
    mean: float, null: float, n_clusters: int, bounds: tuple[float, float] | None
) -> float:
    """Returns the p-value of a sample in which all clusters have the same mean."""
    if mean == null or bounds is None:
        return 1.0
    bound = bounds[1] if null > mean else bounds[0]
    if not min(mean, bound) <= null <= max(mean, bound) or bound == mean:
        return 0.0
    return min(1.0, 2 * (1 - (null - mean) / (bound - mean)) ** n_clusters)
