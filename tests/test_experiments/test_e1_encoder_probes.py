"""E1 detects effects planted in upper layers, and reports why a question is untestable."""

from collections import Counter
from pathlib import Path

import numpy as np
import planted
import pytest
import xarray as xr

from experiments.data.corpora import Corpus, Utterance
from experiments.studies import probing
from experiments.studies.attribute_claims import CLAIMS
from experiments.studies.claims import CONTRADICTED, SUPPORTED, UNTESTABLE, WEAKER
from experiments.studies.e1_encoder_probes import STUDY, Config, accents_of
from experiments.studies.selection import (
    cross_validation_groups,
    limit_per_speaker,
    select_balanced,
    select_nonspeech,
    set_of,
)
from experiments.studies.speaker_attributes import gender, select_accents

CONFIG = Config(folds=4, splits=1)
# Claims that no data of these tests can decide.
ALWAYS_UNTESTABLE = {"condition_upper": UNTESTABLE, "knows_more_than_it_says": UNTESTABLE}


def make_results(effect: float, seed: int = 0, accents: str = "abcd") -> xr.Dataset:
    two_classes = planted.rows(["F", "M"], n_groups=32, each=2)
    accents_of_rows = planted.rows(list(accents), n_groups=32, each=2)
    questions = {"gender": two_classes, "accent": accents_of_rows, "noise 10 dB": two_classes}

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
    findings = STUDY.analyse(data, CONFIG).findings
    gender = findings["gender_upper"]
    assert gender.evidence.value > 0.9  # the accuracy itself, as the paper reports it
    assert abs(gender.evidence.floor - 0.5) < 0.2  # nothing was planted in the embedding
    assert gender.evidence.n == 32
    assert set(STUDY.draw(data, CONFIG)) == {"accuracy_by_layer"}


def test_labels_that_cannot_be_predicted_are_rarely_found():
    counts = Counter()
    for seed in range(0, 168, 12):
        counts.update(verdicts(make_results(0.0, seed)).values())
    assert counts[SUPPORTED] + counts[WEAKER] <= 0.05 * counts.total()


def test_an_effect_that_falls_with_depth_contradicts_that_it_is_clearest_in_upper_layers():
    data = make_results(8.0)
    is_lost = xr.DataArray(np.arange(data.sizes["example"]) % 8 == 0, dims="example")
    data["correct"] = data.correct.where(data.layer == "mel", 1.0)
    data["correct"] = data.correct.where(~is_lost | (data.layer != "2"), 0.0)
    found = verdicts(data)
    assert found["gender_upper"] == found["gender_beyond_sound"] == SUPPORTED
    assert found["gender_rises"] == found["gender_beyond_embedding"] == CONTRADICTED


def test_the_accuracy_of_permuted_accents_is_reported_and_decides_nothing():
    labels, groups = planted.rows(list("abcd"), n_groups=32, each=2)
    layers = planted.layers(labels, groups, effect=8.0)
    null = probing.permuted_accuracies(layers[3:], labels, groups, CONFIG, n=60)
    assert null.shape == (60,)
    assert abs(null.mean() - 0.25) < 0.03
    data = make_results(8.0).assign(accent_null=("permutation", null))
    analysis = STUDY.analyse(data, CONFIG)
    assert analysis.numbers["permuted_accents"]["p"] == pytest.approx(2 / 61)
    accent = analysis.findings["accent_upper"]
    assert (accent.claim.null, accent.claim.paper_value) == (0.25, 0.97)
    # Interval and p-value are of one null, whatever was permuted.
    large = data.assign(accent_null=("permutation", null + 0.75))
    same = STUDY.analyse(large, CONFIG)
    assert same.findings["accent_upper"].evidence == accent.evidence
    assert same.numbers["permuted_accents"]["p"] > 0.05
    assert accent.verdict == SUPPORTED
    assert accent.evidence.low > 0.25
    assert accent.evidence.p < 0.05


def test_the_papers_number_holds_only_for_four_accents():
    accent = STUDY.analyse(make_results(8.0, accents="abc"), CONFIG).findings["accent_upper"]
    assert (accent.claim.null, accent.claim.paper_value) == (pytest.approx(1 / 3), None)


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
    # "two" has as many accents of more speakers. Speakers of "other" accents have no common one.
    more = [
        clip(f"{name}{n} b", f"{name}{n} b", set="two", accent=name)
        for name in ("u", "v", "other")
        for n in range(6)
    ]
    larger = accents_of([*clips, *more], Config(accents=None))
    assert set(larger.values()) == {"u", "v"}
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


def test_a_speaker_has_at_most_n_recordings():
    clips = [clip(f"{name}{n}", name) for name in ("ann", "joe") for n in range(5)]
    clips += [clip(f"unknown{n}", "") for n in range(3)]
    kept = [item.id for item in limit_per_speaker(clips, 2)]
    assert kept == ["ann0", "ann4", "joe0", "joe4", "unknown0", "unknown1", "unknown2"]
    # Of a single speaker, all recordings are kept, and each is a unit of its own.
    assert limit_per_speaker(clips[:5], 2) == clips[:5]
