"""Computes multi-head attention. Edits and readouts reach every intermediate value."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from jaxasr import cpu_kernels
from jaxasr.cache import Cache, Past
from jaxasr.config import Config
from jaxasr.taps import Tap

KeysOrValues = Float[Array, "B H S Dh"]
Queries = Float[Array, "B H T Dh"]
Mask = Bool[Array, "B 1 T S"]


def linear(
    config: Config, n_in: int, n_out: int, rngs: nnx.Rngs, use_bias: bool = True
) -> nnx.Linear:
    """Returns a linear layer in the dtypes of `config`."""
    # Rounding errors matter in sums over at least 512 inputs. The second product of an MLP
    # (n_in > n_out) loses little to rounding and keeps the default kernel (decision 14).
    dot_general = cpu_kernels.matmul if 512 <= n_in <= n_out else jax.lax.dot_general
    return nnx.Linear(
        n_in,
        n_out,
        use_bias=use_bias,
        dtype=config.dtype,
        param_dtype=config.param_dtype,
        dot_general=dot_general,
        rngs=rngs,
    )


class Attention(nnx.Module):
    """Multi-head attention with the parameter names of the checkpoint. The key has no bias."""

    def __init__(self, config: Config, n_state: int, n_head: int, rngs: nnx.Rngs):
        project = functools.partial(linear, config, n_state, n_state, rngs)
        self.query = project()
        self.key = project(use_bias=False)
        self.value = project()
        self.out = project()
        self.n_head = n_head

    def split(self, x: Float[Array, "B T D"]) -> Float[Array, "B T H Dh"]:
        """Splits the model axis into heads."""
        return x.reshape(*x.shape[:-1], self.n_head, -1)

    def keys_values(self, x: Float[Array, "B S D"]) -> tuple[KeysOrValues, KeysOrValues]:
        """Returns the keys and values of `x`, with the head axis before the time axis."""
        return _swap(self.split(self.key(x))), _swap(self.split(self.value(x)))

    def __call__(
        self,
        x: Float[Array, "B T D"],
        k: KeysOrValues,
        v: KeysOrValues,
        mask: Mask | None,
        key_positions: Int[Array, "B S"],
        tap: Tap,
    ) -> Float[Array, "B T D"]:
        """Attends from `x` to the keys `k` and the values `v`, which are already edited.

        Args:
            x: normalised residual stream [B, T, D].
            k: keys [B, H, S, Dh].
            v: values [B, H, S, Dh].
            mask: bool [B, 1, T, S], True where a query may attend to a key. None: each query
                may attend to every key.
            key_positions: int32 [B, S], absolute positions of the keys.
            tap: edits and records the activations of this attention.
        """
        q = _swap(tap("q", self.split(self.query(x))))
        attend = _explicit if tap.touches("scores", "pattern") else _fused
        z = attend(q, k, v, mask, functools.partial(tap, keys=key_positions))
        z = tap("z", _swap(z))
        return self.out(z.reshape(x.shape))


def tap_keys_values(
    tap: Tap, k: KeysOrValues, v: KeysOrValues, positions: Int[Array, "B S"]
) -> tuple[KeysOrValues, KeysOrValues]:
    """Edits and records keys and values in their public layout [B, S, H, Dh]."""
    # XLA removes the transposes of `k` and `v` unless an edit or a readout uses them.
    return _swap(tap("k", _swap(k), positions)), _swap(tap("v", _swap(v), positions))


def self_attention(
    attn: Attention,
    x: Float[Array, "B T D"],
    mask: Mask | None,
    past: Past | None,
    cache: Cache | None,
    tap: Tap,
) -> tuple[Float[Array, "B T D"], Past | None]:
    """Attends from `x` to itself and, with a cache, to this layer's earlier tokens.

    Returns:
        The output [B, T, D], and `past` with the keys and values of `x` appended.
    """
    k, v = tap_keys_values(tap, *attn.keys_values(x), tap.positions)
    if past is None or cache is None:
        return attn(x, k, v, mask, tap.positions, tap), None
    past = past.append(cache.start, k, v)
    return attn(x, past.k, past.v, mask, cache.positions, tap), past


def cross_attention(
    attn: Attention, x: Float[Array, "B T D"], k: KeysOrValues, v: KeysOrValues, tap: Tap
) -> Float[Array, "B T D"]:
    """Attends from `x` to the encoder's frames, with unedited keys `k` and values `v`."""
    frames = jnp.broadcast_to(jnp.arange(k.shape[2], dtype=jnp.int32), (k.shape[0], k.shape[2]))
    k, v = tap_keys_values(tap, k, v, frames)
    return attn(x, k, v, None, frames, tap)


def _swap(x: Float[Array, "B X Y Dh"]) -> Float[Array, "B Y X Dh"]:
    """Swaps the time axis and the head axis."""
    return jnp.swapaxes(x, 1, 2)


def _softmax(scores: Float[Array, "B H T S"], mask: Mask | None) -> Float[Array, "B H T S"]:
    scores = scores.astype(jnp.promote_types(scores.dtype, jnp.float32))
    return jax.nn.softmax(scores if mask is None else jnp.where(mask, scores, -jnp.inf), axis=-1)


def _scores(q: Queries, k: KeysOrValues) -> Float[Array, "B H T S"]:
    return jnp.einsum("bhtd,bhsd->bhts", q * q.shape[-1] ** -0.5, k)


def _attend(q: Queries, k: KeysOrValues, v: KeysOrValues, mask: Mask | None) -> Queries:
    return jnp.einsum("bhts,bhsd->bhtd", _softmax(_scores(q, k), mask).astype(q.dtype), v)


def _explicit(
    q: Queries, k: KeysOrValues, v: KeysOrValues, mask: Mask | None, tap: Callable[..., Array]
) -> Queries:
    """Computes attention, and edits and records its scores and its pattern."""
    scores = tap("scores", _scores(q, k))
    # The mask comes after the edit, so that no edit can make a token attend to its future.
    pattern = tap("pattern", _softmax(scores, mask).astype(q.dtype))
    return jnp.einsum("bhts,bhsd->bhtd", pattern, v)


def _fused(
    q: Queries, k: KeysOrValues, v: KeysOrValues, mask: Mask | None, tap: Callable[..., Array]
) -> Queries:
    """Computes the same attention, without the scores and the pattern as separate arrays."""
    del tap
    if mask is not None or q.shape[2] < cpu_kernels.MIN_LONG_QUERIES:
        return _attend(q, k, v, mask)
    return cpu_kernels.attend(q, k, v, default=functools.partial(_attend, mask=None))
