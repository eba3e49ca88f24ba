"""The logit lens against a restatement, against a model cut off at each layer, and on a real recording."""

import jax
import numpy as np
import pytest
from golden.tiny import tiny_inputs
from hypothesis import given, settings, strategies as st
from own_edits import Shift

import jaxasr
from experiments.data import real_speech
from interventions import Run, logit_lens
from interventions.lenses.logit import saturation_layer
from jaxasr import compiled


@pytest.fixture(scope="module")
def run(tiny_model) -> Run:
    mel, tokens = tiny_inputs(tiny_model.config, 3, 7)
    return Run(memory=tiny_model.encode(mel)[0], tokens=tokens)


def log_softmax(logits: np.ndarray) -> np.ndarray:
    logits = logits.astype(np.float64)
    logits = logits - logits.max(-1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def restated(model, run, edits=None) -> np.ndarray:
    """Log-probabilities [L, B, T, V] in numpy: the stream after every layer, the final norm, the embedding's transpose."""
    resid = run.decode(model, edits, jaxasr.select("decoder.resid_post"))[1]["decoder.resid_post"]
    x = np.asarray(resid, np.float64)
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    parameters = model.decoder.ln.scale, model.decoder.ln.bias, model.decoder.token_embedding
    scale, bias, embedding = (np.asarray(p[...], np.float64) for p in parameters)
    return log_softmax((x * scale + bias) @ embedding.T)


def first_lasting(hit: np.ndarray) -> int:
    """The definition, said slowly: the earliest layer that hits, and every later one, too."""
    return next((layer for layer in range(len(hit)) if all(hit[layer:])), len(hit))


@pytest.mark.parametrize(
    "edits", [None, {"decoder.mlp.post": Shift(1.0, 0, 3)}], ids=["plain", "edited"]
)
def test_every_layer_against_the_restatement(tiny_model, run, edits):
    lens, expected = (
        logit_lens(tiny_model, run, top_k=9, edits=edits),
        restated(tiny_model, run, edits),
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
        assert lens.saturation[row, step] == first_lasting(
            top[:, row, step] == lens.final[row, step]
        )


def test_a_layer_is_what_a_model_cut_off_there_says(tiny_model, run):
    lens = logit_lens(tiny_model, run, top_k=1)
    for layer in range(2):
        short = jax.tree.map(lambda x: x, tiny_model)
        short.decoder.blocks = jax.tree.map(lambda x, n=layer + 1: x[:n], tiny_model.decoder.blocks)
        memory = run.memory.replace(k=run.memory.k[: layer + 1], v=run.memory.v[: layer + 1])
        logprobs = log_softmax(np.asarray(short.decode(run.tokens, memory)[0]))
        np.testing.assert_array_equal(lens.ids[layer, ..., 0], logprobs.argmax(-1))
        np.testing.assert_allclose(lens.logprobs[layer, ..., 0], logprobs.max(-1), atol=1e-5)


def test_the_followed_tokens_may_be_named(tiny_model, run):
    named = (np.asarray(run.tokens) + 5) % 101
    lens, expected = logit_lens(tiny_model, run, final=named), restated(tiny_model, run)
    np.testing.assert_array_equal(lens.final, named)
    of_named = np.take_along_axis(
        expected, np.broadcast_to(named[None, ..., None], (*expected.shape[:-1], 1)), -1
    )
    np.testing.assert_allclose(lens.logprob, of_named[..., 0], atol=1e-5)
    np.testing.assert_array_equal(lens.rank, (expected > of_named).sum(-1))


def test_it_compiles_once(tiny_model, run):
    import sys

    body = sys.modules[
        "interventions.logit_lens"
    ]._read  # `interventions.logit_lens` is the function
    logit_lens(tiny_model, run, edits={"decoder.mlp.post": Shift(1.0, 0, 3)})
    n = compiled.n_compiled(body)
    logit_lens(tiny_model, run, edits={"decoder.mlp.post": Shift(-2.0, 1, 4)})
    assert compiled.n_compiled(body) == n


def test_what_is_refused(tiny_model, run):
    for top_k in (0, 102):
        with pytest.raises(ValueError, match=f"top_k: expected 1 to 101, got {top_k}"):
            logit_lens(tiny_model, run, top_k=top_k)
    with pytest.raises(ValueError, match=r"final: expected the shape of run\.tokens"):
        logit_lens(tiny_model, run, final=np.zeros(7, np.int32))
    with pytest.raises(ValueError, match="never fire"):
        logit_lens(tiny_model, run, edits={"encoder.mlp.post": Shift(1.0)})


@settings(deadline=None, max_examples=200)
@given(st.lists(st.lists(st.booleans(), min_size=3, max_size=3), min_size=1, max_size=9))
def test_saturation_layer_is_its_definition(rows):
    hit = np.array(rows)
    np.testing.assert_array_equal(
        saturation_layer(hit), [first_lasting(column) for column in hit.T]
    )


def test_a_real_recording(asr):
    mel = jaxasr.log_mel(jaxasr.load_audio(real_speech.DEMO), asr.config.n_mels)
    prompt = asr.tokenizer.prompt()
    text = asr.tokenizer.encode(" The captain read the old letter aloud")
    run = Run(mel=mel[None], tokens=np.array([prompt + text], np.int32)).encode(asr.model)
    lens = logit_lens(asr.model, run, top_k=3)
    np.testing.assert_array_equal(lens.ids[-1, ..., 0], lens.final)
    assert (np.asarray(lens.rank)[-1] == 0).all()
    assert (np.asarray(lens.saturation) < 4).all()
    np.testing.assert_array_equal(
        lens.final[0, len(prompt) - 1 : -1], text
    )  # it is what the model itself would write
    expected = restated(asr.model, run)
    np.testing.assert_allclose(lens.logprobs, -np.sort(-expected, -1)[..., :3], atol=1e-4)
    hit = expected.argmax(-1) == np.asarray(lens.final)
    np.testing.assert_array_equal(
        lens.saturation[0], [first_lasting(hit[:, 0, step]) for step in range(hit.shape[2])]
    )
