"""Computes one score per group of rows, so that a bootstrap can resample whole groups."""

import numpy as np
from jaxtyping import Float, Shaped

# Standard error of a mean of out-of-fold scores, divided by that of independent scores.
DEPENDENCE = np.sqrt(2)


def group_scores(
    values: Float[np.ndarray, "N"], groups: Shaped[np.ndarray, "N"]
) -> Float[np.ndarray, "G"]:
    """Computes one score per group such that the mean of the scores is the mean over rows.

    The mean over rows is the sum of all values divided by the number of rows. Resampling groups of
    unequal size changes both the sum and the number. A group's score is a linearisation of this
    ratio, so a bootstrap of the scores accounts for both changes.

    Args:
        values: one value per row.
        groups: the group of each row, such as the speaker.

    Returns:
        The scores, in sorted order of the groups.

    Example:
        ```python
        import numpy as np

        from interventions.stats.groups import group_scores

        values = np.array([1.0, 0.0, 1.0])
        scores = group_scores(values, np.array(["a", "a", "b"]))
        assert np.isclose(scores.mean(), values.mean())
        ```
    """
    _, group_of_row, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    deviations = np.bincount(group_of_row, values) - values.mean() * sizes
    return values.mean() + deviations * len(sizes) / len(values)


def inflate_variance(values: Float[np.ndarray, "G ..."]) -> Float[np.ndarray, "G ..."]:
    """Multiplies deviations from the mean by √2, because out-of-fold predictions are correlated.

    If labels cannot be predicted, a row is correct only if it happens to resemble rows of its class
    in other folds. Resemblance is mutual, so the rows that it resembles are correct, too. Each
    resemblance counts twice. The variance of the mean is then twice that of independent rows. If
    labels can be predicted, the factor is conservative. An unbiased estimate of the variance does
    not exist (Bengio and Grandvalet 2004).

    Args:
        values: one score per group.

    Returns:
        Scores with the same mean and twice the variance.

    Example:
        >>> import numpy as np
        >>> inflate_variance(np.array([-1.0, 1.0])).round(3)
        array([-1.414,  1.414])
    """
    centre = np.mean(values, 0)
    return centre + DEPENDENCE * (values - centre)
