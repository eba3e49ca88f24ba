"""E3 finds a state that knows of errors and beats what is at hand, nothing where it knows nothing; pairs stay together."""

import dataclasses
from pathlib import Path

import numpy as np
import planted
import pytest
import xarray as xr

from experiments.data.corpora import Utterance
from experiments.studies import probing
from experiments.studies.e3_transcription_quality import (
    AT_HAND,
    CLAIMS,
    STUDY,
    Config,
    _marks,
    asked,
    matched,
)
from experiments.studies.study import DOES_NOT, REPLICATES, UNTESTABLE

CONFIG = Config(folds=4, splits=1)


def clip(n: int, words: int = 5, name: str = "one", speaker: str = "") -> Utterance:
    labels = {"set": name, "lang": "en"}
    return Utterance(
        f"{name} {n}",
        Path("x"),
        speaker or f"speaker {n // 4}",
        " ".join(["word"] * words),
        labels=labels,
    )


def arrays(effect: float, seed: int = 0, at_hand: float = 0.0) -> xr.Dataset:
    """The state knows `effect` of errors from the third layer on; the numbers at hand know `at_hand`."""
    clips = [clip(n) for n in range(128)]
    marks = {one.id: float(n % 2) for n, one in enumerate(clips)}
    labels, groups = (
        np.array(["right", "bad"])[[n % 2 for n in range(128)]],
        np.array([one.speaker for one in clips]),
    )
    states = planted.layers(labels, groups, effect, seed)
    rng = np.random.default_rng(seed)
    kept = {
        one.id: {"last": states[:, n], "mel": rng.normal(size=3)}
        | {"logprob": np.float64(rng.normal() - at_hand * marks[one.id])}
        | {name: np.float64(rng.normal()) for name in ("ratio", "no_speech", "tokens")}
        for n, one in enumerate(clips)
    }
    kinds = ("errors", "insertions")
    return probing.concatenate(
        {kind: lambda kind=kind: asked(kind, clips, kept, marks, CONFIG) for kind in kinds}
    )


def verdicts(data: xr.Dataset) -> dict[str, str]:
    return {name: found.verdict for name, found in STUDY.analyse(data, CONFIG).findings.items()}


def test_what_was_planted_is_found():
    found = arrays(6.0)
    assert verdicts(found) == dict.fromkeys(CLAIMS, REPLICATES)
    assert set(STUDY.draw(found, CONFIG)) == {"accuracy_by_layer", "auroc"}


@pytest.mark.parametrize("seed", range(2))
def test_nothing_is_found_in_nothing(seed):
    assert verdicts(arrays(0.0, seed)) == dict.fromkeys(CLAIMS, DOES_NOT)


def test_a_better_number_at_hand_is_not_beaten():
    found = arrays(2.0, at_hand=8.0)
    said = verdicts(found)
    assert (said["predicts"], said["beats_logprob"], said["beats_at_hand"]) == (
        REPLICATES,
        DOES_NOT,
        DOES_NOT,
    )
    assert STUDY.analyse(found, CONFIG).numbers["auroc"]["errors"]["improbability"][0] > 0.99
    assert found.at_hand.sizes["number"] == len(AT_HAND)


def test_pairs_are_of_one_set_and_similar_length_worst_first():
    clips = [clip(0, 5), clip(1, 10), clip(2, 10, "two"), clip(3, 6), clip(4, 11), clip(5, 30)]
    clips = [dataclasses.replace(one, speaker="") for one in clips]
    marks = dict(zip([one.id for one in clips], [0.2, 0.5, 0.9, 0, 0, 0]))
    pairs = matched(clips, marks, CONFIG)
    assert [(bad.id, right.id) for bad, right in pairs] == [("one 1", "one 4"), ("one 0", "one 3")]
    assert len(matched(clips, marks, Config(per_class=1))) == 1


def test_nobody_and_no_pair_is_on_both_sides_of_a_fold():
    speakers = dict(enumerate("aaabcdde"))
    clips = [clip(n, speaker=speaker) for n, speaker in speakers.items()]
    marks = dict(zip([one.id for one in clips], [0.9, 0, 0.8, 0, 0.7, 0.6, 0, 0]))
    pairs = [tuple(one.id for one in pair) for pair in matched(clips, marks, CONFIG)]
    assert pairs == [
        ("one 0", "one 1"),
        ("one 4", "one 3"),
        ("one 5", "one 6"),
    ]  # of a; of c and b, who are in no other pair; of d


def test_labels_shuffled_within_pairs_are_told_at_chance():
    curves = STUDY.analyse(arrays(0.0), CONFIG).numbers["errors"]["shuffled"]
    assert abs(np.mean(curves) - 0.5) < 0.03


def test_errors_and_insertions_of_a_text():
    found = _marks("word word word word word and more", clip(0, 5))
    assert found == {"errors": pytest.approx(0.4), "insertions": pytest.approx(0.4)}
    assert _marks("word", clip(0, 5)) == {"errors": pytest.approx(0.8), "insertions": 0}


def test_too_few_errors_are_no_question():
    analysis = STUDY.analyse(
        probing.concatenate({"errors": lambda: asked("errors", [], {}, {}, CONFIG)}), CONFIG
    )
    assert {one.verdict for one in analysis.findings.values()} == {UNTESTABLE}
    assert "0 pairs" in analysis.findings["predicts"].why
