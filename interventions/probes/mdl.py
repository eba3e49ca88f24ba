"""Minimum description length of labels given activations: how easy a property is to read, not only whether it can be read."""

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr

from interventions.probes import inputs
from interventions.probes.fit import fit_probes

FRACTIONS = (
    0.001,
    0.002,
    0.004,
    0.008,
    0.016,
    0.032,
    0.0625,
    0.125,
    0.25,
    0.5,
    1.0,
)  # of Voita & Titov 2020


def codelength(
    X: Any,
    y: Any,
    penalties: Sequence[float] = (1.0,),
    seeds: Sequence[int] = (0,),
    *,
    fractions: Sequence[float] = FRACTIONS,
    **options: Any,
) -> xr.Dataset:
    """Online (prequential) code length of `y` given `X`, bits (Voita & Titov 2020): `bits`, `uniform`, `compression` = uniform / bits.

    Rows come in a random order, another for each seed. The first block is sent with a uniform code; each further block is coded
    by a probe trained on all rows before it. A first block without every class is joined to the next. Dims (..., layer, penalty, seed).
    All blocks are fitted as folds of one bank. `options` as in `fit_probes`. Raises ValueError as it does.
    """
    n = inputs.sites(X, options.get("names")).shape[1]
    numbers, classes = inputs.labels(y, n, len(seeds))
    codes = [
        _one(X, numbers[i], len(classes), seed, tuple(penalties), fractions, options)
        for i, seed in enumerate(seeds)
    ]
    bits = xr.concat(codes, xr.DataArray(list(seeds), dims="seed", name="seed"))
    uniform = n * np.log2(len(classes))
    dims = [dim for dim in ("site", "layer", "penalty", "seed") if dim in bits.dims]
    return xr.Dataset(
        {
            "bits": bits.transpose(*dims),
            "uniform": uniform,
            "compression": (uniform / bits).transpose(*dims),
        }
    )


def _one(
    X: Any,
    y: np.ndarray,
    n_classes: int,
    seed: int,
    penalties: tuple,
    fractions: Sequence[float],
    options: dict,
) -> xr.DataArray:
    order = np.random.default_rng(seed).permutation(len(y))
    ends = _ends(y[order], n_classes, fractions)
    folds = [(order[:start], order[start:end]) for start, end in itertools.pairwise(ends)]
    bank = fit_probes(X, y, None, penalties, folds, (seed,), **options)
    sizes = xr.DataArray(np.diff(ends), dims="fold")
    return ends[0] * np.log2(n_classes) + (bank.log_loss.isel(seed=0, drop=True) * sizes).sum(
        "fold"
    ) / np.log(2)


def _ends(y: np.ndarray, n_classes: int, fractions: Sequence[float]) -> list[int]:
    """Where the blocks end; the first holds every class."""
    first = max(int(np.argmax(y == k)) for k in range(n_classes)) + 1
    ends = sorted({round(f * len(y)) for f in fractions if round(f * len(y)) >= first} | {len(y)})
    if len(ends) < 2:
        raise ValueError(
            f"fractions: expected a block after the first one that has every class ({first} of {len(y)} rows)."
        )
    return ends
