"""For small changes, estimates for audio language models equal exact patches."""

import functools

import numpy as np
import pytest
from audio_language import TINY, tiny_mel, tiny_model

import interventions as iv

N_BEFORE, N_AFTER = 3, 4  # text tokens before and after the audio
LENGTHS = np.array([30, 29], np.int32)  # mel frames
METRIC = iv.logit_diff(3, 8, position=-2)
WINDOW_S = 0.08  # 2 audio tokens of Qwen2-Audio, 1 of Voxtral


@functools.cache
def runs_of(family, step, seed=0):
    """Returns a target, and a source whose mel and text embeddings differ by `step`."""
    model = tiny_model(family)
    config, rng = model.config, np.random.default_rng(seed)
    n_audio = 7 if family == "qwen2_audio" else config.n_audio_tokens
    before, after = (rng.integers(0, 90, (2, n)).astype(np.int32) for n in (N_BEFORE, N_AFTER))
    tokens = np.concatenate([before, np.full((2, n_audio), config.audio_token), after], 1)
    mel = tiny_mel(config, LENGTHS)
    mels = mel, mel + np.float32(step) * rng.uniform(-1, 1, mel.shape).astype(np.float32)
    return [iv.Run(tokens.astype(np.int32), mel, lengths=LENGTHS) for mel in mels]


def call(method, family, site, over, step, **options):
    target, source = runs_of(family, step)
    if "time" in over:
        options["window_s"] = WINDOW_S
    model = tiny_model(family)
    return method(model, target, source, site=site, over=over, metric=METRIC, **options)


SITES = [
    ("decoder.attn.z", ("layer", "head", "position")),
    ("decoder.attn.q", ("layer", "head", "position")),
    ("decoder.attn.q_rot", ("layer", "time")),
    ("decoder.attn.k", ("layer", "head", "time")),
    ("decoder.attn.k", ("layer", "head")),
    ("decoder.attn.k_rot", ("layer", "head", "position")),
    ("decoder.attn.v", ("layer", "head", "time")),
    ("decoder.attn.pattern", ("layer", "time")),
    ("decoder.mlp.up", ("layer", "position")),
    ("decoder.resid_post", ("layer", "time")),
    ("decoder.ln", ("position",)),
    ("encoder.attn.k", ("layer", "head", "time")),
    ("encoder.resid_post", ("layer", "time")),
    ("encoder.project", ("time",)),
]


@pytest.mark.parametrize(("site", "over"), SITES, ids=[f"{s}-{'-'.join(o)}" for s, o in SITES])
def test_small_changes_equal_a_sweep(site, over):
    swept = call(iv.sweep, "qwen2_audio", site, over, 2e-3)
    truth = (swept - swept.baseline).transpose("example", *over)
    estimate = call(iv.attribution, "qwen2_audio", site, over, 2e-3)
    assert estimate.dims == truth.dims
    for dim in over:
        np.testing.assert_array_equal(estimate[dim], truth[dim])
    scale = np.abs(truth.values).max()
    assert scale > 2e-5
    np.testing.assert_allclose(estimate, truth, atol=max(0.02 * scale, 2e-6))


@pytest.mark.parametrize("site", ["decoder.attn.k", "decoder.resid_post", "encoder.project"])
def test_voxtral_is_estimated_as_exactly(site):
    over = ("time",) if site == "encoder.project" else ("layer", "time")
    swept = call(iv.sweep, "voxtral", site, over, 2e-3)
    truth, estimate = swept - swept.baseline, call(iv.attribution, "voxtral", site, over, 2e-3)
    scale = np.abs(truth.values).max()
    np.testing.assert_allclose(estimate, truth, atol=max(0.02 * scale, 2e-6))


@pytest.mark.parametrize("site", ["decoder.attn.q", "decoder.attn.k_rot"])
def test_the_correction_takes_the_softmax_of_the_last_layer_exactly(site):
    """After the last attention only the MLP and the norm are not linear, so errors shrink."""
    over = ("layer", "head", "position")
    swept = call(iv.sweep, "qwen2_audio", site, over, 3)
    truth = (swept - swept.baseline).values
    errors = [
        np.abs(call(iv.attribution, "qwen2_audio", site, over, 3, correction=c) - truth).mean()
        for c in (True, False)
    ]
    assert errors[0] < 0.7 * errors[1], errors


def test_several_sites_share_the_passes():
    sites, over = ["decoder.attn.z", "encoder.resid_post", "decoder.ln"], ("layer", "head", "time")
    together = call(iv.attribution, "qwen2_audio", sites, over, 1e-2)
    assert together["decoder.ln"].dims == ("example", "time")
    for site in sites:
        alone = call(iv.attribution, "qwen2_audio", site, together[site].dims[1:], 1e-2)
        np.testing.assert_allclose(together[site], alone, atol=1e-6)


@pytest.mark.parametrize("family", TINY)
def test_ablations_equal_a_sweep_after_the_final_norm(family):
    """After the final norm the model is linear, so estimates are exact for any source."""
    target, _ = runs_of(family, 1e-3)
    model = tiny_model(family)
    for source in ("zero", "mean"):
        shared = {"site": "decoder.ln", "over": ("position",), "metric": METRIC}
        swept = iv.sweep(model, target, source, **shared)
        estimate = iv.attribution(model, target, source, **shared)
        np.testing.assert_allclose(estimate, swept - swept.baseline, atol=1e-5)


def test_audio_of_another_length_is_an_error():
    target, source = runs_of("qwen2_audio", 1e-3)
    wrong = source.replace(lengths=np.array([30, 9], np.int32))
    with pytest.raises(ValueError, match="source: tokens: expected the audio token 98 2 times"):
        iv.attribution(
            tiny_model("qwen2_audio"),
            target,
            wrong,
            site="decoder.mlp_out",
            over=("layer",),
            metric=METRIC,
        )
