"""Computes the area under the ROC curve, and its interval over groups of rows."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Shaped

from interventions.stats.categories import categories


class Interval(NamedTuple):
    """A value with its interval from `low` to `high`, over `n` groups or independent units.

    Example:
        >>> Interval(value=0.8, low=0.7, high=0.9, n=20).high
        0.9
    """

    value: float
    low: float
    high: float
    n: int


def auroc_interval(
    scores: Float[np.ndarray, "N"],
    positive: Bool[np.ndarray, "N"],
    groups: Shaped[np.ndarray, "N"],
    *,
    against: Float[np.ndarray, "N"] | None = None,
    n: int = 2000,
    seed: int = 0,
) -> Interval:
    """Computes the area under the ROC curve and its interval over groups.

    The area is the probability that a positive row has a larger score than a negative row. Equal
    scores count half.

    Args:
        scores: one score per row [N].
        positive: True for each row of the positive class [N].
        groups: the speaker or recording of each row [N]. Whole groups are resampled, because rows
            of a group are not independent.
        against: other scores [N] of the same rows. The result is then the area of `scores` minus
            the area of `against`.
        n: the number of resamples. A resample that lacks one of the classes is left out.
        seed: the seed of the resamples.

    Returns:
        The area (or the difference of areas), its interval and the number of groups.

    Raises:
        ValueError: all rows are of one class, a score is NaN, the arguments differ in their number
            of rows, or a row has no group.

    Example:
        >>> import numpy as np
        >>> scores, positive = np.array([0.9, 0.8, 0.3, 0.1]), np.array([True, True, False, False])
        >>> auroc_interval(scores, positive, np.arange(4)).value
        1.0
    """
    if not scores.shape == positive.shape == (len(scores) if against is None else len(against),):
        raise ValueError(
            "scores, positive, against: expected the same number of rows, "
            f"got shapes {scores.shape} and {positive.shape}."
        )
    columns = [scores] if against is None else [scores, against]
    if not positive.any() or positive.all() or np.isnan(columns).any():
        raise ValueError("scores, positive: expected rows of both classes, and no NaN.")
    wins = _wins(scores, positive) - (0 if against is None else _wins(against, positive))
    group_of_row = np.unique(categories(groups, len(scores), "groups"), return_inverse=True)[1]
    n_groups = int(group_of_row.max()) + 1
    # A resample is a vector with the count of each group. Counts of 1 give the value itself.
    counts = np.random.default_rng(seed).multinomial(
        n_groups, np.full(n_groups, 1 / n_groups), size=n
    )
    weights = np.concatenate([np.ones((1, n_groups)), counts])[:, group_of_row]
    positives, negatives = weights[:, positive], weights[:, ~positive]
    # Each pair of a positive and a negative row counts as often as its groups were drawn.
    n_pairs = positives.sum(1) * negatives.sum(1)
    areas = np.divide(
        ((positives @ wins) * negatives).sum(1),
        n_pairs,
        out=np.full(n + 1, np.nan),
        where=n_pairs > 0,
    )
    low, high = np.nanquantile(areas[1:], [0.025, 0.975])
    return Interval(float(areas[0]), float(low), float(high), n_groups)


def _wins(
    scores: Float[np.ndarray, "N"], positive: Bool[np.ndarray, "N"]
) -> Float[np.ndarray, "P Q"]:
    """Returns 1 where a positive row scores above a negative row, and 0.5 where they are equal."""
    positives, negatives = scores[positive][:, None], scores[~positive][None]
    return (positives > negatives) + 0.5 * (positives == negatives)
