"""E8 detects a planted late choice and look-ahead, and nothing if all layers are equal."""

from collections import Counter

import numpy as np
import pytest
import xarray as xr

from experiments.data import phonemes
from experiments.data.phonemes import phoneme_error_rate
from experiments.item_cache import ItemCache
from experiments.studies import e8_token_selection
from experiments.studies.candidate_similarity import look_ahead, similarity
from experiments.studies.claims import CONTRADICTED, SUPPORTED, UNTESTABLE, WEAKER
from experiments.studies.e8_token_selection import CLAIMS, STUDY, Config
from experiments.studies.reproduce import builtin

# Relative depths of six layers.
DEPTH = (np.arange(6) + 1) / 6
IS_LATE = (DEPTH > 0.8).astype(float)
IS_TOP = (DEPTH == 1).astype(float)
# Names of the curves over depth that a run saves.
CURVES = (
    "prob",
    "hit_null",
    *(
        f"{name}{kind}{null}"
        for name in ("sound", "meaning")
        for kind in ("", "_others")
        for null in ("", "_null")
    ),
)
ALWAYS_UNTESTABLE = {"earlier_than_qwen": UNTESTABLE}


def make_results(n: int = 30, effect: float = 1.0, seed: int = 0) -> xr.Dataset:
    """Makes flat curves with noise, plus `effect` times the curves that the paper reports."""
    rng = np.random.default_rng(seed)
    curves = {name: 0.5 + 0.1 * rng.normal(size=(n, 6)) for name in CURVES}
    curves["prob"] += effect * (0.8 * IS_TOP - 0.4 * (DEPTH < 0.9))
    curves["sound_others"] -= effect * 0.3 * IS_LATE
    curves["meaning_others"] += effect * 0.3 * IS_LATE
    hit = 0.5 + 0.1 * rng.normal(size=(n, 3, 6))
    hit[:, 1] += effect * 0.3 * IS_TOP
    saturation = 0.6 + 0.2 * effect + 0.1 * rng.normal(size=n)
    return xr.Dataset(
        {
            **{name: (("example", "depth"), curve) for name, curve in curves.items()},
            "hit": (("example", "offset", "depth"), hit),
            "saturation": ("example", saturation),
        },
        {
            "example": np.arange(n),
            "depth": DEPTH,
            "offset": [0, 1, 2],
            "language": ("example", np.where(np.arange(n) % 3, "en", "fr")),
            "n_tokens": ("example", np.full(n, 20)),
            "speaker": ("example", [f"speaker {i}" for i in range(n)]),
        },
    )


def verdicts(data: xr.Dataset) -> dict[str, str]:
    findings = STUDY.analyse(data, Config()).findings
    return {key: finding.verdict for key, finding in findings.items()}


def test_planted_effects_are_detected():
    assert verdicts(make_results()) == {**dict.fromkeys(CLAIMS, SUPPORTED), **ALWAYS_UNTESTABLE}


def test_equal_layers_are_rarely_found_to_differ():
    counts = Counter()
    for seed in range(60):
        counts.update(verdicts(make_results(effect=0, seed=seed)).values())
    assert counts[SUPPORTED] + counts[WEAKER] <= 0.05 * counts.total()


def test_an_even_rise_and_a_random_layer_are_the_floors():
    findings = STUDY.analyse(make_results(), Config()).findings
    # Six layers: the probability at depth 1, minus the mean of 1/6, 2/6 and 3/6.
    assert findings["commits_late"].evidence.floor == pytest.approx(2 / 3)
    assert findings["saturates_late"].evidence.floor == pytest.approx(7 / 12)
    for key in ("commits_late", "saturates_late"):
        assert findings[key].claim.floor
        assert findings[key].evidence.floor <= findings[key].claim.null
    data = make_results(effect=0)
    data["prob"] = data.prob * 0 + data.depth
    assert STUDY.analyse(data, Config()).findings["commits_late"].verdict == CONTRADICTED


