"""Estimates the bytes that a device needs for one row of attribution, paths or direct effects.

All estimates assume float32.
"""

from collections.abc import Iterable

import numpy as np

from jaxasr import sites
from jaxasr.config import Config, StackShape


def attribution(config: Config, n_tokens: int, names: Iterable[str], encodes: bool) -> int:
    """Estimates the bytes of a forward and a backward pass of one row.

    Args:
        config: dimensions of the model.
        n_tokens: number of tokens per row.
        names: sites that are read, or at which the gradient is taken.
        encodes: whether a run has no memory.
    """
    names = set(names)
    in_encoder = any(sites.stack_of(name) == "encoder" for name in names)
    # Of the target and of the source, their difference, and the gradient.
    n_bytes = 4 * sum(site_bytes(config, name, n_tokens) for name in names)
    n_bytes += config.n_text_layer * decoder_layer_bytes(config, n_tokens)
    n_bytes += 2 * memory_bytes(config)
    if in_encoder:
        # The backward pass keeps the vectors of all layers. It recomputes large attention weights.
        n_bytes += config.n_audio_layer * encoder_layer_bytes(config)
    return n_bytes + (encoder_pass_bytes(config) if in_encoder or encodes else 0)


def path_patching(config: Config, n_tokens: int, n_pairs: int, stack: str, encodes: bool) -> int:
    """Estimates the bytes of the pairs of sender and receiver of one row.

    Args:
        config: dimensions of the model.
        n_tokens: number of tokens per row.
        n_pairs: number of pairs that are computed together.
        stack: the stack of the senders.
        encodes: whether the encoder runs.
    """
    # Each pair decodes the row and its patched copy.
    pair_bytes = 2 * decoder_layer_bytes(config, n_tokens)
    if stack == "encoder":
        pair_bytes += 4 * memory_bytes(config) + 2 * encodes * encoder_pass_bytes(config)
    return n_pairs * pair_bytes + 4 * memory_bytes(config) + encodes * encoder_pass_bytes(config)


def direct_logits(config: Config, n_tokens: int) -> int:
    """Estimates the bytes of one row that is encoded and decoded, and of its frames."""
    frames = 4 * 4 * config.n_text_layer * config.n_text_head * config.n_audio_tokens
    decoder_bytes = config.n_text_layer * decoder_layer_bytes(config, n_tokens)
    return 2 * memory_bytes(config) + frames + decoder_bytes + encoder_pass_bytes(config)


def site_bytes(config: Config, name: str, n_tokens: int) -> int:
    """Returns the bytes of the activation at a site in all layers."""
    spec = sites.spec(config, name, 1, n_tokens)
    return 4 * max(1, spec.n_layer) * int(np.prod(spec.shape))


def memory_bytes(config: Config) -> int:
    """Returns the bytes of the encoded audio, with the keys and values of every decoder layer."""
    if config.audio_language is not None:
        return 4 * config.n_audio_tokens * config.n_text_state
    return 4 * (2 * config.n_text_layer + 1) * config.n_audio_ctx * config.n_audio_state


def decoder_layer_bytes(config: Config, n_tokens: int) -> int:
    """Estimates the bytes of one decoder layer: its scores, and the vectors of each token."""
    n_frames = 0 if config.audio_language is not None else config.n_audio_ctx
    scores = 2 * config.n_text_head * (n_frames + n_tokens)
    return 4 * n_tokens * (scores + _numbers_per_step(config.decoder))


def encoder_layer_bytes(config: Config) -> int:
    """Estimates the bytes of the vectors of one encoder layer."""
    return 4 * _numbers_per_step(config.encoder) * config.n_audio_ctx


def encoder_pass_bytes(config: Config) -> int:
    """Estimates the peak bytes of encoding: one layer with its scores and weights."""
    scores = 4 * 2 * config.n_audio_head * config.n_audio_ctx**2
    return scores + encoder_layer_bytes(config)


def _numbers_per_step(shape: StackShape) -> int:
    """Returns the numbers per token or frame of a layer: 16 vectors where the MLP is 4 wide."""
    return 8 * shape.width + 2 * shape.n_mlp
