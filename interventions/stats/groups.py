"""Scores per group of rows, so that whole groups can be resampled."""

import numpy as np
from jaxtyping import Float, Shaped


def group_scores(
    values: Float[np.ndarray, "N"], groups: Shaped[np.ndarray, "N"]
) -> Float[np.ndarray, "G"]:
    """Computes one number per group whose mean is the mean over rows.

    The mean over rows is a ratio of two sums over groups: of values, and of rows. Its linearisation
    is a mean over groups, so a bootstrap can resample groups of unequal size.

    Args:
        values: one value per row.
        groups: the group of each row, such as the speaker.

    Returns:
        One number per group, in sorted order of the groups.

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
