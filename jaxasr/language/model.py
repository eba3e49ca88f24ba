"""Defines audio language models, whose decoder reads encoded audio among its tokens."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from jaxasr import compiled
from jaxasr.cache import Prefix
from jaxasr.config import Config
from jaxasr.inputs import Mel, check_mel, check_taps
from jaxasr.language.decoder import LanguageDecoder
from jaxasr.language.encoder import PooledEncoder, count_frames
from jaxasr.model import SpeechModel, Taps, full_precision
from jaxasr.taps import Edits, Readout, is_traced

Lengths = Int[Array | np.ndarray, "B"]


class AudioLanguageModel(SpeechModel):
    """An audio encoder and a language model that reads its output in place of audio tokens.

    Args:
        config: dimensions and dtypes.
        rngs: random number generators of the initial weights, which `jaxasr.load` replaces.

    Example:
        ```python
        prefix, _ = audio_lm.encode(lm_mel, lengths=[40, 29])
        readout = jaxasr.select("decoder.attn.pattern")
        logits, acts = audio_lm.decode(lm_tokens, prefix, None, readout, positions=lm_positions)
        ```
    """

    encoder: PooledEncoder
    decoder: LanguageDecoder

    def __init__(self, config: Config, *, rngs: nnx.Rngs):
        self.encoder = PooledEncoder(config, rngs)
        self.decoder = LanguageDecoder(config, rngs)
        self.config = config

    def encode(
        self,
        mel: Mel,
        edits: Edits | None = None,
        readout: Readout | None = None,
        *,
        lengths: Any = None,
        unroll: int = 1,
        unstacked: bool = False,
    ) -> tuple[Prefix, dict[str, Any]]:
        """Encodes a batch of windows.

        Args:
            mel: log-mel spectrograms [B, M, F] of `jaxasr.log_mel`. F is `config.n_mel_frames`.
            edits: `{site: edit}` for encoder sites.
            readout: what to return of the activations: `jaxasr.select`, `reduce` or `merge`.
            lengths: int [B], mel frames of each row before its padding. They decide how many audio
                tokens a row has, and which frames are masked. Voxtral encodes the padding, too, so
                there they change nothing. None: no row has padding.
            unroll: layers per step of the scan. More layers run faster and compile more slowly.
            unstacked: without effect; a prefix has no layers.

        Returns:
            The encoded audio for `decode` and `generate`, and what `readout` keeps,
            `{site: [L, B, ...]}`.

        Raises:
            ValueError: wrong shape of `mel` or `lengths`, NaN, or a site that the encoder does not
                have.

        Example:
            ```python
            readout = jaxasr.select("encoder.pool")
            prefix, acts = audio_lm.encode(lm_mel, readout=readout, lengths=[40, 29])
            ```
        """
        del unstacked
        mel = check_mel(self.config, mel)
        taps = check_taps(self.config, "encoder", edits, readout, mel.shape[0], 0)
        n_frames, n_tokens = count_frames(
            self.config, check_lengths(self.config, len(mel), lengths)
        )
        # Without padding, attention needs no mask.
        n_frames = None if lengths is None else n_frames
        return compiled.call(_encode, self, mel, n_frames, n_tokens, taps, unroll=unroll)

    def memory(self, xa: Float[Array, "B A D"], lengths: Any = None) -> Prefix:
        """Returns projected audio as the prefix that the decoder reads.

        Args:
            xa: projected audio [B, A, D], for example of another layer or with an edit.
            lengths: int [B], audio tokens of each row. None: A.

        Raises:
            ValueError: `lengths` has another number of rows, no integers, or more than A.

        Example:
            ```python
            silent = audio_lm.memory(0 * prefix.xa, prefix.lengths)
            ```
        """
        n_rows, n_tokens = jnp.shape(xa)[:2]
        lengths = None if lengths is None else jnp.asarray(lengths)
        if lengths is not None and (
            lengths.shape != (n_rows,)
            or not jnp.issubdtype(lengths.dtype, jnp.integer)
            or (not is_traced(lengths) and not all(0 <= n <= n_tokens for n in lengths))
        ):
            raise ValueError(
                f"lengths: expected one integer from 0 to {n_tokens} audio tokens for each of "
                f"{n_rows} rows, got {lengths}."
            )
        return self.decoder.memory(jnp.asarray(xa, self.config.dtype), lengths=lengths)


def check_lengths(config: Config, n_rows: int, lengths: Any) -> Lengths:
    """Checks `lengths`, and returns them as int32 [B].

    Args:
        config: dimensions of the model.
        n_rows: B, the number of rows.
        lengths: int [B], mel frames of each row before its padding. None: no row has padding.

    Raises:
        ValueError: another number of rows, no integers, or lengths that no window can have.
    """
    n_frames = config.n_mel_frames
    if lengths is None:
        return np.full(n_rows, n_frames, np.int32)
    lengths = lengths if isinstance(lengths, jax.Array) else np.asarray(lengths)
    if lengths.shape != (n_rows,) or not jnp.issubdtype(lengths.dtype, jnp.integer):
        raise ValueError(
            f"lengths: expected one integer for each of {n_rows} rows, got {lengths.dtype} "
            f"{list(lengths.shape)}."
        )
    least = 2 * (config.n_audio_ctx // config.n_audio_tokens) - 1  # mel frames of one audio token
    if not is_traced(lengths) and not all(least <= n <= n_frames for n in np.asarray(lengths)):
        raise ValueError(
            f"lengths: expected {least} to {n_frames} mel frames, got "
            f"{np.asarray(lengths).tolist()}. Count the frames of 10 ms before the padding."
        )
    return lengths.astype(jnp.int32)


def _encode(
    model: AudioLanguageModel,
    mel: Array,
    n_frames: Array | None,
    n_tokens: Array,
    taps: Taps,
    *,
    unroll: int,
) -> tuple[Prefix, dict[str, Any]]:
    with full_precision(model):
        xa, acts = model.encoder(mel, *taps, unroll=unroll, n_frames=n_frames)
        return model.decoder.memory(xa, lengths=n_tokens), acts
