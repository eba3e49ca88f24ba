"""The audio encoder: two convolutions, then self-attention over 1,500 frames of 20 ms."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from jaxasr.blocks import gelu, layer_norm, stack
from jaxasr.config import Config
from jaxasr.stack import run_stack
from jaxasr.taps import Edits, Readout, Tap


def sinusoids(length: int, channels: int) -> Float[Array, "S D"]:
    """The encoder's fixed positions: sines in the first half of the channels, cosines in the second (openai/whisper `sinusoids`)."""
    half = max(channels // 2, 1)
    timescales = jnp.exp(-jnp.log(10_000.0) / max(half - 1, 1) * jnp.arange(half))
    angles = jnp.arange(length)[:, None] * timescales[None]
    return jnp.pad(
        jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=1), ((0, 0), (0, channels))
    )[:, :channels]


def _conv(config: Config, n_in: int, n_out: int, stride: int, rngs: nnx.Rngs) -> nnx.Conv:
    # "SAME" with stride 2 has the right shape and the wrong values: torch pads one frame on both sides.
    dtypes = dict(dtype=config.dtype, param_dtype=config.param_dtype)
    by = _first if stride == 1 else jax.lax.conv_general_dilated
    return nnx.Conv(
        n_in,
        n_out,
        (3,),
        strides=stride,
        padding=((1, 1),),
        conv_general_dilated=by,
        **dtypes,
        rngs=rngs,
    )


def _first(
    mel: Float[Array, "B F M"],
    kernel: Float[Array, "3 M D"],
    strides: Any,
    padding: Any,
    **options: Any,
) -> Float[Array, "B F D"]:
    """Of the spectrogram; on a CPU 40 bins at a time: silent ones are alike, and long sums of them err to one side (decision 14)."""
    whole = functools.partial(
        jax.lax.conv_general_dilated, window_strides=strides, padding=padding, **options
    )
    if mel.dtype != jnp.float32:
        return whole(mel, kernel)
    return jax.lax.platform_dependent(mel, kernel, cpu=_in_parts, default=whole)


def _in_parts(mel: Float[Array, "B F M"], kernel: Float[Array, "3 M D"]) -> Float[Array, "B F D"]:
    part = functools.partial(
        jax.lax.conv_general_dilated,
        window_strides=(1,),
        padding="VALID",
        dimension_numbers=("NWC", "WIO", "NWC"),
    )
    padded, frames = jnp.pad(mel, ((0, 0), (1, 1), (0, 0))), mel.shape[1]
    bins = [slice(start, start + 40) for start in range(0, mel.shape[2], 40)]
    return sum(
        part(padded[:, tap : tap + frames, some], kernel[tap : tap + 1, some])
        for tap in range(3)
        for some in bins
    )


class Encoder(nnx.Module):
    def __init__(self, config: Config, rngs: nnx.Rngs):
        state = config.n_audio_state
        self.conv1, self.conv2 = (
            _conv(config, config.n_mels, state, 1, rngs),
            _conv(config, state, state, 2, rngs),
        )
        self.positional_embedding = nnx.Param(
            sinusoids(config.n_audio_ctx, state).astype(config.param_dtype)
        )
        self.blocks = stack(config, config.n_audio_layer, state, config.n_audio_head, False, rngs)
        self.ln_post = layer_norm(config, state, rngs)

    def __call__(
        self,
        mel: Float[Array, "B M F"],
        edits: Edits,
        readout: Readout,
        unroll: int = 1,
        blocks: Any = None,
    ) -> tuple[Float[Array, "B S D"], dict[str, Any]]:
        """Encoder output and what `readout` keeps. `blocks` may be unstacked: then no layer copies its weights."""
        batch, frames = mel.shape[0], mel.shape[-1] // 2
        positions = _frames(batch, frames)
        tap = Tap("encoder.", edits, readout, jnp.int32(-1), positions)
        x = self.stem(mel, tap)
        blocks = self.blocks if blocks is None else blocks
        x, _, acts = run_stack(
            blocks,
            x,
            _step,
            stack="encoder",
            positions=positions,
            edits=edits,
            readout=readout,
            unroll=unroll,
        )
        x = tap("ln_post", self.ln_post(x))
        return x, acts | readout(tap.acts)

    def stem(self, mel: Float[Array, "B M F"], tap: Tap) -> Float[Array, "B S D"]:
        """The sites `conv1` and `conv2` are the modules' own outputs, before GELU, as a hook on the reference sees them."""
        x = jnp.swapaxes(mel, 1, 2)
        x = gelu(tap("conv1", self.conv1(x), _frames(mel.shape[0], mel.shape[-1])))
        x = gelu(tap("conv2", self.conv2(x)))
        return tap("embed", x + self.positional_embedding[...].astype(x.dtype))


def _frames(batch: int, n: int) -> Array:
    return jnp.broadcast_to(jnp.arange(n, dtype=jnp.int32), (batch, n))


def _step(block: Callable, extra: Any, x: Array, tap: Tap) -> tuple[Array, None]:
    return block(x, tap)
