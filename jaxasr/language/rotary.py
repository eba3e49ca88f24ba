"""Turns queries and keys by angles that grow with their positions (RoPE, arXiv:2104.09864)."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

# Cosines and sines, for all rows of a batch if they have equal positions.
Rotation = tuple[Float[Array, "#B T 1 half"], Float[Array, "#B T 1 half"]]


def make_rotation(positions: Int[Array, "B T"], d_head: int, theta: float, dtype: str) -> Rotation:
    """Returns the cosines and sines of the angles at `positions`.

    Angles are computed in float32 or wider, and the results have `dtype`, as in transformers.

    Args:
        positions: int32 [B, T], absolute.
        d_head: width of a head.
        theta: base of the frequencies.
        dtype: dtype of the heads to rotate.

    Returns:
        Cosines and sines [B, T, 1, d_head / 2].

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxasr.language.rotary import make_rotation
        >>> cosines, _ = make_rotation(jnp.array([[0, 1]]), 4, theta=1e4, dtype="float32")
        >>> cosines.shape
        (1, 2, 1, 2)
    """
    wide = jnp.promote_types(dtype, jnp.float32)
    frequencies = theta ** (-np.arange(0, d_head, 2, dtype=np.float64) / d_head)
    angles = positions[:, :, None, None].astype(wide) * jnp.asarray(frequencies, wide)
    return jnp.cos(angles).astype(dtype), jnp.sin(angles).astype(dtype)


def rotate(x: Float[Array, "B T H Dh"], rotation: Rotation) -> Float[Array, "B T H Dh"]:
    """Turns each pair of numbers of a head. Numbers i and i + Dh / 2 are a pair.

    Args:
        x: queries or keys [B, T, H, Dh].
        rotation: from `make_rotation`, for the positions of `x`.

    Returns:
        The turned `x`. Their products depend only on differences of positions.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxasr.language.rotary import make_rotation, rotate
        >>> rotation = make_rotation(jnp.array([[0]]), 4, theta=1e4, dtype="float32")
        >>> rotate(jnp.ones((1, 1, 1, 4)), rotation).tolist()  # position 0 turns by 0
        [[[[1.0, 1.0, 1.0, 1.0]]]]
    """
    cos, sin = rotation
    first, second = jnp.split(x, 2, axis=-1)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
