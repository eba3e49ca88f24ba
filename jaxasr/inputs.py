"""Checks the arrays, edits and readouts that enter a model before anything is compiled."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxasr import sites
from jaxasr.cache import EncodedAudio, Prefix
from jaxasr.config import N_MEL_FRAMES, Config
from jaxasr.taps import NOTHING, Edits, Readout, is_traced
from jaxasr.token_ids import check_ids

Mel = Float[Array | np.ndarray, "B M F"]
Tokens = Int[Array | np.ndarray, "B T"]


def check_mel(config: Config, mel: Any) -> Mel:
    """Returns `mel` in the dtype of the model.

    Raises:
        ValueError: wrong shape, not floating point, or NaN.
    """
    n_mels, n_frames, shape = config.n_mels, config.n_mel_frames, np.shape(mel)
    if len(shape) != 3 or shape[1:] != (n_mels, n_frames):
        window = "" if n_frames == N_MEL_FRAMES else f", n_frames={n_frames}"
        raise ValueError(
            f"mel: expected [batch, {n_mels} mels, {n_frames} frames], got {list(shape)}. "
            f"Use jaxasr.log_mel(audio, n_mels={n_mels}{window}) and add a batch axis with "
            "mel[None]."
        )
    mel = _as_array(mel)
    if not jnp.issubdtype(mel.dtype, jnp.floating):
        raise ValueError(f"mel: expected floating point, got {mel.dtype}. Use jaxasr.log_mel.")
    if not is_traced(mel) and np.isnan(np.asarray(mel)).any():
        raise ValueError("mel: contains NaN. Check the audio it was made from.")
    return mel.astype(jnp.dtype(config.dtype))


def check_tokens(config: Config, tokens: Any, memory: EncodedAudio) -> Tokens:
    """Returns `tokens` as int32.

    Raises:
        ValueError: as in `check_token_ids`, or another batch size than `memory`.
    """
    tokens = check_token_ids(config, tokens)
    n_rows, n_encoded = tokens.shape[0], memory.xa.shape[0]
    if n_rows != n_encoded:
        raise ValueError(
            f"tokens: batch {n_rows}, but memory has batch {n_encoded}. "
            "Use jax.vmap to share one memory between rows."
        )
    return tokens


def check_token_ids(config: Config, tokens: Any) -> Tokens:
    """Returns `tokens` as int32.

    Raises:
        ValueError: wrong shape or type, ids outside the vocabulary, or more tokens than the
            decoder's context.
    """
    tokens = _as_array(tokens)
    if tokens.ndim != 2 or not jnp.issubdtype(tokens.dtype, jnp.integer) or 0 in tokens.shape:
        raise ValueError(
            "tokens: expected a non-empty integer array [batch, time], "
            f"got {tokens.dtype} {list(tokens.shape)}."
        )
    if tokens.shape[1] > config.n_text_ctx:
        raise ValueError(
            f"tokens: {tokens.shape[1]} tokens, but the decoder's context is {config.n_text_ctx}. "
            "Cut the tokens."
        )
    check_ids(tokens, config.n_vocab, "tokens")
    return tokens.astype(jnp.int32)


def check_positions(config: Config, tokens: Tokens, positions: Any) -> Tokens:
    """Returns `positions` as int32; None counts from 0 in each row.

    Raises:
        ValueError: another shape than `tokens`, no integers, a position past the decoder's context,
            or positions that do not increase along a row.
    """
    if positions is None:
        return np.broadcast_to(np.arange(tokens.shape[1], dtype=np.int32), tokens.shape)
    positions = _as_array(positions)
    if not jnp.issubdtype(positions.dtype, jnp.integer):
        raise ValueError(f"positions: expected integers, got {positions.dtype}.")
    positions = positions.astype(jnp.int32)
    if positions.shape != tokens.shape:
        raise ValueError(
            f"positions: expected the shape of tokens {list(tokens.shape)}, "
            f"got {list(positions.shape)}."
        )
    if not is_traced(positions):
        _check_places(config, np.asarray(positions))
    return positions


def _check_places(config: Config, positions: Int[np.ndarray, "B T"]) -> None:
    if positions.max() >= config.n_text_ctx:
        raise ValueError(
            f"positions: must be below the decoder's context {config.n_text_ctx}, "
            f"got {positions.max()}."
        )
    # Attention is causal by position, so two tokens at one position would attend to each other.
    earlier = np.maximum.accumulate(np.maximum(positions, -1), axis=1)[:, :-1]
    repeated = (positions[:, 1:] >= 0) & (positions[:, 1:] <= earlier)
    if repeated.any():
        row, column = np.argwhere(repeated)[0]
        raise ValueError(
            f"positions: expected positions that increase along each row, got "
            f"{positions[row, column + 1]} after {earlier[row, column]} in row {row}. Padding has "
            "negative positions."
        )


def check_audio_tokens(
    config: Config, tokens: Tokens, positions: Tokens, memory: EncodedAudio
) -> None:
    """Checks that each row of tokens has the audio token once per step of its encoded audio.

    Raises:
        ValueError: a row has another number of audio tokens, or `memory` is that of another family
            of models.
    """
    if isinstance(memory, Prefix) == (config.audio_language is None):
        raise ValueError(
            f"memory: expected what `encode` of a {config.family!r} model returns, "
            f"got a {type(memory).__name__}."
        )
    if not isinstance(memory, Prefix) or is_traced(tokens, positions, memory.lengths):
        return
    is_audio = (np.asarray(tokens) == config.audio_token) & (np.asarray(positions) >= 0)
    counts, expected = is_audio.sum(1), np.asarray(memory.lengths)
    if (counts != expected).any():
        row = int(np.argmax(counts != expected))
        raise ValueError(
            f"tokens: expected the audio token {config.audio_token} {expected[row]} times in row "
            f"{row}, once per audio token of the memory, got {counts[row]} times. Repeat it by "
            "`memory.lengths`."
        )


def check_taps(
    config: Config, stack: str, edits: Any, readout: Any, batch: int, n_tokens: int
) -> tuple[Edits, Readout]:
    """Checks the edits and the readout of one pass through `stack`, and returns them.

    Args:
        config: dimensions of the model.
        stack: "encoder" or "decoder".
        edits: `{site: edit}` from the user. None: no edits.
        readout: readout from the user. None: keep nothing.
        batch: rows of the pass.
        n_tokens: decoder tokens of the pass.

    Raises:
        ValueError: a site that the stack does not have, or an edit whose `check` raises.
        TypeError: an edit that is not callable, or a readout that is not a `Readout`.
    """
    edits, readout = dict(edits or {}), NOTHING if readout is None else readout
    if not isinstance(readout, Readout):
        raise TypeError(
            "readout: expected jaxasr.select(...), jaxasr.reduce(...) or a jaxasr.Readout, "
            f"got {type(readout).__name__}."
        )
    names = sites.sites_of(stack, config.family)
    sites.check_known(edits, names, f"site for an edit of the {stack} (it would never fire):")
    sites.check_known(readout.sites, names, f"site for a readout of the {stack}:")
    for site, edit in edits.items():
        if not callable(edit):
            raise TypeError(
                f"edits[{site!r}]: expected a callable (x, at) -> x, got {type(edit).__name__}."
            )
        check = getattr(edit, "check", None)
        if check is not None:
            check(sites.spec(config, site, batch, n_tokens))
    return edits, readout


def _as_array(x: Any) -> Any:
    # Keeps NumPy arrays in NumPy, because there checks and casts need no compilation.
    return x if isinstance(x, jax.Array) else (jnp if is_traced(x) else np).asarray(x)
