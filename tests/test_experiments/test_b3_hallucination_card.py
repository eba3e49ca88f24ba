"""B3 detects edits that silence noise without a cost, and no useless or harmful edits."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr
from four_layers import FOUR_LAYERS

from experiments.data.corpora import Corpus, Utterance
from experiments.item_cache import ItemCache
from experiments.studies import b3_hallucination_card
from experiments.studies.ablation import TEXT_MEASURES
from experiments.studies.b3_hallucination_card import CONDITIONS, STUDY, Config, divide
from experiments.studies.claims import CONTRADICTED, SUPPORTED, UNTESTABLE, WEAKER
from experiments.studies.hallucination_edits import (
    EDIT_TITLES,
    EditSettings,
    ScaleHeads,
    make_all_edits,
)
from experiments.studies.hallucination_rates import CLAIMS, is_filtered
from experiments.studies.nonspeech import source_of
from experiments.studies.reproduce import builtin
from jaxasr.taps import At

N = 120  # recordings of each kind


def make_results(
    has_words: np.ndarray, wer: np.ndarray, n: int = N, rejected: float = 0.0
) -> xr.Dataset:
    """Makes outcomes of `n` recordings without speech and `n` clean ones.

    Args:
        has_words: bool [n, condition], whether a recording without speech gets words.
        wer: [n, condition], word error rate of clean speech.
        n: recordings of each kind.
        rejected: share of the texts without speech that the filter rejects.
    """
    shape = (2 * n, len(CONDITIONS))
    values = {name: np.zeros(shape) for name in TEXT_MEASURES}
    values["insertions"][:n], values["wer"][n:] = 4 * has_words, wer
    # The filter rejects a text with both a high no-speech probability and a low log-probability.
    values["no_speech_prob"][:], values["avg_logprob"][: round(rejected * n)] = 0.9, -2
    return xr.Dataset(
        {name: (("example", "condition"), value) for name, value in values.items()},
        {
            "example": np.arange(2 * n),
            "condition": list(CONDITIONS),
            "recording": ("example", ["nonspeech"] * n + ["clean"] * n),
            # Each recording without speech has a source of its own, and two clean ones share one.
            "source": ("example", [f"a{i}" for i in range(n)] + [f"b{i // 2}" for i in range(n)]),
        },
    )


def planted_results(n: int = N) -> xr.Dataset:
    """All recordings have words, and one in five under an edit. The filter rejects two thirds."""
    has_words = np.repeat((np.arange(n) % 5 == 0)[:, None], len(CONDITIONS), 1)
    has_words[:, 0] = True
    wer = 0.1 + np.random.default_rng(0).normal(scale=0.01, size=has_words.shape)
    return make_results(has_words, wer, n, rejected=0.66)


def results_without_effect(seed: int) -> xr.Dataset:
    """Words are equally frequent in all conditions. All edits have a cost, the filter is random."""
    rng, shape = np.random.default_rng(seed), (N, len(CONDITIONS))
    cost = 0.1 * (np.arange(len(CONDITIONS)) > 0)
    data = make_results(rng.random(shape) < 0.5, rng.uniform(0, 0.3, shape) + cost)
    data.avg_logprob[:] = np.where(rng.random(data.avg_logprob.shape) < 1 / 3, -2, 0)
    return data


def verdicts(data: xr.Dataset) -> dict[str, str]:
    findings = STUDY.analyse(data, Config()).findings
    return {key: finding.verdict for key, finding in findings.items()}


def test_planted_edits_are_detected():
    assert verdicts(planted_results()) == dict.fromkeys(CLAIMS, SUPPORTED)
    card = STUDY.analyse(planted_results(), Config()).numbers["card"]
    assert card["none"]["raw"][0] == 1
    assert card["mask"]["raw"][0] == pytest.approx(0.2)
    assert card["none"]["raw"][1] < 1  # an interval, although all recordings have words
    assert card["none"]["filtered"][0] == pytest.approx(0.34, abs=0.01)
    evidence = STUDY.analyse(planted_results(), Config()).findings["mask_fewer"].evidence
    assert evidence is not None
    assert evidence.floor == pytest.approx(0.66, abs=0.01)
    assert STUDY.draw(planted_results(), Config())


def test_useless_edits_replicate_only_by_chance():
    """Per claim, one false positive in forty runs is expected.

    The probability of more than two in twenty runs is 0.01.
    """
    runs = [verdicts(results_without_effect(seed)) for seed in range(20)]
    found = (SUPPORTED, WEAKER)
    assert max(sum(run[key] in found for run in runs) for key in CLAIMS) <= 2


def test_silence_at_the_cost_of_speech_is_reported():
    data = planted_results()
    data.wer[N:, 1] = 1.0
    found = verdicts(data)
    assert (found["mask_fewer"], found["mask_cheap"]) == (SUPPORTED, CONTRADICTED)


def test_fewer_than_a_hundred_clean_recordings_show_no_absence_of_cost():
    data = planted_results(60)
    assert {verdicts(data)[f"{name}_cheap"] for name in EDIT_TITLES} == {UNTESTABLE}
    assert {verdicts(data)[f"{name}_fewer"] for name in EDIT_TITLES} == {SUPPORTED}


def test_no_source_is_both_chosen_from_and_held_out(asr):
    sounds = [
        Utterance(f"{i}", Path("x"), labels={"noise_class": "rain", "freesound_id": str(i // 2)})
        for i in range(40)
    ]
    labels = {"set": "a", "lang": "en", "speech_kind": "read", "duration_s": 3.0}
    speech = [
        Utterance(f"s{i}", Path("x"), f"speaker {i // 4}", "the ship sailed on", labels=labels)
        for i in range(40)
    ]
    corpus = Corpus("x", "manifest", (*sounds, *speech))
    training, held_out = divide(asr, corpus, Config(n_choose=3))
    assert {kind: len(clips) for kind, clips in training.items()} == {"nonspeech": 3, "clean": 3}
    chosen = {source_of(clip) for clips in training.values() for clip in clips}
    assert not chosen & {source for _, source, _ in held_out}
    sources = [source for kind, source, _ in held_out if kind == "nonspeech"]
    assert len(sources) == len(set(sources)) > 3


def test_few_recordings_give_no_verdict():
    assert set(verdicts(planted_results(4)).values()) == {UNTESTABLE}
    assert len(EDIT_TITLES) * 2 + 1 == len(CLAIMS)


def test_the_filter_uses_the_thresholds_of_whisper():
    data = make_results(np.ones((4, len(CONDITIONS))), np.zeros((4, len(CONDITIONS))), 4)
    data.avg_logprob[0, 0], data.compression_ratio[1, 0] = -1.5, 2.5
    data.avg_logprob[2, 0], data.no_speech_prob[2, 0] = -1.5, 0.5
    assert is_filtered(data).values[:4, 0].tolist() == [True, True, False, False]


def test_a_mask_acts_on_its_layer_and_head():
    factor, x = jnp.ones((2, 3)).at[1, 2].set(0), jnp.ones((1, 5, 3, 7))

    def masked(layer: int) -> np.ndarray:
        at = At(jnp.int32(layer), jnp.arange(5)[None], None, "decoder.attn.z")
        return np.asarray(ScaleHeads(factor)(x, at))

    np.testing.assert_array_equal(masked(0), x)
    np.testing.assert_array_equal(masked(1).sum((0, 1, 3)), [35, 35, 0])


def make_items(kind: str, n: int) -> list[dict[str, np.ndarray]]:
    """Makes the cached items of `n` recordings, of which only "clean" ones get words.

    An item has the results of ablating 24 heads, and the mean state (of width 5) of a text.
    """
    has_words = kind == "clean"
    return [
        {
            "baseline_insertions": np.asarray(float(has_words)),
            "insertions": np.zeros(24),
            "baseline_wer": np.asarray(0.0),
            "wer": np.zeros(24),
            "states": np.random.default_rng(seed).normal(size=(int(has_words), 5)),
        }
        for seed in range(n)
    ]


@pytest.mark.parametrize(
    ("kinds", "reason"),
    [
        (("clean", "nonspeech"), "no recording without speech gets words"),
        (("clean", "clean"), None),
    ],
)
def test_without_hallucinated_texts_no_edit_is_made(kinds, reason):
    """An edit without hallucinated texts would be an edit of clean speech.

    `kinds` gives the items that stand for the clean recordings and for those without speech.
    """
    config = FOUR_LAYERS
    model: Any = SimpleNamespace(config=config)
    items = dict(zip(("clean", "nonspeech"), (make_items(kind, 6) for kind in kinds)))
    cache: Any = SimpleNamespace(each=lambda name, clips, compute: items[name.split(", ")[1]])
    clips = {kind: [] for kind in items}
    settings = EditSettings(n_heads=1, rank=2, depth=0.5, strength=1.0, max_new_tokens=8)
    edits, reasons = make_all_edits(model, clips, settings, cache)
    assert edits.keys() == (set() if reason else set(EDIT_TITLES))
    assert reasons.keys() == set(EDIT_TITLES) - edits.keys()
    assert all(reason in text for text in reasons.values())


def test_an_edit_that_cannot_be_made_is_untestable():
    data = planted_results()
    lost = data.condition == "project"
    data = data.where(~lost).assign_attrs(untestable={"project": "no texts"})
    analysis = STUDY.analyse(data, Config())
    for key, finding in analysis.findings.items():
        is_lost = key.startswith("project")
        assert finding.verdict == (UNTESTABLE if is_lost else SUPPORTED)
        assert finding.why == ("no texts" if is_lost else "")
    assert analysis.numbers["card"]["project"] == {"raw": [], "filtered": [], "wer": []}
    assert STUDY.draw(data, Config())


def test_a_run_without_any_edit_still_scores_the_texts(asr, tmp_path, monkeypatch):
    reasons = dict.fromkeys(EDIT_TITLES, "no texts")
    monkeypatch.setattr(b3_hallucination_card, "make_all_edits", lambda *_: ({}, reasons))
    config = Config(n_nonspeech=2, n_clean=2, max_new_tokens=24)
    data = STUDY.run(asr, builtin(), config, ItemCache(tmp_path))
    assert data.attrs["untestable"] == reasons
    assert data.length.notnull().all("example").values.tolist() == [True, False, False, False]
