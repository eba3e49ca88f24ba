"""Both lenses of audio language models equal models without the later layers."""

import dataclasses
from typing import Any

import jax
import numpy as np
import pytest
from audio_language import LENGTHS, TINY, tiny_mel, tiny_model, tiny_tokens

import interventions as iv
import jaxasr

N_NEW = 4


@dataclasses.dataclass(frozen=True)
class Spelled:
    """Has what `encoder_lens` needs of a recogniser. Spells a token as its id."""

    model: jaxasr.AudioLanguageModel

    @property
    def config(self) -> jaxasr.Config:
        return self.model.config

    @property
    def tokenizer(self) -> "Spelled":
        return self

    def decode(self, ids: Any) -> str:
        return " ".join(str(int(i)) for i in ids)


def make_run(model: jaxasr.AudioLanguageModel) -> iv.Run:
    """Returns three recordings of different lengths, with tokens padded on the left."""
    mel = tiny_mel(model.config)
    n_audio = np.asarray(model.encode(mel, lengths=LENGTHS)[0].lengths)
    tokens, positions = tiny_tokens(model.config, n_audio)
    return iv.Run(tokens, mel, positions=positions, lengths=LENGTHS)


def cut(model: Any, stack: str, n_layer: int) -> Any:
    """Returns the model with the first layers of a stack only."""
    short = jax.tree.map(lambda x: x, model)
    blocks = getattr(model, stack).blocks
    getattr(short, stack).blocks = jax.tree.map(lambda x: x[:n_layer], blocks)
    return short


@pytest.fixture(scope="module", params=TINY)
def model(request) -> jaxasr.AudioLanguageModel:
    return tiny_model(request.param)


def test_a_run_encodes_the_recordings_without_their_padding(model):
    run, (memory, _) = make_run(model), model.encode(tiny_mel(model.config), lengths=LENGTHS)
    encoded = run.encode(model)
    np.testing.assert_array_equal(encoded.memory.xa, memory.xa)
    np.testing.assert_array_equal(encoded.memory.lengths, memory.lengths)
    logits, _ = run.decode(model)
    expected, _ = model.decode(run.tokens, memory, positions=run.positions)
    np.testing.assert_array_equal(logits, expected)
    row = run.rows(np.array([1]))
    np.testing.assert_array_equal(row.lengths, LENGTHS[1:2])
    np.testing.assert_allclose(row.decode(model)[0], logits[1:2], atol=1e-5)


def test_a_whisper_has_no_lengths(request):
    whisper = request.getfixturevalue("tiny_model")
    run = iv.Run(np.zeros((1, 2), np.int32), np.zeros((1, 7, 22)), lengths=np.array([9]))
    with pytest.raises(ValueError, match="lengths: expected None, because a whisper encodes"):
        run.encode(whisper)


def test_a_layer_of_the_logit_lens_equals_a_model_that_ends_there(model):
    run = make_run(model).encode(model)
    lens = iv.logit_lens(model, run, top_k=3)
    tops = []
    for layer in range(model.config.n_text_layer):
        logprobs = jax.nn.log_softmax(run.decode(cut(model, "decoder", layer + 1))[0])
        order = np.argsort(-np.asarray(logprobs), -1)
        np.testing.assert_array_equal(lens.ids[layer], order[..., :3])
        top = np.take_along_axis(np.asarray(logprobs), order[..., :3], -1)
        np.testing.assert_allclose(lens.logprobs[layer], top, atol=1e-5)
        tops.append(order[..., 0])
    np.testing.assert_array_equal(lens.final, tops[-1])
    # With two layers, a token is saturated at layer 0 if both layers predict it.
    np.testing.assert_array_equal(lens.saturation, np.where(tops[0] == tops[1], 0, 1))
    assert len(np.unique(lens.saturation)) == 2


@pytest.mark.parametrize("stem", [False, True])
def test_a_layer_of_the_encoder_lens_equals_an_encoder_that_ends_there(model, stem):
    run, options = make_run(model), {"max_new_tokens": N_NEW}
    prompt = {"prompt": run.tokens, "positions": run.positions, "lengths": run.lengths}
    lens = iv.encoder_lens(Spelled(model), run.mel, **prompt, **options, stem=stem)
    assert lens.layers == tuple(range(-stem, model.config.n_audio_layer))
    assert lens.text[0][0]
    for entry, layer in enumerate(lens.layers):
        memory = run.encode(cut(model, "encoder", layer + 1)).memory if layer >= 0 else None
        if memory is None:  # the first layer without its sublayers is the identity
            zeros = {f"encoder.{name}_out": iv.Zero() for name in ("attn", "mlp")}
            memory, _ = model.encode(run.mel, zeros, lengths=LENGTHS)
        out = jaxasr.generate(model, memory, run.tokens, positions=run.positions, **options)
        np.testing.assert_array_equal(lens.tokens[entry], out.tokens)
        np.testing.assert_allclose(lens.logprobs[entry], out.logprobs, atol=1e-5)
    assert not np.array_equal(lens.logprobs[0], lens.logprobs[1])


def test_the_encoder_lens_requires_the_audio_tokens_of_each_row(model):
    run = make_run(model)
    with pytest.raises(ValueError, match="prompt: expected a prompt with audio tokens, got None"):
        iv.encoder_lens(Spelled(model), run.mel)
    with pytest.raises(ValueError, match="expected the audio token 98"):
        iv.encoder_lens(Spelled(model), run.mel, prompt=[1, 98], lengths=run.lengths)
