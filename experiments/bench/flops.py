"""Counts multiplications and additions of the matrix products in Whisper's encoder."""

from jaxasr.config import N_MEL_FRAMES, SIZES


def encoder_flops(size: str, batch: int, with_memory: bool) -> int:
    """Returns the FLOPs to encode `batch` windows.

    Args:
        size: a name in `jaxasr.SIZES`.
        batch: the number of windows.
        with_memory: adds the keys and values of every decoder layer, which jaxasr computes while
            encoding.
    """
    c = SIZES[size]
    d, s = c.n_audio_state, c.n_audio_ctx
    stem = 3 * N_MEL_FRAMES * c.n_mels * d + 3 * s * d * d
    layer = 4 * s * d * d + 2 * s * s * d + 8 * s * d * d
    memory = 2 * s * d * d * c.n_text_layer if with_memory else 0
    return 2 * batch * (stem + c.n_audio_layer * layer + memory)
