"""Defines the programs that compute the activations of one batch on one device."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from experiments.store import pools
from jaxasr.audio import log_mel
from jaxasr.cache import EncodedAudio, Memory, Prefix
from jaxasr.decoding import Generation, LogitFilter
from jaxasr.generate import generate
from jaxasr.language.model import AudioLanguageModel
from jaxasr.model import SpeechModel, Whisper, full_precision
from jaxasr.taps import Readout


def encode_and_pool(
    model: Whisper,
    samples: Float[Array, "B n"],
    speech: Int[Array, "B 1 2"],
    readout: Readout,
    *,
    memory: bool,
) -> tuple[Memory | None, dict[str, Array]]:
    """Encodes recordings. Returns a memory only if `memory` is True, and pooled activations."""
    mel = jax.vmap(lambda audio: log_mel(audio, model.config.n_mels))(samples)
    with full_precision(model):
        # `xa` is the encoder's output [B, T, D], from which the memory is computed.
        xa, acts = model.encoder(mel.astype(model.config.dtype), {}, readout)
        # There are two mel frames per encoder frame.
        acts["mel"] = pools.span_means(jnp.swapaxes(mel, 1, 2), 2 * speech)[:, 0]
        return (model.decoder.memory(xa) if memory else None), acts


def encode_padded_and_pool(
    model: AudioLanguageModel,
    samples: Float[Array, "B n"],
    n_frames: Int[Array, "B"],
    n_tokens: Int[Array, "B"],
    speech: Int[Array, "B 1 2"],
    readout: Readout,
    *,
    memory: bool,
) -> tuple[Prefix | None, dict[str, Array]]:
    """Encodes recordings of `n_frames` frames, whose memories have `n_tokens` audio tokens."""
    config = model.config
    mel = jax.vmap(lambda audio: log_mel(audio, config.n_mels, config.n_mel_frames))(samples)
    with full_precision(model):
        xa, acts = model.encoder(mel.astype(config.dtype), {}, readout, n_frames=n_frames)
        acts["mel"] = pools.span_means(jnp.swapaxes(mel, 1, 2), 2 * speech)[:, 0]
        return (model.decoder.memory(xa, lengths=n_tokens) if memory else None), acts


def decode_and_pool(
    model: SpeechModel,
    tokens: Int[Array, "B T"],
    positions: Int[Array, "B T"],
    memory: EncodedAudio,
    readout: Readout,
) -> dict[str, Array]:
    """Decodes rows, and returns their pooled activations."""
    with full_precision(model):
        x, _, tap, acts = model.decoder.residual(tokens, positions, memory, {}, readout)
        model.decoder.to_logits(x, tap)  # XLA removes the logits unless the readout keeps them
        return acts | readout(tap.acts)


def generate_rows(
    model: Whisper,
    memory: Memory,
    prompt: Int[Array, "B T0"],
    rules: LogitFilter,
    *,
    max_new_tokens: int,
    eot: int,
) -> Generation:
    """Generates the likeliest tokens of every row."""
    return generate(model, memory, prompt, max_new_tokens=max_new_tokens, rules=rules, eot=eot)


def generate_after_prompts(
    model: AudioLanguageModel,
    memory: Prefix,
    prompts: Int[Array, "B T0"],
    positions: Int[Array, "B T0"],
    *,
    max_new_tokens: int,
    eot: int | None,
) -> Generation:
    """Generates the likeliest tokens of every row after its own prompt."""
    options = {"max_new_tokens": max_new_tokens, "positions": positions, "eot": eot}
    return generate(model, memory, prompts, **options)
