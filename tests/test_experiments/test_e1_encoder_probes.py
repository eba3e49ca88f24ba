"""E1 detects effects planted in upper layers, and reports why a question is untestable."""

from pathlib import Path

import planted
import pytest
import xarray as xr

from experiments.data.corpora import Corpus, Utterance
from experiments.studies import probing
from experiments.studies.claims import SUPPORTED, UNDECIDED, UNTESTABLE
from experiments.studies.e1_encoder_probes import CLAIMS, STUDY, Config, accents_of
from experiments.studies.selection import (
    cross_validation_groups,
    select_balanced,
    select_nonspeech,
    set_of,
)
from experiments.studies.speaker_attributes import gender, select_accents

CONFIG = Config(folds=4, splits=1)
# Claims that no data of these tests can decide.
ALWAYS_UNTESTABLE = {"condition_upper": UNTESTABLE, "knows_more_than_it_says": UNTESTABLE}


def make_results(effect: float, seed: int = 0) -> xr.Dataset:
    two_classes = planted.rows(["F", "M"], n_groups=32, each=2)
    four_classes = planted.rows(list("abcd"), n_groups=32, each=2)
    questions = {"gender": two_classes, "accent": four_classes, "noise 10 dB": two_classes}

    def probe(name: str) -> xr.Dataset:
        # `mel=3` adds a baseline "mel" of three uninformative features.
        return planted.probe(name, *questions[name], effect, CONFIG, seed=seed + len(name), mel=3)

    return probing.concatenate({name: lambda name=name: probe(name) for name in questions})


def verdicts(data: xr.Dataset) -> dict[str, str]:
    findings = STUDY.analyse(data, CONFIG).findings
    return {key: finding.verdict for key, finding in findings.items()}


def test_planted_effects_are_detected():
    data = make_results(8.0)
    assert verdicts(data) == {**dict.fromkeys(CLAIMS, SUPPORTED), **ALWAYS_UNTESTABLE}
    assert set(STUDY.draw(data, CONFIG)) == {"accuracy_by_layer"}


@pytest.mark.parametrize("seed", range(2))
def test_noise_does_not_replicate(seed):
    expected = {**dict.fromkeys(CLAIMS, UNDECIDED), **ALWAYS_UNTESTABLE}
    assert verdicts(make_results(0.0, seed)) == expected


def clip(name: str, speaker: str, **labels: object) -> Utterance:
    return Utterance(name, Path(name), speaker, labels=labels)


def test_a_single_speaker_allows_no_question():
    clips = tuple(clip(f"{n}", "joe", gender="M", lang="en") for n in range(4))
    config = Config(accents=None, snr_db=())
    data = STUDY.run(None, Corpus("one voice", "manifest", clips), config, cache=None)
    assert set(data.attrs["untestable"]) == {"gender", "accent", "condition"}
    findings = STUDY.analyse(data, config).findings
    assert {finding.verdict for finding in findings.values()} == {UNTESTABLE}
    assert "two label values" in findings["gender_upper"].why


def test_no_set_predicts_the_label():
    clips = [clip(f"a{n}", f"s{n}", set="a", gender="female" if n < 3 else "M") for n in range(9)]
    clips += [clip(f"b{n}", f"s{n}", set="b", gender="M") for n in range(9)]
    selected = [(set_of(clip), gender(clip)) for clip in select_balanced(clips, gender, 2)]
    assert selected == [("a", "F"), ("a", "M")] * 2
    assert len(select_balanced(clips, gender, 99)) == 6


def test_accents_need_enough_speakers():
    clips = [
        clip(f"{accent}{n}", f"{accent}{n % 4}", set="one", accent=accent)
        for accent in ("x", "y")
        for n in range(8)
    ]
    clips += [clip(f"z{n}", "z", set="one", accent="z") for n in range(8)]
    clips += [clip("w", "w", set="two", accent="w")]
    accents = accents_of(clips, Config(accents=None))
    selected = [accents[clip.id] for clip in select_accents(clips, accents, 5)]
    assert selected == ["x"] * 5 + ["y"] * 5
    named = accents_of(clips, Config(accents=("X", "Z")))
    assert {named[clip.id] for clip in select_accents(clips, named, 100)} == {"X", "Z"}


def test_speech_and_room_responses_are_not_noise():
    rows = [
        ("rain", "non-speech", ""),
        ("cry", "non-speech", ""),
        ("hall", "rir", ""),
        (None, "read", "en"),
        ("dog", None, ""),
    ]
    clips = tuple(
        clip(f"{n}", "", noise_class=noise, speech_kind=kind, lang=code)
        for n, (noise, kind, code) in enumerate(rows)
    )
    selected = select_nonspeech(Corpus("x", "manifest", clips), without=("cry",))
    assert [clip.id for clip in selected] == ["0", "4"]


def test_recordings_of_a_single_speaker_are_groups():
    clips = [clip("0", "joe"), clip("1", "joe")]
    assert cross_validation_groups(clips) == {"0": "0", "1": "1"}
    groups = cross_validation_groups([*clips, clip("2", "ann"), clip("3", "")])
    assert groups == {"0": "joe", "1": "joe", "2": "ann", "3": "3"}
