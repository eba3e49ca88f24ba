"""A model refuses wrong inputs before it compiles a program."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden.tiny import tiny_inputs, tiny_model

import jaxasr
from jaxasr.sites import SITES, stack_of
from jaxasr.weights.assemble import abstract_model


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((2, 79, 22), "80 mels"),
        ((2, 80, 21), "22 frames"),
        ((80, 22), r"mel\[None\]"),
        ((2, 128, 22), "n_mels=80"),
        ((0, 80, 0), "22 fr"),
    ],
)
def test_a_mel_of_the_wrong_shape_is_refused(shape, message):
    with pytest.raises(ValueError, match=message):
        tiny_model().encode(np.zeros(shape, np.float32))


def test_a_mel_of_integers_or_with_nan_is_refused():
    model = tiny_model()
    mel, _ = tiny_inputs(model.config)
    with pytest.raises(ValueError, match="floating point"):
        model.encode(mel.astype(np.int16))
    mel[1, 3, 5] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        model.encode(mel)


def test_tokens_outside_the_vocabulary_or_the_context_are_refused(model, tokens, memory):
    config = model.config
    for id_ in (config.n_vocab, -1):
        wrong = np.array(tokens)
        wrong[1, 2] = id_
        with pytest.raises(
            ValueError,
            match=rf"tokens: expected token ids from 0 to {config.n_vocab - 1}, got {id_}",
        ):
            model.decode(wrong, memory)
    with pytest.raises(ValueError, match=r"14 tokens.*context is 13"):
        model.decode(np.zeros((2, 14), np.int32), memory)
    with pytest.raises(ValueError, match="memory has batch 2"):
        model.decode(tokens[:1], memory)
    for wrong in (tokens[0], tokens.astype(np.float32), tokens[:, :0]):
        with pytest.raises(ValueError, match="non-empty integer array"):
            model.decode(wrong, memory)
    too_far = np.full((2, 5), 13, np.int32)
    for positions, message in (
        (too_far[:, 1:], "shape of tokens"),
        (too_far, "below the decoder's context 13"),
    ):
        with pytest.raises(ValueError, match=message):
            model.decode(tokens, memory, positions=positions)


def test_a_token_outside_the_vocabulary_gives_nan_under_jit_instead_of_another_token(
    model, tokens, memory
):
    decode = jax.jit(lambda m, x, y: m.decode(x, y)[0])
    for id_ in (model.config.n_vocab, -1):
        wrong = np.array(tokens)
        wrong[1, 4] = id_
        logits = decode(model, wrong, memory)
        assert np.isnan(logits[1, 4]).all()
        assert np.isfinite(logits[0]).all()


def test_more_tokens_than_a_released_context_are_refused():
    """The model has real dimensions and no weights, because the check precedes all computation."""
    config = jaxasr.SIZES["tiny"]
    model, memory = (
        abstract_model(config),
        jaxasr.Memory(jnp.zeros((1, 1, 1)), *[jnp.zeros((1, 1, 1, 1, 1))] * 2),
    )
    with pytest.raises(ValueError, match=r"449 tokens.*context is 448"):
        model.decode(np.zeros((1, 449), np.int32), memory)


@pytest.mark.parametrize(
    "site", ["encoder.resid_pos", "decoder.attn.zz", "resid_post", "encoder.cross_attn.z"]
)
def test_an_unknown_site_is_refused_with_a_list_of_sites(model, site):
    with pytest.raises(ValueError, match=r"Unknown site.*encoder\.resid_post"):
        jaxasr.select(site)


def test_a_site_of_the_other_stack_is_refused(model, mel, tokens, memory):
    with pytest.raises(
        ValueError, match=r"never fire.*decoder\.resid_post.*Expected one of: encoder"
    ):
        model.encode(mel, {"decoder.resid_post": lambda x, at: x})
    with pytest.raises(ValueError, match=r"readout of the decoder"):
        model.decode(tokens, memory, readout=jaxasr.select("encoder.resid_post"))
    assert {stack_of(site) for site in SITES} == {"encoder", "decoder"}
