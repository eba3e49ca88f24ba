"""Loads audio files, and computes log-mel features and the times of encoder frames."""

from jaxasr.audio.decoders import header_seconds as header_seconds
from jaxasr.audio.features import (
    MEL_COUNTS as MEL_COUNTS,
    N_FFT as N_FFT,
    check_samples as check_samples,
    frame_to_seconds as frame_to_seconds,
    log_mel as log_mel,
    long_log_mel as long_log_mel,
    mel_filters as mel_filters,
    n_frames as n_frames,
    pad_or_trim as pad_or_trim,
)
from jaxasr.audio.loading import load_audio as load_audio
