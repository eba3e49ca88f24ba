"""Defines the encoder of an audio language model: that of Whisper, pooled and projected."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from jaxasr.attention import linear
from jaxasr.blocks import gelu
from jaxasr.config import Config
from jaxasr.encoder import Encoder, make_frame_positions
from jaxasr.taps import Edits, Readout, Tap


class Projector(nnx.Module):
    """One or two linear layers from the encoder to the width of the language model."""

    def __init__(self, config: Config, n_in: int, rngs: nnx.Rngs):
        family, width = config.audio_language, config.n_text_state
        assert family is not None  # a Whisper has no projector
        self.fc1 = linear(config, n_in, width, rngs, family.projector_bias)
        has_two = family.projector_layers == 2
        self.fc2 = linear(config, width, width, rngs, family.projector_bias) if has_two else None

    def __call__(self, x: Float[Array, "B A P"]) -> Float[Array, "B A D"]:
        """Projects every audio token."""
        x = self.fc1(x)
        return x if self.fc2 is None else self.fc2(gelu(x))


class PooledEncoder(Encoder):
    """Encodes a log-mel spectrogram as one vector per audio token."""

    def __init__(self, config: Config, rngs: nnx.Rngs):
        super().__init__(config, rngs)
        family = config.audio_language
        assert family is not None  # a Whisper has the other encoder
        self.family = family
        n_pooled = family.frames_per_token if family.pool == "stack" else 1
        self.projector = Projector(config, config.n_audio_state * n_pooled, rngs)

    def __call__(
        self,
        mel: Float[Array, "B M F"],
        edits: Edits,
        readout: Readout,
        unroll: int = 1,
        blocks: Any = None,
        n_frames: Int[Array, "B"] | None = None,
    ) -> tuple[Float[Array, "B A D"], dict[str, Any]]:
        """Encodes a batch of windows.

        Args:
            mel: log-mel spectrograms [B, M, F] of F frames of 10 ms.
            edits: edits of encoder sites.
            readout: what to return of the activations.
            unroll: layers per step of the scan.
            blocks: unstacked layers. None: scan the stacked layers of the encoder.
            n_frames: int32 [B], encoder frames of 20 ms that are no padding. None: all.

        Returns:
            Projected audio [B, A, D], and what `readout` keeps, `{site: [L, B, ...]}`.
        """
        mask, positions = None, make_frame_positions(mel.shape[0], mel.shape[-1] // 2)
        if self.family.masks_frames and n_frames is not None:
            # All queries have the same keys, so one row of the mask serves them.
            mask = make_frame_mask(n_frames, mel.shape[-1] // 2)[:, :, :1]
            positions = mark_padding(positions, n_frames)

        def run_block(block: Any, layer_input: Any, x: Array, tap: Tap) -> tuple[Array, None]:
            return block(x, tap, mask)

        return self.run(mel, positions, run_block, edits, readout, unroll, blocks)

    def to_output(self, x: Float[Array, "B S P"], tap: Tap) -> Float[Array, "B A D"]:
        """Pools, normalises and projects the residual stream after the last layer.

        Args:
            x: residual stream [B, S, P].
            tap: edits and records `pool`, `ln_post` and `project`.

        Returns:
            Projected audio [B, A, D], which the language model reads.
        """
        if self.family.norm_is_first:
            x = self._pool(tap("ln_post", self.ln_post(x)), tap)
        else:
            x = self._pool(x, tap)
            x = tap("ln_post", self.ln_post(x), self._token_positions(tap))
        return tap("project", self.projector(x), self._token_positions(tap))

    def _pool(self, x: Float[Array, "B S D"], tap: Tap) -> Float[Array, "B A P"]:
        n_rows, n_frames, width = x.shape
        n_tokens = n_frames // self.family.frames_per_token
        x = x[:, : n_tokens * self.family.frames_per_token].reshape(n_rows, n_tokens, -1, width)
        x = x.mean(2) if self.family.pool == "mean" else x.reshape(n_rows, n_tokens, -1)
        return tap("pool", x, self._token_positions(tap))

    def _token_positions(self, tap: Tap) -> Int[Array, "B A"]:
        """Returns the index of each audio token; -1 at padding, whose last frame is padding."""
        n_frames = self.family.frames_per_token
        return tap.positions[:, n_frames - 1 :: n_frames] // n_frames


def make_frame_mask(n_frames: Int[Array, "B"], size: int) -> Bool[Array, "B 1 size size"]:
    """Returns True where a frame may attend to another, which is every frame before the padding.

    Args:
        n_frames: int32 [B], frames of 20 ms before the padding.
        size: number of frames of a row.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxasr.language.encoder import make_frame_mask
        >>> make_frame_mask(jnp.array([2]), size=3)[0, 0, 0].tolist()
        [True, True, False]
    """
    is_audio = jnp.arange(size) < jnp.asarray(n_frames)[:, None]
    return jnp.broadcast_to(is_audio[:, None, None, :], (len(is_audio), 1, size, size))


def mark_padding(positions: Int[Array, "B S"], n_frames: Int[Array, "B"]) -> Int[Array, "B S"]:
    """Returns the positions of frames, -1 for those after the first `n_frames` of a row."""
    return jnp.where(positions < jnp.asarray(n_frames)[:, None], positions, -1)


def count_frames(
    config: Config, lengths: Int[np.ndarray | Array, "B"]
) -> tuple[Int[np.ndarray | Array, "B"], Int[np.ndarray | Array, "B"]]:
    """Counts the encoder frames and the audio tokens of recordings.

    Args:
        config: dimensions of the model.
        lengths: int [B], mel frames of 10 ms before the padding.

    Returns:
        Encoder frames and audio tokens, both int [B]. If the family encodes the padding, they are
        those of a whole window.

    Example:
        >>> import numpy as np
        >>> from jaxasr.language.encoder import count_frames
        >>> from jaxasr.language.toy import toy_config
        >>> [n.tolist() for n in count_frames(toy_config(), np.array([100]))]
        [[50], [25]]
    """
    family = config.audio_language
    assert family is not None  # a Whisper has no audio tokens
    if not family.masks_frames:  # the padding is encoded, too
        return 0 * lengths + config.n_audio_ctx, 0 * lengths + config.n_audio_tokens
    n_frames = (lengths - 1) // 2 + 1
    return n_frames, n_frames // family.frames_per_token
