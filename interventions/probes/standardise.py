"""Standardises the features of layers, by NumPy in float64 or by JAX in float32.

A CPU uses NumPy, so that the host prepares one layer while the fits of another run. An accelerator
uses JAX, because the host would take longer than all fits.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Shaped

from interventions.probes.padding import pad_to

_ROUNDING = 1e-7  # about the relative rounding error of float32


class StandardisedLayers(NamedTuple):
    """Features of C layers, as in `Problem`.

    Attributes:
        x: float32 [C, N, D].
        shift: float32 [C, J, D].
        scale: float32 [C, J, D].
    """

    x: Float[Array, "C N D"]
    shift: Float[Array, "C J D"]
    scale: Float[Array, "C J D"]


class Moments(NamedTuple):
    """Mean and standard deviation of the features over the training rows of J fits.

    They are in the units of X, and are stored in the bank.

    Attributes:
        mean: float32 [C, J, D].
        scale: float32 [C, J, D]; 1 for features that are not standardised.
        is_finite: whether all activations of a layer are finite, bool [C].
    """

    mean: Float[Array, "C J D"]
    scale: Float[Array, "C J D"]
    is_finite: Bool[Array, "C"]


class RawLayers(NamedTuple):
    """Activations of C layers, padded with zeros, of which an accelerator computes the moments.

    Attributes:
        x: [C, N, D] in float32 or a narrower type, minus `offset`.
        offset: float32 [C, D]; 0, unless the activations have a wider type.
    """

    x: Shaped[Array, "C N D"]
    offset: Float[Array, "C D"]


def standardise_on_host(
    x: Float[np.ndarray, "N D"],
    train: Bool[np.ndarray, "J N"],
    shape: tuple[int, int],
    *,
    standardize: bool,
) -> tuple[StandardisedLayers, Moments]:
    """Standardises one layer in float64.

    Args:
        x: float64 activations.
        train: training rows of each fit.
        shape: N and D with padding.
        standardize: whether features are scaled. They are centred in any case. This does not change
            the optimum, because the bias is not penalised.

    Returns:
        Features with padding and moments without it, of one layer, C = 1.
    """
    lowest, highest, overall_mean = x.min(0), x.max(0), x.mean(0)
    centred = x - overall_mean
    squares, spread = centred**2, np.ones(x.shape[1])
    if standardize:
        largest = np.maximum(highest, -lowest)
        spread = _replace_zero_spread(np.sqrt(squares.mean(0)), largest, np)
    # Row j averages over the training rows of fit j.
    row_weights = train / train.sum(1, keepdims=True)
    shift = row_weights @ centred / spread
    scale = np.ones_like(shift)
    if standardize:
        scale = np.sqrt(np.maximum(row_weights @ squares / spread**2 - shift**2, 0))
        largest = np.maximum(highest - overall_mean, overall_mean - lowest) / spread
        scale = _replace_zero_spread(scale, largest, np)
    padded = np.zeros((1, *shape), np.float32)
    np.divide(centred, spread, out=padded[0, : len(x), : x.shape[1]], casting="same_kind")
    by_fit = len(train), shape[1]
    layer = StandardisedLayers(
        padded,  # pyright: ignore
        pad_to(shift.astype(np.float32), by_fit)[None],  # pyright: ignore
        pad_to(scale.astype(np.float32), by_fit, fill=1)[None],  # pyright: ignore
    )
    moments = (overall_mean + shift * spread, scale * spread)
    mean, scale = (array.astype(np.float32)[None] for array in moments)
    return layer, Moments(mean, scale, np.ones(1, bool))  # pyright: ignore


def standardise_on_device(
    x: Shaped[Array, "N D"],
    offset: Float[Array, "D"],
    n_rows: Array,
    train_mask: Float[Array, "J N"],
    *,
    standardize: bool,
) -> tuple[StandardisedLayers, Moments]:
    """Standardises one layer in float32, to be called under `jax.vmap`.

    Args:
        x: as in `RawLayers`.
        offset: as in `RawLayers`.
        n_rows: number of rows without padding.
        train_mask: 1 for training rows of each fit, else 0.
        standardize: as in `standardise_on_host`.

    Returns:
        Features and moments without the axis of layers.
    """
    # Products with reciprocals, because XLA compiles a division by a broadcast array to a product
    # or a division, depending on the number of devices.
    per_row, per_train_row = 1 / n_rows, 1 / train_mask.sum(1, keepdims=True)
    is_row = (jnp.arange(len(x)) < n_rows)[:, None]
    x = x.astype(jnp.float32)
    is_finite, largest = jnp.isfinite(x).all(), jnp.abs(jnp.where(is_row, x + offset, 0)).max(0)
    # The mean of the centred features is the rounding error of the first mean.
    first_mean = x.sum(0) * per_row
    x = jnp.where(is_row, x - first_mean, 0)
    correction = x.sum(0) * per_row
    x = jnp.where(is_row, x - correction, 0)
    overall_mean, spread = first_mean + correction, jnp.ones_like(offset)
    if standardize:
        spread = _replace_zero_spread(jnp.sqrt((x**2).sum(0) * per_row), largest, jnp)
    x = x * (1 / spread)
    rough_shift = (train_mask @ x) * per_train_row

    def moments_of_fit(fit: tuple[Array, Array]) -> tuple[Array, Array]:
        mask, rough = fit
        centred = (x - rough) * mask[:, None]
        return centred.sum(0), (centred**2).sum(0)

    # `map` instead of `vmap`, because every fit would have its own copy of the features.
    sums, squares = jax.lax.map(moments_of_fit, (train_mask, rough_shift))
    correction, scale = sums * per_train_row, jnp.ones_like(rough_shift)
    shift = rough_shift + correction
    if standardize:
        # The mean is nearly 0, so that the difference of the squares loses no digits.
        scale = jnp.sqrt(jnp.maximum(squares * per_train_row - correction**2, 0))
        scale = _replace_zero_spread(scale, jnp.abs(x).max(0), jnp)
    mean = (offset + overall_mean) + shift * spread
    return StandardisedLayers(x, shift, scale), Moments(mean, scale * spread, is_finite)


def _replace_zero_spread(spread: Any, largest: Any, xp: Any) -> Any:
    """Replaces the spread of a constant feature by 1, as scikit-learn's StandardScaler does.

    `largest` is the largest absolute value of each feature, and `xp` is NumPy or `jax.numpy`.
    """
    return xp.where(spread > _ROUNDING * largest, spread, 1.0)
