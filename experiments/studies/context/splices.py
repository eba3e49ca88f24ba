"""Builds spliced sentences of real speech for study E5.

A word is odd if it is much less probable than the fitting word when the decoder, which reads the
words before it, encodes white noise. Its bounds come from TIMIT or from jaxasr's aligner. It
passes the gate if the model transcribes it as spoken when it is alone.
"""

import itertools
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

import jaxasr
from experiments.data import splicing
from experiments.data.corpora import Utterance
from experiments.data.phonemes import espeak_installed
from experiments.data.real_speech import select_evenly
from experiments.data.spliced_pairs import (
    Bounds,
    Occurrence,
    Swap,
    hand_set_bounds,
    reading,
    sentence_of,
    swaps,
)
from experiments.data.spoken_pairs import Pair, Reading
from experiments.item_cache import Arrays, ItemCache
from experiments.studies.context.spoken_word import ODD, is_testable
from experiments.studies.context.stimuli import CONDITIONS, MISSING, transcribe
from experiments.studies.selection import speaker_of
from jaxasr import Recogniser
from jaxasr.alignment.words import align
from jaxasr.audio import n_frames
from jaxasr.config import SAMPLE_RATE

ODD_LOGITS = 3.0  # the odd word is 20 times less probable than the fitting one
_MAX_RATIO = 2.0  # of the durations of the two words
_MIN_WORD = SAMPLE_RATE // 10  # shorter words, in samples, are not used
_REACH = 480  # samples, 30 ms, by which an aligned bound may move to a quieter place
_NOISE_S, _NOISE_LEVEL = 5, 0.05  # white noise that removes the sound, but not the words before
_TOKENS_MULTIPLE = 32  # texts are padded, so that few programs are compiled


def groups(clips: Sequence[Utterance], asr: Recogniser, n: int) -> list[list[Swap]]:
    """Returns the swaps of up to n recordings, of all speakers in turn; none without espeak-ng."""
    if not n or not espeak_installed():
        return []
    found = swaps(clips, lambda pair: is_testable(asr.tokenizer, pair))
    return select_evenly(found, n, lambda group: speaker_of(group[0].gap.clip))


