"""Estimates the numbers that claims are judged by, each with its 95 % interval."""

import dataclasses
from collections.abc import Hashable, Iterable, Sequence
from typing import Any

import numpy as np

# Half-widths of a normal 95 % interval per standard error.
_Z = 1.959964


@dataclasses.dataclass(frozen=True)
class Evidence:
    """A number with its 95 % interval.

    Attributes:
        value: the estimate.
        low: lower end of the interval.
        high: upper end of the interval.
        n: number of independent units, such as speakers.
        p: two-sided p-value of the claim's null; at most 0.05 if the interval excludes the null.
        error: standard error of the estimate; None for an exact share.
        counts: (k, n) if the estimate is the share k / n.
        floor: value of a baseline that the claim must be compared with.
        q: `p` adjusted for the other claims of the family; see `experiments.studies.claims`.
    """

    value: float
    low: float
    high: float
    n: int
    p: float | None = None
    error: float | None = None
    counts: tuple[int, int] | None = None
    floor: float | None = None
    q: float | None = None


def mean_evidence(
    values: Iterable[float] | np.ndarray,
    clusters: Sequence[Hashable] | np.ndarray | None = None,
    *,
    null: float = 0.0,
    bounds: tuple[float, float] | None = None,
    seed: int = 0,
) -> Evidence:
    """Estimates a mean with the bootstrap-t interval of `interventions.stats.cluster_test`.

    Args:
        values: one number per example; examples that are NaN are dropped.
        clusters: the independent unit of each example. None: every example is one.
        null: the mean under the null hypothesis.
        bounds: smallest and largest possible value. Without bounds, examples that all agree give an
            infinite interval.
        seed: seed of the bootstrap.

    Returns:
        The mean. With fewer than two clusters, the interval is NaN and p is None.

    Example:
        >>> evidence = mean_evidence([0.1, 0.3, 0.2, 0.4, 0.1, 0.2])
        >>> evidence.n, evidence.low > 0
        (6, True)
    """
    from interventions.stats import cluster_test

    x = np.asarray(values, float)
    units = np.arange(len(x)) if clusters is None else np.asarray(clusters)
    finite = np.isfinite(x)
    x, units = x[finite], units[finite]
    if len(np.unique(units)) < 2:
        return Evidence(x.mean() if x.size else np.nan, np.nan, np.nan, len(np.unique(units)))
    test = cluster_test(x, units, null, bounds=bounds, seed=seed)
    return Evidence(*test.interval, p=test.p, error=test.error)


def share_evidence(
    outcomes: Iterable[bool] | np.ndarray,
    clusters: Sequence[Hashable] | np.ndarray | None = None,
    *,
    null: float,
) -> Evidence:
    """Estimates a share, with an exact interval.

    Args:
        outcomes: whether each unit has the property; units that are NaN are dropped.
        clusters: the independent unit of each outcome. If one has several outcomes, the interval is
            that of `interventions.stats.cluster_share`. None: every outcome is independent.
        null: the share under the null hypothesis.

    Example:
        >>> evidence = share_evidence([True] * 8 + [False] * 2, null=0.5)
        >>> evidence.counts, round(evidence.low, 2)
        ((8, 10), 0.44)
    """
    import scipy.stats  # imported here because the import takes most of a second

    from interventions.stats import cluster_share, share_interval

    x = np.asarray(outcomes, float)
    units = np.arange(len(x)) if clusters is None else np.asarray(clusters)
    finite = np.isfinite(x)
    x, units = x[finite], units[finite]
    counts = int(x.sum()), len(x)
    if len(np.unique(units)) < len(x):
        share = cluster_share(x, units, null)
        error = float(np.sqrt(null * (1 - null) / share.effective))  # if the null is true
        return Evidence(*share.interval, p=share.p, error=error, counts=counts)
    if not x.size:
        return Evidence(np.nan, np.nan, np.nan, 0)
    # Twice the smaller tail agrees with the interval of Clopper and Pearson.
    tails = [
        float(scipy.stats.binomtest(*counts, null, side).pvalue) for side in ("greater", "less")
    ]
    return Evidence(*share_interval(*counts), p=min(1.0, 2 * min(tails)), counts=counts)


def paired_evidence(first: Iterable[bool], second: Iterable[bool]) -> Evidence:
    """Estimates the difference of two shares of the same units; the null is 0.

    Example:
        >>> evidence = paired_evidence([True] * 14 + [False] * 6, [True] * 7 + [False] * 13)
        >>> round(evidence.value, 2), round(evidence.p, 3)
        (0.35, 0.016)
    """
    from interventions.stats import paired_shares

    a, b = np.asarray(first, bool), np.asarray(second, bool)
    if not a.size:
        return Evidence(np.nan, np.nan, np.nan, 0)
    value, low, high, p = paired_shares(a, b)
    return Evidence(value, low, high, len(a), p=p, error=(high - low) / (2 * _Z))


def interval_evidence(interval: Any, null: float) -> Evidence:
    """Turns an `interventions.stats.Interval` into evidence.

    The p-value is that of a normal estimate whose interval ends at the same distance from the null.

    Example:
        >>> from interventions.stats import Interval
        >>> interval_evidence(Interval(0.8, 0.6, 0.9, n=20), null=0.5).p < 0.05
        True
    """
    import scipy.stats

    value, low, high, n = interval
    distance = value - low if value > null else high - value  # towards the null
    error = distance / _Z
    p = float(2 * scipy.stats.norm.sf(abs(value - null) / error)) if error > 0 else None
    return Evidence(value, low, high, n, p=p, error=(high - low) / (2 * _Z))
