"""Beyond accuracy: what is taken for what, how well it is ranked, and whether a probability means what it says."""

from typing import Any

import numpy as np
import xarray as xr

from interventions.probes.bank import Bank


def confusion(bank: Bank) -> xr.DataArray:
    """Out-of-fold rows by `true` and `predicted` class, (..., layer, penalty, seed, true, predicted); row sums are class counts."""
    d, numbers = bank.data, xr.DataArray(np.arange(len(bank.classes)), dims="class")
    tested = d.test.any("fold")
    true = ((d.y == numbers) & tested).rename({"class": "true"}).astype(np.int64)
    guessed = ((d.out_of_fold == numbers) & tested).rename({"class": "predicted"}).astype(np.int64)
    counts = xr.dot(true, guessed, dim="row").assign_coords(
        true=bank.classes, predicted=bank.classes
    )
    return counts.transpose(..., "seed", "true", "predicted")


def balanced_accuracy(bank: Bank) -> xr.DataArray:
    """Mean over classes of the share found, out of fold (..., layer, penalty, seed): 1/K by chance, however unequal the classes."""
    counts = confusion(bank)
    right = xr.concat([counts.sel(true=k, predicted=k, drop=True) for k in bank.classes], "true")
    return (right / counts.sum("predicted").drop_vars("true")).mean("true")


def auroc(bank: Bank, X: Any) -> xr.DataArray:
    """Area under the ROC curve of out-of-fold probabilities, (..., layer, penalty, seed); several classes: mean over one against rest.

    Pooled over folds. X: the activations that the bank was fitted on.
    """
    from sklearn.metrics import roc_auc_score

    return _each(
        bank, X, lambda p, y: roc_auc_score(y, p[:, 1] if p.shape[1] == 2 else p, multi_class="ovr")
    )


def calibration(bank: Bank, X: Any, bins: int = 10) -> xr.Dataset:
    """Of the likeliest class out of fold, by `bins` of equal width: `confidence`, `accuracy`, `count`; and their mean distance `ece`.

    ece is the expected calibration error (Guo et al. 2017), weighted by count. Empty bins are NaN.
    """
    counts, sure, right = (
        _each(bank, X, lambda p, y, i=i: _binned(p, y, bins)[i], bins) for i in range(3)
    )
    confidence, accuracy = sure / counts.where(counts > 0), right / counts.where(counts > 0)
    ece = (np.abs(confidence - accuracy) * counts).sum("bin") / counts.sum("bin")
    return xr.Dataset({"confidence": confidence, "accuracy": accuracy, "count": counts, "ece": ece})


def _binned(p: np.ndarray, y: np.ndarray, bins: int) -> list[np.ndarray]:
    top = p.max(1)
    which = np.minimum((top * bins).astype(int), bins - 1)
    return [
        np.bincount(which, weights, minlength=bins)
        for weights in (np.ones_like(top), top, (p.argmax(1) == y) * 1.0)
    ]


def _each(bank: Bank, X: Any, score: Any, size: int | None = None) -> xr.DataArray:
    """`score(probabilities [n, K], class numbers [n])` of every layer, penalty and seed, over tested rows."""
    tested = bank.data.test.any("fold")

    def one(p: np.ndarray, y: np.ndarray, rows: np.ndarray) -> Any:
        return score(p[rows].astype(np.float64), y[rows])

    own = [] if size is None else ["bin"]
    inside = [["row", "class"], ["row"], ["row"]]
    given = bank.out_of_fold_proba(X), bank.data.y, tested
    return xr.apply_ufunc(
        one, *given, input_core_dims=inside, output_core_dims=[own], vectorize=True
    )
