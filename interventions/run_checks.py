"""Checks that the tokens, positions and lengths of a run fit the model and the recordings."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Int

from interventions.run import Run
from jaxasr.cache import Prefix
from jaxasr.config import Config
from jaxasr.inputs import check_audio_tokens, check_mel, check_positions, check_token_ids
from jaxasr.language.encoder import count_frames
from jaxasr.language.model import check_lengths


def check_run(config: Config, run: Run, name: str) -> None:
    """Checks a run before its programs are compiled. Does not check traced values.

    Args:
        config: configuration of the model.
        run: the run.
        name: the argument that holds the run.

    Raises:
        ValueError: ids outside the vocabulary, more tokens than the decoder's context, another
            number of recordings than of rows, features or lengths that the model cannot have, or a
            row with more or fewer audio tokens than its recording has.

    Example:
        >>> from interventions.run_checks import check_run
        >>> check_run(model.config, run, "target")
    """
    try:
        _check(config, run)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def true_lengths(config: Config, run: Run) -> Int[np.ndarray, "B"]:
    """Returns the mel frames of each row before its padding, after checking them."""
    return np.asarray(check_lengths(config, run.batch, run.lengths))


def _check(config: Config, run: Run) -> None:
    tokens = check_token_ids(config, run.tokens)
    if run.mel is not None:
        check_mel(config, run.mel)
    audio, source = (run.mel, "mel") if run.memory is None else (run.memory.xa, "memory")
    assert audio is not None  # a run has one of the two
    if len(audio) != len(tokens):
        raise ValueError(
            f"tokens: expected one row for each of {len(audio)} recordings of {source}, "
            f"got {len(tokens)} rows. Repeat the tokens, or give as many recordings."
        )
    positions = check_positions(config, tokens, run.positions)
    if config.audio_language is None and run.lengths is not None:
        raise ValueError(
            "expected a run without lengths, because Whisper encodes the padding, too; "
            f"got lengths {np.asarray(run.lengths).tolist()}."
        )
    memory = run.memory
    if config.audio_language is not None:
        n_tokens = count_frames(config, check_lengths(config, run.batch, run.lengths))[1]
        memory = Prefix(audio, jnp.asarray(n_tokens)) if memory is None else memory
    if memory is not None:
        check_audio_tokens(config, tokens, positions, memory)
