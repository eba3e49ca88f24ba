"""E2 finds categories where words of one are alike in upper layers, nothing where they are not, and keeps voices of a word together."""

import numpy as np
import planted
import pytest
import xarray as xr

from experiments.data.corpora import Corpus, Utterance
from experiments.data.spoken_words import VOICES, WORDS, installed, spoken_words
from experiments.studies.e2_semantic_categories import CLAIMS, STUDY, Config, _chosen, pairwise
from experiments.studies.study import DOES_NOT, REPLICATES, UNTESTABLE

CONFIG = Config(categories=None, folds=4, splits=1)
N = 72  # words of three categories, two voices each


def arrays(
    effect: float, seed: int = 0, kinds: tuple[str, ...] = ("animals", "countries", "tools")
) -> xr.Dataset:
    labels, words = planted.rows(list(kinds), N, 2)
    rng = np.random.default_rng(seed)
    baselines = {"mel": rng.normal(size=(2 * N, 3)), "phonemes": rng.normal(size=(2 * N, 5))}
    return pairwise(
        planted.layers(labels, words, effect, seed),
        labels,
        words,
        baselines,
        CONFIG,
        [str(n) for n in range(2 * N)],
    )


def verdicts(data: xr.Dataset) -> dict[str, str]:
    return {name: found.verdict for name, found in STUDY.analyse(data, CONFIG).findings.items()}


def test_what_was_planted_is_found():
    found = arrays(6.0)
    assert verdicts(found) == dict.fromkeys(CLAIMS, REPLICATES)
    assert set(STUDY.draw(found, CONFIG)) == {"pairs_by_layer"}
    assert STUDY.analyse(found, CONFIG).numbers["pairs"].keys() == {
        "animals or countries",
        "animals or tools",
        "countries or tools",
    }


@pytest.mark.parametrize("seed", range(2))
def test_nothing_is_found_in_nothing_though_voices_repeat_the_word(seed):
    assert verdicts(arrays(0.0, seed)) == dict.fromkeys(CLAIMS, DOES_NOT)


def test_one_category_and_no_espeak():
    assert set(verdicts(arrays(0.0, kinds=("tools",))).values()) == {UNTESTABLE}
    without = arrays(6.0).drop_sel(layer="phonemes")
    assert verdicts(without)["beyond_phonemes"] == UNTESTABLE


def test_words_of_the_corpus_come_first():
    own = Utterance("x", "x.wav", "joe", "hammer", labels={"category": "tools"})
    assert spoken_words(Corpus("mine", "manifest", (own,))) == ([own], "mine")
    others, source = spoken_words(Corpus("mine", "manifest", (Utterance("x", "x.wav"),)))
    assert (len(others), source.split(";")[0]) == (
        (120 * len(VOICES), "synthetic voice") if installed() else (24, "built-in")
    )
    assert len({one.id for one in others}) == len(others)


def test_no_word_is_in_two_categories():
    words = [word for several in WORDS.values() for word in several.split()]
    assert len(set(words)) == len(words) == 120


def test_as_many_words_as_wanted_in_every_voice():
    clips = [
        Utterance(f"{w} {v}", "x", v, w, labels={"category": kind})
        for kind, w in (("a", "x"), ("a", "y"), ("b", "z"))
        for v in "12"
    ]
    assert [one.id for one in _chosen(clips, Config(categories=None, per_category=1))] == [
        "x 1",
        "x 2",
        "z 1",
        "z 2",
    ]
    assert [one.id for one in _chosen(clips, Config(categories=("b",)))] == ["z 1", "z 2"]
