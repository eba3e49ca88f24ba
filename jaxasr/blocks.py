"""One residual block; the decoder's has a cross-attention between the two parts of the encoder's."""

import functools

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from jaxasr.attention import (
    MIN_LONG_QUERIES,
    Attention,
    Mask,
    cross_attention,
    linear,
    self_attention,
)
from jaxasr.cache import Cache, Past
from jaxasr.config import Config
from jaxasr.taps import Tap


def layer_norm(config: Config, n_state: int, rngs: nnx.Rngs) -> nnx.LayerNorm:
    # Whisper's epsilon is torch's 1e-5 (nnx: 1e-6). The two-pass variance is torch's, too; the fast one loses digits.
    return nnx.LayerNorm(
        n_state,
        epsilon=1e-5,
        use_fast_variance=False,
        dtype=config.dtype,
        param_dtype=config.param_dtype,
        rngs=rngs,
    )


def gelu(x: Float[Array, "..."]) -> Float[Array, "..."]:
    return jax.nn.gelu(x, approximate=False)


class Mlp(nnx.Module):
    def __init__(self, config: Config, n_state: int, rngs: nnx.Rngs):
        self.fc1, self.fc2 = (
            linear(config, n_state, 4 * n_state, rngs),
            linear(config, 4 * n_state, n_state, rngs),
        )

    def __call__(self, x: Float[Array, "B T D"], tap: Tap) -> Float[Array, "B T D"]:
        """A CPU goes through long rows one by one where nobody looks inside: the wide activations of one stay in cache."""
        if x.shape[0] > 1 and x.shape[1] >= MIN_LONG_QUERIES and not tap.touches("pre", "post"):
            return jax.lax.platform_dependent(
                x, cpu=functools.partial(jax.lax.map, self._plain), default=self._plain
            )
        pre = tap("pre", self.fc1(x))
        return self.fc2(tap("post", gelu(pre)))

    def _plain(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        return self.fc2(gelu(self.fc1(x)))


class Block(nnx.Module):
    """`Block(..., cross=True)` is a decoder block."""

    def __init__(self, config: Config, n_state: int, n_head: int, cross: bool, rngs: nnx.Rngs):
        self.attn, self.attn_ln = (
            Attention(config, n_state, n_head, rngs),
            layer_norm(config, n_state, rngs),
        )
        if cross:
            self.cross_attn, self.cross_attn_ln = (
                Attention(config, n_state, n_head, rngs),
                layer_norm(config, n_state, rngs),
            )
        self.mlp, self.mlp_ln = Mlp(config, n_state, rngs), layer_norm(config, n_state, rngs)

    def __call__(
        self,
        x: Float[Array, "B T D"],
        tap: Tap,
        mask: Mask | None = None,
        past: Past | None = None,
        cache: Cache | None = None,
        cross: tuple[Float[Array, "B H F Dh"], Float[Array, "B H F Dh"]] | None = None,
    ) -> tuple[Float[Array, "B T D"], Past | None]:
        x = tap("resid_pre", x)
        attn_out, past = self_attention(
            self.attn, self.attn_ln(x), mask, past, cache, tap.within("attn")
        )
        x = tap("resid_mid", x + tap("attn_out", attn_out))
        if cross is not None:
            cross_attn_out = cross_attention(
                self.cross_attn, self.cross_attn_ln(x), *cross, tap.within("cross_attn")
            )
            x = tap("resid_mid_cross", x + tap("cross_attn_out", cross_attn_out))
        mlp_out = self.mlp(self.mlp_ln(x), tap.within("mlp"))
        return tap("resid_post", x + tap("mlp_out", mlp_out)), past


def stack(
    config: Config, n_layer: int, n_state: int, n_head: int, cross: bool, rngs: nnx.Rngs
) -> Block:
    """One `Block` whose every parameter has a leading [layers] axis."""
    keys = jax.random.split(rngs(), n_layer)
    return jax.vmap(lambda key: Block(config, n_state, n_head, cross, nnx.Rngs(key)))(
        jnp.asarray(keys)
    )
