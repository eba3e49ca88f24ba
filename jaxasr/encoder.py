"""Defines the audio encoder, two convolutions and layers over 1,500 frames of 20 ms."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from jaxasr import cpu_kernels
from jaxasr.attention import product_options
from jaxasr.blocks import gelu, layer_norm, stacked_blocks
from jaxasr.config import Config
from jaxasr.stack import RunBlock, run_stack
from jaxasr.taps import Edits, Readout, Tap


class Encoder(nnx.Module):
    """Encodes a log-mel spectrogram as one vector per 20 ms."""

    def __init__(self, config: Config, rngs: nnx.Rngs):
        width = config.n_audio_state
        self.conv1 = _make_conv(config, config.n_mels, width, 1, rngs)
        self.conv2 = _make_conv(config, width, width, 2, rngs)
        positions = sinusoids(config.n_audio_ctx, width)
        self.positional_embedding = nnx.Param(jnp.asarray(positions, config.param_dtype))
        self.blocks = stacked_blocks(config, config.encoder, cross=False, rngs=rngs)
        self.ln_post = layer_norm(config, width, rngs)

    def __call__(
        self,
        mel: Float[Array, "B M F"],
        edits: Edits,
        readout: Readout,
        unroll: int = 1,
        blocks: Any = None,
    ) -> tuple[Float[Array, "B S D"], dict[str, Any]]:
        """Encodes a batch of windows.

        Args:
            mel: log-mel spectrograms [B, M, F] of F frames of 10 ms.
            edits: edits of encoder sites.
            readout: what to return of the activations.
            unroll: layers per step of the scan.
            blocks: unstacked layers, which run without copying weights. None: scan the stacked
                layers of the encoder.

        Returns:
            The encoder output [B, S, D] of S = F / 2 frames, and what `readout` keeps,
            `{site: [L, B, ...]}`.
        """
        positions = make_frame_positions(mel.shape[0], mel.shape[-1] // 2)
        return self.run(mel, positions, _run_block, edits, readout, unroll, blocks)

    def run(
        self,
        mel: Float[Array, "B M F"],
        positions: Int[Array, "B S"],
        run_block: RunBlock,
        edits: Edits,
        readout: Readout,
        unroll: int,
        blocks: Any,
    ) -> tuple[Float[Array, "B A D"], dict[str, Any]]:
        """Encodes frames at `positions`, with `run_block` for each layer; see `__call__`."""
        tap = Tap("encoder.", edits, readout, jnp.int32(-1), positions)  # -1: outside the layers
        x, _, acts = run_stack(
            self.blocks if blocks is None else blocks,
            self.stem(mel, tap),
            run_block,
            stack="encoder",
            positions=positions,
            edits=edits,
            readout=readout,
            unroll=unroll,
        )
        x = self.to_output(x, tap)
        return x, acts | readout(tap.acts)

    def to_output(self, x: Float[Array, "B S D"], tap: Tap) -> Float[Array, "B S D"]:
        """Returns the encoder output of the residual stream after the last layer."""
        return tap("ln_post", self.ln_post(x))

    def stem(self, mel: Float[Array, "B M F"], tap: Tap) -> Float[Array, "B S D"]:
        """Runs the convolutions and adds the position embeddings."""
        x = jnp.swapaxes(mel, 1, 2)  # nnx convolutions expect [B, F, M]
        # The sites `conv1` and `conv2` are before GELU, as in a hook on the convolutions of
        # openai/whisper (docs/decisions/0005).
        x = gelu(tap("conv1", self.conv1(x), make_frame_positions(mel.shape[0], mel.shape[-1])))
        x = gelu(tap("conv2", self.conv2(x)))
        return tap("embed", x + self.positional_embedding[...].astype(x.dtype))


def sinusoids(length: int, channels: int) -> Float[np.ndarray, "length channels"]:
    """Returns fixed position embeddings: sines in the first half of the channels, then cosines.

    Source: openai/whisper `model.py`, `sinusoids`. If the number of channels is odd,
    the last channel is 0.
    """
    half = channels // 2
    step = np.log(10_000) / (half - 1) if half > 1 else 0.0
    angles = np.arange(length)[:, None] * np.exp(-step * np.arange(half))[None]
    waves = np.concatenate([np.sin(angles), np.cos(angles)], axis=1)
    return np.pad(waves, ((0, 0), (0, channels % 2))).astype(np.float32)


def _make_conv(config: Config, n_in: int, n_out: int, stride: int, rngs: nnx.Rngs) -> nnx.Conv:
    # The first convolution has stride 1. It is the one that sums over mel bins.
    convolve = cpu_kernels.conv_over_mels if stride == 1 else jax.lax.conv_general_dilated
    return nnx.Conv(
        n_in,
        n_out,
        (3,),
        strides=stride,
        # Pads one frame at each end, as in torch. With stride 2, "SAME" would pad only after the
        # last frame.
        padding=((1, 1),),
        conv_general_dilated=convolve,
        rngs=rngs,
        **product_options(config),
    )


def make_frame_positions(n_rows: int, n_frames: int) -> Int[Array, "B S"]:
    """Returns the index of every frame, for each row."""
    return jnp.broadcast_to(jnp.arange(n_frames, dtype=jnp.int32), (n_rows, n_frames))


def _run_block(block: Callable, layer_input: Any, x: Array, tap: Tap) -> tuple[Array, None]:
    return block(x, tap)
