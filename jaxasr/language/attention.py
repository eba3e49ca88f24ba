"""Computes causal attention in which several query heads share one head of keys and values."""

import functools
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from jaxasr import fused_attention
from jaxasr.attention import linear
from jaxasr.cache import Cache, Past
from jaxasr.config import Config
from jaxasr.fused_attention import Mask, Queries
from jaxasr.language.rotary import Rotation, rotate
from jaxasr.taps import Tap

GroupedKeysOrValues = Float[Array, "B K S Dh"]  # K key-value heads, fewer than query heads


class GroupedAttention(nnx.Module):
    """Self-attention of a language model: rotary positions and grouped key-value heads."""

    def __init__(self, config: Config, rngs: nnx.Rngs):
        shape, family = config.decoder, config.audio_language
        assert family is not None  # a Whisper has other blocks
        n_queries, n_keys = shape.n_head * shape.d_head, shape.n_kv_head * shape.d_head
        project = functools.partial(linear, config, shape.width, rngs=rngs)
        self.query = project(n_queries, use_bias=family.qkv_bias)
        self.key = project(n_keys, use_bias=family.qkv_bias)
        self.value = project(n_keys, use_bias=family.qkv_bias)
        self.out = linear(config, n_queries, shape.width, rngs, use_bias=False)
        self.n_head = shape.n_head
        self.n_kv_head = shape.n_kv_head
        self.d_head = shape.d_head
        self.product_dtype = config.product_dtype

    def split_heads(self, x: Float[Array, "B T N"]) -> Float[Array, "B T H Dh"]:
        """Splits the last axis into heads.

        Args:
            x: queries, keys or values of all heads next to each other [B, T, H · Dh].
        """
        return x.reshape(*x.shape[:-1], -1, self.d_head)

    def __call__(
        self,
        x: Float[Array, "B T D"],
        rotation: Rotation,
        mask: Mask,
        past: Past | None,
        cache: Cache | None,
        tap: Tap,
    ) -> tuple[Float[Array, "B T D"], Past | None]:
        """Attends from the tokens of `x` to each other and, with a cache, to earlier tokens.

        Args:
            x: normalised residual stream [B, T, D].
            rotation: cosines and sines at the positions of `x`.
            mask: bool [B, 1, T, S], True where a token may attend to another.
            past: this layer's rotated keys and its values of earlier tokens. None: no cache.
            cache: cache of all layers, which has the positions of its slots. None: no cache.
            tap: edits and records the activations of this attention.

        Returns:
            The output [B, T, D], and `past` with the keys and values of `x` appended.
        """
        q, (k, v) = self.queries(x, rotation, tap), self.keys_values(x, rotation, tap)
        key_positions = tap.positions
        if past is not None and cache is not None:
            past, key_positions = past.append(cache.start, k, v), cache.positions
            k, v = past.k, past.v
        z = attend_in_groups(q, k, v, mask, key_positions, tap, x.dtype)
        z = tap("z", jnp.swapaxes(z, 1, 2).astype(x.dtype))
        return self.out(z.reshape(*x.shape[:-1], -1)), past

    def queries(self, x: Float[Array, "B T D"], rotation: Rotation, tap: Tap) -> Queries:
        """Returns the rotated queries of `x`.

        Args:
            x: normalised residual stream [B, T, D].
            rotation: cosines and sines at the positions of `x`.
            tap: edits and records `q` and `q_rot`.

        Returns:
            [B, H, T, Dh], with the heads before the time axis.
        """
        q = tap("q_rot", rotate(tap("q", self.split_heads(self.query(x))), rotation))
        return jnp.swapaxes(q, 1, 2).astype(self.product_dtype)

    def keys_values(
        self, x: Float[Array, "B S D"], rotation: Rotation, tap: Tap
    ) -> tuple[GroupedKeysOrValues, GroupedKeysOrValues]:
        """Returns the rotated keys and the values of `x`.

        Args:
            x: normalised residual stream [B, S, D].
            rotation: cosines and sines at the positions of `x`.
            tap: edits and records `k`, `k_rot` and `v`.

        Returns:
            Both [B, K, S, Dh], with the K key-value heads before the time axis.
        """
        k = tap("k_rot", rotate(tap("k", self.split_heads(self.key(x))), rotation))
        v = tap("v", self.split_heads(self.value(x)))
        k, v = (jnp.swapaxes(y, 1, 2).astype(self.product_dtype) for y in (k, v))
        return k, v


def attend_in_groups(
    q: Queries,
    k: GroupedKeysOrValues,
    v: GroupedKeysOrValues,
    mask: Mask,
    key_positions: Int[Array, "B S"],
    tap: Tap,
    dtype: Any,
) -> Queries:
    """Attends from every query head to the keys of its group.

    Query heads of a group are neighbours. For example, heads 0 and 1 share keys if there are 4
    query heads and 2 key-value heads. Scores and pattern have one entry per query head.

    Args:
        q: rotated queries [B, H, T, Dh].
        k: rotated keys [B, K, S, Dh] of K key-value heads.
        v: values [B, K, S, Dh].
        mask: True where a query may attend to a key.
        key_positions: int32 [B, S], absolute positions of the keys.
        tap: edits and records `scores` and `pattern`.
        dtype: dtype of these two.

    Returns:
        Mixed values [B, H, T, Dh].
    """
    tap_keys: Callable[..., Array] = functools.partial(tap, keys=key_positions)
    n_head, n_queries = q.shape[1:3]
    # The queries of a group are queries of one head, so that keys need not be copied.
    grouped = q.reshape(q.shape[0], k.shape[1], -1, q.shape[-1])
    scores = fused_attention.compute_scores(grouped, k)
    scores = scores.reshape(q.shape[0], n_head, n_queries, -1)
    if tap.touches("scores", "pattern"):
        scores = tap_keys("scores", scores.astype(dtype))
        # The mask comes after the edit, so that no edit can make a token attend to its future.
        pattern = tap_keys("pattern", fused_attention.softmax(scores, mask).astype(dtype))
    else:
        pattern = fused_attention.softmax(scores, mask)
    weights = pattern.astype(q.dtype).reshape(*grouped.shape[:3], -1)
    return jnp.einsum("bhts,bhsd->bhtd", weights, v).reshape(q.shape)
