"""E3 detects planted errors better than reported numbers do, and keeps pairs in one fold."""

import dataclasses
from pathlib import Path

import numpy as np
import planted
import pytest
import xarray as xr

from experiments.data.corpora import Utterance
from experiments.studies import probing
from experiments.studies.claims import SUPPORTED, UNDECIDED, UNTESTABLE
from experiments.studies.e3_transcription_quality import (
    CLAIMS,
    QUESTION_TITLES,
    REPORTED_NUMBERS,
    STUDY,
    Config,
    probe_pairs,
)
from experiments.studies.matched_pairs import error_rates, match_pairs

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

    def probe(kind: str) -> xr.Dataset:
        return probe_pairs(kind, clips, features, rates, CONFIG)

    return probing.concatenate({kind: lambda kind=kind: probe(kind) for kind in QUESTION_TITLES})


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


@pytest.mark.parametrize("seed", range(2))
def test_noise_does_not_replicate(seed):
    assert verdicts(make_results(0.0, seed)) == dict.fromkeys(CLAIMS, UNDECIDED)


def test_a_better_reported_number_is_not_beaten():
    data = make_results(2.0, reported_effect=8.0)
    by_key = verdicts(data)
    assert by_key["predicts"] == SUPPORTED
    assert by_key["beats_logprob"] == by_key["beats_at_hand"] == UNDECIDED
    assert STUDY.analyse(data, CONFIG).numbers["auroc"]["errors"]["improbability"][0] > 0.99
    assert data.reported.sizes["number"] == len(REPORTED_NUMBERS)


def test_pairs_have_one_set_and_similar_length_worst_first():
    clips = [clip(0, 5), clip(1, 10), clip(2, 10, "two"), clip(3, 6), clip(4, 11), clip(5, 30)]
    clips = [dataclasses.replace(utterance, speaker="") for utterance in clips]
    rates = dict(zip([clip.id for clip in clips], [0.2, 0.5, 0.9, 0, 0, 0]))
    assert pair_ids(clips, rates) == [("one 1", "one 4"), ("one 0", "one 3")]
    assert len(pair_ids(clips, rates, n=1)) == 1


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
