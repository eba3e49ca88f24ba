"""Defines the programs that compute the activations of one batch on one device."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from experiments.store import pools
from jaxasr.audio import log_mel
from jaxasr.cache import Memory
from jaxasr.decoding import Generation, LogitFilter
from jaxasr.generate import generate
from jaxasr.model import Whisper, full_precision
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


def decode_and_pool(
    model: Whisper,
    tokens: Int[Array, "B T"],
    positions: Int[Array, "B T"],
    memory: Memory,
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
