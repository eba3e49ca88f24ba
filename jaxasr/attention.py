"""Computes multi-head attention. Edits and readouts reach every intermediate value."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from jaxasr import cpu_kernels, fused_attention
from jaxasr.cache import Cache, Past
from jaxasr.config import Config
from jaxasr.fused_attention import KeysOrValues, Mask, Queries
from jaxasr.taps import Tap

# Fewest inputs of a linear layer whose sums need a more exact kernel.
_MIN_EXACT_INPUTS = 512


def linear(
    config: Config, n_in: int, n_out: int, rngs: nnx.Rngs, use_bias: bool = True
) -> nnx.Linear:
    """Returns a linear layer in the dtypes of `config`."""
    # The second product of an MLP (n_in > n_out) loses little to rounding, so it uses the default
    # kernel (decision 14).
    needs_exact = _MIN_EXACT_INPUTS <= n_in <= n_out
    dot_general = cpu_kernels.matmul if needs_exact else jax.lax.dot_general
    return nnx.Linear(
        n_in,
        n_out,
        use_bias=use_bias,
        dot_general=dot_general,
        rngs=rngs,
        **product_options(config),
    )


def product_options(config: Config) -> dict[str, Any]:
    """Returns the options of a Flax layer that multiplies in the dtypes of `config`."""
    options = {"dtype": config.dtype, "param_dtype": config.param_dtype}
    if config.products is None:
        return options
    # The sum stays in `dtype`. Casting the kernel to `dtype` first, as Flax does, would copy it.
    promote = _PromoteForProduct(config.product_dtype)
    return options | {"promote_dtype": promote, "preferred_element_type": config.dtype}


@dataclasses.dataclass(frozen=True)
class _PromoteForProduct:
    """Casts the inputs and the kernel of a layer to `product_dtype`, and its bias to `dtype`."""

    product_dtype: str

    def __call__(
        self, arrays: tuple[Array, Array, Array | None], *, dtype: Any, **options: Any
    ) -> tuple[Array, Array, Array | None]:
        del options
        x, kernel, bias = arrays
        bias = None if bias is None else bias.astype(dtype)
        return x.astype(self.product_dtype), kernel.astype(self.product_dtype), bias


class Attention(nnx.Module):
    """Multi-head attention with the parameter names of openai/whisper. The key has no bias."""

    def __init__(self, config: Config, n_state: int, n_head: int, rngs: nnx.Rngs):
        project = functools.partial(linear, config, n_state, n_state, rngs)
        self.query = project()
        self.key = project(use_bias=False)
        self.value = project()
        self.out = project()
        self.n_head = n_head
        self.product_dtype = config.product_dtype
        self.kernel = config.attention_kernel

    def split_heads(self, x: Float[Array, "B T D"]) -> Float[Array, "B T H Dh"]:
        """Splits the axis of the model's width into heads."""
        return x.reshape(*x.shape[:-1], self.n_head, -1)

    def keys_values(self, x: Float[Array, "B S D"]) -> tuple[KeysOrValues, KeysOrValues]:
        """Returns the keys and values of `x`, with the head axis before the time axis.

        Only products read them, so they have the dtype of products.
        """
        k, v = (
            self.split_heads(project(x)).astype(self.product_dtype)
            for project in (self.key, self.value)
        )
        return _swap_time_and_heads(k), _swap_time_and_heads(v)

    def __call__(
        self,
        x: Float[Array, "B T D"],
        k: KeysOrValues,
        v: KeysOrValues,
        mask: Mask | None,
        key_positions: Int[Array, "B S"],
        tap: Tap,
    ) -> Float[Array, "B T D"]:
        """Attends from each position of `x` to the keys, and sums the values.

        The caller has already edited the keys and the values.

        Args:
            x: normalised residual stream [B, T, D].
            k: keys [B, H, S, Dh].
            v: values [B, H, S, Dh].
            mask: bool [B, 1, T, S], True where a query may attend to a key, or [B, 1, 1, S] for
                all queries. None: each query may attend to every key.
            key_positions: int32 [B, S], absolute positions of the keys.
            tap: edits and records the queries, scores, pattern and `z` of this attention.
        """
        # Edits receive `q` and `z` with the time axis before the heads, einsum needs the reverse.
        q = _swap_time_and_heads(tap("q", self.split_heads(self.query(x))))
        q = q.astype(self.product_dtype)
        tap_keys = functools.partial(tap, keys=key_positions)
        if tap.touches("scores", "pattern"):
            z = _attend_explicitly(q, k, v, mask, tap_keys, x.dtype)
        elif mask is None:
            z = fused_attention.attend(q, k, v, self.kernel)
        else:
            z = fused_attention.attend_with_mask(q, k, v, mask)
        z = tap("z", _swap_time_and_heads(z).astype(x.dtype))
        return self.out(z.reshape(x.shape))


