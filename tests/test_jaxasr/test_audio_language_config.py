"""Configurations of audio language models, and the sites that each family has."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxasr
from jaxasr import Config, sites
from jaxasr.language.sizes import AUDIO_LANGUAGE_SIZES
from jaxasr.precision import precision_fields
from jaxasr.weights.assemble import abstract_model, parameters_by_name
from tests import audio_language
from tests.audio_language import LENGTHS, TINY, activations, tiny_mel


@pytest.mark.parametrize("name", TINY)
def test_every_site_of_the_model_has_its_documented_shape(name):
    model = audio_language.tiny_model(name)
    acts = activations(model)
    assert set(acts) == set(model.sites)
    n_tokens = acts["decoder.embed"].shape[1]
    for site, value in acts.items():
        spec = sites.spec(model.config, site, len(LENGTHS), n_tokens)
        assert value.shape == ((spec.n_layer,) if spec.n_layer else ()) + spec.shape, site


@pytest.mark.parametrize("name", AUDIO_LANGUAGE_SIZES)
def test_every_released_size_has_every_site_in_its_documented_shape(name):
    """Traces the passes of 16-bit models without weights: a batch of two windows, and a prompt."""
    config = AUDIO_LANGUAGE_SIZES[name].replace(**precision_fields("bfloat16"))
    readouts = [
        jaxasr.select(*sites.sites_of(stack, config.family)) for stack in ("encoder", "decoder")
    ]
    tokens = jax.ShapeDtypeStruct((2, config.n_audio_tokens + 20), jnp.int32)
    mel = jax.ShapeDtypeStruct((2, config.n_mels, 3000), jnp.float32)

    def run(model, mel, lengths, tokens):
        prefix, encoder = model.encode(mel, readout=readouts[0], lengths=lengths)
        logits, decoder = model.decode(tokens, prefix, readout=readouts[1])
        out = jaxasr.generate(model, prefix, tokens, max_new_tokens=3)
        return prefix, logits, out, encoder | decoder

    lengths = jax.ShapeDtypeStruct((2,), jnp.int32)
    prefix, logits, out, acts = jax.eval_shape(run, abstract_model(config), mel, lengths, tokens)
    for site in sites.of(config):
        expected = sites.spec(config, site, 2, tokens.shape[1])
        layers = (expected.n_layer,) if expected.n_layer else ()
        assert acts[site].shape == layers + expected.shape, site
    assert prefix.xa.shape == (2, config.n_audio_tokens, config.n_text_state)
    assert (logits.dtype, acts["decoder.resid_post"].dtype) == (jnp.float32, jnp.bfloat16)
    assert out.tokens.shape == (2, 3)


def test_each_family_has_a_part_of_the_vocabulary():
    whisper, qwen = sites.of(jaxasr.SIZES["tiny"]), sites.of(TINY["qwen2_audio"])
    assert {*whisper, *qwen} == set(sites.SITES)
    assert {*qwen} - {*whisper} == {
        "encoder.pool",
        "encoder.project",
        "decoder.attn.q_rot",
        "decoder.attn.k_rot",
        "decoder.mlp.up",
    }
    assert all("cross" in site for site in {*whisper} - {*qwen})


def test_a_site_that_the_model_lacks_is_refused_with_those_it_has(tiny_model):
    ours = audio_language.tiny_model()
    mel = tiny_mel(ours.config)
    prefix, _ = ours.encode(mel)
    with pytest.raises(ValueError, match=r"cross_attn.*Expected one of:.*decoder\.attn\.q_rot"):
        ours.decode([[1]] * 3, prefix, {"decoder.cross_attn.z": lambda x, at: x})
    with pytest.raises(ValueError, match=r"encoder\.pool.*Expected one of: encoder\.resid_pre"):
        tiny_model.encode(np.zeros((1, 7, 22)), readout=jaxasr.select("encoder.pool"))
    with pytest.raises(ValueError, match=r"family 'qwen2_audio'.*cross_attn"):
        sites.spec(ours.config, "decoder.cross_attn.z", 1, 1)


@pytest.mark.parametrize(("name", "n_parameters"), [("qwen2-audio-7b", 8_397_094_912)])
def test_the_7b_model_has_as_many_parameters_as_in_transformers(name, n_parameters):
    parameters = parameters_by_name(abstract_model(AUDIO_LANGUAGE_SIZES[name]))
    assert sum(int(np.prod(array.shape)) for array in parameters.values()) == n_parameters


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"family": "wav2vec"}, "family: expected one of 'whisper', 'qwen2_audio'"),
        ({"n_text_kv_head": 3}, "n_text_kv_head: expected a divisor of n_text_head 4, got 3"),
        ({"n_text_head_width": 5}, "n_text_head_width: expected an even width"),
        ({"audio_token": None}, "audio_token: expected an id from 0 to 98, got None"),
        ({"audio_token": 99}, "audio_token: expected an id from 0 to 98, got 99"),
        ({"n_text_head_width": None, "n_text_head": 3}, "n_text_head: expected a divisor"),
    ],
)
def test_dimensions_that_do_not_fit_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        TINY["qwen2_audio"].replace(**changes)


def test_a_whisper_has_no_dimensions_of_a_language_model():
    with pytest.raises(ValueError, match=r"n_text_mlp: expected None.*family='qwen2_audio'"):
        jaxasr.SIZES["tiny"].replace(n_text_mlp=7)
    config = jaxasr.SIZES["tiny"]
    assert config.encoder == config.decoder == (4, 384, 6, 6, 64, 1536)
    assert config.audio_language is None
    assert config.n_audio_tokens == 1500


def test_stacks_have_independent_dimensions():
    config: Config = TINY["qwen2_audio"]
    assert config.encoder == (3, 18, 3, 3, 6, 34)
    assert config.stack("decoder") == config.decoder == (2, 28, 4, 2, 10, 46)
