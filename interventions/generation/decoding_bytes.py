"""Computes how many bytes a device needs to decode the cells of recordings, in float32."""

from jaxasr.config import Config

# Bytes of memories and key-value caches of the cells that a CPU decodes together. They exceed the
# CPU's own caches, because sharing one read of the weights among many cells saves more time. A loop
# is dispatched before the last one is read, so that a device holds two.
CPU_DECODING_BUDGET = 2 << 30


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
    memory = (2 * config.n_text_layer + 1) * config.n_audio_ctx * config.n_text_state
    cache = 2 * config.n_text_layer * n_tokens * config.n_text_state
    return 4 * (memory + n_cells * (cache + 3 * config.n_vocab))
