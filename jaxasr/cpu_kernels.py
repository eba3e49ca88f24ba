"""Computes operations of the model in an order that is faster or more exact on a CPU.

When a program is compiled, `jax.lax.platform_dependent` chooses between the version for a CPU and
the default of JAX, which other devices use. Measurements are in decision 14.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

# Number of positions from which on a CPU uses other kernels. With fewer positions, all attention
# scores of a batch fit in the cache of a CPU.
MIN_LONG_QUERIES = 256
# Queries per chunk of attention: 1,500 frames make four chunks. More chunks would be slower,
# because each of them copies the keys and values.
_QUERIES_PER_CHUNK = 375
# Mel bins per sum of the first convolution. Short sums limit the rounding error.
_MEL_BINS_PER_BLOCK = 40


def matmul(
    x: Float[Array, "... K"], weight: Float[Array, "K N"], dimensions: Any, **options: Any
) -> Float[Array, "... N"]:
    """Computes `jax.lax.dot_general`, with less rounding for long float32 inputs on a CPU.

    On a CPU, a sum over K adds 256 terms in a row instead of 512, so its rounding error is half as
    large.
    """
    dot_general = functools.partial(jax.lax.dot_general, dimension_numbers=dimensions, **options)
    if x.ndim < 2 or x.shape[-2] < MIN_LONG_QUERIES or x.dtype != jnp.float32:
        return dot_general(x, weight)
    return jax.lax.platform_dependent(x, weight, cpu=_matmul_as_conv, default=dot_general)


def _matmul_as_conv(x: Float[Array, "... K"], weight: Float[Array, "K N"]) -> Float[Array, "... N"]:
    # On a CPU, XLA computes matrix products with YNNPACK and convolutions with Eigen. Eigen is as
    # fast and adds fewer terms in a row.
    rows = x.reshape(-1, *x.shape[-2:])
    y = jax.lax.conv_general_dilated(
        rows, weight[None], (1,), "VALID", dimension_numbers=("NWC", "WIO", "NWC")
    )
    return y.reshape(*x.shape[:-1], -1)


def conv_over_mels(
    mel: Float[Array, "B F M"],
    kernel: Float[Array, "3 M D"],
    strides: Any,
    padding: Any,
    **options: Any,
) -> Float[Array, "B F D"]:
    """Convolves the spectrogram over time. On a CPU, each sum is over at most 40 mel bins."""
    conv = functools.partial(
        jax.lax.conv_general_dilated, window_strides=strides, padding=padding, **options
    )
    if mel.dtype != jnp.float32:
        return conv(mel, kernel)
    return jax.lax.platform_dependent(mel, kernel, cpu=_conv_in_blocks, default=conv)


def _conv_in_blocks(
    mel: Float[Array, "B F M"], kernel: Float[Array, "3 M D"]
) -> Float[Array, "B F D"]:
    # In silence all bins have the same value, so the rounding errors of a long sum add up. Short
    # sums avoid this, so the kernel is split into its frames and into blocks of bins.
    conv = functools.partial(
        jax.lax.conv_general_dilated,
        window_strides=(1,),
        padding="VALID",
        dimension_numbers=("NWC", "WIO", "NWC"),
    )
    padded, n_frames, n_mels = jnp.pad(mel, ((0, 0), (1, 1), (0, 0))), mel.shape[1], mel.shape[2]
    starts = range(0, n_mels, _MEL_BINS_PER_BLOCK)
    blocks = [slice(start, start + _MEL_BINS_PER_BLOCK) for start in starts]
    parts = (
        conv(padded[:, shift : shift + n_frames, bins], kernel[shift : shift + 1, bins])
        for shift in range(3)
        for bins in blocks
    )
    return jnp.asarray(sum(parts))


def map_rows(fn: Callable[[Array], Any], x: Array, fn_of_row: Callable[[Array], Any]) -> Any:
    """Returns `fn(x)`. A CPU calls `fn_of_row` row by row instead.

    The intermediate values of one row fit in the cache of a CPU.
    """
    by_row = functools.partial(jax.lax.map, fn_of_row)
    return jax.lax.platform_dependent(x, cpu=by_row, default=fn)


def attend(
    q: Float[Array, "B H T Dh"],
    k: Float[Array, "B H S Dh"],
    v: Float[Array, "B H S Dh"],
    default: Callable[..., Float[Array, "B H T Dh"]],
) -> Float[Array, "B H T Dh"]:
    """Returns `default(q, k, v)`, attention without a mask. A CPU computes it head by head instead.

    The scores of one head fit in the cache of a CPU.
    """
    return jax.lax.platform_dependent(q, k, v, cpu=_attend_by_head, default=default)


def _attend_by_head(
    q: Float[Array, "B H T Dh"], k: Float[Array, "B H S Dh"], v: Float[Array, "B H S Dh"]
) -> Float[Array, "B H T Dh"]:
    def attend_head(qkv: tuple[Array, Array, Array]) -> Array:
        q, k, v = qkv
        starts = range(0, len(q), _QUERIES_PER_CHUNK)
        # Chunks do not depend on each other, so every core can take one.
        return jnp.concatenate(
            [_attend_chunk(q[start : start + _QUERIES_PER_CHUNK], k, v) for start in starts]
        )

    heads = tuple(x.reshape(-1, *x.shape[2:]) for x in (q, k, v))
    return jax.lax.map(attend_head, heads).reshape(q.shape)


def _attend_chunk(
    q: Float[Array, "T Dh"], k: Float[Array, "S Dh"], v: Float[Array, "S Dh"]
) -> Float[Array, "T Dh"]:
    scores = ((q * q.shape[-1] ** -0.5) @ k.T).astype(jnp.promote_types(q.dtype, jnp.float32))
    # Without the maximum, which cancels out, `exp` could overflow.
    weights = jnp.exp(scores - scores.max(-1, keepdims=True))
    # Divides after the product, which has Dh numbers per query. The weights have S.
    return (weights.astype(v.dtype) @ v) / weights.sum(-1, keepdims=True).astype(v.dtype)
