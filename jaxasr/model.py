"""Whisper as a pytree: `encode` and `decode` are functions of it that take edits and give activations."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from jaxasr import compiled, sites
from jaxasr.cache import Memory
from jaxasr.config import N_MEL_FRAMES, Config
from jaxasr.decoder import Decoder
from jaxasr.encoder import Encoder
from jaxasr.stack import MAX_UNROLLED_LAYERS, n_layers, unstack_once
from jaxasr.taps import Edits, Readout, check, is_traced
from jaxasr.token_ids import check_ids


class Whisper(nnx.Module):
    """Encoder and decoder of any released size.

    `encode` and `decode` are pure: usable under `jit`, `vmap`, `grad` and `scan`. Called outside of these they compile
    themselves, once for each structure of edits and readout (see `jaxasr.compiled`).
    """

    def __init__(self, config: Config, *, rngs: nnx.Rngs):
        self.encoder, self.decoder, self.config = (
            Encoder(config, rngs),
            Decoder(config, rngs),
            config,
        )

    def encode(
        self,
        mel: Float[Array, "B M F"],
        edits: Edits | None = None,
        readout: Readout | None = None,
        *,
        unroll: int = 1,
        unstacked: bool = False,
    ) -> tuple[Memory, dict[str, Any]]:
        """Returns the decoder's memory of `mel` [B, M, F] (see `log_mel`), and what `readout` keeps, `{site: [L, B, ...]}`.

        F is 3,000 frames in released models, `config.n_mel_frames` in any.

        `unstacked=True` gives the memory as `generate` reads it, with one array a layer; whoever stacks or needs layers does so himself.
        Raises ValueError for a wrong shape, a NaN, and for edits or readouts of sites that the encoder does not have.
        """
        mel = self._check_mel(mel)
        specs = functools.partial(sites.spec, self.config, batch=mel.shape[0], n_tokens=0)
        taps = check("encoder", edits, readout, lambda site: specs(site=site))
        blocks = (_apart(self.encoder), _apart(self.decoder)) if unstacked else (None, None)
        return compiled.call(_encode, self, mel, blocks, taps, unroll=unroll, unstacked=unstacked)

    def decode(
        self,
        tokens: Int[Array, "B T"],
        memory: Memory,
        edits: Edits | None = None,
        readout: Readout | None = None,
        *,
        positions: Int[Array, "B T"] | None = None,
        unroll: int = 1,
    ) -> tuple[Float[Array, "B T V"], dict[str, Any]]:
        """Teacher-forced pass: logits [B, T, V] (at least float32) after every token, and what `readout` keeps, `{site: [L, B, ...]}`.

        `positions` are absolute; rows of different length are padded with negative ones, which nobody attends to.
        Raises ValueError for ids outside the vocabulary, more than `n_text_ctx` tokens, a memory of another batch size,
        and for edits or readouts of sites that the decoder does not have.
        """
        tokens = self._check_tokens(tokens, memory)
        positions = self._positions(tokens, positions)
        specs = functools.partial(
            sites.spec, self.config, batch=tokens.shape[0], n_tokens=tokens.shape[1]
        )
        taps = check("decoder", edits, readout, lambda site: specs(site=site))
        return compiled.call(_decode, self, tokens, positions, memory, taps, unroll=unroll)

    def memory(self, xa: Float[Array, "B S D"]) -> Memory:
        """The decoder's memory of any encoder-like output `xa`: the cross-attention keys and values of every layer."""
        return compiled.call(_memory, self, xa)

    def _check_mel(self, mel: Any) -> Array:
        c, shape = self.config, np.shape(mel)
        if len(shape) != 3 or shape[1:] != (c.n_mels, c.n_mel_frames):
            window = "" if c.n_mel_frames == N_MEL_FRAMES else f", n_frames={c.n_mel_frames}"
            raise ValueError(
                f"mel: expected [batch, {c.n_mels} mels, {c.n_mel_frames} frames], got {list(shape)}. "
                f"Use jaxasr.log_mel(audio, n_mels={c.n_mels}{window}) and add a batch axis with mel[None]."
            )
        mel = _on_host_or_device(mel)
        if not jnp.issubdtype(mel.dtype, jnp.floating):
            raise ValueError(f"mel: expected floating point, got {mel.dtype}. Use jaxasr.log_mel.")
        if not is_traced(mel) and np.isnan(np.asarray(mel)).any():
            raise ValueError("mel: contains NaN. Check the audio it was made from.")
        return mel.astype(jnp.dtype(c.dtype))

    def _check_tokens(self, tokens: Any, memory: Memory) -> Array:
        c, tokens = self.config, _on_host_or_device(tokens)
        if tokens.ndim != 2 or not jnp.issubdtype(tokens.dtype, jnp.integer) or 0 in tokens.shape:
            raise ValueError(
                f"tokens: expected a non-empty integer array [batch, time], got {tokens.dtype} {list(tokens.shape)}."
            )
        if tokens.shape[1] > c.n_text_ctx:
            raise ValueError(
                f"tokens: {tokens.shape[1]} tokens, but the decoder's context is {c.n_text_ctx}. Cut the tokens."
            )
        if tokens.shape[0] != memory.xa.shape[0]:
            heard = memory.xa.shape[0]
            raise ValueError(
                f"tokens: batch {len(tokens)}, but memory has batch {heard}. Use jax.vmap to share one memory between rows."
            )
        check_ids(tokens, c.n_vocab, "tokens")
        return tokens.astype(jnp.int32)

    def _positions(self, tokens: Array, positions: Any) -> Array:
        if positions is None:
            return np.broadcast_to(np.arange(tokens.shape[1], dtype=np.int32), tokens.shape)
        positions = _on_host_or_device(positions).astype(jnp.int32)
        if positions.shape != tokens.shape:
            raise ValueError(
                f"positions: expected the shape of tokens {list(tokens.shape)}, got {list(positions.shape)}."
            )
        if not is_traced(positions) and np.asarray(positions).max() >= self.config.n_text_ctx:
            raise ValueError(
                f"positions: must be below the decoder's context {self.config.n_text_ctx}, got {np.asarray(positions).max()}."
            )
        return positions


