"""Finds the audio among the tokens of an audio language model."""

import numpy as np
from jaxtyping import Int

from interventions.run import Run
from interventions.run_checks import true_lengths
from jaxasr.config import Config
from jaxasr.language.encoder import count_frames
from jaxasr.sites import SiteSpec


def find_audio_positions(
    config: Config, target: Run, source: Run | str | None
) -> Int[np.ndarray, "A"]:
    """Returns the position of each audio token, which must be the same in all rows.

    Raises:
        ValueError: rows have audio at different positions, or no row has audio.
    """
    runs = [run for run in (target, source) if isinstance(run, Run)]
    is_audio = np.concatenate([np.asarray(run.tokens) == config.audio_token for run in runs])
    if (is_audio != is_audio[0]).any():
        row = int(np.argmax((is_audio != is_audio[0]).any(1)))
        counts = is_audio[0].sum(), is_audio[row].sum()
        raise ValueError(
            f"over: 'time' needs audio tokens at the same positions in all rows of target and "
            f"source, but rows differ ({counts[0]} and {counts[1]} audio tokens). Sweep the rows "
            "of each prompt and length separately."
        )
    return np.flatnonzero(is_audio[0])


def count_swept_frames(
    config: Config, spec: SiteSpec, target: Run, audio_positions: Int[np.ndarray, "A"] | None
) -> int:
    """Returns the number of encoder frames of 20 ms that windows of time cover by default."""
    if audio_positions is not None:
        return len(audio_positions) * spec.frames_per_step
    if config.audio_language is None or target.lengths is None:
        return config.n_audio_ctx
    return int(np.max(count_frames(config, true_lengths(config, target))[0]))
