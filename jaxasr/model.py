"""Defines models whose passes take edits and return activations, and Whisper as one of them."""

from typing import Any

import jax
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from jaxasr import compiled, sites
from jaxasr.cache import EncodedAudio, Memory
from jaxasr.config import Config
from jaxasr.decoder import Decoder
from jaxasr.encoder import Encoder
from jaxasr.inputs import (
    Mel,
    Tokens,
    check_audio_tokens,
    check_mel,
    check_positions,
    check_taps,
    check_tokens,
)
from jaxasr.precision import precision_name
from jaxasr.stack import MAX_UNROLLED_LAYERS, n_layers, unstack_once
from jaxasr.taps import Edits, Readout

Taps = tuple[Edits, Readout]  # checked edits and readout of one pass


class SpeechModel(nnx.Module):
    """A model with an audio encoder and a text decoder: `Whisper` or `AudioLanguageModel`.

    `decode` is a pure function of the model and works under `jit`, `vmap`, `grad` and `scan`.
    Outside of these, it compiles one program for each structure of edits and readout (see
    `jaxasr.compiled`). `encode` does the same.

    Attributes:
        encoder: encodes audio.
        decoder: predicts tokens from tokens and encoded audio.
        config: dimensions and dtypes.
    """

    encoder: Encoder
    decoder: Decoder
    config: Config

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.summary})"

    @property
    def n_parameters(self) -> int:
        """Number of weights."""
        return sum(map(np.size, jax.tree.leaves(self)))

    @property
    def sites(self) -> list[str]:
        """Names of the sites of this model."""
        return sites.of(self.config)

    @property
    def summary(self) -> str:
        """One line with layers, width, heads, parameters and dtype."""
        c = self.config
        widths, heads = (
            "+".join(str(n) for n in dict.fromkeys(pair))
            for pair in ((c.n_audio_state, c.n_text_state), (c.n_audio_head, c.n_text_head))
        )
        return (
            f"{c.n_audio_layer}+{c.n_text_layer} layers, width {widths}, {heads} heads, "
            f"{self.n_parameters / 1e6:.1f} M parameters, {precision_name(c)}"
        )

    def decode(
        self,
        tokens: Tokens,
        memory: EncodedAudio,
        edits: Edits | None = None,
        readout: Readout | None = None,
        *,
        positions: Tokens | None = None,
        unroll: int = 1,
    ) -> tuple[Float[Array, "B T V"], dict[str, Any]]:
        """Runs the decoder on given tokens (teacher forcing).

        Args:
            tokens: ids [B, T], at most `config.n_text_ctx` per row.
            memory: encoded audio of the same B rows.
            edits: `{site: edit}` for decoder sites.
            readout: what to return of the activations: `jaxasr.select`, `reduce` or `merge`.
            positions: absolute positions [B, T]. Rows of different lengths are padded with tokens
                at negative positions, which no other token attends to. Positions increase along
                a row. They may start after 0 or leave some out, as if tokens were missing; values
                of edits are then still indexed by position. None: 0 to T - 1.
            unroll: layers per step of the scan.

        Returns:
            Logits [B, T, V] after every token, float32 or wider, and what `readout` keeps,
            `{site: [L, B, ...]}`.

        Raises:
            ValueError: ids outside the vocabulary, too many tokens, positions that are not
                increasing integers, a memory of another batch size, or a site that the decoder does
                not have.

        Example:
            ```python
            tokens = np.array([asr.tokenizer.prompt()])
            logits, acts = asr.model.decode(
                tokens, memory, readout=jaxasr.select("decoder.cross_attn.pattern")
            )
            ```
        """
        tokens = check_tokens(self.config, tokens, memory)
        positions = check_positions(self.config, tokens, positions)
        taps = check_taps(self.config, "decoder", edits, readout, *tokens.shape)
        check_audio_tokens(self.config, tokens, positions, memory)
        return compiled.call(_decode, self, tokens, positions, memory, taps, unroll=unroll)


