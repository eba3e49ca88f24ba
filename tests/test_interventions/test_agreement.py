"""Rank agreement compares an estimate with exact changes, cell by cell."""

import numpy as np
import pytest
import xarray as xr

from interventions.stats.agreement import rank_agreement

# Exact changes [layer, head].
CHANGE = np.array([[0.0, 1, -5, 2], [3, -4, 0.5, 6]])


def cells(values, **coords):
    return xr.DataArray(
        values, {"layer": [0, 1], "head": [0, 1, 2, 3], **coords}, ("layer", "head")
    )


def test_proportional_changes_agree_perfectly():
    agreement = rank_agreement(cells(7 + CHANGE, baseline=7.0), cells(3 * CHANGE), k=3)
    assert (agreement.spearman, agreement.precision, agreement.k, agreement.n) == (
        pytest.approx(1),
        1,
        3,
        8,
    )
    assert rank_agreement(cells(CHANGE), cells(CHANGE).transpose("head", "layer")).precision == 1


def test_precision_compares_the_largest_magnitudes():
    estimate = cells(np.array([[0.0, 1, -5, 2], [3, 0.1, 0.5, 6]]))  # 0.1 instead of -4
    agreement = rank_agreement(cells(CHANGE), estimate, k=3)
    assert agreement.precision == pytest.approx(2 / 3)
    assert agreement.spearman < 1
    assert rank_agreement(cells(CHANGE), cells(-CHANGE), k=3).spearman == pytest.approx(-1)
    assert np.isnan(rank_agreement(cells(CHANGE), cells(np.zeros((2, 4)))).spearman)


def test_other_cells_raise():
    with pytest.raises(ValueError, match="expected the cells of exact"):
        rank_agreement(cells(CHANGE), cells(CHANGE).isel(layer=0))
    with pytest.raises(ValueError, match="k: expected at least 1"):
        rank_agreement(cells(CHANGE), cells(CHANGE), k=0)
    with pytest.raises(ValueError):
        rank_agreement(cells(CHANGE), cells(CHANGE).assign_coords(layer=[0, 2]))
