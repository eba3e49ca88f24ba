"""Defines the residual block of a language model: RMSNorm, attention and a gated MLP."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from jaxasr.attention import linear
from jaxasr.cache import Cache, Past
from jaxasr.config import Config
from jaxasr.fused_attention import Mask
from jaxasr.language.attention import GroupedAttention
from jaxasr.language.rotary import Rotation
from jaxasr.taps import Tap


class RmsNorm(nnx.Module):
    """Divides by the root mean square, in float32 or wider, and multiplies by a scale."""

    def __init__(self, config: Config):
        self.scale = nnx.Param(jnp.ones(config.n_text_state, config.param_dtype))
        self.epsilon = config.norm_epsilon

    def __call__(self, x: Float[Array, "... D"]) -> Float[Array, "... D"]:
        """Normalises the last axis."""
        wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        mean_square = jnp.square(wide).mean(-1, keepdims=True)
        normalised = (wide * jax.lax.rsqrt(mean_square + self.epsilon)).astype(x.dtype)
        # As in transformers, the scale multiplies what has been rounded to 16 bits.
        return self.scale[...].astype(x.dtype) * normalised


class GatedMlp(nnx.Module):
    """Multiplies one linear layer by the SiLU of another, and projects the product."""

    def __init__(self, config: Config, rngs: nnx.Rngs):
        width, n_mlp = config.decoder.width, config.decoder.n_mlp
        self.gate = linear(config, width, n_mlp, rngs, use_bias=False)
        self.up = linear(config, width, n_mlp, rngs, use_bias=False)
        self.down = linear(config, n_mlp, width, rngs, use_bias=False)

    def __call__(self, x: Float[Array, "B T D"], tap: Tap) -> Float[Array, "B T D"]:
        """Applies the MLP to every position."""
        pre, up = tap("pre", self.gate(x)), tap("up", self.up(x))
        return self.down(tap("post", jax.nn.silu(pre) * up))


class LanguageBlock(nnx.Module):
    """A pre-norm transformer block of a language model."""

    def __init__(self, config: Config, rngs: nnx.Rngs):
        self.attn = GroupedAttention(config, rngs)
        self.attn_ln = RmsNorm(config)
        self.mlp = GatedMlp(config, rngs)
        self.mlp_ln = RmsNorm(config)

    def __call__(
        self,
        x: Float[Array, "B T D"],
        tap: Tap,
        rotation: Rotation,
        mask: Mask,
        past: Past | None = None,
        cache: Cache | None = None,
    ) -> tuple[Float[Array, "B T D"], Past | None]:
        """Runs the block.

        Args:
            x: residual stream [B, T, D].
            tap: edits and records the activations of this layer.
            rotation: cosines and sines at the positions of `x`.
            mask: bool [B, 1, T, S] of self-attention.
            past: this layer's keys and values of earlier tokens. None: no cache.
            cache: cache of all layers, which has the positions of its slots. None: no cache.

        Returns:
            The residual stream [B, T, D] after the block, and the updated `past`.
        """
        x = tap("resid_pre", x)
        attn_out, past = self.attn(self.attn_ln(x), rotation, mask, past, cache, tap.within("attn"))
        x = tap("resid_mid", x + tap("attn_out", attn_out))
        mlp_out = self.mlp(self.mlp_ln(x), tap.within("mlp"))
        return tap("resid_post", x + tap("mlp_out", mlp_out)), past
