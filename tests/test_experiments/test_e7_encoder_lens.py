"""E7 detects loops planted below the top, and nothing when all layers are equal."""

from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from experiments.analyses.text_kinds import CATEGORIES
from experiments.data.corpora import Corpus, Utterance
from experiments.item_cache import ItemCache
from experiments.studies.e7_encoder_lens import CLAIMS, STUDY, Config
from experiments.studies.study import DOES_NOT_REPLICATE, REPLICATES, UNTESTABLE

DEPTH = np.arange(9) / 8  # 0.875 is the only layer in the band of loops
KIND = {name: number for number, name in enumerate(CATEGORIES)}


def arrays(kind: np.ndarray, wer: np.ndarray, text: str = "as it was") -> xr.Dataset:
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
        },
    )


def planted(n: int = 40, text: str = "as it was") -> xr.Dataset:
    """Empty texts in the lower two thirds, then ungrounded ones, mostly loops, the final text."""
    kind, wer = np.full((n, 9), KIND["empty"]), np.ones((n, 9))
    kind[:, 6], kind[:, 8] = KIND["ungrounded"], KIND["correct"]
    kind[:, 7] = np.where(np.arange(n) % 5, KIND["loop"], KIND["partial"])
    wer[:, 7:] = [0.9, 0]
    return arrays(kind, wer, text)


def without_effect(n: int = 40, seed: int = 0) -> xr.Dataset:
    """Kinds and error rates of all layers have one distribution."""
    rng = np.random.default_rng(seed)
    return arrays(rng.integers(0, 6, (n, 9)), rng.uniform(0, 1, (n, 9)))


def verdicts(data: xr.Dataset) -> dict[str, str]:
    findings = STUDY.analyse(data, Config()).findings
    return {key: finding.verdict for key, finding in findings.items()}


def test_planted_kinds_are_detected():
    assert verdicts(planted()) == dict.fromkeys(CLAIMS, REPLICATES)
    numbers = STUDY.analyse(planted(), Config()).numbers
    np.testing.assert_allclose(numbers["all"]["loop"], [*[0] * 7, 0.8, 0])
    assert numbers["en"]["n"] == numbers["es"]["n"] == 20


@pytest.mark.parametrize("seed", range(3))
def test_equal_layers_do_not_replicate(seed):
    assert verdicts(without_effect(seed=seed)) == dict.fromkeys(CLAIMS, DOES_NOT_REPLICATE)


@pytest.mark.parametrize("text", ["no " * 30, "..."])
def test_recordings_with_a_looping_or_empty_final_text_are_excluded(text):
    assert set(verdicts(planted(text=text)).values()) == {UNTESTABLE}


def test_the_figure_has_a_panel_for_all_and_for_each_language():
    [figure] = STUDY.draw(planted(), Config()).values()
    assert [axes.get_title() for axes in figure.axes] == ["all (n 40)", "es (n 20)", "en (n 20)"]
    heights = np.array([bar.get_height() for bar in figure.axes[0].patches]).reshape(6, 9)
    np.testing.assert_allclose(heights.sum(0), 1)


def test_without_recordings_of_speech_nothing_is_testable(asr, tmp_path):
    noise = Utterance("noise", Path("noise.wav"), labels={"noise_class": "rain"})
    corpus = Corpus("noises", "manifest", (noise,))
    data = STUDY.run(asr, corpus, Config(), ItemCache(tmp_path))
    assert verdicts(data) == dict.fromkeys(CLAIMS, UNTESTABLE)
    reason = STUDY.analyse(data, Config()).findings["mostly_loops"].why
    assert reason == "no recording of speech in the chosen languages"
    assert STUDY.draw(data, Config()) == {}
