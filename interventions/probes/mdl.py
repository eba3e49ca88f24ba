"""Measures how easily labels are predicted from activations, by minimum description length."""

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr

from interventions.probes import inputs
from interventions.probes.fit import fit_probes

# Default ends of the blocks, as fractions of the rows; from Voita & Titov (2020), section 4.
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

    Rows are shuffled and divided into blocks. The first block is encoded with a uniform code. Each
    later block is encoded with a probe that is trained on all previous blocks.

    Args:
        X: activations, as in `fit_probes`.
        y: classes [N].
        penalties: values of λ, as in `fit_probes`.
        seeds: seeds of the random order of rows.
        fractions: ends of the blocks, as fractions of the rows. The first block is joined with
            later ones until it has every class.
        options: further options of `fit_probes`.

    Returns:
        A Dataset of three variables, with dimensions ([site,] layer, penalty, seed) except
        `uniform`:

        - `bits`: code length in bits.
        - `uniform`: code length of a uniform code in bits, a scalar.
        - `compression`: uniform / bits, which is 1 if the probes learn nothing.

    Raises:
        ValueError: there is only one block, or `fit_probes` rejects the arguments.

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
        _code_bits(X, y_of_seed, len(classes), seed, tuple(penalties), fractions, options)
        for y_of_seed, seed in zip(numbers, seeds)
    ]
    bits = xr.concat(codes, xr.DataArray(list(seeds), dims="seed", name="seed"))
    bits = bits.transpose(*(d for d in ("site", "layer", "penalty", "seed") if d in bits.dims))
    uniform = n * np.log2(len(classes))  # bits of n labels, each log2(K)
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
    """Computes the code length of `y` in bits, with rows shuffled by `seed`.

    Returns:
        A DataArray ([site,] layer, penalty).
    """
    order = np.random.default_rng(seed).permutation(len(y))
    ends = _block_ends(y[order], n_classes, fractions)
    # Every block after the first is the test fold of a probe on the rows before it.
    folds = [(order[:start], order[start:end]) for start, end in itertools.pairwise(ends)]
    bank = fit_probes(X, y, None, penalties, folds, (seed,), **options)
    block_sizes = xr.DataArray(np.diff(ends), dims="fold")
    nats = (bank.log_loss.isel(seed=0, drop=True) * block_sizes).sum("fold")
    return ends[0] * np.log2(n_classes) + nats / np.log(2)


def _block_ends(y: np.ndarray, n_classes: int, fractions: Sequence[float]) -> list[int]:
    """Returns the ends of the blocks as numbers of rows. The first block has every class."""
    # argmax of a mask is the index of its first True.
    first_end = max(int(np.argmax(y == k)) for k in range(n_classes)) + 1
    ends = {round(fraction * len(y)) for fraction in fractions}
    ends = sorted({end for end in ends if end >= first_end} | {len(y)})
    if len(ends) < 2:
        raise ValueError(
            "fractions: expected at least one block after the first, which needs the first "
            f"{first_end} of {len(y)} rows to have every class, got {tuple(fractions)}."
        )
    return ends