class Whisper(SpeechModel):
    """A Whisper model, with an audio encoder and a text decoder.

    `encode` and `decode` are pure functions of the model and work under `jit`, `vmap`, `grad` and
    `scan`. Outside of these, they compile one program for each structure of edits and readout (see
    `jaxasr.compiled`).

    Args:
        config: dimensions and dtypes.
        rngs: random number generators of the initial weights, which `jaxasr.load` replaces.

    Example:
        ```python
        model = jaxasr.load("tiny.en").model
        memory, acts = model.encode(mel[None], readout=jaxasr.select("encoder.resid_post"))
        ```
    """

    def __init__(self, config: Config, *, rngs: nnx.Rngs):
        self.encoder = Encoder(config, rngs)
        self.decoder = Decoder(config, rngs)
        self.config = config

    def encode(
        self,
        mel: Mel,
        edits: Edits | None = None,
        readout: Readout | None = None,
        *,
        unroll: int = 1,
        unstacked: bool = False,
    ) -> tuple[Memory, dict[str, Any]]:
        """Encodes a batch of windows.

        Args:
            mel: log-mel spectrograms [B, M, F] of `jaxasr.log_mel`. F is `config.n_mel_frames`,
                3,000 frames of 10 ms in released models.
            edits: `{site: edit}` for encoder sites.
            readout: what to return of the activations: `jaxasr.select`, `reduce` or `merge`.
            unroll: layers per step of the scan. More layers run faster and compile more slowly.
            unstacked: return keys and values as tuples with one array per layer, the layout that
                `generate` reads. `Memory.stacked()` restores the layer axis.

        Returns:
            The encoded audio for `decode` and `generate`, and what `readout` keeps,
            `{site: [L, B, ...]}`.

        Raises:
            ValueError: wrong shape of `mel`, NaN, or a site that the encoder does not have.

        Example:
            ```python
            mel = jaxasr.log_mel(audio, asr.config.n_mels)
            memory, acts = asr.model.encode(
                mel[None], readout=jaxasr.select("encoder.resid_post")
            )
            ```
        """
        mel = check_mel(self.config, mel)
        taps = check_taps(self.config, "encoder", edits, readout, mel.shape[0], 0)
        blocks = (_unstack(self.encoder), _unstack(self.decoder)) if unstacked else (None, None)
        return compiled.call(_encode, self, mel, blocks, taps, unroll=unroll, unstacked=unstacked)

    def memory(self, xa: Float[Array, "B S D"]) -> Memory:
        """Computes the keys and values by which the decoder reads any encoder output.

        Args:
            xa: encoder output [B, S, D], for example of another layer or with an edit.

        Returns:
            `xa` with the cross-attention keys and values of every decoder layer, stacked.

        Example:
            ```python
            memory = asr.model.memory(0 * memory.xa)
            ```
        """
        return compiled.call(_memory, self, xa)


def full_precision(model: SpeechModel) -> Any:
    """Returns a context that sets the precision of float32 products.

    By default, accelerators multiply float32 matrices in TF32 or bfloat16. "highest" is full
    float32 precision. "high" is a sum of three bfloat16 products on a TPU, half of the work of
    "highest". A bfloat16 model keeps the default.
    """
    config = model.config
    return jax.default_matmul_precision(
        "default" if config.dtype == "bfloat16" else config.float32_products
    )


def _unstack(stack: Encoder | Decoder) -> tuple[Any, ...] | None:
    # `generate` uses the same cached tuple, so the weights are copied only once.
    if n_layers(stack.blocks) > MAX_UNROLLED_LAYERS:
        return None
    return unstack_once(stack, stack.blocks)


def _encode(
    model: Whisper, mel: Array, blocks: tuple[Any, Any], taps: Taps, *, unroll: int, unstacked: bool
) -> tuple[Memory, dict[str, Any]]:
    encoder_blocks, decoder_blocks = blocks
    with full_precision(model):
        xa, acts = model.encoder(mel, *taps, unroll=unroll, blocks=encoder_blocks)
        return model.decoder.memory(xa, unstacked, decoder_blocks), acts


def _decode(
    model: SpeechModel,
    tokens: Array,
    positions: Array,
    memory: EncodedAudio,
    taps: Taps,
    *,
    unroll: int,
) -> tuple[Array, dict[str, Any]]:
    edits, readout = taps
    with full_precision(model):
        x, _, tap, acts = model.decoder.residual(
            tokens, positions, memory, edits, readout, unroll=unroll
        )
        logits = model.decoder.to_logits(x, tap)
        return logits, acts | readout(tap.acts)


def _memory(model: Whisper, xa: Array) -> Memory:
    with full_precision(model):
        return model.decoder.memory(xa.astype(model.config.dtype))
