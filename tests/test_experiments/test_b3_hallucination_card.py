"""B3 detects edits that silence noise without a cost, and no useless or harmful edits."""

import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr

from experiments.studies.ablation import NUMBERS
from experiments.studies.b3_hallucination_card import CLAIMS, CONDITIONS, STUDY, Config, is_filtered
from experiments.studies.hallucination_edits import EDITS, ScaleHeads
from experiments.studies.study import DOES_NOT_REPLICATE, REPLICATES, UNTESTABLE
from jaxasr.taps import At

N = 20


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
    values = {name: np.zeros(shape) for name in NUMBERS}
    values["insertions"][:n], values["wer"][n:] = 4 * has_words, wer
    values["no_speech_prob"][:], values["avg_logprob"][: round(rejected * n)] = 0.9, -2
    return xr.Dataset(
        {name: (("example", "condition"), value) for name, value in values.items()},
        {
            "example": np.arange(2 * n),
            "condition": list(CONDITIONS),
            "recording": ("example", ["nonspeech"] * n + ["clean"] * n),
        },
    )


def planted_results(n: int = N) -> xr.Dataset:
    """All recordings have words, and one in five under an edit. The filter rejects two thirds."""
    has_words = np.repeat((np.arange(n) % 5 == 0)[:, None], len(CONDITIONS), 1)
    has_words[:, 0] = True
    return make_results(has_words, np.full(has_words.shape, 0.1), n, rejected=0.66)


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
    assert verdicts(planted_results()) == dict.fromkeys(CLAIMS, REPLICATES)
    card = STUDY.analyse(planted_results(), Config()).numbers["card"]
    assert card["none"]["raw"][0] == 1
    assert card["mask"]["raw"][0] == pytest.approx(0.2)
    assert card["none"]["filtered"][0] == pytest.approx(0.35)
    assert STUDY.draw(planted_results(), Config())


def test_useless_edits_replicate_only_by_chance():
    """One false positive in forty runs is expected. Over two in twenty have probability 0.01."""
    runs = [verdicts(results_without_effect(seed)) for seed in range(20)]
    assert max(sum(run[key] == REPLICATES for run in runs) for key in CLAIMS) <= 2


def test_silence_at_the_cost_of_speech_is_reported():
    data = planted_results()
    data.wer[N:, 1] = 1.0
    found = verdicts(data)
    assert (found["mask_fewer"], found["mask_cheap"]) == (REPLICATES, DOES_NOT_REPLICATE)


def test_few_recordings_give_no_verdict():
    assert set(verdicts(planted_results(4)).values()) == {UNTESTABLE}
    assert len(EDITS) * 2 + 1 == len(CLAIMS)


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
