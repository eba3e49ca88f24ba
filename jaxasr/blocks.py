"""Defines the residual block of the encoder and, with cross-attention, of the decoder."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from jaxasr import cpu_kernels
from jaxasr.attention import Attention, Mask, cross_attention, linear, self_attention
from jaxasr.cache import Cache, Past
from jaxasr.config import Config, StackShape
from jaxasr.taps import Tap


def layer_norm(config: Config, n_state: int, rngs: nnx.Rngs) -> nnx.LayerNorm:
    """Returns a layer norm that computes as in torch."""
    # torch has an epsilon of 1e-5 (nnx: 1e-6) and computes the variance in two passes. The fast
    # formula E[x²] - E[x]² would lose digits.
    return nnx.LayerNorm(
        n_state,
        epsilon=1e-5,
        use_fast_variance=False,
        dtype=config.dtype,
        param_dtype=config.param_dtype,
        rngs=rngs,
    )


def gelu(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """Computes the exact GELU, as Whisper does. By default JAX approximates it with tanh."""
    return jax.nn.gelu(x, approximate=False)


class Mlp(nnx.Module):
    """Two linear layers with a GELU between them."""

    def __init__(self, config: Config, shape: StackShape, rngs: nnx.Rngs):
        self.fc1 = linear(config, shape.width, shape.n_mlp, rngs)
        self.fc2 = linear(config, shape.n_mlp, shape.width, rngs)

    def __call__(self, x: Float[Array, "B T D"], tap: Tap) -> Float[Array, "B T D"]:
        """Applies the MLP to every position."""
        n_rows, n_positions = x.shape[:2]
        is_long = n_rows > 1 and n_positions >= cpu_kernels.MIN_LONG_QUERIES
        if is_long and not tap.touches("pre", "post"):
            # One row at a time, because its activations fit in the cache of a CPU. Those of a
            # batch do not.
            return cpu_kernels.map_rows(self._untapped, x, fn_of_row=self._untapped)
        pre = tap("pre", self.fc1(x))
        return self.fc2(tap("post", gelu(pre)))

    def _untapped(self, x: Float[Array, "*B T D"]) -> Float[Array, "*B T D"]:
        return self.fc2(gelu(self.fc1(x)))


class Block(nnx.Module):
    """A pre-norm transformer block. `cross=True` adds cross-attention, as the decoder needs."""

    def __init__(self, config: Config, shape: StackShape, cross: bool, rngs: nnx.Rngs):
        n_state, n_head = shape.width, shape.n_head
        self.attn = Attention(config, n_state, n_head, rngs)
        self.attn_ln = layer_norm(config, n_state, rngs)
        if cross:
            self.cross_attn = Attention(config, n_state, n_head, rngs)
            self.cross_attn_ln = layer_norm(config, n_state, rngs)
        self.mlp = Mlp(config, shape, rngs)
        self.mlp_ln = layer_norm(config, n_state, rngs)

    def __call__(
        self,
        x: Float[Array, "B T D"],
        tap: Tap,
        mask: Mask | None = None,
        past: Past | None = None,
        cache: Cache | None = None,
        cross_kv: tuple[Float[Array, "B H F Dh"], Float[Array, "B H F Dh"]] | None = None,
    ) -> tuple[Float[Array, "B T D"], Past | None]:
        """Runs the block.

        Args:
            x: residual stream [B, T, D].
            tap: edits and records the activations of this layer.
            mask: bool [B, 1, T, S] of self-attention. None: each position attends to all positions.
            past: this layer's keys and values of earlier tokens. None: no cache.
            cache: cache of all layers, which has the positions of its slots. None: no cache.
            cross_kv: keys and values of F encoder frames, each [B, H, F, Dh]. None: encoder.

        Returns:
            The residual stream [B, T, D] after the block, and the updated `past`.
        """
        x = tap("resid_pre", x)
        attn_out, past = self_attention(
            self.attn, self.attn_ln(x), mask, past, cache, tap.within("attn")
        )
        x = tap("resid_mid", x + tap("attn_out", attn_out))
        if cross_kv is not None:
            cross_attn_out = cross_attention(
                self.cross_attn, self.cross_attn_ln(x), *cross_kv, tap.within("cross_attn")
            )
            x = tap("resid_mid_cross", x + tap("cross_attn_out", cross_attn_out))
        mlp_out = self.mlp(self.mlp_ln(x), tap.within("mlp"))
        return tap("resid_post", x + tap("mlp_out", mlp_out)), past


def stacked_blocks(config: Config, shape: StackShape, cross: bool, rngs: nnx.Rngs) -> Block:
    """Returns one `Block` in which every parameter has a leading [layers] axis."""
    return stack_layers(lambda rngs: Block(config, shape, cross, rngs), shape.n_layer, rngs)


def stack_layers(make_block: Callable[[nnx.Rngs], Any], n_layer: int, rngs: nnx.Rngs) -> Any:
    """Returns one block in which every parameter has a leading [layers] axis."""
    # `vmap` over the random keys initialises all layers and stacks their parameters.
    keys = jnp.asarray(jax.random.split(rngs(), n_layer))
    return jax.vmap(lambda key: make_block(nnx.Rngs(key)))(keys)
