"""Summarises study E6 by the shares of resolved loops, and by the cost on clean speech.

A cell is one layer or head of a decoder site. A loop is a generated text that repeats itself.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr

from experiments.studies.ablation import COMPONENT_SITES, HEAD_SITES, cells_of_site, wer_change


def loop_numbers(
    loops: xr.Dataset, is_resolved: xr.DataArray, speech: xr.Dataset
) -> dict[str, Any]:
    """Returns the numbers of loops, shares of resolved loops, and the cost on clean speech.

    Args:
        loops: results of `ablation.to_dataset` for recordings whose generated text loops.
        is_resolved: 1.0 where ablating a cell resolves a loop, else 0.0; dims (example, kind,
            cell).
        speech: results of `ablation.to_dataset` for clean recordings.
    """
    has_words = loops.baseline_cer.notnull().values
    by_site = {site: cells_of_site(is_resolved, site) for site in (*COMPONENT_SITES, *HEAD_SITES)}
    # The heads have no cells if `Config.heads` of E6 is false.
    by_site = {site: values for site, values in by_site.items() if values.sizes["cell"]}
    component_values = {site: by_site[site] for site in COMPONENT_SITES}
    return {
        "loops": len(has_words),
        "loops_with_known_words": int(has_words.sum()),
        "resolved_by_any_of_a_site": {
            site: float(values.max(("kind", "cell")).mean()) for site, values in by_site.items()
        },
        "resolved_by_any": float(is_resolved.max(("kind", "cell")).mean()),
        "mean_over_cells": _rounded_means(by_site),
        "where_words_are_known": _rounded_means(component_values, has_words),
        "where_they_are_not": _rounded_means(component_values, ~has_words),
        "share_resolved": _by_kind_and_cell(is_resolved.mean("example")),
        "clean": speech_cost(speech),
    }


def _rounded_means(
    by_site: Mapping[str, xr.DataArray], examples: np.ndarray | None = None
) -> dict[str, float]:
    """Averages over cells, kinds and the marked examples; {} if no example is marked."""
    if examples is not None and not examples.any():
        return {}
    rows = slice(None) if examples is None else np.flatnonzero(examples)
    return {
        site: round(float(values.isel(example=rows).mean()), 3) for site, values in by_site.items()
    }


def speech_cost(speech: xr.Dataset) -> dict[str, Any]:
    """Returns the word error rate of clean speech, and its mean change per kind and cell."""
    if not speech.sizes["example"]:
        return {"n": 0}
    return {
        "n": speech.sizes["example"],
        "wer": float(speech.baseline_wer.mean()),
        "change": _by_kind_and_cell(wer_change(speech).mean("example")),
    }


def _by_kind_and_cell(values: xr.DataArray) -> dict[str, Any]:
    """Returns values by kind and by name of the cell.

    "attn.z 2.5" is head 5 of layer 2, and "mlp_out 2" is a cell without a head.
    """
    cells = zip(values.site.values, values.layer.values, values["head"].values)
    names = [
        f"{site.removeprefix('decoder.')} {layer}" + (f".{head}" if head >= 0 else "")
        for site, layer, head in cells
    ]
    return {
        str(kind): dict(zip(names, values.sel(kind=kind).values.round(3)))
        for kind in values.kind.values
    }
