"""Computes numbers of study E3, such as those that a model reports with a text."""

import numpy as np
import xarray as xr

from experiments.item_cache import Arrays
from experiments.studies import probing
from experiments.studies.probing_analysis import probe_auroc, score_auroc

# Numbers that Whisper returns with a text. A larger number is assumed to mean a worse text.
REPORTED_NUMBERS = ("improbability", "compression", "no speech", "length")
AT_HAND = "numbers at hand"  # name of the probe of these numbers


def reported_numbers(item: Arrays) -> list[float]:
    """Returns the `REPORTED_NUMBERS` of one transcript; NaN where the model reports none."""
    names = ("ratio", "no_speech", "tokens")
    return [-float(item["logprob"]), *(float(item[name]) for name in names)]


def reported_values(rows: xr.Dataset, number: str) -> np.ndarray:
    """Returns one of `REPORTED_NUMBERS` for each row."""
    return rows.reported.sel(number=number).values


def auroc_intervals(arrays: xr.Dataset, seed: int) -> dict[str, dict[str, list[float]]]:
    """Computes the area under the ROC curve and its interval, per layer and reported number."""
    areas = {}  # by question
    for question in probing.questions(arrays):
        rows = probing.rows_of(arrays, question)
        by_name = {str(layer): probe_auroc(rows, [layer], seed) for layer in rows.layer.values}
        for name in arrays.number.values.tolist():
            # Negated, because the area is that of the class "right".
            by_name[name] = score_auroc(rows, -reported_values(rows, name), seed)
        areas[question] = {
            name: [round(x, 3) for x in (area.value, area.low, area.high)]
            for name, area in by_name.items()
        }
    return areas


def pairs_by_level(arrays: xr.Dataset) -> dict[str, dict[str, dict[str, float]]]:
    """Counts the pairs of each question by level of noise, with the error rate of the bad ones."""
    counts: dict[str, dict[str, dict[str, float]]] = {}
    for question in probing.questions(arrays):
        bad = probing.rows_of(arrays, question)
        bad = bad.isel(example=np.flatnonzero(bad.label.values == "bad"))
        levels = bad.snr_db.values
        counts[question] = {
            str(level): {
                "pairs": int((levels == level).sum()),
                "rate": round(float(bad.rate.values[levels == level].mean()), 3),
            }
            for level in dict.fromkeys(levels)
        }
    return counts
