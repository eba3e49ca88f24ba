"""Computes exact intervals and tests of shares, and the shares that a study can detect."""

from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool

from interventions.stats.roc import Interval

_SIDES = ("above", "below")


def share_interval(count: int, n: int, level: float = 0.95) -> Interval:
    """Estimates a share from independent units, with an exact interval.

    The interval contains the true share with at least the probability `level`, for every share
    and every n. Its width is never zero.

    Args:
        count: number of units that have the property.
        n: number of units.
        level: probability that the interval contains the true share.

    Returns:
        The share, and the interval of Clopper and Pearson (1934).

    Raises:
        ValueError: `count` is not between 0 and `n`, or `n` is 0.

    Example:
        >>> from interventions import stats
        >>> share = stats.share_interval(8, 10)
        >>> round(share.low, 2), round(share.high, 2)
        (0.44, 0.97)
    """
    if n < 1 or not 0 <= count <= n:
        raise ValueError(f"count, n: expected 0 <= count <= n and n >= 1, got {count} of {n}.")
    return Interval(count / n, *_clopper_pearson(count, n, level), n)


class ClusterShare(NamedTuple):
    """A share of units that come in clusters, and its test.

    Attributes:
        interval: the share and its 95 % interval; n is the number of clusters.
        p: two-sided p-value, at most 0.05 if and only if the interval excludes the null.
        effective: number of independent units with as much information, at least.
    """

    interval: Interval
    p: float
    effective: float


def cluster_share(
    outcomes: Bool[np.ndarray, "n"], clusters: Sequence[Hashable] | np.ndarray, null: float = 0.5
) -> ClusterShare:
    """Estimates and tests a share of units that come in small clusters, such as speakers.

    The limits are those of Clopper and Pearson for the effective number of units of Kish (1965),
    the square of the number of units divided by the sum of the squared sizes of the clusters. It
    assumes that all units of a cluster agree, so that the interval is too wide rather than too
    narrow. A bootstrap of clusters fails near 0 and 1, where few clusters differ from the others.

    Args:
        outcomes: bool [n], whether each unit has the property.
        clusters: the cluster of each unit.
        null: the share under the null hypothesis.

    Raises:
        ValueError: there is no unit, not one cluster per unit, or an outcome is neither True nor
            False.

    Example:
        >>> from interventions import stats
        >>> speakers = np.arange(48) % 42
        >>> share = stats.cluster_share(np.arange(48) > 2, speakers)
        >>> round(share.interval.low, 2), round(share.interval.high, 2), round(share.effective, 1)
        (0.81, 0.99, 38.4)
    """
    import scipy.special

    x, units = np.asarray(outcomes, float), np.asarray(clusters)
    if x.ndim != 1 or x.shape != units.shape or not x.size:
        raise ValueError(
            "outcomes, clusters: expected one cluster per outcome and at least one outcome, got "
            f"the shapes {x.shape} and {units.shape}."
        )
    if not np.isin(x, (0, 1)).all():
        raise ValueError("outcomes: expected True or False for every unit, got other values.")
    sizes = np.unique(units, return_counts=True)[1]
    share, n = float(x.mean()), float(len(x) ** 2 / np.square(sizes).sum())
    low, high = _clopper_pearson(share * n, n)
    # Tails of the binomial distribution, as functions of numbers that need not be whole.
    count = share * n
    at_least = scipy.special.betainc(count, n - count + 1, null) if share else 1.0
    at_most = scipy.special.betaincc(count + 1, n - count, null) if share < 1 else 1.0
    p = min(1.0, 2 * float(min(at_least, at_most)))
    return ClusterShare(Interval(share, low, high, len(sizes)), p, n)


def _clopper_pearson(count: float, n: float, level: float = 0.95) -> tuple[float, float]:
    import scipy.special

    tail = (1 - level) / 2
    low = scipy.special.betaincinv(count, n - count + 1, tail) if count > 0 else 0.0
    high = scipy.special.betaincinv(count + 1, n - count, 1 - tail) if count < n else 1.0
    return float(low), float(high)


class PairedShares(NamedTuple):
    """The difference of two shares of the same units.

    Attributes:
        value: share of the first condition minus share of the second.
        low: lower end of the 95% interval.
        high: upper end of the 95% interval.
        p: two-sided p-value of the exact test of McNemar.
    """

    value: float
    low: float
    high: float
    p: float


