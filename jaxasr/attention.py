"""Multi-head attention whose every intermediate can be read and edited."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from jaxasr.cache import Cache, Past
from jaxasr.config import Config
from jaxasr.taps import Tap

Heads = Float[Array, "B H S Dh"]
Queries = Float[Array, "B H T Dh"]
Mask = Bool[Array, "B 1 T S"]


def linear(
    config: Config, n_in: int, n_out: int, rngs: nnx.Rngs, use_bias: bool = True
) -> nnx.Linear:
    # Fewer terms round little, and so does what an MLP's second product adds to base: these stay as XLA sums them (decision 14).
    product = _product if 512 <= n_in <= n_out else jax.lax.dot_general
    settings = dict(
        use_bias=use_bias, dtype=config.dtype, param_dtype=config.param_dtype, rngs=rngs
    )
    return nnx.Linear(n_in, n_out, dot_general=product, **settings)


def _product(
    x: Float[Array, "... K"], weight: Float[Array, "K N"], dimensions: Any, **options: Any
) -> Float[Array, "... N"]:
    """`jax.lax.dot_general`; but where rows are many, in float32, a CPU adds up 256 terms in one chain instead of 512."""
    plain = functools.partial(jax.lax.dot_general, dimension_numbers=dimensions, **options)
    if x.ndim < 2 or x.shape[-2] < MIN_LONG_QUERIES or x.dtype != jnp.float32:
        return plain(x, weight)
    return jax.lax.platform_dependent(x, weight, cpu=_in_blocks, default=plain)


def _in_blocks(x: Float[Array, "... K"], weight: Float[Array, "K N"]) -> Float[Array, "... N"]:
    """As a convolution of width 1: XLA leaves those to Eigen, as fast as YNNPACK, which has its products, and less coarse."""
    rows = x.reshape(-1, *x.shape[-2:])
    y = jax.lax.conv_general_dilated(
        rows, weight[None], (1,), "VALID", dimension_numbers=("NWC", "WIO", "NWC")
    )
    return y.reshape(*x.shape[:-1], -1)


class Attention(nnx.Module):
    """Query, key, value and output projections under the checkpoint's names; the key has no bias."""

    def __init__(self, config: Config, n_state: int, n_head: int, rngs: nnx.Rngs):
        project = functools.partial(linear, config, n_state, n_state, rngs)
        self.query, self.key, self.value, self.out = (
            project(),
            project(use_bias=False),
            project(),
            project(),
        )
        self.n_head = n_head

    def split(self, x: Float[Array, "B T D"]) -> Float[Array, "B T H Dh"]:
        return x.reshape(*x.shape[:-1], self.n_head, -1)

    def keys_values(self, x: Float[Array, "B S D"]) -> tuple[Heads, Heads]:
        """Keys and values of `x`, heads before time: the layout in which every later product reads them in order."""
        return _swap(self.split(self.key(x))), _swap(self.split(self.value(x)))

    def __call__(
        self,
        x: Float[Array, "B T D"],
        k: Heads,
        v: Heads,
        mask: Mask | None,
        keys: Int[Array, "B S"],
        tap: Tap,
    ) -> Float[Array, "B T D"]:
        """Attends from `x` to `k` and `v` (already edited); `keys` are the absolute positions of the key axis."""
        q = _swap(tap("q", self.split(self.query(x))))
        attend = _explicit if tap.touches("scores", "pattern") else _fused
        z = attend(q, k, v, mask, functools.partial(tap, keys=keys))
        z = tap("z", _swap(z))
        return self.out(z.reshape(x.shape))


def tap_keys_values(
    tap: Tap, k: Heads, v: Heads, positions: Int[Array, "B S"]
) -> tuple[Heads, Heads]:
    """Edits and records `k` and `v` in their public layout [B, S, H, Dh]; the transposes vanish where nobody looks."""
    return _swap(tap("k", _swap(k), positions)), _swap(tap("v", _swap(v), positions))


