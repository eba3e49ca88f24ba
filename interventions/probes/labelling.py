"""Labels the arrays of a fit, so that they become a bank."""

from typing import Any

import numpy as np
import xarray as xr

from interventions.probes.bank import Bank
from interventions.probes.inputs import Sites
from interventions.probes.solve import FitResults

_DIMS = ("site", "layer", "penalty", "seed", "fold")


def label_fits(
    results: FitResults,
    moments: tuple[np.ndarray, np.ndarray],
    sites: Sites,
    targets: np.ndarray,
    test: np.ndarray,
    classes: np.ndarray,
    penalties: np.ndarray,
    seeds: np.ndarray,
) -> Bank:
    """Makes a bank of the results of all fits.

    Args:
        results: arrays with leading axes [sites · layers, penalties, seeds · folds].
        moments: mean and scale of the features, [sites · layers, seeds · folds, D].
        sites: names of sites and layers.
        targets: [seeds, N], class numbers or values.
        test: bool [seeds, folds, N].
        classes: [K], the classes; empty for values.
        penalties: [P].
        seeds: [seeds].
    """
    n_seeds, n_folds, _ = test.shape
    leading = (len(sites.names), sites.shape[0], len(penalties), n_seeds, n_folds)

    def labelled(leaf: Any, *dims: str) -> tuple[tuple[str, ...], np.ndarray]:
        leaf = np.asarray(leaf)
        return (*_DIMS, *dims), leaf.reshape(*leading, *leaf.shape[3:])

    solution, has_classes = results.solution, len(classes) > 0
    variables: dict[str, Any] = {
        "accuracy" if has_classes else "r2": labelled(results.score),
        "log_loss": labelled(results.log_loss),
        "weights": labelled(solution.weights, "class", "feature"),
        "bias": labelled(solution.bias, "class"),
        "objective": labelled(solution.objective),
        "gradient_norm": labelled(solution.gradient_norm),
        "gap": labelled(solution.gap),
        "n_iter": labelled(solution.n_iter),
        "test": (("seed", "fold", "row"), test),
        "y": (("seed", "row"), targets),
    }
    for name, moment in zip(("mean", "scale"), moments):
        shaped = moment.reshape(*leading[:2], n_seeds, n_folds, -1)
        variables[name] = (("site", "layer", "seed", "fold", "feature"), shaped)
    predictions = labelled(results.predictions)[1]
    out_of_fold = _out_of_fold(predictions, test, -1 if has_classes else np.nan)
    variables["out_of_fold"] = (("site", "layer", "penalty", "seed", "row"), out_of_fold)
    coords = {
        "site": sites.names,
        "layer": sites.layers,
        "penalty": penalties,
        "seed": seeds,
        "fold": np.arange(n_folds),
        "class": classes if has_classes else ["value"],
    }
    data = xr.Dataset(variables, coords).transpose(
        "site", "layer", "penalty", "fold", "seed", ..., "row", "class", "feature"
    )
    data = data if sites.is_labelled else data.isel(site=0, drop=True)
    return Bank(data, "class" if has_classes else "value")


def _out_of_fold(predictions: np.ndarray, test: np.ndarray, missing: float) -> np.ndarray:
    """Selects from predictions [..., seed, fold, row] the first fold that tests each row."""
    fold = test.argmax(1)[None, None, None, :, None]
    fold = np.broadcast_to(fold, (*predictions.shape[:3], *fold.shape[3:]))
    selected = np.take_along_axis(predictions, fold, 4)[..., 0, :]
    return np.where(test.any(1), selected, missing)
