"""How well a number ranks one class above another, and how sure that is when rows come in groups (speakers, recordings)."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Shaped

from interventions.stats.categories import categories


class Interval(NamedTuple):
    """A value with its 95 % percentile interval over `n` groups."""

    value: float
    low: float
    high: float
    n: int


def auroc(
    scores: Float[np.ndarray, "N"],
    positive: Bool[np.ndarray, "N"],
    groups: Shaped[np.ndarray, "N"],
    *,
    against: Float[np.ndarray, "N"] | None = None,
    n: int = 2000,
    seed: int = 0,
) -> Interval:
    """The chance that a positive row has a larger score than a negative one, ties counted half; with `against`, what it has over those.

    The interval resamples whole `groups`. Resamples without a row of either class are left out.
    Raises ValueError when there is no row of one class, for NaN, for another number of rows, and for rows without a group.
    """
    if not scores.shape == positive.shape == (len(scores) if against is None else len(against),):
        raise ValueError(
            f"scores, positive, against: expected as many of each, got shapes {scores.shape} and {positive.shape}."
        )
    known = [scores] if against is None else [scores, against]
    if not positive.any() or positive.all() or np.isnan(known).any():
        raise ValueError("scores, positive: expected rows of both classes, and no NaN.")
    wins = _wins(scores, positive) - (0 if against is None else _wins(against, positive))
    numbers = np.unique(categories(groups, len(scores), "groups"), return_inverse=True)[1]
    n_groups = int(numbers.max()) + 1
    drawn = np.random.default_rng(seed).multinomial(
        n_groups, np.full(n_groups, 1 / n_groups), size=n
    )
    weights = np.concatenate([np.ones((1, n_groups)), drawn])[:, numbers]
    up, down = weights[:, positive], weights[:, ~positive]
    pairs = up.sum(1) * down.sum(1)
    values = np.divide(
        ((up @ wins) * down).sum(1), pairs, out=np.full(n + 1, np.nan), where=pairs > 0
    )
    low, high = np.nanquantile(values[1:], [0.025, 0.975])
    return Interval(float(values[0]), float(low), float(high), n_groups)


def _wins(
    scores: Float[np.ndarray, "N"], positive: Bool[np.ndarray, "N"]
) -> Float[np.ndarray, "P Q"]:
    """1 where the positive row is above the negative one, half where they are equal."""
    up, down = scores[positive][:, None], scores[~positive][None]
    return (up > down) + 0.5 * (up == down)
