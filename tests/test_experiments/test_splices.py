"""A word of real speech is replaced by another word of the same speaker."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from four_layers import FOUR_LAYERS

import jaxasr
from experiments.data import real_speech, splicing
from experiments.data.corpora import Utterance
from experiments.data.corpora.manifest import read
from experiments.data.phonemes import espeak_installed
from experiments.data.spliced_pairs import hand_set_bounds, reading, sentence_of, swaps
from experiments.data.spoken_pairs import Pair
from experiments.item_cache import ItemCache
from experiments.studies.context import grid, splices
from experiments.studies.context.spoken_word import FITTING, ODD

needs_espeak = pytest.mark.skipif(not espeak_installed(), reason="needs espeak-ng")
needs_timit = pytest.mark.skipif(not hand_set_bounds(), reason="needs TIMIT's word bounds")
TEXTS = {"a": "He had to spread the rice on a plate.", "b": "The lice were dead by Monday."}
GAP, DONOR = (24_000, 30_000), (8_000, 11_000)


def clip(name: str, speaker: str = "ann", text: str = "") -> Utterance:
    rng = np.random.default_rng(ord(name[0]))
    audio = rng.normal(size=48_000).astype(np.float32) * 0.1
    return Utterance(name, Path(name), speaker, text or TEXTS[name], read=lambda: audio)


def find(*clips: Utterance) -> dict[str, list[Pair]]:
    found = swaps(clips, lambda pair: True)
    return {group[0].gap.clip.id: [swap.pair for swap in group] for group in found}


@needs_espeak
def test_similar_words_of_one_speaker_can_replace_each_other():
    found = find(clip("a"), clip("b"))
    assert Pair("He had to spread the {} on a plate.", "rice", "lice") == found["a"][0]
    assert "b" not in found  # one word is not enough context
    assert find(clip("a"), clip("b", "bob")) == {}
    assert find(clip("a"), clip("b", text=TEXTS["a"])) == {}


@needs_espeak
def test_capital_letters_and_punctuation_are_not_part_of_a_word():
    found = find(clip("a", text="THE BOWL HELD WHITE RICE"), clip("b", text="They are lice."))
    assert found["a"] == [Pair("The bowl held white {}", "rice", "lice")]
    assert sentence_of(clip("b", text="It's “lice”, he wrote")) == [
        "It's",
        "“lice”,",
        "he",
        "wrote",
    ]


def splice():
    [[swap]] = swaps([clip("a"), clip("b")], lambda pair: pair.target == "lice")
    return reading(swap, GAP, DONOR)


@needs_espeak
def test_both_versions_differ_only_in_the_gap_and_are_equally_long_and_loud():
    spliced = splice()
    assert spliced.fitting is not None
    assert spliced.alone is not None
    odd, fitting = spliced.odd.samples(), spliced.fitting.samples()
    audio = clip("a").samples()
    span = spliced.odd.tiers["gap"][0]
    start, stop = (round(seconds * 16_000) for seconds in (span.start_s, span.end_s))
    assert len(odd) == len(fitting)
    assert stop - start == round((6000 * 3000) ** 0.5)
    around = splicing.FADE
    for version in (odd, fitting):
        np.testing.assert_array_equal(version[: start - around], audio[: start - around])
        after = len(version) - stop - around
        np.testing.assert_array_equal(version[-after:], audio[-after:])
    assert splicing.rms(odd[start:stop]) == pytest.approx(
        splicing.rms(fitting[start:stop]), rel=0.1
    )
    assert np.corrcoef(odd[start:stop], fitting[start:stop])[0, 1] < 0.5
    assert len(spliced.alone.samples()) == 8_000 + stop - start


def test_stretching_keeps_pitch_and_level():
    time = np.arange(8000) / 16_000
    for length in (5000, 8000, 12_000):
        longer = splicing.stretch(np.sin(2 * np.pi * 220 * time), length)
        spectrum = np.abs(np.fft.rfft(longer * np.hanning(length)))
        assert np.argmax(spectrum) * 16_000 / length == pytest.approx(220, abs=4)
        assert splicing.rms(longer[800:-800]) == pytest.approx(0.5**0.5, rel=0.05)


def test_a_word_that_is_put_back_is_unchanged():
    audio = clip("a").samples()
    start, stop = GAP
    word = splicing.cut(audio, GAP, stop - start)
    same = splicing.insert(audio, GAP, word, splicing.rms(word))
    np.testing.assert_allclose(same, audio, atol=1e-6)


def test_only_single_places_are_patched_in_spliced_sentences():
    listed = grid.patches(FOUR_LAYERS, (0.5, 1.0), (0.5, 1.0), (1.0,), 0.5, 2)
    tried = grid.of_places(listed)
    assert {listed[i].unit for i in np.flatnonzero(tried)} == {"none", "place"}
    assert {p.alpha for p, is_tried in zip(listed, tried) if is_tried and p.unit == "place"} == {
        1.0
    }


@needs_espeak
@needs_timit
def test_an_odd_word_passes_if_it_is_transcribed_alone(tmp_path: Path):
    """A speaker of TIMIT, with hand-set bounds: "with" is replaced by "which"."""
    asr = jaxasr.load("tiny.en")
    folder = next(path for path in real_speech.folders() if (path / "timit").is_dir())
    clips = [one for one in read(folder / "manifest.jsonl") if one.speaker == "dr1-fvmh0"]
    pair = Pair("Ran away on a black night {} a lawful wedded man.", "with", "which")
    found = [
        [swap for swap in group if swap.pair == pair] for group in splices.groups(clips, asr, 99)
    ]
    [group] = [group for group in found if group]
    splicer = splices.Splicer(asr, 4, 0)
    assert splicer._is_odd(pair)
    assert not splicer._is_odd(dataclasses.replace(pair, expected="which", target="with"))
    [(_, item)] = splices.choose(asr, [group], 4, 0, ItemCache(tmp_path))
    assert (int(item["alone"]), int(item["fitting"])) == (ODD, FITTING)
    assert tuple(item["gap"]) in hand_set_bounds()[group[0].gap.clip.id]
    # The silence at the start of the recording is not transcribed as the word.
    donor = group[0].donor.clip.id
    splicer._bounds[donor] = [(0, 3000)] * len(hand_set_bounds()[donor])
    assert int(splicer.choose(group)["chosen"]) == -1
