"""Models load and compute correctly if their output projection is not the token embedding."""

import json

import checkpoints
import jax
import numpy as np
import pytest
from checkpoints import TINY
from safetensors.numpy import load_file

import interventions as iv
import jaxasr
from jaxasr.weights import WeightsError, assemble, read_checkpoint, save
from jaxasr.weights.assemble import parameters_by_name


@pytest.fixture
def untied(tmp_path):
    """Returns a folder with a separate projection, the projection, and the tied model."""
    tensors = checkpoints.random_tensors()
    projection = (
        np.random.default_rng(5).normal(size=(TINY.n_vocab, TINY.n_text_state)).astype(np.float32)
    )
    folder = checkpoints.write_hf(tmp_path / "tied", tensors)
    model = assemble(read_checkpoint(folder))
    tensors_on_disk = load_file(folder / "model.safetensors")
    checkpoints.save_safetensors(
        folder / "model.safetensors", tensors_on_disk | {"proj_out.weight": projection}
    )
    return folder, projection, model


def test_an_untied_projection_gives_the_logits(untied, tmp_path):
    folder, projection, tied = untied
    model = assemble(read_checkpoint(folder))
    assert (model.config.tied, tied.config.tied) == (False, True)
    mel = (
        np.random.default_rng(0).normal(size=(1, TINY.n_mels, TINY.n_mel_frames)).astype(np.float32)
    )
    memory, _ = model.encode(mel)
    tokens = np.array([[1, 5, 2]])
    logits, acts = model.decode(tokens, memory, readout=jaxasr.select("decoder.ln"))
    np.testing.assert_allclose(logits, acts["decoder.ln"] @ projection.T, rtol=1e-5, atol=1e-4)
    with_tied, _ = tied.decode(tokens, memory)
    np.testing.assert_allclose(
        with_tied, acts["decoder.ln"] @ tied.decoder.token_embedding[...].T, rtol=1e-5, atol=1e-4
    )
    reloaded = read_checkpoint(save(model, tmp_path / "out"))
    assert (
        json.loads((tmp_path / "out" / "config.json").read_text())["tie_word_embeddings"] is False
    )
    assert jax.tree.all(jax.tree.map(np.array_equal, assemble(reloaded), model))


def test_sweeps_and_attribution_read_the_untied_projection(untied):
    model = assemble(read_checkpoint(untied[0]))
    mel = (
        np.random.default_rng(0).normal(size=(1, TINY.n_mels, TINY.n_mel_frames)).astype(np.float32)
    )
    run = iv.Run(memory=model.encode(mel)[0], tokens=np.array([[1, 5, 2]]))
    logits, _ = model.decode(run.tokens, run.memory)
    swept = iv.sweep(
        model, run, run, site="decoder.resid_post", over=("layer",), metric=iv.logit_diff(3, 4)
    )
    np.testing.assert_allclose(swept, logits[0, -1, 3] - logits[0, -1, 4], rtol=1e-4, atol=1e-4)
    split = iv.direct_logit_attribution(model, run, 3)
    np.testing.assert_allclose(
        [split["logit"], iv.total_logit(split)], [logits[0, -1, 3]] * 2, rtol=1e-4, atol=1e-4
    )


def test_ctranslate2_models_may_have_a_separate_projection(tmp_path):
    tensors = checkpoints.random_tensors()
    variables = checkpoints.ct2_variables(tensors) | {
        "decoder/projection/weight": tensors["decoder.token_embedding.weight"] + 1
    }
    folder = checkpoints.write_ct2_variables(tmp_path / "m", variables, alias=False)
    model = assemble(read_checkpoint(folder))
    np.testing.assert_array_equal(
        model.decoder.unembedding, tensors["decoder.token_embedding.weight"] + 1
    )


def test_an_untied_model_without_its_projection_is_refused(tmp_path):
    folder = checkpoints.write_hf(tmp_path / "m", checkpoints.random_tensors())
    (folder / "config.json").write_text(
        json.dumps(checkpoints.hf_config() | {"tie_word_embeddings": False})
    )
    with pytest.raises(WeightsError, match=r"missing \(1\): decoder.projection.weight"):
        assemble(read_checkpoint(folder))


def test_a_tied_model_has_only_the_embedding():
    model = assemble(read_checkpoint("tiny.en"))
    assert "decoder.projection" not in parameters_by_name(model)
    assert model.decoder.unembedding is model.decoder.token_embedding[...]
