"""Computes some operations of the model in an order that is faster or more exact on a CPU.

`jax.lax.platform_dependent` chooses the version for a CPU when a program is compiled. Other devices
use the default of JAX. `docs/decisions/0014-wide-products-as-convolutions.md` has measurements.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

# Inputs with fewer positions use JAX's default, because all their scores fit in a CPU's cache.
MIN_LONG_QUERIES = 256
# Divides 1,500 frames into four chunks. Each chunk copies the keys and values, so more chunks would
# be slower.
_QUERIES_PER_CHUNK = 375
_MEL_BINS_PER_BLOCK = 40  # mel bins per sum; short sums limit the rounding error


def matmul(
    x: Float[Array, "... K"], weight: Float[Array, "K N"], dimensions: Any, **options: Any
) -> Float[Array, "... N"]:
    """Computes `jax.lax.dot_general`, with less rounding for long float32 inputs on a CPU.

    For these inputs, a CPU sums over K in chains of 256 terms instead of 512. This halves the
    rounding error.

    Args:
        x: activations.
        weight: weights of a linear layer.
        dimensions: `dimension_numbers` of `jax.lax.dot_general`.
        options: other options of `jax.lax.dot_general`.

    Example:
        ```python
        from jaxasr.cpu_kernels import matmul

        x, weight = jnp.ones((1500, 384)), jnp.ones((384, 64))
        matmul(x, weight, (((1,), (0,)), ((), ()))).shape  # (1500, 64)
        ```
    """
    dot_general = functools.partial(jax.lax.dot_general, dimension_numbers=dimensions, **options)
    if x.ndim < 2 or x.shape[-2] < MIN_LONG_QUERIES or x.dtype != jnp.float32:
        return dot_general(x, weight)
    return jax.lax.platform_dependent(x, weight, cpu=_matmul_as_conv, default=dot_general)


def _matmul_as_conv(x: Float[Array, "... K"], weight: Float[Array, "K N"]) -> Float[Array, "... N"]:
    # On a CPU, XLA computes matrix products with YNNPACK and convolutions with Eigen. Eigen is as
    # fast, and its chains of additions are shorter. A product is a convolution of width 1.
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
    """Convolves a spectrogram over time. A CPU sums over 40 mel bins at a time.

    Args:
        mel: log-mel features with the mel bins as the last axis.
        kernel: kernel of three frames.
        strides: strides over time. The version for a CPU assumes 1.
        padding: padding of time. The version for a CPU assumes 1 frame at each end.
        options: other options of `jax.lax.conv_general_dilated`.

    Example:
        ```python
        from jaxasr.cpu_kernels import conv_over_mels

        mel, kernel = jnp.ones((1, 3000, 80)), jnp.ones((3, 80, 384))
        axes = ("NWC", "WIO", "NWC")
        conv_over_mels(mel, kernel, (1,), [(1, 1)], dimension_numbers=axes)  # [1, 3000, 384]
        ```
    """
    conv = functools.partial(
        jax.lax.conv_general_dilated, window_strides=strides, padding=padding, **options
    )
    if mel.dtype != jnp.float32:
        return conv(mel, kernel)
    return jax.lax.platform_dependent(mel, kernel, cpu=_conv_in_blocks, default=conv)


def _conv_in_blocks(
    mel: Float[Array, "B F M"], kernel: Float[Array, "3 M D"]
) -> Float[Array, "B F D"]:
    # In silence all bins have the same value, so the rounding errors of a long sum add up. Here
    # each sum runs over one of the kernel's three frames and over one block of mel bins.
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
    """Returns `fn(x)`. A CPU computes row by row, so that the values of a row stay in the cache.

    Args:
        fn: a function of all rows.
        x: array with the rows as the first axis.
        fn_of_row: the same function of one row.

    Example:
        ```python
        from jaxasr.cpu_kernels import map_rows

        map_rows(lambda x: x.sum(-1), jnp.ones((2, 3)), lambda row: row.sum())  # [3.0, 3.0]
        ```
    """
    by_row = functools.partial(jax.lax.map, fn_of_row)
    return jax.lax.platform_dependent(x, cpu=by_row, default=fn)


def attend(
    q: Float[Array, "B H T Dh"],
    k: Float[Array, "B H S Dh"],
    v: Float[Array, "B H S Dh"],
    default: Callable[..., Float[Array, "B H T Dh"]],
    is_visible: Bool[Array, "B S"] | None = None,
) -> Float[Array, "B H T Dh"]:
    """Computes attention with equal keys for all queries. A CPU computes it head by head.

    The scores of one head fit in the cache of a CPU.

    Args:
        q: queries.
        k: keys.
        v: values.
        default: computes the result from `q`, `k` and `v` on other devices.
        is_visible: True at the keys that every query of a row may attend to. None: all keys.

    Returns:
        The averaged values of each head.

    Example:
        ```python
        from jaxasr.cpu_kernels import attend

        q = k = v = jnp.ones((1, 6, 1500, 64))
        attend(q, k, v, default=lambda q, k, v: v)  # on a CPU, `default` is not used
        ```
    """
    by_head = functools.partial(_attend_by_head, is_visible=is_visible)
    return jax.lax.platform_dependent(q, k, v, cpu=by_head, default=default)


def _attend_by_head(
    q: Float[Array, "B H T Dh"],
    k: Float[Array, "B H S Dh"],
    v: Float[Array, "B H S Dh"],
    is_visible: Bool[Array, "B S"] | None,
) -> Float[Array, "B H T Dh"]:
    def attend_head(head: tuple[Array, ...]) -> Array:
        q, k, v, *visible = head
        starts = range(0, len(q), _QUERIES_PER_CHUNK)
        # Chunks do not depend on each other, so every core can take one.
        return jnp.concatenate(
            [
                _attend_chunk(q[start : start + _QUERIES_PER_CHUNK], k, v, *visible)
                for start in starts
            ]
        )

    heads = tuple(x.reshape(-1, *x.shape[2:]) for x in (q, k, v))
    if is_visible is not None:
        heads = (*heads, jnp.repeat(is_visible, q.shape[1], axis=0))
    return jax.lax.map(attend_head, heads).reshape(q.shape)


def _attend_chunk(
    q: Float[Array, "T Dh"],
    k: Float[Array, "S Dh"],
    v: Float[Array, "S Dh"],
    is_visible: Bool[Array, "S"] | None = None,
) -> Float[Array, "T Dh"]:
    # The softmax is computed in float32 at least, as in the default attention.
    scores = ((q * q.shape[-1] ** -0.5) @ k.T).astype(jnp.promote_types(q.dtype, jnp.float32))
    scores = scores if is_visible is None else jnp.where(is_visible, scores, -jnp.inf)
    weights = jnp.exp(scores - scores.max(-1, keepdims=True))
    # Dividing after the product divides only Dh numbers per query instead of S.
    return (weights.astype(v.dtype) @ v) / weights.sum(-1, keepdims=True).astype(v.dtype)
