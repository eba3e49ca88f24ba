"""Counts the floating-point operations (FLOPs) of Whisper's encoder."""

from jaxasr.config import N_MEL_FRAMES, SIZES


def encoder_flops(size: str, batch: int, with_memory: bool) -> int:
    """Returns the FLOPs of the matrix products and convolutions that encode 30 s windows.

    Args:
        size: a name in `jaxasr.SIZES`.
        batch: number of windows.
        with_memory: whether to add the cross-attention keys and values of every decoder layer.
            jaxasr computes them while encoding.

    Example:
        >>> f"{encoder_flops('tiny', batch=1, with_memory=False):.1e}"
        '3.7e+10'
    """
    config = SIZES[size]
    d, s = config.n_audio_state, config.n_audio_ctx  # width, frames
    # Multiplications of the two convolutions with kernel size 3.
    stem = 3 * N_MEL_FRAMES * config.n_mels * d + 3 * s * d * d
    # Multiplications of the four attention projections, of scores and weighted values, and of MLPs.
    layer = 4 * s * d * d + 2 * s * s * d + 8 * s * d * d
    memory = 2 * s * d * d * config.n_text_layer if with_memory else 0
    # Each multiplication comes with an addition, so that it counts as two FLOPs.
    return 2 * batch * (stem + config.n_audio_layer * layer + memory)
