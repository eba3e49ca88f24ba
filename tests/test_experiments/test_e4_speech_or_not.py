"""E4 finds a decoder that knows speech, nothing where it does not; only words count, and noise keeps to its side."""

from pathlib import Path

import numpy as np
import planted
import pytest
import xarray as xr

from experiments.data.corpora import Corpus, Utterance
from experiments.studies import probing
from experiments.studies.e4_speech_or_not import (
    CLAIMS,
    STUDY,
    Config,
    Sound,
    _as_loud,
    asked,
    is_fluent,
    sounds,
)
from experiments.studies.study import REPLICATES, UNTESTABLE

CONFIG = Config(folds=4, splits=1, white=2)


def arrays(effect: float, seed: int = 0, n: int = 64) -> xr.Dataset:
    labels, groups = planted.rows(["not speech", "speech"], n, 2)
    states = planted.layers(labels, groups, effect, seed, first=1.0)
    rng = np.random.default_rng(seed)
    rows: dict[str, list] = {"not speech": [], "speech": []}
    for i, (label, group) in enumerate(zip(labels, groups)):
        kept = {"last": states[:, i], "first": states[:, i], "mel": rng.normal(size=3)}
        kept |= {name: np.float64(rng.normal()) for name in ("no_speech", "logprob", "tokens")}
        rows[label].append((Sound(f"{i}", group, None), kept))
    return probing.concatenate(
        {place: lambda place=place: asked(place, rows, CONFIG) for place in ("last", "first")}
    )


def verdicts(data: xr.Dataset) -> dict[str, str]:
    return {name: found.verdict for name, found in STUDY.analyse(data, CONFIG).findings.items()}


def test_what_was_planted_is_found():
    found = arrays(16.0)
    assert verdicts(found) == dict.fromkeys(CLAIMS, REPLICATES)
    assert set(STUDY.draw(found, CONFIG)) == {"accuracy_by_layer"}


def test_nothing_is_found_in_nothing_but_by_chance():
    """An interval of 95 % is wrong above once in forty: more than two of twenty would be a mistake of the test (p 0.01)."""
    found = [verdicts(arrays(0.0, seed)) for seed in range(20)]
    wrong = {name: sum(one[name] == REPLICATES for one in found) for name in CLAIMS}
    assert max(wrong.values()) <= 2
    assert wrong["almost_always"] == 0


def test_too_few_sounds_are_no_question():
    assert set(verdicts(arrays(8.0, n=6)).values()) == {UNTESTABLE}


@pytest.mark.parametrize(
    ("text", "counts"),
    [
        ("I'm going to go.", True),
        ("", False),
        (". . .", False),
        ("you", True),
        ("no, " * 30, False),
    ],
)
def test_only_words_count_and_no_loop(text, counts):
    assert is_fluent(text, CONFIG) is counts


def rain() -> Utterance:
    audio = np.arange(80_000, dtype=np.float32) / 80_000
    labels = {
        "noise_class": "rain",
        "speech_kind": "non-speech",
        "duration_s": 5.0,
        "freesound_id": "7",
    }
    return Utterance("rain", Path("rain"), labels=labels, read=lambda: audio)


def test_parts_of_a_recording_share_their_group():
    found = sounds(Corpus("x", "manifest", (rain(),)), CONFIG)
    assert [(one.id, one.group) for one in found[:4]] == [
        (f"rain {s} s{way}", "7") for s in (30, 3) for way in ("", " backwards")
    ]
    whole, backwards, part, _ = (one.samples() for one in found[:4])
    np.testing.assert_array_equal(whole[::-1], backwards)
    np.testing.assert_array_equal(part, whole[:48_000])
    assert len({one.group for one in found}) == 3
    np.testing.assert_array_equal(found[-1].samples(), found[-1].samples())


def test_speech_is_as_long_and_loud_as_a_noise():
    talk = Utterance(
        "talk",
        Path("talk"),
        "joe",
        labels={"lang": "en"},
        read=lambda: np.sin(np.arange(64_000, dtype=np.float32)),
    )
    other = sounds(Corpus("x", "manifest", (rain(),)), CONFIG)[0]
    found = _as_loud(talk, 2.5, other, "joe")
    assert (found.group, len(found.samples())) == ("joe", 40_000)
    assert np.sqrt(np.mean(found.samples() ** 2)) == pytest.approx(
        np.sqrt(np.mean(other.samples() ** 2)), rel=1e-4
    )
