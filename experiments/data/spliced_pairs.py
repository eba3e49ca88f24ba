"""Finds words of one speaker that can replace each other, and splices them into sentences."""

import dataclasses
import functools
import string
from collections.abc import Callable, Hashable, Iterable, Sequence

import jiwer
import numpy as np
from jaxtyping import Float

from experiments.data import real_speech, splicing
from experiments.data.corpora import Span, Utterance
from experiments.data.phonemes import Phonemes, phonemes
from experiments.data.spoken_pairs import Pair, Reading
from interventions.generation.transcripts import words
from jaxasr.config import SAMPLE_RATE

MAX_DISTANCE = 0.5  # phonemes that differ, as a share of those of the longer word
_MIN_PHONEMES = 3
_MIN_WORDS_BEFORE = 2  # so that there is a context
# Cut from both ends of the gap, so that nothing of the replaced word remains.
_MARGIN = SAMPLE_RATE // 50
_SILENCE = SAMPLE_RATE // 2  # samples of silence around a word that is played alone

Bounds = tuple[int, int]  # first sample of a word, and the sample after its last one


@dataclasses.dataclass(frozen=True)
class Occurrence:
    """A word of a recording.

    Attributes:
        clip: the recording.
        number: index of the word in `sentence_of(clip)`.
        word: the word, in lower case.
    """

    clip: Utterance
    number: int
    word: str


@dataclasses.dataclass(frozen=True)
class Swap:
    """A word, and a similar-sounding word of the same speaker that can replace it.

    Attributes:
        gap: the replaced word.
        donor: the word that replaces it, from another recording.
        pair: the sentence and both words.
    """

    gap: Occurrence
    donor: Occurrence
    pair: Pair

    @property
    def id(self) -> str:
        """Name of the swap."""
        gap, donor = self.gap, self.donor
        return f"{gap.clip.id} {gap.number}, {donor.clip.id} {donor.number}"


def sentence_of(clip: Utterance) -> list[str]:
    """Returns the words of a transcript with their punctuation, not in capital letters.

    Example:
        >>> sentence_of(Utterance("a", "a.wav", transcript="GIVE US YOUR PAW"))
        ['Give', 'us', 'your', 'paw']
    """
    text = clip.transcript
    return (text.capitalize() if text.isupper() else text).split()


def swaps(clips: Sequence[Utterance], accept: Callable[[Pair], bool]) -> list[list[Swap]]:
    """Lists the swaps of each recording, the most similar words first.

    Both words have at least three phonemes, differ in at most half of them, and neither contains
    the other. At least two words precede the gap.

    Args:
        clips: recordings with transcripts and speakers.
        accept: whether a pair can be used.

    Returns:
        The swaps of each recording that has any. Needs espeak-ng.
    """
    by_speaker: dict[str, list[Occurrence]] = {}
    for clip in clips:
        if clip.speaker:
            by_speaker.setdefault(clip.speaker, []).extend(_occurrences(clip))
    vocabulary = sorted({o.word for found in by_speaker.values() for o in found})
    sounds = dict(zip(vocabulary, phonemes(vocabulary, "en")))
    groups: dict[Hashable, list[tuple[float, str, Swap]]] = {}
    for found in by_speaker.values():
        for gap in found:
            if gap.number < _MIN_WORDS_BEFORE:
                continue
            for donor in found:
                distance = _distance(gap, donor, sounds)
                pair = Pair(_with_gap(gap), gap.word, donor.word)
                if distance <= MAX_DISTANCE and _has_countable_gap(pair) and accept(pair):
                    swap = Swap(gap, donor, pair)
                    groups.setdefault(gap.clip.id, []).append((distance, swap.id, swap))
    return [
        [swap for *_, swap in sorted(group, key=lambda item: item[:2])] for group in groups.values()
    ]


def _occurrences(clip: Utterance) -> Iterable[Occurrence]:
    for number, word in enumerate(sentence_of(clip)):
        bare = word.rstrip(string.punctuation).lower()
        if bare.isalpha() and bare.isascii():
            yield Occurrence(clip, number, bare)