def tap_keys_values(
    tap: Tap, k: KeysOrValues, v: KeysOrValues, positions: Int[Array, "B S"]
) -> tuple[KeysOrValues, KeysOrValues]:
    """Edits and records keys and values in their public layout [B, S, H, Dh]."""
    # XLA removes the transposes of `k` and `v` unless an edit or a readout uses them.
    k = tap("k", _swap_time_and_heads(k), positions)
    v = tap("v", _swap_time_and_heads(v), positions)
    return _swap_time_and_heads(k), _swap_time_and_heads(v)


def self_attention(
    attn: Attention,
    x: Float[Array, "B T D"],
    mask: Mask | None,
    past: Past | None,
    cache: Cache | None,
    tap: Tap,
) -> tuple[Float[Array, "B T D"], Past | None]:
    """Attends from the tokens of `x` to each other and, with a cache, to earlier tokens.

    Args:
        attn: weights.
        x: normalised residual stream [B, T, D].
        mask: bool [B, 1, T, S], True where a token may attend to another. None: everywhere.
        past: this layer's keys and values of earlier tokens. None: no cache.
        cache: cache of all layers, which has the positions of its slots. None: no cache.
        tap: edits and records the activations of this attention.

    Returns:
        The output [B, T, D], and `past` with the keys and values of `x` appended (None without
        a cache).
    """
    k, v = tap_keys_values(tap, *attn.keys_values(x), tap.positions)
    if past is None or cache is None:
        return attn(x, k, v, mask, tap.positions, tap), None
    past = past.append(cache.start, k, v)
    return attn(x, past.k, past.v, mask, cache.positions, tap), past


def cross_attention(
    attn: Attention, x: Float[Array, "B T D"], k: KeysOrValues, v: KeysOrValues, tap: Tap
) -> Float[Array, "B T D"]:
    """Edits the keys and values of the encoder's frames, and attends from `x` to the frames."""
    frames = jnp.broadcast_to(jnp.arange(k.shape[2], dtype=jnp.int32), (k.shape[0], k.shape[2]))
    k, v = tap_keys_values(tap, k, v, frames)
    return attn(x, k, v, None, frames, tap)


def _swap_time_and_heads(x: Float[Array, "B X Y Dh"]) -> Float[Array, "B Y X Dh"]:
    """Swaps the time axis and the head axis."""
    return jnp.swapaxes(x, 1, 2)


def _attend_explicitly(
    q: Queries,
    k: KeysOrValues,
    v: KeysOrValues,
    mask: Mask | None,
    tap: Callable[..., Array],
    dtype: Any,
) -> Queries:
    """Computes attention, and edits and records its scores and its pattern in `dtype`."""
    scores = tap("scores", fused_attention.compute_scores(q, k).astype(dtype))
    # The mask comes after the edit, so that no edit can make a token attend to its future.
    pattern = tap("pattern", fused_attention.softmax(scores, mask).astype(dtype))
    return jnp.einsum("bhts,bhsd->bhtd", pattern.astype(q.dtype), v)
