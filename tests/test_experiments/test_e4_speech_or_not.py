"""E4 detects states that distinguish speech from noise, and keeps parts of a noise in one fold."""

from pathlib import Path

import numpy as np
import planted
import pytest
import xarray as xr

from experiments.data.corpora import Corpus, Utterance
from experiments.studies import probing
from experiments.studies.claims import SUPPORTED, UNTESTABLE
from experiments.studies.e4_speech_or_not import (
    CLAIMS,
    POSITION_TITLES,
    REPORTED_NUMBERS,
    STUDY,
    Config,
    is_fluent,
    probe_position,
)
from experiments.studies.fluent_sounds import Sound, match_level, sounds_without_speech

CONFIG = Config(folds=4, splits=1)


def make_results(effect: float, seed: int = 0, n: int = 64) -> xr.Dataset:
    """Probes states with a planted effect, for `n` groups of two sounds each."""
    labels, groups = planted.rows(["not speech", "speech"], n_groups=n, each=2)
    states = planted.layers(labels, groups, effect, seed, first=1.0)
    rng = np.random.default_rng(seed)
    rows: dict[str, list] = {"not speech": [], "speech": []}
    for i, (label, group) in enumerate(zip(labels, groups)):
        item = {"last": states[:, i], "first": states[:, i], "mel": rng.normal(size=3)}
        item |= {name: np.float64(rng.normal()) for name in REPORTED_NUMBERS}
        rows[label].append((Sound(f"{i}", group, lambda: np.zeros(1)), item))
    return probing.concatenate(
        {
            position: lambda position=position: probe_position(position, rows, CONFIG)
            for position in POSITION_TITLES
        }
    )


def verdicts(data: xr.Dataset) -> dict[str, str]:
    findings = STUDY.analyse(data, CONFIG).findings
    return {key: finding.verdict for key, finding in findings.items()}


def test_a_planted_difference_is_detected():
    data = make_results(16.0)
    assert verdicts(data) == dict.fromkeys(CLAIMS, SUPPORTED)
    assert set(STUDY.draw(data, CONFIG)) == {"accuracy_by_layer"}


def test_noise_replicates_only_by_chance():
    """Per claim, one false positive in forty runs is expected.

    The probability of more than two in twenty runs is 0.01.
    """
    runs = [verdicts(make_results(0.0, seed)) for seed in range(20)]
    false_positives = {key: sum(run[key] == SUPPORTED for run in runs) for key in CLAIMS}
    assert max(false_positives.values()) <= 2
    assert false_positives["almost_always"] == 0


def test_too_few_sounds_are_not_testable():
    assert set(verdicts(make_results(8.0, n=6)).values()) == {UNTESTABLE}


@pytest.mark.parametrize(
    ("text", "fluent"),
    [
        ("I'm going to go.", True),
        ("", False),
        (". . .", False),
        ("you", True),
        ("no, " * 30, False),
    ],
)
def test_a_fluent_text_has_words_and_no_loop(text, fluent):
    assert is_fluent(text, CONFIG) is fluent


def rain() -> Utterance:
    audio = np.arange(80_000, dtype=np.float32) / 80_000
    labels = {"noise_class": "rain", "speech_kind": "non-speech", "duration_s": 5.0}
    labels |= {"freesound_id": "7"}
    return Utterance("rain", Path("rain"), labels=labels, read=lambda: audio)


def rain_sounds() -> list[Sound]:
    corpus = Corpus("x", "manifest", (rain(),))
    return sounds_without_speech(corpus, without=(), seconds=(3.0,), backwards=True, n_white=2)


def test_parts_of_a_recording_share_their_group():
    sounds = rain_sounds()
    names = [f"rain {s} s{way}" for s in (30, 3) for way in ("", " backwards")]
    assert [(sound.id, sound.group) for sound in sounds[:4]] == [(name, "7") for name in names]
    whole, backwards, part, _ = (sound.samples() for sound in sounds[:4])
    np.testing.assert_array_equal(whole[::-1], backwards)
    np.testing.assert_array_equal(part, whole[:48_000])
    assert len({sound.group for sound in sounds}) == 3
    np.testing.assert_array_equal(sounds[-1].samples(), sounds[-1].samples())


def test_speech_gets_the_length_and_level_of_a_noise():
    def sine() -> np.ndarray:
        return np.sin(np.arange(64_000, dtype=np.float32))

    talk = Utterance("talk", Path("talk"), "joe", labels={"lang": "en"}, read=sine)
    noise = rain_sounds()[0]
    speech = match_level(talk, 2.5, noise, "joe")
    assert (speech.group, len(speech.samples())) == ("joe", 40_000)
    levels = [np.sqrt(np.mean(sound.samples() ** 2)) for sound in (speech, noise)]
    assert levels[0] == pytest.approx(levels[1], rel=1e-4)
