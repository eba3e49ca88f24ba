"""The direct contributions of heads and of frames sum to the model's logit."""

import numpy as np
import pytest
from golden.tiny import tiny_inputs, uniform

import jaxasr
from experiments.data import real_speech
from interventions import Run
from interventions.effects.direct_logits import PARTS, direct_logit_attribution, total_logit

ANSWER, FOIL = 3, 8


@pytest.fixture(scope="module")
def run(tiny_model):
    mel, tokens = tiny_inputs(tiny_model.config, 2, 5)
    return Run(mel=mel, tokens=tokens).encode(tiny_model)


@pytest.fixture(scope="module")
def attribution(tiny_model, run):
    return direct_logit_attribution(tiny_model, run, ANSWER, FOIL, position=3, window_s=0.06)


def assert_contributions_sum_up(attribution, atol):
    heads = attribution.heads.astype(np.float64)
    np.testing.assert_allclose(total_logit(attribution), attribution.logit, atol=atol)
    for name in ("attn", "cross_attn"):
        np.testing.assert_allclose(
            heads.sel(attention=name).sum("head"),
            attribution.parts.sel(part=f"{name}_out"),
            atol=atol,
        )
    np.testing.assert_allclose(
        attribution.frames.astype(np.float64).sum("time"),
        heads.sel(attention="cross_attn"),
        atol=atol,
    )


def test_parts_sum_to_the_logit(tiny_model, run, attribution):
    logits = np.asarray(run.decode(tiny_model)[0])[:, 3]
    np.testing.assert_allclose(attribution.logit, logits[:, ANSWER] - logits[:, FOIL], atol=1e-5)
    assert_contributions_sum_up(attribution, 1e-5)
    answer_only = direct_logit_attribution(tiny_model, run, np.array([ANSWER, FOIL]))
    last = np.asarray(run.decode(tiny_model)[0])[:, -1]
    np.testing.assert_allclose(
        total_logit(answer_only), [last[0, ANSWER], last[1, FOIL]], atol=1e-5
    )


def test_labels_and_windows(tiny_model, run, attribution):
    assert dict(attribution.sizes) == {
        "example": 2,
        "part": 6,
        "layer": 2,
        "attention": 2,
        "head": 5,
        "time": 4,
    }
    assert attribution.parts.part.values.tolist() == list(PARTS)
    np.testing.assert_allclose(attribution.time, [0, 0.06, 0.12, 0.18])
    single = direct_logit_attribution(tiny_model, run.row(0), ANSWER, FOIL, position=3)
    assert "example" not in single.dims
    assert single.sizes["time"] == 11
    frames = np.pad(single.frames, [(0, 0), (0, 0), (0, 1)]).reshape(2, 5, 4, 3).sum(-1)
    np.testing.assert_allclose(frames, attribution.frames.isel(example=0), atol=1e-6)


def test_a_head_contributes_what_its_ablation_removes_under_a_frozen_norm(
    tiny_model, run, attribution
):
    """Computes the logit without the head's output in float64 NumPy, with the norm's old scale."""
    sites = ("decoder.cross_attn.z", "decoder.resid_post")
    acts = run.decode(tiny_model, readout=jaxasr.select(*sites))[1]
    decoder = tiny_model.decoder
    x = np.asarray(acts[sites[1]], np.float64)[-1, 1, 3]
    z = np.asarray(acts[sites[0]], np.float64)[1, 1, 3, 4]
    kernel = np.asarray(decoder.blocks.cross_attn.out.kernel[...], np.float64)
    head_vector = z @ kernel[1].reshape(5, 3, 15)[4]

    def frozen(x, at):
        centred = (x - x.mean()) / np.sqrt(at.var() + 1e-5)
        logits = np.asarray(decoder.token_embedding[...]) @ (
            centred * np.asarray(decoder.ln.scale[...]) + np.asarray(decoder.ln.bias[...])
        )
        return logits[ANSWER] - logits[FOIL]

    removed = frozen(x, x) - frozen(x - head_vector, x)
    np.testing.assert_allclose(
        attribution.heads.sel(example=1, attention="cross_attn", layer=1, head=4),
        removed,
        atol=1e-5,
    )


def test_frames_follow_the_pattern(tiny_model):
    """The contribution of a frame is pattern·v·W_O, computed again in NumPy."""
    mel, tokens = tiny_inputs(tiny_model.config, 1, 5)
    run = Run(mel=mel, tokens=tokens).encode(tiny_model)
    acts = run.decode(
        tiny_model, readout=jaxasr.select("decoder.cross_attn.pattern", "decoder.cross_attn.v")
    )[1]
    value = np.asarray(acts["decoder.cross_attn.v"], np.float64)[0, 0, 6, 2]
    kernel = np.asarray(tiny_model.decoder.blocks.cross_attn.out.kernel[...], np.float64)[
        0
    ].reshape(5, 3, 15)[2]
    frames = (
        direct_logit_attribution(tiny_model, run, ANSWER, FOIL).frames.sel(layer=0, head=2).values
    )
    weight = np.asarray(acts["decoder.cross_attn.pattern"])[0, 0, 2, -1, 6]
    x = np.asarray(
        run.decode(tiny_model, readout=jaxasr.select("decoder.resid_post"))[1]["decoder.resid_post"]
    )[-1, 0, -1]
    u = np.asarray(tiny_model.decoder.token_embedding[...])[[ANSWER, FOIL]] * np.asarray(
        tiny_model.decoder.ln.scale[...]
    )
    contribution = weight * value @ kernel
    np.testing.assert_allclose(
        frames[6],
        (u[0] - u[1]) @ (contribution - contribution.mean()) / np.sqrt(x.var() + 1e-5),
        atol=1e-5,
    )


def test_wrong_arguments_raise(tiny_model, run):
    with pytest.raises(ValueError, match="answer: expected token ids from 0 to 100, got 101"):
        direct_logit_attribution(tiny_model, run, 101)
    with pytest.raises(ValueError, match="position: expected -5 to 4"):
        direct_logit_attribution(tiny_model, run, 1, position=5)
    with pytest.raises(ValueError, match="window_s: expected at least one frame"):
        direct_logit_attribution(tiny_model, run, 1, window_s=0.001)


def test_a_real_recording_is_split(asr):
    mel = jaxasr.log_mel(jaxasr.load_audio(real_speech.DEMO), asr.config.n_mels)[None]
    memory, _ = asr.model.encode(mel)
    tokens = np.array([[50257, 50362, 843, 523]], np.int32)
    run = Run(memory=memory, tokens=tokens)
    logits = np.asarray(run.decode(asr.model)[0])[0, -1]
    best, foil = np.argsort(-logits)[:2].tolist()
    answer_only, difference = (
        direct_logit_attribution(asr.model, run, *tokens, window_s=0.5)
        for tokens in ((best,), (best, foil))
    )
    np.testing.assert_allclose(
        [total_logit(answer_only), total_logit(difference)],
        [logits[best], logits[best] - logits[foil]],
        atol=1e-4,
    )
    assert_contributions_sum_up(answer_only, 1e-4)
    assert_contributions_sum_up(difference, 1e-4)
    assert answer_only.sizes["time"] == 60


def test_loud_noise_is_split_as_exactly(tiny_model):
    mel, tokens = tiny_inputs(tiny_model.config, 2, 5)
    run = Run(mel=10 * uniform(4, *mel.shape), tokens=tokens)
    assert_contributions_sum_up(direct_logit_attribution(tiny_model, run, ANSWER), 1e-5)
