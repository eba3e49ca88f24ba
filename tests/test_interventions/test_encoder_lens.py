"""The encoder lens equals generation from truncated encoders. Its last layer is the model."""

import dataclasses

import jax
import numpy as np
import pytest
from golden.tiny import tiny_inputs
from own_edits import Shift

import jaxasr
from experiments.data import real_speech
from interventions import encoder_lens

N_NEW = 6


def no_rules(logits, tokens, n_tokens, n_prompt):
    """Allows every token."""
    return logits


@pytest.fixture(scope="module")
def tiny(asr, tiny_model) -> jaxasr.Recogniser:
    """Returns a random model with the tokenizer of tiny.en. Its last id, 100, is end-of-text."""
    special = dataclasses.replace(asr.tokenizer.special, eot=tiny_model.config.n_vocab - 1)
    return dataclasses.replace(
        asr, model=tiny_model, tokenizer=dataclasses.replace(asr.tokenizer, special=special)
    )


@pytest.fixture(scope="module")
def mel(tiny_model) -> np.ndarray:
    return tiny_inputs(tiny_model.config, 2)[0]


def run_lens(tiny, mel, **options):
    return encoder_lens(
        tiny, mel, prompt=[3, 1, 4], max_new_tokens=N_NEW, rules=no_rules, **options
    )


def generated(tiny, memory):
    prompt = np.array([[3, 1, 4]] * 2, np.int32)
    return jaxasr.generate(
        tiny.model, memory, prompt, max_new_tokens=N_NEW, eot=tiny.tokenizer.special.eot
    )


def assert_row(lens, row, out):
    np.testing.assert_array_equal(lens.tokens[row], out.tokens)
    np.testing.assert_array_equal(lens.lengths[row], out.lengths)
    np.testing.assert_allclose(lens.logprobs[row], out.logprobs, rtol=1e-5, atol=1e-5)


def test_a_layer_equals_generation_from_an_encoder_truncated_there(tiny, mel):
    lens = run_lens(tiny, mel)
    assert lens.layers == (0, 1, 2, 3)
    for layer in lens.layers:
        short = jax.tree.map(lambda x: x, tiny.model)
        short.encoder.blocks = jax.tree.map(lambda x, n=layer + 1: x[:n], tiny.model.encoder.blocks)
        assert_row(lens, layer, generated(tiny, short.encode(mel)[0]))
    assert not np.array_equal(lens.logprobs[0], lens.logprobs[1])


def test_every_layer_equals_the_final_norm_in_numpy(tiny, mel):
    edits = {"encoder.mlp.post": Shift(0.5, 1, 4)}
    lens, ln = run_lens(tiny, mel, edits=edits), tiny.model.encoder.ln_post
    x = np.asarray(
        tiny.model.encode(mel, edits, jaxasr.select("encoder.resid_post"))[1]["encoder.resid_post"],
        np.float64,
    )
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5) * np.asarray(
        ln.scale[...]
    ) + np.asarray(ln.bias[...])
    for layer in range(4):
        assert_row(lens, layer, generated(tiny, tiny.model.memory(x[layer].astype(np.float32))))
    assert not np.array_equal(lens.logprobs, run_lens(tiny, mel).logprobs)


def test_the_last_layer_equals_the_model(tiny, mel):
    assert_row(run_lens(tiny, mel), -1, generated(tiny, tiny.model.encode(mel)[0]))


def test_the_stem_is_an_extra_first_layer(tiny, mel):
    lens, with_stem = run_lens(tiny, mel), run_lens(tiny, mel, stem=True)
    assert with_stem.layers == (-1, 0, 1, 2, 3)
    np.testing.assert_array_equal(with_stem.tokens[1:], lens.tokens)
    embed = tiny.model.encode(mel, readout=jaxasr.select("encoder.embed"))[1]["encoder.embed"]
    assert_row(with_stem, 0, generated(tiny, tiny.model.memory(tiny.model.encoder.ln_post(embed))))


@pytest.mark.parametrize("layers_per_batch", [1, 3])
def test_layers_per_batch_does_not_change_the_result(tiny, mel, layers_per_batch):
    lens, separate = run_lens(tiny, mel), run_lens(tiny, mel, layers_per_batch=layers_per_batch)
    np.testing.assert_array_equal(lens.tokens, separate.tokens)
    np.testing.assert_allclose(lens.logprobs, separate.logprobs, rtol=1e-5, atol=1e-5)


def test_wrong_arguments_raise(tiny, mel):
    with pytest.raises(ValueError, match="mel: expected"):
        run_lens(tiny, mel[0])
    with pytest.raises(ValueError, match="max_new_tokens"):
        encoder_lens(tiny, mel, prompt=[3, 1, 4], max_new_tokens=21, rules=no_rules)
    with pytest.raises(ValueError, match="never fire"):
        run_lens(tiny, mel, edits={"decoder.mlp.post": Shift(1.0)})


def test_only_the_last_layers_transcribe_a_real_recording(asr):
    mel = jaxasr.log_mel(jaxasr.load_audio(real_speech.DEMO), asr.config.n_mels)[None]
    lens = encoder_lens(asr, mel, max_new_tokens=32)
    prompt = np.array([asr.tokenizer.prompt()], np.int32)
    plain = jaxasr.generate(asr.model, asr.model.encode(mel)[0], prompt, max_new_tokens=32)
    np.testing.assert_array_equal(lens.tokens[-1], plain.tokens)
    np.testing.assert_allclose(lens.logprobs[-1], plain.logprobs, atol=1e-4)
    assert (
        lens.text[-1][0]
        == asr.tokenizer.decode(np.asarray(plain.tokens[0, : int(plain.lengths[0])])).strip()
    )
    assert "captain" in lens.text[-1][0]
    assert "captain" not in lens.text[0][0]
    assert len({float(x) for x in lens.logprobs[:, 0, 0]}) == 4  # every layer differs
    assert repr(lens).startswith("EncoderLens(rows 1; first row by layer: 0 '")
    assert "3 'The captain read the old letter" in repr(lens)
    assert "\n" not in repr(lens)
