"""Every site of tiny random models equals torch in float64 (`tests/golden/make_golden.py`)."""

import jax
import numpy as np
import pytest
from golden.tiny import BATCH, N_TOKENS, TINY, golden_file, left_padded, tiny_inputs, tiny_model

import jaxasr
from jaxasr.sites import of, sites_of, spec

# Tolerances in units of max(1, max|reference|). The documentation promises 5e-5, but rounding
# errors of tiny models are far smaller.
FLOAT32, ROUNDED_TO_FLOAT32 = 2e-6, 6e-8


def activations_of_both_stacks(
    model: jaxasr.Whisper, unroll: int | bool = 1
) -> dict[str, np.ndarray]:
    """Returns the activations at every site of the encoder and the decoder."""
    mel, tokens = tiny_inputs(model.config)
    memory, encoder = model.encode(mel, readout=jaxasr.select(*sites_of("encoder")), unroll=unroll)
    logits, decoder = model.decode(
        tokens, memory, readout=jaxasr.select(*sites_of("decoder")), unroll=unroll
    )
    np.testing.assert_array_equal(logits, decoder["decoder.logits"])
    np.testing.assert_array_equal(memory.xa, encoder["encoder.ln_post"])
    return {site: np.asarray(value) for site, value in (encoder | decoder).items()}


def scaled_errors(ours: dict[str, np.ndarray], golden: dict[str, np.ndarray]) -> dict[str, float]:
    return {site: scaled_error(value, golden[site]) for site, value in ours.items()}


def scaled_error(ours: np.ndarray, golden: np.ndarray) -> float:
    """Returns the largest error in units of max(1, max|golden|)."""
    assert ours.shape == golden.shape
    assert np.isfinite(ours).all()
    visible = np.isfinite(golden)  # scores behind the causal mask are minus infinity
    error = np.max(np.abs(ours[visible] - golden[visible]))
    return float(error / max(1.0, np.max(np.abs(golden[visible]))))


@pytest.fixture(params=TINY)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def golden(name: str) -> dict[str, np.ndarray]:
    with np.load(golden_file(name)) as file:
        return dict(file)


def test_golden_files_have_every_site_in_its_documented_shape(name, golden):
    config = TINY[name]
    for site in of(config):
        expected = spec(config, site, BATCH, N_TOKENS)
        assert (
            golden[site].shape == ((expected.n_layer,) if expected.n_layer else ()) + expected.shape
        ), site


@pytest.mark.parametrize("unroll", [1, True])
def test_every_site_agrees_with_torch_in_float32(name, golden, unroll):
    errors = scaled_errors(activations_of_both_stacks(tiny_model(name), unroll), golden)
    assert set(errors) == set(of(TINY[name]))
    assert max(errors.values()) < FLOAT32, max(errors.items(), key=lambda item: item[1])


def test_every_site_agrees_with_torch_in_float64_to_the_last_digit(name, golden):
    with jax.enable_x64(True):
        ours = activations_of_both_stacks(tiny_model(name, dtype="float64"))
        assert all(value.dtype == np.float64 for value in ours.values())
    errors = scaled_errors(ours, golden)
    assert max(errors.values()) < ROUNDED_TO_FLOAT32, max(errors.items(), key=lambda item: item[1])


def test_left_padded_rows_agree_with_torch(name, golden):
    model, positions = tiny_model(name), left_padded()
    mel, tokens = tiny_inputs(model.config)
    keys = [key for key in golden if key.startswith("padded/")]  # "padded/" + site
    assert len(keys) == 3
    _, acts = model.decode(
        tokens,
        model.encode(mel)[0],
        readout=jaxasr.select(*(key.removeprefix("padded/") for key in keys)),
        positions=positions,
    )
    for key in keys:
        ours, reference = (
            np.asarray(acts[key.removeprefix("padded/")])[..., positions >= 0, :],
            golden[key][..., positions >= 0, :],
        )
        assert scaled_error(ours, reference) < FLOAT32, key


def test_rolling_any_axis_changes_the_golden_values(golden):
    for site, value in golden.items():
        for axis, size in enumerate(value.shape):
            assert size == 1 or not np.allclose(np.roll(value, 1, axis), value, atol=1e-2), (
                site,
                axis,
            )
