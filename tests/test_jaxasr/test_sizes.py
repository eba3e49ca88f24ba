"""Every released size has the documented site shapes and the published parameter count."""

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

import jaxasr
from jaxasr.languages import ENGLISH_ONLY
from jaxasr.sites import of, sites_of, spec
from jaxasr.weights.assemble import abstract_model

# Readouts of all sites of a stack.
ENCODER, DECODER = jaxasr.select(*sites_of("encoder")), jaxasr.select(*sites_of("decoder"))


@pytest.mark.parametrize("size", jaxasr.SIZES)
def test_every_released_size_has_every_site_in_its_documented_shape(size):
    config = jaxasr.SIZES[size]

    def run(mel, tokens):
        model = jaxasr.Whisper(config, rngs=nnx.Rngs(0))
        memory, encoder = model.encode(mel, readout=ENCODER)
        logits, decoder = model.decode(tokens, memory, readout=DECODER)
        return (memory.xa, memory.k, memory.v), logits, {**encoder, **decoder}

    mel = jax.ShapeDtypeStruct((2, config.n_mels, 3000), jnp.float32)
    (xa, k, v), logits, acts = jax.eval_shape(run, mel, jax.ShapeDtypeStruct((2, 5), jnp.int32))
    for site in of(config):
        expected = spec(config, site, 2, 5)
        layers = (expected.n_layer,) if expected.n_layer else ()
        assert acts[site].shape == layers + expected.shape, site
    assert logits.shape == (2, 5, config.n_vocab)
    assert xa.shape == (2, 1500, config.n_audio_state)
    heads = config.n_text_head, 1500, config.n_text_state // config.n_text_head
    assert k.shape == v.shape == (config.n_text_layer, 2, *heads)


# The README of openai/whisper gives rounded counts with buffers: 39, 74, 244, 1550 and 809.
PARAMETERS_MILLIONS = [
    ("tiny.en", 37.8),
    ("base", 72.6),
    ("small", 241.7),
    ("large-v3", 1543.5),
    ("turbo", 808.9),
]


@pytest.mark.parametrize(("size", "millions"), PARAMETERS_MILLIONS)
def test_parameter_counts_agree_with_the_published_ones(size, millions):
    assert abstract_model(jaxasr.SIZES[size]).n_parameters / 1e6 == pytest.approx(millions, abs=0.1)


def test_the_english_only_models_are_those_with_such_a_name():
    assert set(ENGLISH_ONLY) == {name for name in jaxasr.SIZES if name.endswith(".en")}