class Splicer:
    """Chooses the swap of each recording.

    Args:
        asr: the model.
        tries: largest number of swaps of a recording that are transcribed.
        seed: seed of the white noise.
    """

    def __init__(self, asr: Recogniser, tries: int, seed: int):
        self.asr, self.tries = asr, tries
        noise = np.random.default_rng(seed).normal(size=_NOISE_S * SAMPLE_RATE) * _NOISE_LEVEL
        self._noise, _ = asr.model.encode(self._mel(noise.astype(np.float32)))
        self._bounds: dict[str, list[Bounds]] = {}

    def choose(self, group: Sequence[Swap]) -> Arrays:
        """Chooses the first odd word that passes the gate.

        Returns:
            `chosen`: index of the swap, -1 if none passes. `gap` and `donor`: bounds of the two
            words. The outcome of each of `stimuli.CONDITIONS`.
        """
        odd = (
            (number, swap, bounds)
            for number, swap in enumerate(group)
            if self._is_odd(swap.pair) and (bounds := self._bounds_of(swap)) is not None
        )
        for number, swap, (gap, donor) in itertools.islice(odd, self.tries):
            spliced = reading(swap, gap, donor)
            if int(transcribe(self.asr, spliced, ("alone",))["alone"]) == ODD:
                outcomes = transcribe(self.asr, spliced)
                return _item(number, gap, donor) | outcomes
        outcomes = {name: np.asarray(MISSING) for name in CONDITIONS}
        return _item(-1, (0, 0), (0, 0)) | outcomes

    def _is_odd(self, pair: Pair) -> bool:
        tokenizer = self.asr.tokenizer
        before = pair.sentence.partition("{}")[0].rstrip()
        prefix = [*tokenizer.prompt("en"), *tokenizer.encode(f" {before}")]
        width = -(-len(prefix) // _TOKENS_MULTIPLE) * _TOKENS_MULTIPLE
        tokens = np.full((1, width), prefix[-1], np.int32)
        tokens[0, : len(prefix)] = prefix
        logits, _ = self.asr.model.decode(jnp.asarray(tokens), self._noise)
        after = np.asarray(logits[0, len(prefix) - 1])
        expected, target = (
            after[tokenizer.encode(f" {word}")[0]] for word in (pair.expected, pair.target)
        )
        return bool(expected - target >= ODD_LOGITS)

    def _bounds_of(self, swap: Swap) -> tuple[Bounds, Bounds] | None:
        """Returns the bounds of both words, or None if they are unknown or differ too much."""
        gap, donor = self._bounds_in(swap.gap), self._bounds_in(swap.donor)
        if gap is None or donor is None:
            return None
        shorter, longer = sorted(stop - start for start, stop in (gap, donor))
        is_usable = shorter >= _MIN_WORD and longer <= _MAX_RATIO * shorter
        return (gap, donor) if is_usable else None

    def _bounds_in(self, occurrence: Occurrence) -> Bounds | None:
        clip = occurrence.clip
        if clip.id not in self._bounds:
            self._bounds[clip.id] = self._find_bounds(clip)
        bounds = self._bounds[clip.id]
        return bounds[occurrence.number] if bounds else None

    def _find_bounds(self, clip: Utterance) -> list[Bounds]:
        """Finds the bounds of all words; none if the words cannot be aligned."""
        sentence = sentence_of(clip)
        bounds = hand_set_bounds().get(clip.id)
        if bounds is None:
            bounds = self._align(clip.samples(), " ".join(sentence))
        return bounds if len(bounds) == len(sentence) else []

    def _align(self, audio: Float[np.ndarray, "n"], text: str) -> list[Bounds]:
        asr = self.asr
        memory, _ = asr.model.encode(self._mel(audio))
        # The mean of all heads follows word bounds better than the released heads do: it is 0 ms
        # late in TIMIT's recordings with tiny.en, and they are 80 ms late.
        layers, heads = range(asr.config.n_text_layer), range(asr.config.n_text_head)
        [aligned] = align(
            asr.model,
            asr.tokenizer,
            memory,
            [asr.tokenizer.encode(f" {text}")],
            [n_frames(len(audio))],
            heads=tuple(itertools.product(layers, heads)),
            language="en",
            late_start=True,
        )

        def snap(seconds: float) -> int:
            return splicing.snap(audio, round(seconds * SAMPLE_RATE), _REACH)

        return [(snap(word.start), snap(word.end)) for word in aligned]

    def _mel(self, audio: Float[np.ndarray, "n"]) -> np.ndarray:
        return np.asarray(jaxasr.log_mel(audio, self.asr.config.n_mels))[None]


def choose(
    asr: Recogniser, found: Sequence[Sequence[Swap]], tries: int, seed: int, cache: ItemCache
) -> list[tuple[Reading, Arrays]]:
    """Returns the readings that pass the gate, each with its outcomes."""
    if not found:
        return []
    items = cache.each(
        "E5 splices",
        found,
        Splicer(asr, tries, seed).choose,
        key=lambda group: group[0].gap.clip.id,
    )
    return [
        (reading(group[int(item["chosen"])], _pair(item["gap"]), _pair(item["donor"])), item)
        for group, item in zip(found, items)
        if int(item["chosen"]) >= 0
    ]


def _item(number: int, gap: Bounds, donor: Bounds) -> Arrays:
    values = {"chosen": number, "gap": gap, "donor": donor}
    return {name: np.asarray(value) for name, value in values.items()}


def _pair(bounds: np.ndarray) -> Bounds:
    start, stop = bounds.tolist()
    return start, stop
