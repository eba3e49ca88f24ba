"""Returns the attributes of recordings that study E1 probes, and adds noise to recordings."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from experiments.data.corpora import Utterance
from experiments.data.real_speech import select_evenly
from experiments.studies.selection import first_window, set_of, speaker_of
from interventions.corruptions import add, noise


def gender(clip: Utterance) -> str:
    """Returns "F", "M", or "" if unknown.

    Corpora use different labels, such as M, male or male_masculine.

    Example:
        >>> gender(Utterance("a", "a.wav", labels={"gender": "male_masculine"}))
        'M'
    """
    initial = str(clip.label("gender") or "")[:1].upper()
    return initial if initial in ("F", "M") else ""


def condition(clip: Utterance) -> str:
    """Returns the subset of LibriSpeech, "clean" or "other"; "" for other corpora."""
    return str(clip.label("condition") or "")


def accent(clip: Utterance) -> str:
    """Returns the speaker's accent; "" if it is unknown or has no name.

    Example:
        >>> accent(Utterance("a", "a.wav", labels={"accents": "Welsh"}))
        'Welsh'
    """
    name = str(clip.label("accent") or clip.label("accents") or "")
    return "" if name.lower() == "other" else name


def named_accents(speech: Sequence[Utterance], names: Sequence[str]) -> dict[str, str]:
    """Assigns one of the named accents to each recording.

    Args:
        speech: the recordings.
        names: names of accents. A name matches an accent label that contains it.

    Returns:
        Accent by recording id; "" where no name matches.

    Example:
        >>> clip = Utterance("a", "a.wav", labels={"accent": "Indian English"})
        >>> named_accents([clip], ["Welsh", "Indian"])
        {'a': 'Indian'}
    """
    return {
        clip.id: next((name for name in names if name.lower() in accent(clip).lower()), "")
        for clip in speech
    }


def best_set_of_accents(speech: Sequence[Utterance], min_speakers: int) -> dict[str, str]:
    """Finds the set of recordings with most accents, and among equal ones with most speakers.

    Args:
        speech: the recordings.
        min_speakers: smallest number of speakers of an accent. Rarer accents are ignored.

    Returns:
        Accent by recording id, only for the recordings of that set.
    """
    # A dict keeps the order of the recordings, so that ties are always broken in the same way.
    sets = dict.fromkeys(set_of(clip) for clip in speech)
    by_set = (
        _frequent_accents([clip for clip in speech if set_of(clip) == name], min_speakers)
        for name in sets
    )
    speakers = {clip.id: clip.speaker for clip in speech}

    def size(accents: dict[str, str]) -> tuple[int, int]:
        return len(set(accents.values())), len({speakers[name] for name in accents})

    return max(by_set, key=size, default={})


def _frequent_accents(clips: Sequence[Utterance], min_speakers: int) -> dict[str, str]:
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
        accents: accent by recording id; "" if unknown.
        n: largest number of recordings per accent.

    Returns:
        The recordings, grouped by accent.
    """
    selected = []
    for name in sorted(set(accents.values()) - {""}):
        clips = [clip for clip in speech if accents.get(clip.id) == name]
        selected += select_evenly(clips, n, speaker_of)
    return selected


def distinct_sources(noises: Sequence[Utterance]) -> list[Utterance]:
    """Returns one recording per source, because parts of one source are not independent."""
    # Recordings with the same id at Freesound are parts of one source.
    return list({str(clip.label("freesound_id") or clip.id): clip for clip in noises}.values())


def in_noise(clip: Utterance, background: Utterance | None, snr_db: int, seed: int) -> Utterance:
    """Adds noise to a recording.

    Args:
        clip: the recording.
        background: a recording of noise; None for white noise.
        snr_db: signal-to-noise ratio in dB.
        seed: seed of the white noise, or of the start position in the background.

    Returns:
        The noisy copy, whose samples are computed when they are read.
    """

    def read() -> np.ndarray:
        audio = first_window(clip)
        if background is None:
            return noise(audio, snr_db, seed)
        return add(audio, background.samples(), snr_db, seed)

    name = f"{clip.id} {snr_db} dB {background.id if background else 'white'}"
    # `read` already cuts the recording, so the copy has no start and end of its own.
    return dataclasses.replace(clip, id=name, read=read, start_s=None, end_s=None)
