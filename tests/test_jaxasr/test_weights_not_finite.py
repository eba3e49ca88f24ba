"""Weights and logits that are NaN or infinite raise errors that name them."""

import checkpoints
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from checkpoints import TINY, WRITERS

import jaxasr
from jaxasr.weights import WeightsError, assemble, read_checkpoint

# The tensors that get a NaN or an infinity.
BAD_TENSORS = ("decoder.blocks.1.mlp.0.weight", "encoder.conv1.bias")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return assemble(
        read_checkpoint(
            checkpoints.write_hf(tmp_path_factory.mktemp("m") / "hf", checkpoints.random_tensors())
        )
    )


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("form", WRITERS)
def test_tensors_that_are_not_finite_are_named(form, value, tmp_path):
    tensors = checkpoints.random_tensors()
    for name in BAD_TENSORS:
        tensors[name].flat[-1] = value
    read = read_checkpoint(WRITERS[form](tmp_path / "m", tensors))
    with pytest.raises(WeightsError, match=r"NaN or infinite ones in 2 tensors: ") as caught:
        assemble(read)
    assert all(name in str(caught.value) for name in BAD_TENSORS)


def test_weights_that_overflow_in_float16_are_named(tmp_path):
    tensors = checkpoints.random_tensors()
    tensors[BAD_TENSORS[0]][0, 0] = 7e4
    read = read_checkpoint(checkpoints.write_hf(tmp_path / "m", tensors))
    assemble(read)
    assemble(read, param_dtype="bfloat16")
    with pytest.raises(
        WeightsError,
        match=rf"fit into float16, found larger ones in 1 tensors: {BAD_TENSORS[0]}. .*bfloat16",
    ):
        assemble(read, "float16", "float16")


def _memory(model):
    return model.encode(
        np.random.default_rng(0).normal(size=(2, TINY.n_mels, TINY.n_mel_frames)).astype(np.float32)
    )[0]


@pytest.mark.parametrize(
    ("options", "factor"),
    [({}, jnp.inf), ({"beam_size": 2}, jnp.nan), ({"temperature": 1.0}, jnp.inf)],
)
def test_generate_raises_if_logits_are_not_finite(model, options, factor):
    edits = {"decoder.resid_post": lambda x, at: x * factor}
    options = {"max_new_tokens": 4, "eot": 16, **options}
    prompt = jnp.array([[1], [2]])
    with pytest.raises(ValueError, match=r"logits: expected finite numbers, got NaN or infinity"):
        jaxasr.generate(model, _memory(model), prompt, edits=edits, **options)
    assert np.isfinite(jaxasr.generate(model, _memory(model), prompt, **options).logprobs).all()


def test_generate_under_jit_and_vmap_returns_nan(model):
    memory = _memory(model)

    def run(factor):
        edits = {"decoder.resid_post": lambda x, at: x * factor}
        return jaxasr.generate(
            model, memory, jnp.array([[1], [2]]), max_new_tokens=3, eot=16, edits=edits
        ).logprobs

    logprobs = jax.vmap(run)(jnp.array([1.0, jnp.nan]))
    assert np.isfinite(logprobs[0]).all()
    assert np.isnan(logprobs[1]).any(-1).all()
    assert np.isnan(jax.jit(run)(jnp.nan)).any()


def test_transcribe_raises_if_logits_are_not_finite(asr):
    audio = np.random.default_rng(0).normal(size=16_000).astype(np.float32)
    with pytest.raises(ValueError, match="logits: expected finite numbers"):
        asr.transcribe(
            audio,
            edits={"decoder.resid_post": lambda x, at: x * jnp.inf},
            max_new_tokens=5,
            word_timestamps=True,
        )
