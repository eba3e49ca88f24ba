"""The direct contributions to a logit of an audio language model sum to this logit."""

import numpy as np
import pytest
from audio_language import LENGTHS, TINY, tiny_mel, tiny_model, tiny_tokens

import interventions as iv
import jaxasr
from interventions.effects.direct_logits import LANGUAGE_MODEL_PARTS

ANSWER, FOIL = 3, 8


def make_run(model):
    """Returns three recordings of different lengths, with tokens padded on the left."""
    mel = tiny_mel(model.config)
    memory, _ = model.encode(mel, lengths=LENGTHS)
    tokens, positions = tiny_tokens(model.config, np.asarray(memory.lengths))
    return iv.Run(tokens, mel, positions=positions, lengths=LENGTHS)


@pytest.fixture(scope="module", params=TINY)
def model(request):
    return tiny_model(request.param)


@pytest.fixture(scope="module")
def split(model):
    return iv.direct_logit_attribution(model, make_run(model), ANSWER, FOIL, position=-2)


def test_contributions_sum_to_the_logit(model, split):
    logits = np.asarray(make_run(model).decode(model)[0])[:, -2]
    np.testing.assert_allclose(split.logit, logits[:, ANSWER] - logits[:, FOIL], atol=1e-5)
    np.testing.assert_allclose(iv.total_logit(split), split.logit, atol=1e-5)
    assert tuple(split.part.values) == LANGUAGE_MODEL_PARTS
    heads = split.heads.sel(attention="attn")
    np.testing.assert_allclose(heads.sum("head"), split.parts.sel(part="attn_out"), atol=1e-5)
    np.testing.assert_allclose(split.frames.sum("time") + split.text, heads, atol=1e-5)
    # With the audio token as the last one read, the embedding is projected audio.
    of_audio = iv.direct_logit_attribution(model, make_run(model), ANSWER, position=-8)
    np.testing.assert_allclose(iv.total_logit(of_audio), of_audio.logit, atol=1e-5)


def test_windows_of_audio_tokens(model, split):
    family = model.config.audio_language
    assert family is not None
    step_s = family.frames_per_token / 50
    np.testing.assert_allclose(split.time, np.arange(model.config.n_audio_tokens) * step_s)
    run = make_run(model)
    windows = iv.direct_logit_attribution(
        model, run, ANSWER, FOIL, position=-2, window_s=2 * step_s
    )
    frames = np.asarray(split.frames)
    frames = np.pad(frames, [(0, 0)] * 3 + [(0, frames.shape[-1] % 2)])
    expected = frames.reshape(*frames.shape[:3], -1, 2).sum(-1)
    np.testing.assert_allclose(windows.frames, expected, atol=1e-5)
    message = f"window_s: expected at least one frame of {step_s} s"
    with pytest.raises(ValueError, match=message):
        iv.direct_logit_attribution(model, run, ANSWER, window_s=0.3 * step_s)


def test_an_audio_token_contributes_its_value_weighted_by_the_pattern(model, split):
    """Computes pattern·v·W_O of one head and one audio token again in NumPy."""
    run, layer, head, frame = make_run(model), 1, 3, 1
    names = ("pattern", "v")
    readout = jaxasr.select(*(f"decoder.attn.{name}" for name in names), "decoder.resid_post")
    acts = run.decode(model, readout=readout)[1]
    pattern, v = (np.asarray(acts[f"decoder.attn.{name}"], np.float64)[layer] for name in names)
    attn, d_head = model.decoder.blocks.attn, model.config.decoder.d_head
    kernel = np.asarray(attn.out.kernel[...], np.float64)[layer].reshape(-1, d_head, 28)[head]
    group = model.config.n_text_head // model.config.n_text_kv_head
    u = np.asarray(model.decoder.unembedding, np.float64)[[ANSWER, FOIL]]
    for row in range(3):
        key = np.flatnonzero(run.tokens[row] == model.config.audio_token)[frame]
        x = np.asarray(acts["decoder.resid_post"], np.float64)[-1, row, -2]
        scale = np.asarray(model.decoder.ln.scale[...]) / np.sqrt((x**2).mean() + 1e-5)
        vector = pattern[row, head, -2, key] * v[row, key, head // group] @ kernel
        np.testing.assert_allclose(
            split.frames.isel(example=row, layer=layer, head=head, time=frame),
            (u[0] - u[1]) * scale @ vector,
            atol=1e-5,
        )
    # Rows without an audio token there have no contribution.
    n_audio = np.asarray(run.encode(model).memory.lengths)
    for row, n in enumerate(n_audio):
        assert not np.asarray(split.frames)[row, ..., n:].any()
        assert np.asarray(split.frames)[row, ..., :n].all()


@pytest.mark.parametrize("recordings", [1, 2])
def test_chunks_of_rows_give_the_same_contributions(model, split, recordings):
    again = iv.direct_logit_attribution(
        model, make_run(model), ANSWER, FOIL, position=-2, recordings=recordings
    )
    np.testing.assert_allclose(again.parts, split.parts, atol=1e-5)
