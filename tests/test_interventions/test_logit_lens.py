"""The logit lens equals NumPy and models truncated at each layer."""

import jax
import numpy as np
import pytest
from golden.tiny import tiny_inputs
from hypothesis import given, settings, strategies as st
from own_edits import Shift

import jaxasr
from experiments.data import real_speech
from interventions import Run, logit_lens
from interventions.lenses.logit import _decode_layers, saturation_layer
from jaxasr import compiled


@pytest.fixture(scope="module")
def run(tiny_model) -> Run:
    mel, tokens = tiny_inputs(tiny_model.config, 3, 7)
    return Run(memory=tiny_model.encode(mel)[0], tokens=tokens)


def log_softmax(logits: np.ndarray) -> np.ndarray:
    logits = logits.astype(np.float64)
    logits = logits - logits.max(-1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def numpy_logit_lens(model, run, edits=None) -> np.ndarray:
    """Returns log-probabilities [L, B, T, V] of every layer, computed in NumPy."""
    resid = run.decode(model, edits, jaxasr.select("decoder.resid_post"))[1]["decoder.resid_post"]
    x = np.asarray(resid, np.float64)
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    parameters = model.decoder.ln.scale, model.decoder.ln.bias, model.decoder.token_embedding
    scale, bias, embedding = (np.asarray(p[...], np.float64) for p in parameters)
    return log_softmax((x * scale + bias) @ embedding.T)


def earliest_stable_layer(is_top: np.ndarray) -> int:
    """Returns the earliest layer from which all entries are true, by a plain loop."""
    return next((layer for layer in range(len(is_top)) if all(is_top[layer:])), len(is_top))


@pytest.mark.parametrize(
    "edits", [None, {"decoder.mlp.post": Shift(1.0, 0, 3)}], ids=["plain", "edited"]
)
def test_every_layer_equals_numpy(tiny_model, run, edits):
    lens, expected = (
        logit_lens(tiny_model, run, top_k=9, edits=edits),
        numpy_logit_lens(tiny_model, run, edits),
    )
    logits = np.asarray(run.decode(tiny_model, edits)[0])
    np.testing.assert_array_equal(lens.final, logits.argmax(-1))
    order = np.argsort(-expected, -1, kind="stable")
    np.testing.assert_array_equal(lens.ids, order[..., :9])
    np.testing.assert_allclose(
        lens.logprobs, np.take_along_axis(expected, order[..., :9], -1), atol=1e-5
    )
    final = np.broadcast_to(np.asarray(lens.final)[None, ..., None], (*expected.shape[:-1], 1))
    np.testing.assert_allclose(
        lens.logprob, np.take_along_axis(expected, final, -1)[..., 0], atol=1e-5
    )
    np.testing.assert_array_equal(lens.rank, (order == final).argmax(-1))
    top = order[..., 0]
    for row, step in np.ndindex(top.shape[1:]):
        assert lens.saturation[row, step] == earliest_stable_layer(
            top[:, row, step] == lens.final[row, step]
        )


def test_a_layer_equals_a_model_truncated_there(tiny_model, run):
    lens = logit_lens(tiny_model, run, top_k=1)
    for layer in range(2):
        short = jax.tree.map(lambda x: x, tiny_model)
        short.decoder.blocks = jax.tree.map(lambda x, n=layer + 1: x[:n], tiny_model.decoder.blocks)
        memory = run.memory.replace(k=run.memory.k[: layer + 1], v=run.memory.v[: layer + 1])
        logprobs = log_softmax(np.asarray(short.decode(run.tokens, memory)[0]))
        np.testing.assert_array_equal(lens.ids[layer, ..., 0], logprobs.argmax(-1))
        np.testing.assert_allclose(lens.logprobs[layer, ..., 0], logprobs.max(-1), atol=1e-5)


def test_ranks_follow_the_tokens_of_final(tiny_model, run):
    named = (np.asarray(run.tokens) + 5) % 101
    lens, expected = logit_lens(tiny_model, run, final=named), numpy_logit_lens(tiny_model, run)
    np.testing.assert_array_equal(lens.final, named)
    of_named = np.take_along_axis(
        expected, np.broadcast_to(named[None, ..., None], (*expected.shape[:-1], 1)), -1
    )
    np.testing.assert_allclose(lens.logprob, of_named[..., 0], atol=1e-5)
    np.testing.assert_array_equal(lens.rank, (expected > of_named).sum(-1))


def test_new_edit_values_do_not_recompile(tiny_model, run):
    logit_lens(tiny_model, run, edits={"decoder.mlp.post": Shift(1.0, 0, 3)})
    n_programs = compiled.n_compiled(_decode_layers)
    logit_lens(tiny_model, run, edits={"decoder.mlp.post": Shift(-2.0, 1, 4)})
    assert compiled.n_compiled(_decode_layers) == n_programs


def test_repr_is_one_line_of_sizes(tiny_model, run):
    lens = logit_lens(tiny_model, run, top_k=2)
    assert repr(lens) == "LogitLens(layers 2, rows 3, tokens 7, top_k 2)"


def test_wrong_arguments_raise(tiny_model, run):
    for top_k in (0, 102):
        with pytest.raises(ValueError, match=f"top_k: expected 1 to 101, got {top_k}"):
            logit_lens(tiny_model, run, top_k=top_k)
    with pytest.raises(ValueError, match=r"final: expected the shape of run\.tokens"):
        logit_lens(tiny_model, run, final=np.zeros(7, np.int32))
    with pytest.raises(ValueError, match="never fire"):
        logit_lens(tiny_model, run, edits={"encoder.mlp.post": Shift(1.0)})


@settings(deadline=None, max_examples=200)
@given(st.lists(st.lists(st.booleans(), min_size=3, max_size=3), min_size=1, max_size=9))
def test_saturation_layer_equals_a_loop(rows):
    hit = np.array(rows)
    np.testing.assert_array_equal(
        saturation_layer(hit), [earliest_stable_layer(column) for column in hit.T]
    )


def test_last_layer_predicts_the_transcript_of_a_real_recording(asr):
    mel = jaxasr.log_mel(jaxasr.load_audio(real_speech.DEMO), asr.config.n_mels)
    prompt = asr.tokenizer.prompt()
    text = asr.tokenizer.encode(" The captain read the old letter aloud")
    run = Run(mel=mel[None], tokens=np.array([prompt + text], np.int32)).encode(asr.model)
    lens = logit_lens(asr.model, run, top_k=3)
    np.testing.assert_array_equal(lens.ids[-1, ..., 0], lens.final)
    assert (np.asarray(lens.rank)[-1] == 0).all()
    assert (np.asarray(lens.saturation) < 4).all()
    np.testing.assert_array_equal(lens.final[0, len(prompt) - 1 : -1], text)
    expected = numpy_logit_lens(asr.model, run)
    np.testing.assert_allclose(lens.logprobs, -np.sort(-expected, -1)[..., :3], atol=1e-4)
    hit = expected.argmax(-1) == np.asarray(lens.final)
    np.testing.assert_array_equal(
        lens.saturation[0], [earliest_stable_layer(hit[:, 0, step]) for step in range(hit.shape[2])]
    )
