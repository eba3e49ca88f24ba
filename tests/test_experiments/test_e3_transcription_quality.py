"""E3 detects planted errors better than reported numbers do, and keeps pairs in one fold."""

import dataclasses
from pathlib import Path

import numpy as np
import planted
import pytest
import xarray as xr

from experiments.data.corpora import Corpus, Utterance
from experiments.studies import probing
from experiments.studies.claims import CONTRADICTED, SUPPORTED, UNDECIDED, UNTESTABLE, WEAKER
from experiments.studies.e3_transcription_quality import (
    CLAIMS,
    QUESTION_TITLES,
    REPORTED_NUMBERS,
    STUDY,
    Config,
    probe_pairs,
)
from experiments.studies.matched_pairs import error_rates, match_pairs
from experiments.studies.noisy_sentences import noise_level, with_noisy_copies

CONFIG = Config(folds=4, splits=1)


def clip(n: int, n_words: int = 5, set_name: str = "one", speaker: str = "") -> Utterance:
    """Makes recording number `n`. By default, each speaker has four recordings."""
    text, labels = " ".join(["word"] * n_words), {"set": set_name, "lang": "en"}
    speaker = speaker or f"speaker {n // 4}"
    name = f"{set_name} {n}"
    return Utterance(name, Path("x"), speaker=speaker, transcript=text, labels=labels)


def make_results(effect: float, seed: int = 0, reported_effect: float = 0.0) -> xr.Dataset:
    """Makes every second transcript bad. Plants this label in the state and the log-probability.

    In the state, the effect grows from the second layer to the top layer.
    """
    clips = [clip(n) for n in range(128)]
    rates = {clip.id: float(n % 2) for n, clip in enumerate(clips)}
    labels = np.array(["right", "bad"])[np.arange(128) % 2]
    states = planted.layers(labels, np.array([clip.speaker for clip in clips]), effect, seed)
    rng, features = np.random.default_rng(seed), {}
    for n, utterance in enumerate(clips):
        mel = rng.normal(size=3)
        logprob = np.float64(rng.normal() - reported_effect * rates[utterance.id])
        others = {name: np.float64(rng.normal()) for name in ("ratio", "no_speech", "tokens")}
        features[utterance.id] = {"last": states[:, n], "mel": mel, "logprob": logprob, **others}

    # Both questions have the same rows.
    rows = probe_pairs("errors", clips, features, rates, CONFIG)
    n = rows.sizes["example"]
    return probing.concatenate(
        {
            kind: lambda kind=kind: rows.assign_coords(question=("example", [kind] * n))
            for kind in QUESTION_TITLES
        }
    )


def verdicts(data: xr.Dataset) -> dict[str, str]:
    findings = STUDY.analyse(data, CONFIG).findings
    return {key: finding.verdict for key, finding in findings.items()}


def pair_ids(clips: list[Utterance], rates: dict[str, float], n: int = 200) -> list[tuple]:
    pairs = match_pairs(clips, rates, max_ratio=CONFIG.longer, n=n)
    return [(bad.id, right.id) for bad, right in pairs]


def test_planted_errors_are_detected():
    data = make_results(6.0)
    assert verdicts(data) == dict.fromkeys(CLAIMS, SUPPORTED)
    assert set(STUDY.draw(data, CONFIG)) == {"accuracy_by_layer", "auroc"}


def test_nothing_is_found_in_nothing():
    """Per claim, one false positive in forty runs is expected.

    The probability of more than two in twenty runs is 0.01.
    """
    runs = [verdicts(make_results(0.0, seed)) for seed in range(20)]
    false_positives = {key: sum(run[key] in (SUPPORTED, WEAKER) for run in runs) for key in CLAIMS}
    assert max(false_positives.values()) <= 2


def test_a_better_reported_number_is_not_beaten():
    data = make_results(2.0, reported_effect=8.0)
    by_key = verdicts(data)
    assert by_key["predicts"] in (SUPPORTED, WEAKER)
    assert {by_key["beats_logprob"], by_key["beats_at_hand"]} <= {UNDECIDED, CONTRADICTED}
    predicts = STUDY.analyse(data, CONFIG).findings["predicts"].evidence
    assert predicts is not None
    assert predicts.floor is not None
    assert predicts.floor > predicts.value
    assert STUDY.analyse(data, CONFIG).numbers["auroc"]["errors"]["improbability"][0] > 0.99
    assert data.reported.sizes["number"] == len(REPORTED_NUMBERS)


