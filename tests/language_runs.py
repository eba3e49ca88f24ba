"""Makes two runs of a tiny audio language model, whose rows have audio at the same positions."""

import functools

import numpy as np

import interventions as iv
import jaxasr
from tests.audio_language import tiny_mel, tiny_model

N_BEFORE, N_AFTER, SCORED_POSITION = 3, 5, -2  # text tokens before and after the audio
LENGTHS = np.array([29, 30], np.int32)  # mel frames: both have 7 audio tokens in Qwen2-Audio
METRIC = iv.logit_diff(3, 5, position=SCORED_POSITION)


@functools.cache
def model_of(family: str = "qwen2_audio") -> jaxasr.AudioLanguageModel:
    """Returns a model whose four decoder layers let several follow an edited one."""
    return tiny_model(family, n_text_layer=4)


@functools.cache
def runs_of(family: str = "qwen2_audio") -> list[iv.Run]:
    """Returns target and source, two recordings each."""
    config = model_of(family).config
    n_audio = 7 if family == "qwen2_audio" else config.n_audio_tokens
    rng = np.random.default_rng(0)
    before, after = (rng.integers(0, 90, (2, n)).astype(np.int32) for n in (N_BEFORE, N_AFTER))
    audio = np.full((2, n_audio), config.audio_token, np.int32)
    tokens = np.concatenate([before, audio, after], 1)
    mels = tiny_mel(config, LENGTHS), 0.8 * tiny_mel(config, LENGTHS)[::-1]
    return [iv.Run(mel=mel, tokens=tokens, lengths=LENGTHS) for mel in mels]
