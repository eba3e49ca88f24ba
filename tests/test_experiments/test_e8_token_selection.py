"""E8 finds a late choice and look-ahead where they were planted, and nothing where all layers are alike."""

import numpy as np
import pytest
import xarray as xr

from experiments.data import phonemes
from experiments.data.phonemes import phoneme_error_rate
from experiments.studies.e8_token_selection import CLAIMS, STUDY, Config, _alike, ahead
from experiments.studies.study import DOES_NOT, REPLICATES, UNTESTABLE

DEPTH = (np.arange(6) + 1) / 6
LATE = (DEPTH > 0.8).astype(float)
TOP = (DEPTH == 1).astype(float)
NAMES = (
    "prob",
    "hit_null",
    *(
        f"{one}{kind}{null}"
        for one in ("sound", "meaning")
        for kind in ("", "_others")
        for null in ("", "_null")
    ),
)


def arrays(n: int = 30, effect: float = 1.0, seed: int = 0) -> xr.Dataset:
    """Every curve level but for noise, plus `effect` times what the paper sees."""
    rng = np.random.default_rng(seed)
    level = {name: 0.5 + 0.1 * rng.normal(size=(n, 6)) for name in NAMES}
    level["prob"] += effect * (0.8 * TOP - 0.4 * (DEPTH < 0.9))
    level["sound_others"] -= effect * 0.3 * LATE
    level["meaning_others"] += effect * 0.3 * LATE
    hit = 0.5 + 0.1 * rng.normal(size=(n, 3, 6))
    hit[:, 1] += effect * 0.3 * TOP
    saturation = 0.5 + 0.3 * effect + 0.1 * rng.normal(size=n)
    return xr.Dataset(
        {
            **{name: (("example", "depth"), one) for name, one in level.items()},
            **{"hit": (("example", "offset", "depth"), hit), "saturation": ("example", saturation)},
        },
        {
            "example": np.arange(n),
            "depth": DEPTH,
            "offset": [0, 1, 2],
            "language": ("example", np.where(np.arange(n) % 3, "en", "fr")),
            "n_tokens": ("example", np.full(n, 20)),
        },
    )


def verdicts(data: xr.Dataset) -> dict[str, str]:
    return {name: found.verdict for name, found in STUDY.analyse(data, Config()).findings.items()}


def test_what_was_planted_is_found():
    assert verdicts(arrays()) == {
        **dict.fromkeys(CLAIMS, REPLICATES),
        "earlier_than_qwen": UNTESTABLE,
    }


@pytest.mark.parametrize("seed", range(3))
def test_nothing_is_found_in_nothing(seed):
    assert verdicts(arrays(effect=0, seed=seed)) == {
        **dict.fromkeys(CLAIMS, DOES_NOT),
        "earlier_than_qwen": UNTESTABLE,
    }


def test_without_espeak_only_sound_is_left_out():
    silent = arrays()
    for name in NAMES:
        if name.startswith("sound"):
            silent[name] = silent[name] * np.nan
    analysis = STUDY.analyse(silent, Config())
    assert analysis.findings["sounds_alike"].verdict == UNTESTABLE
    assert "jaxasr[phonemes]" in analysis.findings["sounds_alike"].why
    assert analysis.findings["means_alike"].verdict == REPLICATES
    assert set(STUDY.draw(silent, Config())) == {"token_selection", "by_language"}


def test_look_ahead_of_planted_candidates():
    ids = np.array([10, 11, 12, 12, 14, 15, 16])
    top = np.stack(
        [np.stack([ids, np.full(7, 99)], 1), np.stack([np.full(7, 15), np.append(ids[1:], 98)], 1)]
    )  # [L=2, T=7, K=2]
    hit, null = ahead(top, ids)
    np.testing.assert_array_equal(
        hit[0], [[1] * 7, [0, 0, 1, 0, 0, 1, 0]]
    )  # at 2 the next token is the token itself
    np.testing.assert_array_equal(hit[1, 1], [1, 1, np.nan, 1, 1, 1, np.nan])
    np.testing.assert_array_equal(np.isnan(hit[2]).sum(1), [2, 2])
    assert null[0].tolist() == [0] * 7  # the token itself is never counted as one further away
    assert (
        null[1, 0] == 1 / 3
    )  # 15, one of the places 4, 5, 6; 12 at place 3 also stands at place 2


def test_likeness_is_to_the_final_token_and_its_null_to_one_far_away():
    ids = np.array([0, 1, 2, 3])
    top = np.array([[[0, 5], [1, 5], [9, 5], [3, 5]]])  # [L=1, T=4, K=2]
    found = _alike(
        "x",
        top,
        ids,
        lambda candidates, meant: 10.0 * meant + (candidates == meant),
        np.array([True, True, True, False]),
    )
    np.testing.assert_allclose(found["x"], [[0.5, 10.5, 20, np.nan]])
    np.testing.assert_allclose(found["x_others"], [[0, 10, 20, np.nan]])
    np.testing.assert_allclose(found["x_others_null"], [[20, 30, 0, np.nan]])


def test_phoneme_error_rate():
    assert phoneme_error_rate(("k", "æ", "t"), ("k", "æ", "t")) == 0
    assert phoneme_error_rate(("b", "æ", "t"), ("k", "æ", "t")) == pytest.approx(1 / 3)
    assert phoneme_error_rate(tuple("abcdefgh"), ("k",)) == 1
    with pytest.raises(ValueError, match="at least one phoneme"):
        phoneme_error_rate(("k",), ())


@pytest.mark.skipif(not phonemes.installed(), reason="needs the extra `phonemes`")
def test_near_homophones_sound_alike():
    rice, lice, letter = phonemes.phonemes([" rice", " lice", " letter"], "en")
    assert phoneme_error_rate(lice, rice) == pytest.approx(1 / 3)
    assert phoneme_error_rate(letter, rice) > 0.9
    assert phonemes.phonemes(["電柱", "tlh"], "ja") == [(), ()]
