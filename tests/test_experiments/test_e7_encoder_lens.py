"""E7 finds loops below the top where they were planted, and nothing where kinds are drawn alike in all layers."""

import numpy as np
import pytest
import xarray as xr

from experiments.analyses.text_kinds import CATEGORIES
from experiments.studies.e7_encoder_lens import CLAIMS, STUDY, Config
from experiments.studies.study import DOES_NOT, REPLICATES, UNTESTABLE

DEPTH = np.arange(9) / 8  # 0.875 is the one layer in the band of loops
KIND = {name: place for place, name in enumerate(CATEGORIES)}


def arrays(kind: np.ndarray, wer: np.ndarray, said: str = "as it was") -> xr.Dataset:
    n = len(kind)
    return xr.Dataset(
        {
            "kind": (("example", "depth"), kind),
            "wer": (("example", "depth"), wer),
            "said": (("example", "depth"), np.full(kind.shape, said)),
            "true_wer": ("example", np.zeros(n)),
        },
        {
            "example": np.arange(n),
            "depth": DEPTH,
            "language": ("example", np.where(np.arange(n) % 2, "en", "es")),
        },
    )


def planted(n: int = 40) -> xr.Dataset:
    """Nothing in the lower two thirds, ungrounded text above, loops in four of five below the top, the text at the top."""
    kind = np.full((n, 9), KIND["empty"])
    kind[:, 6], kind[:, 7], kind[:, 8] = (
        KIND["ungrounded"],
        np.where(np.arange(n) % 5, KIND["loop"], KIND["partial"]),
        KIND["correct"],
    )
    wer = np.ones((n, 9))
    wer[:, 7:] = [0.9, 0]
    return arrays(kind, wer)


def nothing(n: int = 40, seed: int = 0) -> xr.Dataset:
    """Kinds and error rates of all layers from one distribution."""
    rng = np.random.default_rng(seed)
    return arrays(rng.integers(0, 6, (n, 9)), rng.uniform(0, 1, (n, 9)))


def verdicts(data: xr.Dataset) -> dict[str, str]:
    return {name: found.verdict for name, found in STUDY.analyse(data, Config()).findings.items()}


def test_what_was_planted_is_found():
    assert verdicts(planted()) == dict.fromkeys(CLAIMS, REPLICATES)
    numbers = STUDY.analyse(planted(), Config()).numbers
    np.testing.assert_allclose(numbers["all"]["loop"], [*[0] * 7, 0.8, 0])
    assert numbers["en"]["n"] == numbers["es"]["n"] == 20


@pytest.mark.parametrize("seed", range(3))
def test_nothing_is_found_in_nothing(seed):
    assert verdicts(nothing(seed=seed)) == dict.fromkeys(CLAIMS, DOES_NOT)


def test_recordings_whose_own_text_loops_or_is_empty_do_not_count():
    assert set(
        verdicts(arrays(planted().kind.values, planted().wer.values, "no " * 30)).values()
    ) == {UNTESTABLE}
    assert set(verdicts(arrays(planted().kind.values, planted().wer.values, "...")).values()) == {
        UNTESTABLE
    }


def test_a_panel_for_all_and_for_each_language():
    [figure] = STUDY.draw(planted(), Config()).values()
    assert [axes.get_title() for axes in figure.axes] == ["all (n 40)", "es (n 20)", "en (n 20)"]
    heights = np.array([bar.get_height() for bar in figure.axes[0].patches]).reshape(6, 9)
    np.testing.assert_allclose(heights.sum(0), 1)
