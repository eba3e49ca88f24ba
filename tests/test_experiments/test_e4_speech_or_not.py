"""E4 detects states that distinguish speech from noise, and keeps parts of a noise in one fold."""

from pathlib import Path

import numpy as np
import planted
import pytest
import xarray as xr

from experiments.data.corpora import Corpus, Utterance
from experiments.studies import probing
from experiments.studies.claims import SUPPORTED, UNTESTABLE, WEAKER
from experiments.studies.e4_speech_or_not import (
    CLAIMS,
    POSITION_TITLES,
    REPORTED,
    REPORTED_NUMBERS,
    SPECTRUM,
    STUDY,
    Config,
    is_fluent,
    passes_as_speech,
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
    # Both positions have the same states, so one probe serves both.
    data = probing.concatenate({"last": lambda: probe_position("last", rows, CONFIG)})
    if not data.sizes:  # untestable
        return data
    copies = [
        data.assign_coords(question=("example", [position] * data.sizes["example"]))
        for position in POSITION_TITLES
    ]
    return xr.concat(copies, "example", coords="minimal", compat="override", join="override")


def verdicts(data: xr.Dataset) -> dict[str, str]:
    findings = STUDY.analyse(data, CONFIG).findings
    return {key: finding.verdict for key, finding in findings.items()}


def test_a_planted_difference_is_detected():
    data = make_results(16.0, n=96)  # with fewer groups, no accuracy shows 95 %
    assert verdicts(data) == dict.fromkeys(CLAIMS, SUPPORTED)
    assert set(STUDY.draw(data, CONFIG)) == {"accuracy_by_layer"}


def test_noise_replicates_only_by_chance():
    """Per claim, one false positive in forty runs is expected.

    The probability of more than two in twenty runs is 0.01.
    """
    runs = [verdicts(make_results(0.0, seed)) for seed in range(20)]
    false_positives = {key: sum(run[key] in (SUPPORTED, WEAKER) for run in runs) for key in CLAIMS}
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


@pytest.mark.parametrize(
    ("text", "no_speech", "passes"), [("you", 0.2, True), ("you", 0.4, False), ("", 0.2, False)]
)
def test_sounds_with_a_large_no_speech_probability_are_left_out(text, no_speech, passes):
    item = {"text": np.array(text), "no_speech": np.array(no_speech)}
    assert passes_as_speech(item, CONFIG) is passes


def test_a_floor_is_the_better_of_two_baselines():
    data = make_results(16.0)
    finding = STUDY.analyse(data, CONFIG).findings["separates"]
    rows = probing.rows_of(data, "last")
    accuracies = [float(rows.correct.sel(layer=name).mean()) for name in (SPECTRUM, REPORTED)]
    assert finding.evidence is not None
    assert finding.evidence.floor == pytest.approx(max(accuracies))
    assert finding.evidence.low < finding.evidence.high  # although all predictions are right


def rain() -> Utterance:
    audio = np.arange(80_000, dtype=np.float32) / 80_000
    labels = {"noise_class": "rain", "speech_kind": "non-speech", "duration_s": 5.0}
    labels |= {"freesound_id": "7"}
    return Utterance("rain", Path("rain"), labels=labels, read=lambda: audio)


def rain_sounds() -> list[Sound]:
    corpus = Corpus("x", "manifest", (rain(),))
    return sounds_without_speech(corpus, seconds=(3.0,), speeds=(0.5,), backwards=True, n_white=2)


def test_parts_of_a_recording_share_their_group():
    sounds = rain_sounds()
    changes = ("30 s", "3 s", "30 s speed 0.5")
    names = [f"rain {change}{way}" for change in changes for way in ("", " backwards")]
    assert [sound.id for sound in sounds[:6]] == names
    assert {sound.group for sound in sounds[:6]} == {"freesound 7"}
    whole, backwards, part, _, slow, _ = (sound.samples() for sound in sounds[:6])
    np.testing.assert_array_equal(whole[::-1], backwards)
    np.testing.assert_array_equal(part, whole[:48_000])
    np.testing.assert_allclose(slow[::2], whole[:-1], rtol=1e-6)
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
