"""Minimum description length of labels given activations: how easy a property is to decode."""

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr

from interventions.probes import inputs
from interventions.probes.fit import fit_probes

# Ends of the blocks as fractions of the rows, from Voita & Titov (2020), section 4.
FRACTIONS = (0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.0625, 0.125, 0.25, 0.5, 1.0)


def codelength(
    X: Any,
    y: Any,
    penalties: Sequence[float] = (1.0,),
    seeds: Sequence[int] = (0,),
    *,
    fractions: Sequence[float] = FRACTIONS,
    **options: Any,
) -> xr.Dataset:
    """Computes the online (prequential) code length of labels given activations.

    Rows are taken in a random order and divided into blocks. The first block is sent with a uniform
    code; each later block is coded with a probe trained on all rows before it. All blocks are
    fitted as folds of one bank.

    Args:
        X: activations, as in `fit_probes`.
        y: classes [N].
        penalties: penalties λ, as in `fit_probes`.
        seeds: seeds of the order of rows.
        fractions: ends of the blocks as fractions of the rows. A first block without every class is
            joined to the next.
        options: further options of `fit_probes`.

    Returns:
        A Dataset (..., layer, penalty, seed) of `bits`, the code length; `uniform`, that of a
        uniform code; and `compression` = uniform / bits, which is 1 if nothing is learnt.

    Raises:
        ValueError: no block follows the first one, or `fit_probes` rejects the arguments.

    Example:
        ```python
        import numpy as np

        from interventions.probes import mdl

        y = np.arange(60) % 2
        X = np.random.default_rng(0).normal(size=(1, 60, 6)) + 3 * y[:, None]
        code = mdl.codelength(X, y, fractions=(0.2, 0.5, 1.0))
        assert code.compression.item() > 1.5
        ```

    References:
        Voita & Titov, "Information-theoretic probing with minimum description length"
        (arXiv:2003.12298).
    """
    n = inputs.split_sites(X, options.get("names")).shape[1]
    numbers, classes = inputs.number_classes(y, n, len(seeds))
    codes = [
        _code_bits(X, row, len(classes), seed, tuple(penalties), fractions, options)
        for row, seed in zip(numbers, seeds)
    ]
    bits = xr.concat(codes, xr.DataArray(list(seeds), dims="seed", name="seed"))
    bits = bits.transpose(*(d for d in ("site", "layer", "penalty", "seed") if d in bits.dims))
    uniform = n * np.log2(len(classes))
    return xr.Dataset({"bits": bits, "uniform": uniform, "compression": uniform / bits})


def _code_bits(
    X: Any,
    y: np.ndarray,
    n_classes: int,
    seed: int,
    penalties: tuple[float, ...],
    fractions: Sequence[float],
    options: dict[str, Any],
) -> xr.DataArray:
    """Returns the code length of `y` in bits, with rows in the order of `seed`."""
    order = np.random.default_rng(seed).permutation(len(y))
    ends = _block_ends(y[order], n_classes, fractions)
    folds = [(order[:start], order[start:end]) for start, end in itertools.pairwise(ends)]
    bank = fit_probes(X, y, None, penalties, folds, (seed,), **options)
    sizes = xr.DataArray(np.diff(ends), dims="fold")
    nats = (bank.log_loss.isel(seed=0, drop=True) * sizes).sum("fold")
    return ends[0] * np.log2(n_classes) + nats / np.log(2)


def _block_ends(y: np.ndarray, n_classes: int, fractions: Sequence[float]) -> list[int]:
    """Returns where the blocks end; the first block has every class."""
    first = max(int(np.argmax(y == k)) for k in range(n_classes)) + 1
    ends = {round(fraction * len(y)) for fraction in fractions}
    ends = sorted({end for end in ends if end >= first} | {len(y)})
    if len(ends) < 2:
        raise ValueError(
            "fractions: expected a block after the first one that has every class "
            f"({first} of {len(y)} rows), got {tuple(fractions)}."
        )
    return ends