def test_pairs_have_one_set_and_similar_length_worst_first():
    clips = [clip(0, 5), clip(1, 10), clip(2, 10, "two"), clip(3, 6), clip(4, 11), clip(5, 30)]
    clips = [dataclasses.replace(utterance, speaker="") for utterance in clips]
    rates = dict(zip([clip.id for clip in clips], [0.2, 0.5, 0.9, 0, 0, 0]))
    assert pair_ids(clips, rates) == [("one 1", "one 4"), ("one 0", "one 3")]
    assert len(pair_ids(clips, rates, n=1)) == 1


def test_pairs_have_the_same_level_of_noise():
    clips = [
        dataclasses.replace(
            clip(n, speaker="a"), labels={"set": "one", "lang": "en", "snr_db": level}
        )
        for n, level in enumerate((5, 0, 0, 5))
    ]
    rates = dict(zip([clip.id for clip in clips], [0.5, 0.4, 0, 0]))
    assert pair_ids(clips, rates) == [("one 0", "one 3"), ("one 1", "one 2")]


def test_only_the_worst_third_is_bad():
    clips = [clip(n, speaker="a") for n in range(6)]
    rates = dict(zip([clip.id for clip in clips], [0.9, 0.5, 0.2, 0, 0, 0]))
    pairs = match_pairs(clips, rates, max_ratio=1.25, n=9, worst=1 / 3)
    assert [bad.id for bad, _ in pairs] == ["one 0", "one 1"]


def test_noisy_copies_of_a_speaker_have_one_background():
    labels = {"noise_class": "rain", "speech_kind": "non-speech"}
    sounds = [
        Utterance(f"rain {n}", Path("x"), labels=labels, read=lambda n=n: np.full(800, n + 1.0))
        for n in range(2)
    ]
    voice = dataclasses.replace(clip(0), read=lambda: np.ones(1600, np.float32))
    clips = [dataclasses.replace(voice, id=f"{n}", speaker="ab"[n // 2]) for n in range(4)]
    corpus = Corpus("x", "manifest", (*clips, *sounds))
    copies = with_noisy_copies(clips, corpus, (5, 0), seed=0)
    assert copies[:4] == clips
    assert [noise_level(copy) for copy in copies] == ["none"] * 4 + ["5"] * 4 + ["0"] * 4
    backgrounds = [{c.id[-6:] for c in copies[4:] if c.speaker == name} for name in "ab"]
    assert list(map(len, backgrounds)) == [1, 1]
    assert backgrounds[0] != backgrounds[1]
    noise = copies[8].samples() - copies[0].samples()  # at 0 dB as strong as the voice
    assert np.sqrt((noise**2).mean()) == pytest.approx(1.0, rel=1e-3)


def test_the_pairs_of_each_level_are_counted():
    counts = STUDY.analyse(make_results(0.0), CONFIG).numbers["pairs"]
    assert counts["errors"] == {"none": {"pairs": 64, "rate": 1.0}}


def test_speakers_and_pairs_stay_in_one_fold():
    clips = [clip(n, speaker=speaker) for n, speaker in enumerate("aaabcdde")]
    rates = dict(zip([clip.id for clip in clips], [0.9, 0, 0.8, 0, 0.7, 0.6, 0, 0]))
    # Pairs of speaker a, of speakers c and b (who are in no other pair), and of speaker d.
    assert pair_ids(clips, rates) == [("one 0", "one 1"), ("one 4", "one 3"), ("one 5", "one 6")]


def test_labels_shuffled_within_pairs_score_at_chance():
    curves = STUDY.analyse(make_results(0.0), CONFIG).numbers["errors"]["shuffled"]
    assert abs(np.mean(curves) - 0.5) < 0.03


def test_errors_and_insertions_are_rates_per_word():
    rates = error_rates("word word word word word and more", clip(0, 5))
    assert rates == {"errors": pytest.approx(0.4), "insertions": pytest.approx(0.4)}
    rates = error_rates("word", clip(0, 5))
    assert rates == {"errors": pytest.approx(0.8), "insertions": 0}


def test_too_few_errors_are_not_testable():
    questions = {"errors": lambda: probe_pairs("errors", [], {}, {}, CONFIG)}
    findings = STUDY.analyse(probing.concatenate(questions), CONFIG).findings
    assert {finding.verdict for finding in findings.values()} == {UNTESTABLE}
    assert "0 pairs" in findings["predicts"].why