def _distance(gap: Occurrence, donor: Occurrence, sounds: dict[str, Phonemes]) -> float:
    one, other = gap.word, donor.word
    if gap.clip.transcript == donor.clip.transcript or one in other or other in one:
        return np.inf
    return _phoneme_distance(sounds[one], sounds[other])


@functools.lru_cache(maxsize=1 << 18)
def _phoneme_distance(one: Phonemes, other: Phonemes) -> float:
    lengths = len(one), len(other)
    if min(lengths) < _MIN_PHONEMES or one == other or lengths[0] > 2 * lengths[1]:
        return np.inf
    long, short = sorted((one, other), key=len, reverse=True)
    return float(jiwer.wer(" ".join(long), " ".join(short)))


def _with_gap(gap: Occurrence) -> str:
    sentence = sentence_of(gap.clip)
    word = sentence[gap.number]
    sentence[gap.number] = "{}" + word[len(word.rstrip(string.punctuation)) :]
    return " ".join(sentence)


def _has_countable_gap(pair: Pair) -> bool:
    """Checks that the normaliser does not join the words around the gap."""
    before, _, after = pair.sentence.partition("{}")
    whole = words(pair.sentence.format(pair.target)).split()
    n_before, n_after = len(words(before).split()), len(words(after).split())
    return len(whole) == n_before + 1 + n_after and whole[n_before] == words(pair.target)


@functools.cache
def hand_set_bounds() -> dict[str, list[Bounds]]:
    """Returns the bounds of all words of TIMIT's recordings in the data folders, by path."""
    return {
        row["path"]: [(int(start), int(stop)) for start, stop, _ in row["words"]]
        for row in real_speech.rows("timit_align")
    }


def reading(swap: Swap, gap: Bounds, donor: Bounds) -> Reading:
    """Splices both words of a swap into its sentence.

    Both words get the same duration, the geometric mean of theirs, and the same level.

    Args:
        swap: the sentence and the two words.
        gap: bounds of the replaced word in its recording.
        donor: bounds of the word that replaces it.

    Returns:
        A reading whose recordings are the sentence with either word, and the odd word alone.
    """
    length = matched_length(gap, donor)
    start = max(0, gap[0] - _MARGIN)
    stop_s = (start + length) / SAMPLE_RATE

    def utterance(name: str, text: str) -> Utterance:
        return Utterance(
            id=f"{name}: {swap.id}",
            path=swap.gap.clip.path,
            speaker=swap.gap.clip.speaker,
            transcript=text,
            tiers={"gap": (Span(start / SAMPLE_RATE, stop_s, text),)},
            read=functools.partial(_render, name, swap, gap, donor),
        )

    pair = swap.pair
    return Reading(
        pair,
        swap.gap.clip.speaker,
        odd=utterance("odd", pair.sentence.format(pair.target)),
        fitting=utterance("fitting", pair.sentence.format(pair.expected)),
        alone=utterance("alone", f"{pair.target.capitalize()}."),
        spliced=True,
    )


def matched_length(gap: Bounds, donor: Bounds) -> int:
    """Returns the number of samples of both words: the geometric mean of their lengths.

    Example:
        >>> matched_length((0, 1000), (0, 4000))
        2000
    """
    return round(((gap[1] - gap[0]) * (donor[1] - donor[0])) ** 0.5)


def _render(name: str, swap: Swap, gap: Bounds, donor: Bounds) -> Float[np.ndarray, "n"]:
    audio = swap.gap.clip.samples()
    level = splicing.rms(audio[slice(*gap)])
    # The fitting word goes through the same steps as the odd one.
    source, bounds = (audio, gap) if name == "fitting" else (swap.donor.clip.samples(), donor)
    word = splicing.cut(source, bounds, matched_length(gap, donor))
    if name == "alone":
        silence = np.zeros(_SILENCE, audio.dtype)
        return splicing.insert(silence, (_SILENCE // 2, _SILENCE // 2), word, level)
    removed = max(0, gap[0] - _MARGIN), min(len(audio), gap[1] + _MARGIN)
    return splicing.insert(audio, removed, word, level)
