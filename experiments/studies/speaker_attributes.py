"""Attributes that the encoder is probed for: gender, accent, condition, added noise."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from experiments.data.corpora import Utterance
from experiments.data.real_speech import spread
from experiments.studies.selection import first_window, set_of, speaker_of
from interventions.corruptions import add, noise


def gender(clip: Utterance) -> str:
    """Returns "F", "M", or "" if unknown. Corpora write M, male or male_masculine."""
    initial = str(clip.label("gender") or "")[:1].upper()
    return initial if initial in ("F", "M") else ""


def condition(clip: Utterance) -> str:
    """Returns LibriSpeech's "clean" or "other"; "" for other corpora."""
    return str(clip.label("condition") or "")


def accent(clip: Utterance) -> str:
    """Returns the speaker's accent; "" if unknown."""
    return str(clip.label("accent") or clip.label("accents") or "")


def named_accents(speech: Sequence[Utterance], names: Sequence[str]) -> dict[str, str]:
    """Assigns each recording one of the named accents.

    Args:
        speech: the recordings.
        names: accents; a label that contains a name matches it.

    Returns:
        Accent by recording id; "" where no name matches.
    """
    return {
        clip.id: next((name for name in names if name.lower() in accent(clip).lower()), "")
        for clip in speech
    }


def best_set_of_accents(speech: Sequence[Utterance], min_speakers: int) -> dict[str, str]:
    """Finds the set of recordings with most accents.

    Args:
        speech: the recordings.
        min_speakers: an accent with fewer speakers does not count.

    Returns:
        Accent by recording id, within that set.
    """
    sets = dict.fromkeys(set_of(clip) for clip in speech)
    by_set = (
        _well_represented([clip for clip in speech if set_of(clip) == name], min_speakers)
        for name in sets
    )
    return max(by_set, key=lambda accents: len(set(accents.values())), default={})


def _well_represented(clips: Sequence[Utterance], min_speakers: int) -> dict[str, str]:
    speakers: dict[str, set[str]] = {}
    for clip in clips:
        speakers.setdefault(accent(clip), set()).add(clip.speaker)
    return {
        clip.id: accent(clip)
        for clip in clips
        if accent(clip) and len(speakers[accent(clip)]) >= min_speakers
    }


def select_accents(
    speech: Sequence[Utterance], accents: Mapping[str, str], n: int
) -> list[Utterance]:
    """Selects at most `n` recordings of each accent, spread evenly over its speakers.

    Args:
        speech: the recordings.
        accents: accent by recording id; "" means none.
        n: most recordings per accent.

    Returns:
        The recordings, grouped by accent.
    """
    selected = []
    for name in sorted(set(accents.values()) - {""}):
        clips = [clip for clip in speech if accents.get(clip.id) == name]
        selected += spread(clips, n, speaker_of)
    return selected


def distinct_sources(noises: Sequence[Utterance]) -> list[Utterance]:
    """Returns one recording per source, because parts of one recording are not independent."""
    return list({str(clip.label("freesound_id") or clip.id): clip for clip in noises}.values())


def in_noise(clip: Utterance, background: Utterance | None, snr_db: int, seed: int) -> Utterance:
    """Adds noise to a recording.

    Args:
        clip: the recording.
        background: a recording of noise; None for white noise.
        snr_db: signal-to-noise ratio in dB.
        seed: of the white noise, or of the start within the background.

    Returns:
        The noisy copy; its samples are computed when they are read.
    """

    def read() -> np.ndarray:
        audio = first_window(clip)
        if background is None:
            return noise(audio, snr_db, seed)
        return add(audio, background.samples(), snr_db, seed)

    name = f"{clip.id} {snr_db} dB {background.id if background else 'white'}"
    return dataclasses.replace(clip, id=name, read=read, start_s=None, end_s=None)
