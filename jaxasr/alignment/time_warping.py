"""Aligns tokens with frames by dynamic time warping of the attention between them.

Source: openai/whisper `timing.py`.
"""

import numpy as np
from jaxtyping import Float, Int

_MEDIAN_WIDTH = 7  # frames of 20 ms in the median filter, as in openai/whisper


def alignment_matrix(scores: Float[np.ndarray, "N T S"]) -> Float[np.ndarray, "T S"]:
    """Returns the attention of tokens to frames, averaged over heads.

    First standardises the attention of each head over tokens, and median-filters it over 7 frames.

    Args:
        scores: attention scores before the softmax, for N heads, T tokens and S frames without
            padding.

    Example:
        >>> alignment_matrix(np.zeros((6, 3, 50))).shape
        (3, 50)
    """
    from scipy.ndimage import median_filter

    weights = np.exp(scores - scores.max(-1, keepdims=True), dtype=np.float64)
    weights /= weights.sum(-1, keepdims=True)
    weights = (weights - weights.mean(1, keepdims=True)) / np.maximum(
        weights.std(1, keepdims=True), 1e-30
    )
    # At the ends the filter mirrors half of its width, so there must be more frames than that.
    if scores.shape[-1] > _MEDIAN_WIDTH // 2:
        weights = median_filter(weights, size=(1, 1, _MEDIAN_WIDTH), mode="mirror")
    return weights.mean(0)


def dtw(cost: Float[np.ndarray, "T S"]) -> tuple[Int[np.ndarray, "P"], Int[np.ndarray, "P"]]:
    """Returns the rows and the columns of the cheapest path from the first cell to the last.

    The cost of a path is the sum of its cells. Each step goes down, right, or both.

    Args:
        cost: cost of each cell. Rows are tokens and columns are frames.

    Example:
        >>> rows, columns = dtw(np.array([[0.0, 1.0], [1.0, 0.0]]))
        >>> rows.tolist(), columns.tolist()
        ([0, 1], [0, 1])
    """
    n_rows, n_columns = cost.shape
    total = np.full((n_rows + 1, n_columns + 1), np.inf)
    total[0, 0] = 0
    for i, row in enumerate(cost, start=1):
        # The recurrence is total[j] = row[j] + min(from_above[j], total[j - 1]). Subtracting the
        # running sum of `row` makes it a running minimum, so that NumPy computes a row at once.
        from_above = np.minimum(total[i - 1, :-1], total[i - 1, 1:])
        running_sum = np.cumsum(row)
        total[i, 1:] = running_sum + np.minimum.accumulate(from_above - (running_sum - row))
    path = [(n_rows, n_columns)]
    while path[-1] != (1, 1):
        path.append(_find_previous_cell(total, *path[-1]))
    rows, columns = np.array(path[::-1]).T - 1
    return rows, columns


def _find_previous_cell(total: np.ndarray, i: int, j: int) -> tuple[int, int]:
    # These comparisons choose among equal costs as openai/whisper does.
    diagonal, above, left = total[i - 1, j - 1], total[i - 1, j], total[i, j - 1]
    if diagonal < min(above, left):
        return i - 1, j - 1
    return (i - 1, j) if above < min(diagonal, left) else (i, j - 1)
