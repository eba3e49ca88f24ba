"""Tests whether a loop survives small changes of its input.

If any change ends a loop, no experiment can show which part of the model sustains it. A sticky loop
survives all changes of `stickiness`. All other loops are brittle.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

import jaxasr
from interventions.corruptions import noise
from interventions.generation.transcripts import is_loop
from jaxasr import Recogniser
from jaxasr.audio import long_log_mel
from jaxasr.audio.features import pad_or_trim

SNR_DB = 30.0  # signal-to-noise ratio of the added noise, which a person hardly notices
_SEEDS = (0, 1, 2)


def stickiness(
    asr: Recogniser, audio: Float[np.ndarray, "n"], prompt: list[int], max_new_tokens: int
) -> dict[str, float]:
    """Measures which changes of the input a loop survives.

    Args:
        asr: the model.
        audio: at most 30 s, which loop when padded with zeros.
        prompt: tokens before the text, with <|notimestamps|>.
        max_new_tokens: number of tokens in which the loop must be found.

    Returns:
        1.0 if the text is still a loop, else 0.0: `survives_padding` (the features are padded with
        zeros instead of the samples), `survives_noise` (white noise at 30 dB, for each of three
        seeds) and `survives_timestamps` (the model generates timestamps).

    Example:
        ```python
        min(stickiness(asr, audio, asr.tokenizer.prompt(), max_new_tokens=64).values())  # 1.0
        ```
    """
    n_mels, n_frames = asr.config.n_mels, asr.config.n_mel_frames
    padded = pad_or_trim(long_log_mel(audio, n_mels), n_frames)
    # Silence has no signal-to-noise ratio, so its noise is silence too.
    noisy = [noise(audio, SNR_DB, seed) if audio.any() else audio for seed in _SEEDS]
    mels = [padded, *(jaxasr.log_mel(samples, n_mels) for samples in noisy)]
    memory, _ = asr.model.encode(jnp.stack([jnp.asarray(mel) for mel in mels]))
    survived = _loops(asr, memory, prompt, max_new_tokens)
    unchanged, _ = asr.model.encode(jaxasr.log_mel(audio, n_mels)[None])
    without = [id_ for id_ in prompt if id_ != asr.tokenizer.special.no_timestamps]
    return {
        "survives_padding": survived[0],
        "survives_noise": min(survived[1:]),
        "survives_timestamps": _loops(asr, unchanged, without, max_new_tokens)[0],
    }


def _loops(asr: Recogniser, memory, prompt: list[int], max_new_tokens: int) -> list[float]:
    """Returns 1.0 for each row whose text is a loop. Timestamps between its tokens are dropped."""
    rows = asr.generate(memory, prompt, max_new_tokens=max_new_tokens).ids
    texts = [[id_ for id_ in ids if not asr.tokenizer.is_time(id_)] for ids in rows]
    return [float(is_loop(ids, asr.tokenizer.decode(ids))) for ids in texts]
