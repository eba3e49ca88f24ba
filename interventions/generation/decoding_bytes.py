"""Computes how many bytes a device needs to decode the cells of recordings, in float32."""

from interventions.memory_budget import memory_budget
from jaxasr.config import Config

# Bytes of memories and key-value caches of the cells that a CPU decodes together. They exceed the
# CPU's own caches, because sharing one read of the weights among many cells saves more time. A loop
# is dispatched before the last one is read, so that a device holds two.
CPU_DECODING_BUDGET = 2 << 30
CELLS_PER_LOOP = 64  # default number of cells that decode together in one loop


def decoding_bytes(config: Config, n_tokens: int) -> int:
    """Returns the bytes that decoding one cell takes if it has a memory of its own.

    These are the memory, the key-value cache and three copies of the logits.

    Args:
        config: dimensions of the model.
        n_tokens: number of tokens, prompt included.

    Example:
        >>> import jaxasr
        >>> decoding_bytes(jaxasr.SIZES["tiny.en"], n_tokens=4) > 0
        True
    """
    return cells_bytes(config, n_tokens, 1)


def cells_bytes(config: Config, n_tokens: int, n_cells: int) -> int:
    """Returns the bytes that decoding the cells of one recording takes if they share its memory.

    Args:
        config: dimensions of the model.
        n_tokens: number of tokens, prompt included.
        n_cells: number of cells that decode together.

    Example:
        >>> import jaxasr
        >>> config = jaxasr.SIZES["tiny.en"]
        >>> cells_bytes(config, n_tokens=4, n_cells=8) < 8 * decoding_bytes(config, n_tokens=4)
        True
    """
    shape, n_logits = config.decoder, 3 * config.n_vocab
    cache = 2 * shape.n_layer * n_tokens * shape.n_kv_head * shape.d_head
    if config.audio_language is None:
        memory = (2 * shape.n_layer + 1) * config.n_audio_ctx * shape.width
        return 4 * (memory + n_cells * (cache + n_logits))
    # A prompt holds hundreds of audio tokens, so reading it takes more than the later steps: about
    # 12 vectors of the width, the gated MLP and the attention scores of one layer.
    per_token = 12 * shape.width + 3 * shape.n_mlp + shape.n_head * n_tokens
    memory = config.n_audio_tokens * shape.width
    return 4 * (memory + n_cells * (cache + n_logits + n_tokens * per_token))


def cells_per_loop(config: Config, n_tokens: int) -> int:
    """Returns how many cells of a recording decode together by default.

    Those of a Whisper always fit. Each cell of an audio language model has its own keys and values
    of the prompt, audio tokens included.

    Args:
        config: dimensions of the model.
        n_tokens: number of tokens, prompt included.

    Example:
        >>> import jaxasr
        >>> cells_per_loop(jaxasr.SIZES["tiny.en"], n_tokens=4)
        64
    """
    if config.audio_language is None:
        return CELLS_PER_LOOP
    # Two loops are in flight.
    fit = memory_budget(None, CPU_DECODING_BUDGET) // 2 // decoding_bytes(config, n_tokens)
    return max(1, min(CELLS_PER_LOOP, fit))
