"""Counts the FLOPs of the matrix products and convolutions in Whisper's encoder."""

from jaxasr.config import N_MEL_FRAMES, SIZES


def encoder_flops(size: str, batch: int, with_memory: bool) -> int:
    """Returns the FLOPs to encode `batch` windows.

    Args:
        size: a name in `jaxasr.SIZES`.
        batch: number of windows.
        with_memory: whether to add the cross-attention keys and values of every decoder layer.
            jaxasr computes them while encoding.
    """
    config = SIZES[size]
    d, s = config.n_audio_state, config.n_audio_ctx  # width, frames
    # Two convolutions of kernel size 3.
    stem = 3 * N_MEL_FRAMES * config.n_mels * d + 3 * s * d * d
    # Projections of attention, scores and weighted values, MLP.
    layer = 4 * s * d * d + 2 * s * s * d + 8 * s * d * d
    memory = 2 * s * d * d * config.n_text_layer if with_memory else 0
    # A multiplication and an addition are two FLOPs.
    return 2 * batch * (stem + config.n_audio_layer * layer + memory)
