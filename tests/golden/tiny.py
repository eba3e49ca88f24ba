"""Makes tiny Whispers with reproducible random weights, without a file and without torch."""

import math
from pathlib import Path

import numpy as np

from jaxasr.config import Config
from jaxasr.model import Whisper
from jaxasr.weights import Checkpoint, assemble
from jaxasr.weights.assemble import abstract_model, parameters_by_name, tensor_shapes
from jaxasr.weights.checkpoint import LazyTensor, Tensors

# Encoder and decoder differ in depth and heads. As many sizes as possible differ, so that a
# transposed axis fails. The width is even because transformers needs an even width.
TINY = {
    "80 mels": Config(
        n_mels=80,
        n_audio_ctx=11,
        n_audio_state=30,
        n_audio_head=3,
        n_audio_layer=3,
        n_vocab=101,
        n_text_ctx=13,
        n_text_state=30,
        n_text_head=5,
        n_text_layer=2,
    ),
    "128 mels": Config(
        n_mels=128,
        n_audio_ctx=7,
        n_audio_state=14,
        n_audio_head=7,
        n_audio_layer=3,
        n_vocab=103,
        n_text_ctx=13,
        n_text_state=14,
        n_text_head=2,
        n_text_layer=2,
    ),
}
BATCH, N_TOKENS = 2, 5  # rows, and tokens per row, of the golden activations
GOLDEN = Path(__file__).parent  # folder of the golden files


def golden_file(name: str) -> Path:
    return GOLDEN / f"tiny_{name.replace(' ', '_')}.npz"


def uniform(seed: int, *shape: int) -> np.ndarray:
    """Returns float32 in [-1, 1).

    Each number is made from 24 raw bits, so it is the same in every version of NumPy.
    """
    raw = np.random.PCG64(seed).random_raw(math.prod(shape)) >> np.uint64(40)
    return (raw.astype(np.float64) / 2**23 - 1).astype(np.float32).reshape(shape)


def tiny_state(config: Config, seed: int = 0) -> dict[str, np.ndarray]:
    """Returns all tensors of an OpenAI checkpoint; norms, biases and positions are random, too."""
    shapes = {
        name: shape
        for leaf, spec in parameters_by_name(abstract_model(config)).items()
        for name, shape in tensor_shapes(leaf, spec.shape).items()
    }
    return {
        name: _random_tensor(name, shape, 1000 * seed + i)
        for i, (name, shape) in enumerate(sorted(shapes.items()))
    }


def _random_tensor(name: str, shape: tuple[int, ...], seed: int) -> np.ndarray:
    """Returns a random tensor on the scale that a tensor of this name needs."""
    x = uniform(seed, *shape)
    if "ln" in name.split(".")[-2] and name.endswith("weight"):
        return 1 + x / 2
    if len(shape) > 1 and "embedding" not in name:
        # This scale is large enough for attention to have peaks.
        return x * np.float32(2 / math.sqrt(math.prod(shape[1:])))
    return x / 2


def checkpoint(config: Config, state: dict[str, np.ndarray]) -> Checkpoint:
    """Returns a checkpoint in memory."""
    lazy = {
        name: LazyTensor(array.shape, str(array.dtype), lambda array=array: array)
        for name, array in state.items()
    }
    return Checkpoint(config, Tensors(lazy), "tiny", Path("tiny"), "memory", ())


def tiny_model(
    name: str = "80 mels", seed: int = 0, dtype: str = "float32", param_dtype: str | None = None
) -> Whisper:
    config = TINY[name]
    return assemble(checkpoint(config, tiny_state(config, seed)), dtype, param_dtype or dtype)


def tiny_inputs(
    config: Config, batch: int = BATCH, n_tokens: int = N_TOKENS
) -> tuple[np.ndarray, np.ndarray]:
    """Returns mel [B, M, F] in [-1, 1) and tokens [B, T]."""
    tokens = (uniform(78, batch, n_tokens) + 1) / 2 * config.n_vocab
    return uniform(77, batch, config.n_mels, 2 * config.n_audio_ctx), tokens.astype(np.int32)


def left_padded(n_tokens: int = N_TOKENS) -> np.ndarray:
    """Returns positions [2, T] of two rows, the second with two padded tokens before it."""
    steps = np.arange(n_tokens, dtype=np.int32)
    return np.stack([steps, steps - 2])
