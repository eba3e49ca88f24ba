"""Joins the activations of layers for an accelerator, without computing on the host."""

import jax
import jax.numpy as jnp
import numpy as np

from interventions.probes.standardise import RawLayers

# Types that are transferred as they are. A wider type would lose digits in float32.
_NARROW_TYPES = (np.dtype(jnp.float32), np.dtype(jnp.float16), np.dtype(jnp.bfloat16))


def stack_raw(
    arrays: list[np.ndarray | jax.Array], n_layers: int, shape: tuple[int, int]
) -> RawLayers:
    """Joins layers to one array, with zeros as padding.

    Args:
        arrays: activations [N, D] of each layer. Arrays of JAX remain on their device.
        n_layers: number of layers with padding.
        shape: N and D with padding.
    """
    types = {array.dtype for array in arrays}
    n, d = arrays[0].shape
    offset = np.zeros((n_layers, shape[1]), np.float32)
    if len(types) == 1 and types <= set(_NARROW_TYPES):
        if all(isinstance(array, jax.Array) for array in arrays):
            padding = ((0, n_layers - len(arrays)), (0, shape[0] - n), (0, shape[1] - d))
            return RawLayers(jnp.pad(jnp.stack(arrays), padding), offset)  # pyright: ignore
        x = np.zeros((n_layers, *shape), types.pop())
    else:
        x = np.zeros((n_layers, *shape), np.float32)
        for i, array in enumerate(arrays):
            # The first row is subtracted in float64, so that float32 need not hold a large mean.
            wide = np.asarray(array).astype(np.float64)
            # Values outside of float32 become infinite, which the fit refuses.
            with np.errstate(over="ignore", invalid="ignore"):
                offset[i, :d] = wide[0]
                arrays[i] = wide - offset[i, :d]
    with np.errstate(over="ignore"):
        for i, array in enumerate(arrays):
            x[i, :n, :d] = array
    return RawLayers(x, offset)  # pyright: ignore
