"""E2 detects categories planted in upper layers. All recordings of a word are in one fold."""

import numpy as np
import planted
import pytest
import xarray as xr

from experiments.data.corpora import Corpus, Utterance
from experiments.data.spoken_words import VOICES, WORDS, spoken_words, voice_installed
from experiments.studies.claims import SUPPORTED, UNDECIDED, UNTESTABLE
from experiments.studies.e2_semantic_categories import (
    CLAIMS,
    STUDY,
    Config,
    probe_pairs,
    select_words,
)

CONFIG = Config(categories=None, folds=4, splits=1)
N = 72  # words of three categories, two voices each
CATEGORIES = ("animals", "countries", "tools")


def make_results(
    effect: float, seed: int = 0, categories: tuple[str, ...] = CATEGORIES
) -> xr.Dataset:
    labels, words = planted.rows(list(categories), n_groups=N, each=2)
    rng = np.random.default_rng(seed)
    baselines = {"mel": rng.normal(size=(2 * N, 3)), "phonemes": rng.normal(size=(2 * N, 5))}
    layers = planted.layers(labels, words, effect, seed)
    examples = [str(n) for n in range(2 * N)]
    return probe_pairs(layers, labels, words, baselines, CONFIG, examples)


def verdicts(data: xr.Dataset) -> dict[str, str]:
    findings = STUDY.analyse(data, CONFIG).findings
    return {key: finding.verdict for key, finding in findings.items()}


def test_planted_categories_are_detected():
    data = make_results(6.0)
    assert verdicts(data) == dict.fromkeys(CLAIMS, SUPPORTED)
    assert set(STUDY.draw(data, CONFIG)) == {"pairs_by_layer"}
    pairs = {"animals or countries", "animals or tools", "countries or tools"}
    assert STUDY.analyse(data, CONFIG).numbers["pairs"].keys() == pairs


@pytest.mark.parametrize("seed", range(2))
def test_two_voices_of_a_word_are_not_a_category(seed):
    assert verdicts(make_results(0.0, seed)) == dict.fromkeys(CLAIMS, UNDECIDED)


def test_missing_categories_or_phonemes_are_not_testable():
    assert set(verdicts(make_results(0.0, categories=("tools",))).values()) == {UNTESTABLE}
    without = make_results(6.0).drop_sel(layer="phonemes")
    assert verdicts(without)["beyond_phonemes"] == UNTESTABLE


def test_words_of_the_corpus_take_precedence():
    word = Utterance("x", "x.wav", "joe", "hammer", labels={"category": "tools"})
    assert spoken_words(Corpus("mine", "manifest", (word,))) == ([word], "mine")
    clips, source = spoken_words(Corpus("mine", "manifest", (Utterance("x", "x.wav"),)))
    expected = (120 * len(VOICES), "synthetic voice") if voice_installed() else (24, "built-in")
    assert (len(clips), source.split(";")[0]) == expected
    assert len({clip.id for clip in clips}) == len(clips)


def test_no_word_is_in_two_categories():
    words = [word for members in WORDS.values() for word in members.split()]
    assert len(set(words)) == len(words) == 120


def test_all_voices_of_a_selected_word_are_selected():
    clips = [
        Utterance(f"{word} {voice}", "x", voice, word, labels={"category": category})
        for category, word in (("a", "x"), ("a", "y"), ("b", "z"))
        for voice in "12"
    ]

    def selected(config: Config) -> list[str]:
        return [clip.id for clip in select_words(clips, config)]

    assert selected(Config(categories=None, per_category=1)) == ["x 1", "x 2", "z 1", "z 2"]
    assert selected(Config(categories=("b",))) == ["z 1", "z 2"]
