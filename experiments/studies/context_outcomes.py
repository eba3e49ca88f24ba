"""Counts the patches of study E5 that restore the spoken word, and those that break controls.

A contextual error is a recording of the target word that is transcribed with the expected word. A
control is a recording of the expected word that is transcribed correctly.
"""

from typing import Any

import numpy as np
import xarray as xr

from experiments.studies.context_edits import (
    DECODER_SITES,
    ENCODER_SITES,
    EXPECTED,
    PATCH_KINDS,
    PATCHED_SITES,
    TARGET,
    UNTRIED,
)

# Patched sites by key of the claim: about the encoder, the decoder, or either of the two.
SITES_BY_STACK = {"encoder": ENCODER_SITES, "decoder": DECODER_SITES, "anywhere": PATCHED_SITES}


def patched_examples(arrays: xr.Dataset, congruent: bool) -> xr.Dataset:
    """Selects the patched controls if `congruent` is true, else the patched contextual errors."""
    # Patched examples have outcomes in all cells, so that the first cell is enough.
    patched = arrays.after.isel(kind=0, cell=0).values != UNTRIED
    return arrays.isel(example=np.flatnonzero(patched & (arrays.congruent.values == congruent)))


def mark_restored(errors: xr.Dataset) -> xr.DataArray:
    """Returns 1.0 where a patch restores the spoken word of a contextual error, else 0.0.

    Example:
        >>> mark_restored(xr.Dataset({"after": ("cell", [TARGET, EXPECTED])})).values
        array([1., 0.])
    """
    return (errors.after == TARGET).astype(float)


def mark_broken(controls: xr.Dataset) -> xr.DataArray:
    """Returns 1.0 where a noise patch changes the words of a control, else 0.0."""
    return (controls.after.sel(kind="noise") != EXPECTED).astype(float)


def summarize_outcomes(arrays: xr.Dataset) -> dict[str, Any]:
    """Returns counts and shares of the outcomes, without patches and with patches."""
    errors, controls = (patched_examples(arrays, congruent) for congruent in (False, True))
    incongruent = arrays.before.values[~arrays.congruent.values]
    congruent = arrays.before.values[arrays.congruent.values]
    patches = {
        "n": errors.sizes["example"],
        "any_of_many": _restored_by_any(errors),
        "clean": controls.sizes["example"],
        "clean_broken_mean_of_cells": _mean(mark_broken(controls)),
    }
    return {
        "incongruent": {
            "n": len(incongruent),
            "contextual_errors": _share(incongruent, EXPECTED),
            "as_spoken": _share(incongruent, TARGET),
        },
        "congruent": {
            "n": len(congruent),
            "as_spoken": _share(congruent, EXPECTED),
            "target_instead": _share(congruent, TARGET),
        },
        "errors_patched": patches,
        "best_patch": _best_patch(errors, controls),
    }


def _share(outcomes: np.ndarray, expected: int) -> float | None:
    return round(float((outcomes == expected).mean()), 4) if outcomes.size else None


def _mean(values: xr.DataArray) -> float | None:
    return float(values.mean()) if values.size else None


def _restored_by_any(errors: xr.Dataset) -> dict[str, dict[str, float]]:
    """Computes the share of errors that at least one patch restores, by kind and stack."""
    if not errors.sizes["example"]:
        return {}
    shares = {}
    for kind in PATCH_KINDS:
        is_restored = mark_restored(errors).sel(kind=kind)
        shares[kind] = {
            stack: float(
                is_restored.isel(cell=np.isin(errors.site.values, sites)).max("cell").mean()
            )
            for stack, sites in SITES_BY_STACK.items()
        }
        shares[kind]["mean_of_cells"] = float(is_restored.mean())
    return shares


def _best_patch(errors: xr.Dataset, controls: xr.Dataset) -> dict[str, Any]:
    """Describes the noise patch that restores most errors, and the controls that it breaks."""
    if not errors.sizes["example"]:
        return {}
    shares = mark_restored(errors).sel(kind="noise").mean("example")
    best = int(np.argmax(shares.values))  # the first of equal cells
    cell = {name: shares[name].values[best].item() for name in ("site", "layer", "alpha")}
    broken_share = _mean(mark_broken(controls).isel(cell=best))
    return {**cell, "restores": float(shares[best]), "breaks_clean": broken_share}
