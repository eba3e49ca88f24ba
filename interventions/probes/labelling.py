"""Makes a bank, by adding dimension names and coordinates to the results of all fits."""

from typing import Any

import numpy as np
import xarray as xr

from interventions.probes.bank import Bank
from interventions.probes.inputs import SiteActivations
from interventions.probes.solve import FitResults
from interventions.probes.standardise import Moments

# Dimensions of the fits, in the order in which the solver returns them.
_FIT_DIMS = ("site", "layer", "penalty", "seed", "fold")


def make_bank(
    results: FitResults,
    moments: Moments,
    sites: SiteActivations,
    targets: np.ndarray,
    test: np.ndarray,
    classes: np.ndarray,
    penalties: np.ndarray,
    seeds: np.ndarray,
) -> Bank:
    """Makes a bank of the results of all fits.

    Args:
        results: arrays with leading axes [sites · layers, penalties, seeds · folds].
        moments: mean and scale of the features [sites · layers, seeds · folds, D].
        sites: activations with the names of their sites and layers.
        targets: class numbers or values [seeds, N].
        test: masks of test rows, bool [seeds, folds, N].
        classes: the classes [K]; empty for values.
        penalties: values of λ [P], in the order of the results.
        seeds: seeds of the folds.
    """
    n_seeds, n_folds, _ = test.shape
    fit_shape = (len(sites.names), sites.shape[0], len(penalties), n_seeds, n_folds)

    def with_dims(array: Any, *dims: str) -> tuple[tuple[str, ...], np.ndarray]:
        array = np.asarray(array)
        # The first three axes become the five of the fits.
        return (*_FIT_DIMS, *dims), array.reshape(*fit_shape, *array.shape[3:])

    solution, has_classes = results.solution, len(classes) > 0
    variables: dict[str, Any] = {
        "accuracy" if has_classes else "r2": with_dims(results.score),
        "log_loss": with_dims(results.log_loss),
        "weights": with_dims(solution.weights, "class", "feature"),
        "bias": with_dims(solution.bias, "class"),
        "objective": with_dims(solution.objective),
        "gradient_norm": with_dims(solution.gradient_norm),
        "optimality_gap": with_dims(solution.optimality_gap),
        "n_iter": with_dims(solution.n_iter),
        "test": (("seed", "fold", "row"), test),
        "y": (("seed", "row"), targets),
    }
    for name, moment in (("mean", moments.mean), ("scale", moments.scale)):
        reshaped = moment.reshape(*fit_shape[:2], n_seeds, n_folds, -1)
        variables[name] = (("site", "layer", "seed", "fold", "feature"), reshaped)
    predictions = with_dims(results.predictions)[1]
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
    data = data if sites.has_site_dim else data.isel(site=0, drop=True)
    return Bank(data, "class" if has_classes else "value")


def _out_of_fold(predictions: np.ndarray, test: np.ndarray, missing: float) -> np.ndarray:
    """Selects each row's prediction by the first fold that has it as a test row.

    Args:
        predictions: [site, layer, penalty, seed, fold, row].
        test: masks of test rows [seed, fold, row].
        missing: the entry of rows that are test rows of no fold.
    """
    # argmax of a mask is the index of its first True.
    first_fold = test.argmax(1)[None, None, None, :, None]
    first_fold = np.broadcast_to(first_fold, (*predictions.shape[:3], *first_fold.shape[3:]))
    selected = np.take_along_axis(predictions, first_fold, 4)[..., 0, :]
    return np.where(test.any(1), selected, missing)
