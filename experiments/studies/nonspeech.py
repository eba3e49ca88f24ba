"""Selects recordings without any human voice, makes noises, and names the source of a recording."""

import functools
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Float

from experiments.data import real_speech
from experiments.data.corpora import Corpus, Utterance
from experiments.data.real_speech import select_evenly
from experiments.studies.selection import select_nonspeech
from jaxasr.config import SAMPLE_RATE

# Words in the label `noise_class` of sounds that have human voices, may have them, or are no sounds
# that a microphone records (room impulse responses).
_REFUSED_CLASSES = re.compile(
    r"\b(babble|baby|breath\w*|cafe|child\w*|cough\w*|crowd|crying|dude|human|impulse|laugh\w*|"
    r"people|person|singing|sneez\w*|snor\w*|song\w*|speech|street music|talk\w*|unlabelled|"
    r"vocal\w*|voice\w*)\b"
)
# Exponents of the amplitude spectrum, which is proportional to 1 / frequency ** exponent.
_NOISE_EXPONENT = {"white": 0, "pink": 0.5, "brown": 1}
# Parts of ids that differ between the frequency bands of one recording.
_BANDS = re.compile(r"(?i)(broad|narrow|wide)(band)?|_for_\d+k")
_RECIPE = "recipe "  # start of the label `source` of a recording that a recipe made


def nonspeech(corpus: Corpus, n: int) -> list[Utterance]:
    """Selects recordings without any human voice, spread evenly over classes of sound.

    If the label `voice` is known, it decides. Otherwise, classes with voices (such as "crying
    baby"), room impulse responses and unlabelled noises are refused. Songs are never selected.

    Args:
        corpus: the recordings.
        n: largest number of recordings.

    Returns:
        The recordings, those of different sources first.

    Example:
        >>> labels = ({"noise_class": "rain"}, {"noise_class": "cafe babble"})
        >>> clips = tuple(Utterance(f"{i}", "a.wav", labels=row) for i, row in enumerate(labels))
        >>> [clip.id for clip in nonspeech(Corpus("mine", "memory", clips), 9)]
        ['0']
    """
    clips = [clip for clip in select_nonspeech(corpus) if not _may_have_voice(clip)]
    counts: dict[str, int] = {}
    rounds: dict[int, list[Utterance]] = {}  # a round has at most one recording of each source
    for clip in clips:
        number = counts[source_of(clip)] = counts.get(source_of(clip), 0) + 1
        rounds.setdefault(number, []).append(clip)
    ordered = [
        clip
        for _, group in sorted(rounds.items())
        for clip in select_evenly(group, len(group), lambda clip: clip.label("noise_class"))
    ]
    return ordered[:n]


def one_per_source(clips: Iterable[Utterance]) -> list[Utterance]:
    """Returns the first recording of each source, so that all are independent.

    Example:
        >>> clips = [Utterance("a1", "a.wav", speaker="Ann"), Utterance("a2", "b.wav", "Ann")]
        >>> [clip.id for clip in one_per_source(clips)]
        ['a1']
    """
    first: dict[str, Utterance] = {}
    for clip in clips:
        first.setdefault(source_of(clip), clip)
    return list(first.values())


def nonspeech_or_noise(corpus: Corpus, n: int) -> list[Utterance]:
    """Returns `nonspeech`, or `n` synthetic noises if the corpus has no such recording."""
    return nonspeech(corpus, n) or synthetic_noises(n)


def _may_have_voice(clip: Utterance) -> bool:
    has_voice = clip.label("voice")
    if has_voice is not None:
        return bool(has_voice)
    noise_class = str(clip.label("noise_class") or "").lower().replace("_", " ")
    return bool(_REFUSED_CLASSES.search(noise_class))


def source_of(clip: Utterance) -> str:
    """Returns the name of the source of a recording, its independent unit.

    The source is the speaker. For sounds, it is the recording at Freesound, from which several
    recordings may be cut. For a recording that a recipe made, it is the source of the recording
    that the recipe begins with.

    Returns:
        The name. If nothing else is known, the id of the recording without its frequency band.

    Example:
        >>> source_of(Utterance("rain 2", "rain 2.wav", labels={"freesound_id": "17367"}))
        'freesound 17367'
    """
    if clip.speaker:
        return clip.speaker
    if clip.label("freesound_id"):
        return f"freesound {clip.label('freesound_id')}"
    origin = str(clip.label("source") or "")
    if origin.startswith(_RECIPE):
        return _sources_of_recipes(real_speech.folders()).get(origin.removeprefix(_RECIPE), clip.id)
    return _BANDS.sub("", clip.id)


@functools.cache
def _sources_of_recipes(folders: tuple[Path, ...]) -> Mapping[str, str]:
    """Returns the source of each recipe's first recording, by the id of the recipe."""
    clips = {
        str(row["path"]): Utterance(
            row["path"], Path(row["path"]), row.get("speaker", ""), labels=row
        )
        for row in real_speech.rows("manifest")
        if not str(row.get("source", "")).startswith(_RECIPE)
    }
    first_paths = {
        str(recipe["id"]): next((str(op["path"]) for op in recipe["ops"] if op.get("path")), "")
        for recipe in real_speech.rows("recipes")
    }
    return {
        name: source_of(clips[path]) if path in clips else path or name
        for name, path in first_paths.items()
    }


def synthetic_noises(n: int, seconds: float = 5.0) -> list[Utterance]:
    """Makes `n` recordings of white, pink and brown noise at two levels.

    Example:
        >>> [noise.id for noise in synthetic_noises(2)]
        ['white-0.1-0', 'pink-0.1-1']
    """
    colours, levels = tuple(_NOISE_EXPONENT), (0.1, 0.01)  # levels are root mean squares
    # The colour changes with every noise, and the level after every third noise.
    return [
        _make_noise(seed, colours[seed % 3], levels[seed // 3 % 2], seconds) for seed in range(n)
    ]


def _make_noise(seed: int, colour: str, level: float, seconds: float) -> Utterance:
    name = f"{colour}-{level}-{seed}"
    labels = {"set": "noise", "noise_class": colour, "duration_s": seconds}
    samples = functools.partial(coloured_noise, seed, colour, level, seconds)
    return Utterance(name, Path(name), labels=labels, read=samples)


def coloured_noise(seed: int, colour: str, level: float, seconds: float) -> Float[np.ndarray, "n"]:
    """Makes stationary noise.

    Args:
        seed: seed of the random numbers.
        colour: "white" (constant power), "pink" (power proportional to 1/frequency) or "brown"
            (power proportional to 1/frequency²).
        level: root mean square of the samples.
        seconds: length in seconds.

    Returns:
        16 kHz samples.

    Example:
        >>> samples = coloured_noise(0, "pink", level=0.1, seconds=1.0)
        >>> len(samples), round(float(np.sqrt((samples**2).mean())), 3)
        (16000, 0.1)
    """
    n = round(seconds * SAMPLE_RATE)
    spectrum = np.fft.rfft(np.random.default_rng(seed).standard_normal(n))
    # Below 20 Hz, which is inaudible, the power is constant.
    frequency = np.maximum(np.fft.rfftfreq(n, 1 / SAMPLE_RATE), 20)
    samples = np.fft.irfft(spectrum / frequency ** _NOISE_EXPONENT[colour], n)
    return (samples * level / np.sqrt((samples**2).mean())).astype(np.float32)
