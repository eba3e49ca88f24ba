"""Makes the recordings of study E4, which are sounds without speech and matching speech.

Each recording of speech has at most the length of one sound, and the level of a random sound.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float

from experiments.data.corpora import Corpus, Utterance
from experiments.data.real_speech import select_evenly
from experiments.studies.nonspeech import nonspeech, source_of
from experiments.studies.selection import (
    WINDOW_S,
    cross_validation_groups,
    first_window,
    language,
    select_speech,
    set_of,
    supported_languages,
)
from jaxasr import Recogniser
from jaxasr.config import SAMPLE_RATE

Samples = Float[np.ndarray, "n"]


@dataclasses.dataclass(frozen=True)
class Sound:
    """A recording to transcribe.

    Attributes:
        id: unique id.
        group: cross-validation group, all of whose sounds are in one fold.
        samples: function that returns 16 kHz samples.
        language: language code in the prompt.
    """

    id: str
    group: str
    samples: Callable[[], Samples]
    language: str = "en"


def sounds_without_speech(
    corpus: Corpus, seconds: Sequence[float], speeds: Sequence[float], backwards: bool, n_white: int
) -> list[Sound]:
    """Makes sounds from recordings without speech, and adds white noise.

    Args:
        corpus: the recordings.
        seconds: lengths of excerpts. Each longer recording is also cut to its first seconds.
        speeds: speeds of further copies; at speed 0.5, a copy is twice as long.
        backwards: whether to add each of these sounds reversed in time.
        n_white: number of white noises to add.

    Returns:
        The sounds. All sounds made from one source have the same group.
    """
    sounds = []
    for clip in nonspeech(corpus, len(corpus)):
        length = float(clip.label("duration_s") or np.inf)
        # Only whole recordings are slowed down.
        changes = [(limit, 1.0) for limit in (WINDOW_S, *(s for s in seconds if s < length))]
        changes += [(WINDOW_S, speed) for speed in speeds]
        for limit, speed in changes:
            for step in (1, -1) if backwards else (1,):  # step -1 reverses the samples
                name = f"{clip.id} {limit:g} s{'' if speed == 1 else f' speed {speed:g}'}"
                samples = functools.partial(_change, clip, limit, speed, step)
                sounds.append(
                    Sound(f"{name}{' backwards' if step < 0 else ''}", source_of(clip), samples)
                )
    return sounds + [_make_white_noise(seed) for seed in range(n_white)]


def _change(clip: Utterance, seconds: float, speed: float, step: int) -> Samples:
    """Returns the beginning of a recording at another speed; reversed in time if `step` is -1."""
    audio = _beginning(clip, seconds)
    if speed != 1:
        # Interpolation between samples; a slower copy needs no filter against aliasing.
        times = np.arange(0, len(audio) - 1, speed)
        audio = np.interp(times, np.arange(len(audio)), audio).astype(np.float32)
    return audio[: round(WINDOW_S * SAMPLE_RATE)][::step].copy()


def _beginning(clip: Utterance, seconds: float) -> Samples:
    return first_window(clip)[: round(seconds * SAMPLE_RATE)]


def _make_white_noise(seed: int) -> Sound:
    """Makes 2 to 10 s of white noise with a random root mean square from 0.001 to 0.2."""
    rng = np.random.default_rng(seed)
    seconds, level = rng.uniform(2, 10), 10 ** rng.uniform(-3, -0.7)
    n = int(seconds * SAMPLE_RATE)

    def samples() -> Samples:
        return (level * np.random.default_rng(seed).normal(size=n)).astype(np.float32)

    return Sound(f"white {seed}", f"white {seed}", samples)


def matching_speech(
    asr: Recogniser, corpus: Corpus, noises: Sequence[tuple[Sound, float]], seed: int
) -> list[Sound]:
    """Cuts and scales speech to the lengths and levels of sounds without speech.

    Length and level then do not distinguish speech from the sounds.

    Args:
        asr: the model that will transcribe the speech.
        corpus: the recordings.
        noises: sounds without speech, each with its length in seconds.
        seed: seed of the random assignment of levels to speech.

    Returns:
        At most one recording of speech per noise.
    """
    speech = select_speech(corpus, len(corpus), supported_languages(asr, ["en"]), at_least_s=1.5)
    clips = select_evenly(speech, len(noises), set_of)
    # The shortest speech is cut to the shortest length, so that few recordings are too short.
    lengths = np.sort([seconds for _, seconds in noises])[: len(clips)]
    by_length = sorted(clips, key=lambda clip: float(clip.label("duration_s") or 0))
    order = np.random.default_rng(seed).permutation(len(noises))
    groups = cross_validation_groups(clips)
    return [
        match_level(clip, seconds, noises[number][0], groups[clip.id])
        for clip, seconds, number in zip(by_length, lengths, order)
    ]


def match_level(clip: Utterance, seconds: float, noise: Sound, group: str) -> Sound:
    """Cuts speech to at most `seconds` and scales it to the level of `noise`."""

    def samples() -> Samples:
        audio = _beginning(clip, seconds)
        gain = _level(noise.samples()) / max(_level(audio), 1e-6)  # silence has level 0
        return (audio * gain).astype(np.float32)

    return Sound(f"{clip.id} {seconds:.2f} s as {noise.id}", group, samples, language(clip))


def _level(audio: Samples) -> float:
    """Computes the root mean square of the samples."""
    return float(np.sqrt(np.mean(audio.astype(np.float64) ** 2)))
