"""E7 detects loops planted below the top layer, and nothing if all layers are equal."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from experiments.analyses.text_kinds import CATEGORIES
from experiments.data.corpora import Corpus, Utterance
from experiments.item_cache import ItemCache
from experiments.studies.claims import CONTRADICTED, SUPPORTED, UNTESTABLE, WEAKER
from experiments.studies.e7_encoder_lens import CLAIMS, STUDY, Config

DEPTH = np.arange(9) / 8  # relative depths; the claim about loops concerns only 0.875
# The number that stands for each kind of text in the arrays.
KIND_NUMBER = {name: number for number, name in enumerate(CATEGORIES)}


def make_results(kind: np.ndarray, wer: np.ndarray, text: str = "as it was") -> xr.Dataset:
    n = len(kind)
    return xr.Dataset(
        {
            "kind": (("example", "depth"), kind),
            "wer": (("example", "depth"), wer),
            "text": (("example", "depth"), np.full(kind.shape, text)),
            "true_wer": ("example", np.zeros(n)),
        },
        {
            "example": np.arange(n),
            "depth": DEPTH,
            "language": ("example", np.where(np.arange(n) % 2, "en", "es")),
            "speaker": ("example", [f"speaker {i}" for i in range(n)]),
        },
    )


def planted_results(n: int = 40, text: str = "as it was") -> xr.Dataset:
    """From the lowest layer up: six empty texts, an ungrounded one, loops, the transcript."""
    kind, wer = np.full((n, 9), KIND_NUMBER["empty"]), np.ones((n, 9))
    kind[:, 6], kind[:, 8] = KIND_NUMBER["ungrounded"], KIND_NUMBER["correct"]
    kind[:, 7] = np.where(np.arange(n) % 5, KIND_NUMBER["loop"], KIND_NUMBER["partial"])
    wer[:, 7:] = [0.9, 0]
    return make_results(kind, wer, text)


def results_without_effect(n: int = 40, seed: int = 0) -> xr.Dataset:
    """Kinds and error rates have the same distribution in all layers."""
    rng = np.random.default_rng(seed)
    return make_results(rng.integers(0, 6, (n, 9)), rng.uniform(0, 1, (n, 9)))


def verdicts(data: xr.Dataset) -> dict[str, str]:
    findings = STUDY.analyse(data, Config()).findings
    return {key: finding.verdict for key, finding in findings.items()}


def test_planted_kinds_are_detected():
    assert verdicts(planted_results()) == dict.fromkeys(CLAIMS, SUPPORTED)
    numbers = STUDY.analyse(planted_results(), Config()).numbers
    np.testing.assert_allclose(numbers["all"]["loop"], [*[0] * 7, 0.8, 0])
    assert numbers["en"]["n"] == numbers["es"]["n"] == 20


def test_loops_are_a_share_with_an_exact_interval():
    evidence = STUDY.analyse(planted_results(), Config()).findings["mostly_loops"].evidence
    assert evidence.counts == (32, 40)
    assert (evidence.low, evidence.high) == pytest.approx((0.644, 0.909), abs=1e-3)
    top = STUDY.analyse(planted_results(), Config()).findings["right_at_the_top"]
    assert top.evidence.floor == 1  # so the claim is true by definition
    assert top.claim.floor


def test_no_loops_contradict_the_paper():
    data = planted_results()
    data["kind"] = data.kind.where(data.kind != KIND_NUMBER["loop"], KIND_NUMBER["partial"])
    found = verdicts(data)
    assert found["mostly_loops"] == found["loops_below_the_top"] == CONTRADICTED


def test_equal_layers_are_rarely_found_to_differ():
    counts = Counter()
    for seed in range(24):
        found = verdicts(results_without_effect(seed=seed))
        # One kind of six is more than one text in twenty, so this claim is true here.
        found.pop("ungrounded_between")
        counts.update(found.values())
    assert counts[SUPPORTED] + counts[WEAKER] <= 0.05 * counts.total()


def test_recordings_of_one_speaker_count_once():
    data = planted_results().assign_coords(speaker=("example", np.arange(40) % 5))
    assert set(verdicts(data).values()) == {UNTESTABLE}


@pytest.mark.parametrize("text", ["no " * 30, "..."])
def test_recordings_with_a_looping_or_empty_final_text_are_excluded(text):
    assert set(verdicts(planted_results(text=text)).values()) == {UNTESTABLE}


def test_the_figure_has_a_panel_for_all_and_for_each_frequent_language():
    data = planted_results()
    [figure] = STUDY.draw(data, Config()).values()
    assert [axes.get_title() for axes in figure.axes] == ["all (n 40)", "en (n 20)", "es (n 20)"]
    heights = np.array([bar.get_height() for bar in figure.axes[0].patches]).reshape(6, 9)
    np.testing.assert_allclose(heights.sum(0), 1)
    languages = np.where(np.arange(40) < 30, "en", np.where(np.arange(40) < 36, "es", "ja"))
    [figure] = STUDY.draw(data.assign_coords(language=("example", languages)), Config()).values()
    assert [axes.get_title() for axes in figure.axes] == ["all (n 40)", "en (n 30)", "other (n 10)"]


def test_the_figure_leaves_out_recordings_without_an_error_rate():
    data = planted_results()
    data.wer[0], data.text[0] = np.nan, "..."
    [figure] = STUDY.draw(data, Config()).values()
    assert figure.axes[0].get_title() == "all (n 39)"
    line = figure.axes[0].lines[0].get_ydata()
    np.testing.assert_allclose(line, [*[1] * 7, 0.9, 0])
    assert STUDY.analyse(data, Config()).numbers["left_out"] == 1


def test_without_recordings_of_speech_nothing_is_testable(asr, tmp_path):
    noise = Utterance("noise", Path("noise.wav"), labels={"noise_class": "rain"})
    corpus = Corpus("noises", "manifest", (noise,))
    data = STUDY.run(asr, corpus, Config(), ItemCache(tmp_path))
    assert verdicts(data) == dict.fromkeys(CLAIMS, UNTESTABLE)
    reason = STUDY.analyse(data, Config()).findings["mostly_loops"].why
    assert reason == "no recording of speech in the chosen languages"
    assert STUDY.draw(data, Config()) == {}
