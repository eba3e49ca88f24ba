"""B3 finds edits that silence without a cost, and nothing in edits that do nothing or break speech."""

import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr

from experiments.studies.ablation import NUMBERS
from experiments.studies.b3_hallucination_card import (
    CLAIMS,
    CONDITIONS,
    EDITS,
    STUDY,
    Config,
    Kept,
    filtered,
)
from experiments.studies.study import DOES_NOT, REPLICATES, UNTESTABLE
from jaxasr.taps import At

N = 20


def arrays(said: np.ndarray, wer: np.ndarray, n: int = N, unsure: float = 0.0) -> xr.Dataset:
    """`said` and `wer` [n, condition]: words without speech, errors of clean speech; `unsure`: share of texts the filter rejects."""
    shape = (2 * n, len(CONDITIONS))
    values = {name: np.zeros(shape) for name in NUMBERS}
    values["insertions"][:n], values["wer"][n:] = 4 * said, wer
    values["no_speech_prob"][:], values["avg_logprob"][: round(unsure * n)] = 0.9, -2
    coords = {
        "example": np.arange(2 * n),
        "condition": list(CONDITIONS),
        "of": ("example", ["nonspeech"] * n + ["clean"] * n),
    }
    return xr.Dataset(
        {name: (("example", "condition"), value) for name, value in values.items()}, coords
    )


def planted(n: int = N) -> xr.Dataset:
    """Words in every recording without an edit, in one of five with one; no cost; the filter rejects two of three."""
    said = np.repeat((np.arange(n) % 5 == 0)[:, None], len(CONDITIONS), 1)
    said[:, 0] = True
    return arrays(said, np.full(said.shape, 0.1), n, unsure=0.66)


def nothing(seed: int) -> xr.Dataset:
    """Words as often under all conditions, every edit costs, and the filter rejects one text in three of either kind."""
    rng = np.random.default_rng(seed)
    shape = N, len(CONDITIONS)
    data = arrays(
        rng.random(shape) < 0.5, rng.uniform(0, 0.3, shape) + 0.1 * (np.arange(len(CONDITIONS)) > 0)
    )
    data.avg_logprob[:] = np.where(rng.random(data.avg_logprob.shape) < 1 / 3, -2, 0)
    return data


def verdicts(data: xr.Dataset) -> dict[str, str]:
    return {name: found.verdict for name, found in STUDY.analyse(data, Config()).findings.items()}


def test_what_was_planted_is_found():
    assert verdicts(planted()) == dict.fromkeys(CLAIMS, REPLICATES)
    found = STUDY.analyse(planted(), Config()).numbers["card"]
    assert found["none"]["raw"][0] == 1
    assert found["mask"]["raw"][0] == pytest.approx(0.2)
    assert found["none"]["kept"][0] == pytest.approx(0.35)
    assert STUDY.draw(planted(), Config())


def test_nothing_is_found_in_nothing_but_by_chance():
    """An interval of 95 % is wrong above once in forty: more than two of twenty would be a mistake of the test (p 0.01)."""
    found = [verdicts(nothing(seed)) for seed in range(20)]
    assert max(sum(one[name] == REPLICATES for one in found) for name in CLAIMS) <= 2


def test_silence_at_the_price_of_speech_is_told():
    data = planted()
    data.wer[N:, 1] = 1.0
    found = verdicts(data)
    assert (found["mask_fewer"], found["mask_cheap"]) == (REPLICATES, DOES_NOT)


def test_few_recordings_are_too_few():
    assert set(verdicts(planted(4)).values()) == {UNTESTABLE}
    assert len(EDITS) * 2 + 1 == len(CLAIMS)


def test_the_filter_is_whisper_s():
    data = arrays(np.ones((4, len(CONDITIONS))), np.zeros((4, len(CONDITIONS))), 4)
    data.avg_logprob[0, 0], data.compression_ratio[1, 0] = -1.5, 2.5
    data.avg_logprob[2, 0], data.no_speech_prob[2, 0] = -1.5, 0.5
    assert filtered(data).values[:4, 0].tolist() == [True, True, False, False]


def test_a_mask_is_of_layer_and_head():
    factor = jnp.ones((2, 3)).at[1, 2].set(0)
    x, at = (
        jnp.ones((1, 5, 3, 7)),
        lambda layer: At(jnp.int32(layer), jnp.arange(5)[None], None, "decoder.attn.z"),
    )
    np.testing.assert_array_equal(Kept(factor)(x, at(0)), x)
    np.testing.assert_array_equal(Kept(factor)(x, at(1)).sum((0, 1, 3)), [35, 35, 0])
