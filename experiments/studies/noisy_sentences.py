"""Selects sentences whose word errors can be counted, and makes noisy copies of them."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from experiments.data.corpora import Corpus, Utterance
from experiments.data.real_speech import select_evenly
from experiments.studies.matched_pairs import CONDITION
from experiments.studies.nonspeech import nonspeech, one_per_source
from experiments.studies.recordings import has_countable_words
from experiments.studies.selection import select_speech, set_of, supported_languages
from experiments.studies.speaker_attributes import in_noise
from jaxasr import Recogniser


def countable_sentences(
    asr: Recogniser, corpus: Corpus, n: int, least_words: int
) -> list[Utterance]:
    """Selects recordings whose word errors can be counted, spread evenly over the sets.

    Args:
        asr: the model, which limits the languages.
        corpus: the recordings.
        n: largest number of recordings.
        least_words: smallest number of words per transcript.

    Returns:
        Recordings with transcripts. If a speaker is unknown, or all have the same speaker, the
        speaker is the recording, so that its noisy copies belong together.
    """
    speech = select_speech(corpus, len(corpus), supported_languages(asr, None), labelled=True)
    sentences = [clip for clip in speech if has_countable_words(clip, least_words)]
    clips = select_evenly(sentences, n, set_of)
    several_speakers = len({clip.speaker for clip in clips}) > 1
    names = [(several_speakers and clip.speaker) or clip.id for clip in clips]
    return [dataclasses.replace(clip, speaker=name) for clip, name in zip(clips, names)]


def with_noisy_copies(
    clips: Sequence[Utterance], corpus: Corpus, snr_db: Sequence[int], seed: int
) -> list[Utterance]:
    """Adds a copy of each recording at each level of noise.

    All copies of a speaker have the same background, a sound without voice from `corpus` (or white
    noise), so that the background does not distinguish two recordings of a speaker.

    Args:
        clips: recordings with speakers.
        corpus: has the backgrounds.
        snr_db: signal-to-noise ratios in dB.
        seed: seed of the assignment of backgrounds to speakers.

    Returns:
        The recordings, then their copies, which have the label `snr_db`.
    """
    backgrounds = one_per_source(nonspeech(corpus, len(corpus)))
    speakers = list(dict.fromkeys(clip.speaker for clip in clips))
    order = np.random.default_rng(seed).permutation(max(len(backgrounds), len(speakers)))
    numbers = {name: int(number) for name, number in zip(speakers, order)}

    def copy(clip: Utterance, level: int) -> Utterance:
        number = numbers[clip.speaker]
        background = backgrounds[number % len(backgrounds)] if backgrounds else None
        noisy = in_noise(clip, background, level, number)
        return dataclasses.replace(noisy, labels={**noisy.labels, CONDITION: level})

    return [*clips, *(copy(clip, level) for level in snr_db for clip in clips)]


def noise_level(clip: Utterance) -> str:
    """Returns the signal-to-noise ratio of a noisy copy, "none" for a recording without noise.

    Example:
        >>> noise_level(Utterance("a", "a.wav", labels={"snr_db": 5}))
        '5'
    """
    level = clip.label(CONDITION)
    return "none" if level is None else str(level)
