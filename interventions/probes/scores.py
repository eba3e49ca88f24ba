"""Computes scores of a bank from the predictions of probes for rows that they did not train on."""

from collections.abc import Callable
from typing import Any

import numpy as np
import xarray as xr
from jaxtyping import Float, Int

from interventions.probes.bank import Bank


def confusion(bank: Bank) -> xr.DataArray:
    """Counts test rows by true and predicted class.

    Args:
        bank: a bank of classes.

    Returns:
        A DataArray ([site,] layer, penalty, seed, true, predicted) of row counts.

    Example:
        ```python
        import numpy as np

        import interventions
        from interventions.probes import scores

        y = np.arange(60) % 3
        X = np.random.default_rng(0).normal(size=(1, 60, 6))
        bank = interventions.fit_probes(X, y, folds=2)
        counts = scores.confusion(bank)
        assert (counts.sum("predicted") == 20).all()
        ```
    """
    # Indicators of the true and of the predicted class, whose product over rows is the counts.
    classes = xr.DataArray(np.arange(len(bank.classes)), dims="class")
    is_tested = bank.test.any("fold")
    true = ((bank.y == classes) & is_tested).rename({"class": "true"})
    predicted = ((bank.out_of_fold == classes) & is_tested).rename({"class": "predicted"})
    counts = xr.dot(true.astype(np.int64), predicted.astype(np.int64), dim="row")
    counts = counts.assign_coords(true=bank.classes, predicted=bank.classes)
    return counts.transpose(..., "seed", "true", "predicted")


def balanced_accuracy(bank: Bank) -> xr.DataArray:
    """Computes the accuracy within each class, averaged over classes.

    Chance is 1/K for K classes, even if the classes have different numbers of rows.

    Args:
        bank: a bank of classes.

    Returns:
        A DataArray ([site,] layer, penalty, seed).

    Example:
        ```python
        import numpy as np

        import interventions
        from interventions.probes import scores

        y = (np.arange(60) % 6 == 0) * 1  # unequal classes
        X = np.random.default_rng(0).normal(size=(1, 60, 6))
        bank = interventions.fit_probes(X, y, folds=2)
        assert scores.balanced_accuracy(bank).item() < 0.8
        ```
    """
    counts = confusion(bank)
    n_correct = xr.concat(
        [counts.sel(true=k, predicted=k, drop=True) for k in bank.classes], "true"
    )
    return (n_correct / counts.sum("predicted").drop_vars("true")).mean("true")


def auroc(bank: Bank, X: Any) -> xr.DataArray:
    """Computes the area under the ROC curve of out-of-fold probabilities, pooled over folds.

    `interventions.stats.auroc_interval` computes it from scores, with an interval over groups.

    Args:
        bank: a bank of classes.
        X: the activations that the bank was fitted on.

    Returns:
        A DataArray ([site,] layer, penalty, seed). For more than two classes, each class is
        compared with all others, and the areas are averaged.

    Raises:
        ValueError: the bank predicts values, or X has the wrong shape.

    Example:
        ```python
        import numpy as np

        import interventions
        from interventions.probes import scores

        y = np.arange(60) % 2
        X = np.random.default_rng(0).normal(size=(1, 60, 6)) + 3 * y[:, None]
        bank = interventions.fit_probes(X, y, folds=2)
        assert scores.auroc(bank, X).item() > 0.9
        ```
    """
    from sklearn.metrics import roc_auc_score  # imported here, because the import takes a second

    def area_under_curve(p: Float[np.ndarray, "n K"], y: Int[np.ndarray, "n"]) -> float:
        return roc_auc_score(y, p[:, 1] if p.shape[1] == 2 else p, multi_class="ovr")

    return _score_probes(bank, X, area_under_curve)


def calibration(bank: Bank, X: Any, bins: int = 10) -> xr.Dataset:
    """Compares the probability of the predicted class with the accuracy of the prediction.

    Args:
        bank: a bank of classes.
        X: the activations that the bank was fitted on.
        bins: number of bins of equal width between the probabilities 0 and 1.

    Returns:
        A Dataset with dimensions ([site,] layer, penalty, seed, bin):

        - `confidence`: mean probability of the predicted class; NaN in empty bins.
        - `accuracy`: fraction of correct predictions; NaN in empty bins.
        - `count`: number of rows.
        - `ece`, without `bin`: expected calibration error, the mean of |confidence - accuracy| over
          bins, weighted by `count`.

    Raises:
        ValueError: the bank predicts values, or X has the wrong shape.

    Example:
        ```python
        import numpy as np

        import interventions
        from interventions.probes import scores

        y = np.arange(60) % 2
        X = np.random.default_rng(0).normal(size=(1, 60, 6)) + 3 * y[:, None]
        bank = interventions.fit_probes(X, y, folds=2)
        assert scores.calibration(bank, X, bins=5).ece.item() < 0.3
        ```

    References:
        Guo et al., "On calibration of modern neural networks" (arXiv:1706.04599).
    """

    def sum_by_bin(p: Float[np.ndarray, "n K"], y: Int[np.ndarray, "n"]) -> np.ndarray:
        top_probability = p.max(1)
        # A probability of 1 belongs to the last bin.
        bin_of_row = np.minimum((top_probability * bins).astype(int), bins - 1)
        columns = np.ones_like(top_probability), top_probability, (p.argmax(1) == y) * 1.0
        return np.stack([np.bincount(bin_of_row, column, minlength=bins) for column in columns])

    sums = _score_probes(bank, X, sum_by_bin, dims=["column", "bin"])
    counts, total_confidence, n_correct = (sums.isel(column=i) for i in range(3))
    nonzero_counts = counts.where(counts > 0)
    confidence, accuracy = total_confidence / nonzero_counts, n_correct / nonzero_counts
    ece = (abs(confidence - accuracy) * counts).sum("bin") / counts.sum("bin")
    return xr.Dataset({"confidence": confidence, "accuracy": accuracy, "count": counts, "ece": ece})


def _score_probes(
    bank: Bank, X: Any, score: Callable[..., Any], dims: list[str] | None = None
) -> xr.DataArray:
    """Scores the out-of-fold probabilities of each layer, penalty and seed.

    Args:
        bank: a bank of classes.
        X: the activations that the bank was fitted on.
        score: called as score(probabilities [n, K], class numbers [n]) for the n rows that are
            test rows of some fold.
        dims: dimensions of the result of `score`. Default: a scalar.
    """

    def score_tested(p: np.ndarray, y: np.ndarray, is_tested: np.ndarray) -> Any:
        return score(p[is_tested].astype(np.float64), y[is_tested])

    return xr.apply_ufunc(
        score_tested,
        bank.out_of_fold_proba(X),
        bank.y,
        bank.test.any("fold"),
        input_core_dims=[["row", "class"], ["row"], ["row"]],
        output_core_dims=[dims or []],
        vectorize=True,
    )