def self_attention(
    attn: Attention,
    x: Float[Array, "B T D"],
    mask: Mask | None,
    past: Past | None,
    cache: Cache | None,
    tap: Tap,
) -> tuple[Float[Array, "B T D"], Past | None]:
    """Attention over `x` itself and, when there is a cache, over this layer's past."""
    k, v = tap_keys_values(tap, *attn.keys_values(x), tap.positions)
    if past is None or cache is None:
        return attn(x, k, v, mask, tap.positions, tap), None
    past = past.append(cache.start, k, v)
    return attn(x, past.k, past.v, mask, cache.positions, tap), past


def cross_attention(
    attn: Attention, x: Float[Array, "B T D"], k: Heads, v: Heads, tap: Tap
) -> Float[Array, "B T D"]:
    """Attention over the encoder's frames; an edit of `k` or `v` acts here, on what `memory` holds."""
    frames = jnp.broadcast_to(jnp.arange(k.shape[2], dtype=jnp.int32), (k.shape[0], k.shape[2]))
    k, v = tap_keys_values(tap, k, v, frames)
    return attn(x, k, v, None, frames, tap)


def _swap(x: Float[Array, "B X Y Dh"]) -> Float[Array, "B Y X Dh"]:
    return jnp.swapaxes(x, 1, 2)


def _softmax(scores: Float[Array, "B H T S"], mask: Mask | None) -> Float[Array, "B H T S"]:
    scores = scores.astype(jnp.promote_types(scores.dtype, jnp.float32))
    return jax.nn.softmax(scores if mask is None else jnp.where(mask, scores, -jnp.inf), axis=-1)


def _scores(q: Queries, k: Heads) -> Float[Array, "B H T S"]:
    return jnp.einsum("bhtd,bhsd->bhts", q * q.shape[-1] ** -0.5, k)


def _explicit(
    q: Queries, k: Heads, v: Heads, mask: Mask | None, tap: Callable[..., Array]
) -> Queries:
    """The mask comes after the edit of the scores: no edit can make a token see its future."""
    scores = tap("scores", _scores(q, k))
    pattern = tap("pattern", _softmax(scores, mask).astype(q.dtype))
    return jnp.einsum("bhts,bhsd->bhtd", pattern, v)


def _fused(q: Queries, k: Heads, v: Heads, mask: Mask | None, tap: Callable[..., Array]) -> Queries:
    """The same without its intermediates. A CPU goes through long queries head by head: scores that stay in cache."""
    del tap
    if mask is not None or q.shape[2] < MIN_LONG_QUERIES:
        return _whole(q, k, v, mask)
    return jax.lax.platform_dependent(
        q, k, v, cpu=_by_head, default=functools.partial(_whole, mask=None)
    )


MIN_LONG_QUERIES = 256  # queries; below, all scores fit in cache anyway


def _whole(q: Queries, k: Heads, v: Heads, mask: Mask | None) -> Queries:
    return jnp.einsum("bhts,bhsd->bhtd", _softmax(_scores(q, k), mask).astype(q.dtype), v)


def _by_head(q: Queries, k: Heads, v: Heads) -> Queries:
    def head(qkv: tuple[Array, Array, Array]) -> Array:
        q, k, v = qkv
        return jnp.concatenate(
            [_rows(q[start : start + _CHUNK], k, v) for start in range(0, len(q), _CHUNK)]
        )

    flat = (x.reshape(-1, *x.shape[2:]) for x in (q, k, v))
    return jax.lax.map(head, tuple(flat)).reshape(q.shape)


_CHUNK = 375  # queries; chunks know nothing of each other, so that every core has one. Smaller ones pack keys and values anew too often


def _rows(
    q: Float[Array, "T Dh"], k: Float[Array, "S Dh"], v: Float[Array, "S Dh"]
) -> Float[Array, "T Dh"]:
    scores = ((q * q.shape[-1] ** -0.5) @ k.T).astype(jnp.promote_types(q.dtype, jnp.float32))
    weights = jnp.exp(scores - scores.max(-1, keepdims=True))
    return (weights.astype(v.dtype) @ v) / weights.sum(-1, keepdims=True).astype(v.dtype)