def test_candidates_can_stay_close_while_their_similarity_falls():
    data = make_results(effect=0)
    late = xr.DataArray(IS_LATE, dims="depth")
    data["meaning_others"] -= 0.1 * late
    data["meaning_others_null"] -= 0.4 * late
    found = verdicts(data)
    assert found["stays_closer"] == SUPPORTED
    assert found["means_alike"] == CONTRADICTED


def test_without_espeak_only_sound_is_not_testable():
    data = make_results()
    for name in CURVES:
        if name.startswith("sound"):
            data[name] = data[name] * np.nan
    findings = STUDY.analyse(data, Config()).findings
    assert findings["sounds_alike"].verdict == UNTESTABLE
    assert "jaxasr[phonemes]" in findings["sounds_alike"].why
    assert findings["means_alike"].verdict == SUPPORTED
    assert set(STUDY.draw(data, Config())) == {"token_selection", "by_language"}


def test_without_any_text_nothing_is_testable(asr, tmp_path, monkeypatch):
    empty = {"saturation": np.zeros(0)}
    monkeypatch.setattr(e8_token_selection, "token_curves", lambda *_, **__: empty)
    data = STUDY.run(asr, builtin(), Config(per_language=2), ItemCache(tmp_path))
    assert verdicts(data) == dict.fromkeys(CLAIMS, UNTESTABLE)
    reason = STUDY.analyse(data, Config()).findings["commits_late"].why
    assert reason == "no recording of speech has a generated text"
    assert STUDY.draw(data, Config()) == {}


def test_look_ahead_finds_planted_candidates():
    ids = np.array([10, 11, 12, 12, 14, 15, 16])
    first = np.stack([ids, np.full(7, 99)], 1)
    second = np.stack([np.full(7, 15), np.append(ids[1:], 98)], 1)
    hit, null = look_ahead(np.stack([first, second]), ids)  # [L=2, T=7, K=2]
    # At position 2, the next token equals the token itself.
    np.testing.assert_array_equal(hit[0], [[1] * 7, [0, 0, 1, 0, 0, 1, 0]])
    np.testing.assert_array_equal(hit[1, 1], [1, 1, np.nan, 1, 1, 1, np.nan])
    np.testing.assert_array_equal(np.isnan(hit[2]).sum(1), [2, 2])
    assert null[0].tolist() == [0] * 7  # the null excludes the token itself
    # For position 0, the null counts tokens 4, 5 and 6. Only token 5 of these is a candidate. Token
    # 3 does not count, because the same id is also near, at position 2.
    assert null[1, 0] == 1 / 3


def test_similarity_is_to_the_final_token_and_its_null_to_a_distant_one():
    def compare(candidates: np.ndarray, token: int) -> np.ndarray:
        return 10.0 * token + (candidates == token)

    ids = np.array([0, 1, 2, 3])
    candidates = np.array([[[0, 5], [1, 5], [9, 5], [3, 5]]])  # [L=1, T=4, K=2]
    values = similarity("x", candidates, ids, compare, np.array([True, True, True, False]))
    np.testing.assert_allclose(values["x"], [[0.5, 10.5, 20, np.nan]])
    np.testing.assert_allclose(values["x_others"], [[0, 10, 20, np.nan]])
    np.testing.assert_allclose(values["x_others_null"], [[20, 30, 0, np.nan]])


def test_phoneme_error_rate_is_at_most_one():
    assert phoneme_error_rate(("k", "æ", "t"), ("k", "æ", "t")) == 0
    assert phoneme_error_rate(("b", "æ", "t"), ("k", "æ", "t")) == pytest.approx(1 / 3)
    assert phoneme_error_rate(tuple("abcdefgh"), ("k",)) == 1
    with pytest.raises(ValueError, match="at least one phoneme"):
        phoneme_error_rate(("k",), ())


@pytest.mark.skipif(not phonemes.espeak_installed(), reason="needs the extra `phonemes`")
def test_near_homophones_have_similar_phonemes():
    rice, lice, letter = phonemes.phonemes([" rice", " lice", " letter"], "en")
    assert phoneme_error_rate(lice, rice) == pytest.approx(1 / 3)
    assert phoneme_error_rate(letter, rice) > 0.9
    assert phonemes.phonemes(["電柱", "tlh"], "ja") == [(), ()]
