"""E2 detects categories planted in upper layers. All recordings of a word are in one fold."""

import dataclasses
from collections import Counter

import numpy as np
import planted
import pytest
import xarray as xr

from experiments.data.corpora import Corpus, Utterance
from experiments.data.spoken_words import spoken_words, voice_installed, voices, words_by_category
from experiments.item_cache import ItemCache
from experiments.studies import e2_semantic_categories as e2
from experiments.studies.category_claims import CLAIMS, PHONEMES, SPELLING
from experiments.studies.claims import CONTRADICTED, SUPPORTED, UNTESTABLE, WEAKER
from experiments.studies.e2_semantic_categories import STUDY, Config, probe_pairs, select_words

CONFIG = Config(categories=None, folds=4, splits=1)
N = 72  # words of three categories, two voices each
CATEGORIES = ("animals", "countries", "tools")


def make_results(
    effect: float, seed: int = 0, categories: tuple[str, ...] = CATEGORIES
) -> xr.Dataset:
    labels, words = planted.rows(list(categories), n_groups=N, each=2)
    rng = np.random.default_rng(seed)
    baselines = {name: rng.normal(size=(2 * N, 4)) for name in ("mel", PHONEMES, SPELLING)}
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


def test_two_voices_of_a_word_are_not_a_category():
    counts = Counter()
    for seed in range(12):
        counts.update(verdicts(make_results(0.0, seed)).values())
    assert counts[SUPPORTED] + counts[WEAKER] <= 0.05 * counts.total()


def test_phoneme_counts_that_do_as_well_are_the_floor():
    data = make_results(6.0)
    data.correct.loc[{"layer": PHONEMES}] = data.correct.sel(layer="3")
    findings = STUDY.analyse(data, CONFIG).findings
    assert findings["top"].verdict == SUPPORTED
    assert findings["top"].evidence.floor == pytest.approx(findings["top"].evidence.value)
    assert findings["beyond_phonemes"].verdict == CONTRADICTED


def test_only_recognised_words_are_probed(monkeypatch, tmp_path):
    clips = [
        Utterance(f"{word} {voice}", "x.wav", voice, word, labels={"category": word[0]})
        for word in [f"{category}{n}" for category in "ab" for n in range(8)]
        for voice in "12"
    ]

    def features(asr, clip, max_new_tokens):
        recognised = not (clip.speaker == "2" and clip.transcript.endswith("0"))
        layers = np.random.default_rng(0).normal(size=(3, 4))
        values = {"mel": np.zeros(2), "layers": layers, "frames": 1, "recognised": recognised}
        return {name: np.asarray(value) for name, value in values.items()}

    monkeypatch.setattr(e2, "_word_features", features)
    monkeypatch.setattr(e2, "_phoneme_counts", lambda clips, features: {})
    monkeypatch.setattr(e2, "_token_embeddings", lambda asr, clips: np.zeros((len(clips), 2)))
    corpus = Corpus("mine", "manifest", tuple(clips))
    data = STUDY.run(None, corpus, CONFIG, ItemCache(tmp_path))
    assert data.sizes["example"] == 30
    numbers = STUDY.analyse(data, CONFIG).numbers
    assert (numbers["recordings"], numbers["recognised"]) == (32, 30)
    everything = dataclasses.replace(CONFIG, recognised=False)
    assert STUDY.run(None, corpus, everything, ItemCache(tmp_path)).sizes["example"] == 32


def test_missing_categories_or_phonemes_are_not_testable():
    assert set(verdicts(make_results(0.0, categories=("tools",))).values()) == {UNTESTABLE}
    without = make_results(6.0).drop_sel(layer="phonemes")
    assert verdicts(without)["beyond_phonemes"] == UNTESTABLE


def test_words_of_the_corpus_take_precedence():
    word = Utterance("x", "x.wav", "joe", "hammer", labels={"category": "tools"})
    assert spoken_words(Corpus("mine", "manifest", (word,))) == ([word], "mine")
    clips, source = spoken_words(Corpus("mine", "manifest", (Utterance("x", "x.wav"),)))
    n_words = sum(map(len, words_by_category().values()))
    synthetic = (n_words * len(voices()), "synthetic voices")
    expected = synthetic if voice_installed() else (24, "built-in")
    assert (len(clips), source.split(";")[0]) == expected
    assert len({clip.id for clip in clips}) == len(clips)


def test_no_word_is_in_two_categories():
    words = [word for members in words_by_category().values() for word in members]
    assert len(set(words)) == len(words)
    assert {len(members) for members in words_by_category().values()} <= set(range(50, 61))


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
