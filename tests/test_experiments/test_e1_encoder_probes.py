"""E1 finds what was planted in upper layers, nothing where there is nothing, and says what recordings do not allow."""

from pathlib import Path

import planted
import pytest
import xarray as xr

from experiments.data.corpora import Corpus, Utterance
from experiments.studies import probing
from experiments.studies.e1_encoder_probes import CLAIMS, STUDY, Config, _accented, _gender
from experiments.studies.selection import balanced, cross_validation_groups, not_speech
from experiments.studies.study import DOES_NOT, REPLICATES, UNTESTABLE

CONFIG = Config(folds=4, splits=1)
OPEN = {"condition_upper": UNTESTABLE, "knows_more_than_it_says": UNTESTABLE}


def arrays(effect: float, seed: int = 0) -> xr.Dataset:
    two, four = planted.rows(["F", "M"], 32, 2), planted.rows(list("abcd"), 32, 2)
    given = {"gender": two, "accent": four, "noise 10 dB": two}
    return probing.concatenate(
        {
            name: lambda name=name, rows=rows: planted.asked(
                name, *rows, effect, CONFIG, seed=seed + len(name), mel=3
            )
            for name, rows in given.items()
        }
    )


def verdicts(data: xr.Dataset) -> dict[str, str]:
    return {name: found.verdict for name, found in STUDY.analyse(data, CONFIG).findings.items()}


def test_what_was_planted_is_found():
    found = arrays(8.0)
    assert verdicts(found) == {**dict.fromkeys(CLAIMS, REPLICATES), **OPEN}
    assert set(STUDY.draw(found, CONFIG)) == {"accuracy_by_layer"}


@pytest.mark.parametrize("seed", range(2))
def test_nothing_is_found_in_nothing(seed):
    assert verdicts(arrays(0.0, seed)) == {**dict.fromkeys(CLAIMS, DOES_NOT), **OPEN}


def clip(name: str, speaker: str, **labels: object) -> Utterance:
    return Utterance(name, Path(name), speaker, labels=labels)


def test_one_voice_allows_no_question_of_speakers():
    alone = Corpus(
        "alone", "manifest", tuple(clip(f"{n}", "joe", gender="M", lang="en") for n in range(4))
    )
    config = Config(accents=None, snr_db=())
    found = STUDY.run(None, alone, config, keep=None)
    assert set(found.attrs["unasked"]) == {"gender", "accent", "condition"}
    analysis = STUDY.analyse(found, config)
    assert {one.verdict for one in analysis.findings.values()} == {UNTESTABLE}
    assert "two kinds" in analysis.findings["gender_upper"].why


def test_no_set_gives_the_answer_away():
    clips = [clip(f"a{n}", f"s{n}", set="a", gender="female" if n < 3 else "M") for n in range(9)]
    clips += [clip(f"b{n}", f"s{n}", set="b", gender="M") for n in range(9)]
    assert [(one.label("set"), _gender(one)) for one in balanced(clips, _gender, 2)] == [
        ("a", "F"),
        ("a", "M"),
    ] * 2
    assert len(balanced(clips, _gender, 99)) == 6


def test_accents_are_those_with_speakers_enough():
    clips = [
        clip(f"{accent}{n}", f"{accent}{n % 4}", set="one", accent=accent)
        for accent in ("x", "y")
        for n in range(8)
    ]
    clips += [clip(f"z{n}", "z", set="one", accent="z") for n in range(8)] + [
        clip("w", "w", set="two", accent="w")
    ]
    chosen, _, label = _accented(clips, Config(accents=None, per_accent=5))
    assert sorted(map(label, chosen)) == ["x"] * 5 + ["y"] * 5
    named, _, label = _accented(clips, Config(accents=("X", "Z"), per_accent=100))
    assert {label(one) for one in named} == {"X", "Z"}


def test_what_is_no_speech():
    rows = [
        ("rain", "non-speech", ""),
        ("cry", "non-speech", ""),
        ("hall", "rir", ""),
        (None, "read", "en"),
        ("dog", None, ""),
    ]
    clips = tuple(
        clip(f"{n}", "", noise_class=kind, speech_kind=speech, lang=code)
        for n, (kind, speech, code) in enumerate(rows)
    )
    assert [one.id for one in not_speech(Corpus("x", "manifest", clips), ("cry",))] == ["0", "4"]


def test_a_voice_alone_is_on_both_sides():
    clips = [clip("0", "joe"), clip("1", "joe")]
    assert cross_validation_groups(clips) == {"0": "0", "1": "1"}
    assert cross_validation_groups([*clips, clip("2", "ann"), clip("3", "")]) == {
        "0": "joe",
        "1": "joe",
        "2": "ann",
        "3": "3",
    }