def paired_shares(first: Bool[np.ndarray, "n"], second: Bool[np.ndarray, "n"]) -> PairedShares:
    """Compares how many of the same units have a property under two conditions.

    Args:
        first: bool [n], whether each unit has the property under the first condition.
        second: bool [n], the same under the second condition.

    Returns:
        The difference with an interval whose width is never zero. The interval is method 10 of
        Newcombe (1998), with the limits of Clopper and Pearson in place of those of Wilson.

    Raises:
        ValueError: the arrays have different lengths or are empty.

    Example:
        >>> from interventions import stats
        >>> first, second = np.arange(20) < 14, np.arange(20) < 7
        >>> difference = stats.paired_shares(first, second)
        >>> round(difference.value, 2), round(difference.p, 3)
        (0.35, 0.016)
    """
    import scipy.stats  # imported here because the import takes most of a second

    first, second = np.asarray(first, bool), np.asarray(second, bool)
    if first.shape != second.shape or first.ndim != 1 or not first.size:
        raise ValueError(
            "first, second: expected two arrays of the same length, got the shapes "
            f"{first.shape} and {second.shape}."
        )
    n = len(first)
    only_first, only_second = int((first & ~second).sum()), int((second & ~first).sum())
    # The intervals of the first and of the second share.
    a, b = (share_interval(int(has_property.sum()), n) for has_property in (first, second))
    correlation = _phi(first, second)
    difference = a.value - b.value
    below = _combine(a.value - a.low, b.high - b.value, correlation)
    above = _combine(a.high - a.value, b.value - b.low, correlation)
    n_discordant = only_first + only_second
    p = scipy.stats.binomtest(only_first, n_discordant).pvalue if n_discordant else 1.0
    low, high = max(-1.0, difference - below), min(1.0, difference + above)
    return PairedShares(difference, low, high, float(p))


def share_power(share: float, n: int, null: float, side: str = "above") -> float:
    """Returns the probability that the exact 95 % interval of a study lies beyond the null.

    Args:
        share: the true share.
        n: number of units.
        null: the share if there is no effect.
        side: side of the null on which the interval must lie, "above" or "below".

    Raises:
        ValueError: `side` is unknown.

    Example:
        >>> from interventions import stats
        >>> round(stats.share_power(0.76, n=40, null=0.5), 2)
        0.92
    """
    import scipy.stats  # imported here because the import takes most of a second

    if side not in _SIDES:
        raise ValueError(f"side: expected 'above' or 'below', got {side!r}.")
    intervals = [share_interval(count, n) for count in range(n + 1)]
    beyond = [x.low > null if side == "above" else x.high < null for x in intervals]
    return float(scipy.stats.binom.pmf(np.flatnonzero(beyond), n, share).sum())


def detectable_share(n: int, null: float, side: str = "above", power: float = 0.8) -> float | None:
    """Returns the share nearest to the null that a study of n units detects.

    Args:
        n: number of units.
        null: the share if there is no effect.
        side: side of the null on which the share lies, "above" or "below".
        power: probability with which the study detects the share (see `share_power`).

    Returns:
        The share; None if n units cannot detect any.

    Example:
        >>> from interventions import stats
        >>> round(stats.detectable_share(10, 0.5), 2)
        0.92
    """
    import scipy.optimize  # imported here because the import takes most of a second

    extreme = 1.0 if side == "above" else 0.0
    if share_power(extreme, n, null, side) < power:
        return None
    solution: Any = scipy.optimize.brentq(
        lambda share: share_power(share, n, null, side) - power, null, extreme
    )
    return float(solution)


def _phi(first: Bool[np.ndarray, "n"], second: Bool[np.ndarray, "n"]) -> float:
    """Returns the correlation phi between two properties, corrected for few units (Newcombe)."""
    n = len(first)
    both, neither = int((first & second).sum()), int((~first & ~second).sum())
    only_first, only_second = int((first & ~second).sum()), int((second & ~first).sum())
    margins = (both + only_first) * (only_second + neither) * (both + only_second)
    margins *= only_first + neither
    if not margins:
        return 0.0
    product = both * neither - only_first * only_second
    if product > 0:
        product = max(0.0, product - n / 2)
    return product / np.sqrt(margins)


def _combine(first: float, second: float, correlation: float) -> float:
    """Combines the distances of two correlated shares to their limits."""
    return float(np.sqrt(first**2 - 2 * correlation * first * second + second**2))
