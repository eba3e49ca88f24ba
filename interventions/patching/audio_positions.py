"""Finds the audio among the tokens of an audio language model."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Int

from interventions.run import Run
from jaxasr.cache import Prefix
from jaxasr.config import Config
from jaxasr.inputs import check_audio_tokens
from jaxasr.language.encoder import count_frames
from jaxasr.language.model import check_lengths
from jaxasr.sites import SiteSpec


def check_audio_of_run(config: Config, run: Run, name: str) -> None:
    """Checks that the tokens of a run fit its audio. A Whisper has no audio tokens.

    Args:
        config: configuration of the model.
        run: the run.
        name: the argument that holds the run.

    Raises:
        ValueError: a run of Whisper has lengths, or a row has more or fewer audio tokens than its
            recording has.
    """
    if config.audio_language is None:
        if run.lengths is not None:
            raise ValueError(
                f"{name}: expected a run without lengths, because Whisper encodes the padding, "
                f"too; got lengths {np.asarray(run.lengths).tolist()}."
            )
        return
    tokens = np.asarray(run.tokens)
    positions = np.broadcast_to(np.arange(tokens.shape[1], dtype=np.int32), tokens.shape)
    memory = run.memory
    if memory is None:
        assert run.mel is not None  # a run has one of the two
        memory = Prefix(run.mel, jnp.asarray(count_frames(config, _lengths(config, run))[1]))
    try:
        check_audio_tokens(config, tokens, positions, memory)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


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
    return int(np.max(count_frames(config, _lengths(config, target))[0]))


def _lengths(config: Config, run: Run) -> Int[np.ndarray, "B"]:
    """Returns the mel frames of each row before its padding."""
    if run.lengths is None or run.mel is None:
        whole = np.full(run.batch, config.n_mel_frames, np.int32)
        return whole if run.lengths is None else np.asarray(run.lengths)
    return np.asarray(check_lengths(config, run.mel, run.lengths))
