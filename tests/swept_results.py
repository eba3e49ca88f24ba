"""Makes the result of a sweep with one planted cell, for tests of summaries and files."""

import numpy as np
import xarray as xr

LAYERS, HEADS, N = 3, 5, 11


def swept(n=N, dims=("layer", "head"), **attrs):
    """Makes the result of a sweep. Its baseline is about 1, and its source is 4 above the baseline.

    The patch at layer 2, head 3 moves the metric three quarters of the way to the source. Other
    patches have a mean effect of zero.
    """
    rng = np.random.default_rng(0)
    baseline, sizes = (
        1 + rng.normal(size=n),
        {"layer": LAYERS, "head": HEADS, "position": 7, "time": 4, "alpha": 3},
    )
    change = rng.normal(size=(n, *(sizes[dim] for dim in dims))) * 0.2
    change[(slice(None), 2)] += (
        np.eye(sizes[dims[1]])[3 if sizes[dims[1]] > 3 else 1] * 3 if len(dims) == 2 else 0
    )
    values = baseline.reshape(n, *[1] * len(dims)) + change
    coords = {
        "example": np.arange(n),
        "baseline": ("example", baseline),
        "source": ("example", baseline + 4),
    }
    coords |= {
        dim: np.arange(sizes[dim]) * (0.5 if dim in ("time", "alpha") else 1) for dim in dims
    }
    return xr.DataArray(
        values,
        coords,
        ("example", *dims),
        "decoder.attn.z",
        {"site": "decoder.attn.z", "metric": "LogitDiff"} | attrs,
    )