def _on_host_or_device(x: Any) -> Any:
    """`x` where it is: what is not yet on a device stays in numpy, where no check and no cast has to be compiled."""
    return x if isinstance(x, jax.Array) else (jnp if is_traced(x) else np).asarray(x)


def full_precision(model: Whisper) -> Any:
    """float32 means float32: accelerators would otherwise multiply in TF32 or bfloat16."""
    return jax.default_matmul_precision(
        "default" if model.config.dtype == "bfloat16" else "highest"
    )


def _apart(stack: Encoder | Decoder) -> tuple[Any, ...] | None:
    """The layers as `generate` keeps them, too: their weights are copied once, not at every pass."""
    return (
        unstack_once(stack, stack.blocks) if n_layers(stack.blocks) <= MAX_UNROLLED_LAYERS else None
    )


def _encode(
    model: Whisper, mel: Array, blocks: tuple[Any, Any], taps: Any, *, unroll: int, unstacked: bool
) -> tuple[Memory, dict[str, Any]]:
    of_encoder, of_decoder = blocks
    with full_precision(model):
        xa, acts = model.encoder(mel, *taps, unroll=unroll, blocks=of_encoder)
        return model.decoder.memory(xa, unstacked, of_decoder), acts


def _decode(
    model: Whisper, tokens: Array, positions: Array, memory: Memory, taps: Any, *, unroll: int
) -> tuple[Array, dict[str, Any]]:
    with full_precision(model):
        x, _, tap, acts = model.decoder.residual(tokens, positions, memory, *taps, unroll=unroll)
        logits = model.decoder.head(x, tap)
        return logits, acts | taps[1](tap.acts)


def _memory(model: Whisper, xa: Array) -> Memory:
    with full_precision(model):
        return model.decoder.memory(xa.astype(model.config.dtype))
