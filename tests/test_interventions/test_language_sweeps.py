"""Every cell of a sweep of an audio language model equals a single patch of a plain pass."""

import functools

import numpy as np
import pytest

import interventions as iv
from interventions.patching import sources
from jaxasr import sites
from tests.audio_language import tiny_mel, tiny_model

N_BEFORE, N_AFTER, SCORED_POSITION = 3, 5, -2  # text tokens before and after the audio
LENGTHS = np.array([29, 30], np.int32)  # mel frames: both have 7 audio tokens in Qwen2-Audio
METRIC = iv.logit_diff(3, 5, position=SCORED_POSITION)


@functools.cache
def model_of(family="qwen2_audio"):
    """Returns a model whose four decoder layers let several follow an edited one."""
    return tiny_model(family, n_text_layer=4)


@functools.cache
def runs_of(family="qwen2_audio"):
    """Returns target and source, two recordings each."""
    config = model_of(family).config
    n_audio = 7 if family == "qwen2_audio" else config.n_audio_tokens
    rng = np.random.default_rng(0)
    before, after = (rng.integers(0, 90, (2, n)).astype(np.int32) for n in (N_BEFORE, N_AFTER))
    audio = np.full((2, n_audio), config.audio_token, np.int32)
    tokens = np.concatenate([before, audio, after], 1)
    mels = tiny_mel(config, LENGTHS), 0.8 * tiny_mel(config, LENGTHS)[::-1]
    return [iv.Run(mel=mel, tokens=tokens, lengths=LENGTHS) for mel in mels]


def patch_one_cell(site, cell, frames, family="qwen2_audio"):
    """Returns the metric of a plain pass of the whole model with one patch."""
    model, (target, source) = model_of(family), runs_of(family)
    edit = iv.only(
        iv.Patch(sources.activation(model, source, site)),
        layers=cell.get("layer"),
        heads=cell.get("head"),
        positions=cell.get("position"),
        frames=frames,
    )
    in_encoder = site.startswith("encoder.")
    prefix, _ = model.encode(target.mel, {site: edit} if in_encoder else None, lengths=LENGTHS)
    logits, _ = model.decode(target.tokens, prefix, None if in_encoder else {site: edit})
    return logits[:, SCORED_POSITION, 3] - logits[:, SCORED_POSITION, 5]


def check_cells(site, over, n_cells=5, family="qwen2_audio", **options):
    """Compares some cells of a sweep with passes of the whole model."""
    model, runs = model_of(family), runs_of(family)
    swept = iv.sweep(model, *runs, site=site, over=over, metric=METRIC, **options)
    assert swept.dims == ("example", *over)
    spec = sites.spec(model.config, site, 1, runs[0].tokens.shape[1])
    rng, scale = np.random.default_rng(0), max(1.0, float(np.abs(swept).max()))
    for _ in range(n_cells):
        cell = {dim: int(rng.integers(swept.sizes[dim])) for dim in over}
        frames = None
        if "time" in cell:
            step_s = spec.frames_per_step / 50
            start = round(float(swept.time[cell["time"]]) / step_s)
            stop = start + round(swept.attrs["window_s"] / step_s)
            # The longer recording has 15 encoder frames, and both have 7 audio tokens. Voxtral
            # encodes the padding, too.
            n_frames, n_tokens = (15, 7) if family == "qwen2_audio" else (20, 5)
            n_steps = n_frames if spec.frames_per_step == 1 else n_tokens
            frames = slice(start, min(stop, n_steps))
        expected = patch_one_cell(site, cell, frames, family)
        np.testing.assert_allclose(swept.isel(cell), expected, atol=1e-5 * scale, rtol=0)
    assert float(np.abs(swept - swept.baseline).max()) > 1e-3  # the patches have an effect
    return swept


@pytest.mark.parametrize(
    ("site", "over"),
    [
        ("decoder.attn.z", ("layer", "head", "position")),
        ("decoder.embed", ("time",)),
        ("decoder.ln", ("position",)),
        ("encoder.pool", ("time",)),
        ("encoder.attn.z", ("head", "time")),
    ],
)
def test_whole_passes_equal_single_patches(site, over):
    check_cells(site, over, reuse=False, window_s=0.08)


@pytest.mark.parametrize(
    ("site", "over"),
    [
        ("decoder.attn.z", ("layer", "head", "position")),
        ("decoder.attn.z", ("layer", "head")),
        ("decoder.resid_pre", ("layer", "position")),
        ("decoder.attn.q_rot", ("layer", "head", "position")),
        ("decoder.attn.k", ("layer", "head", "position")),
        ("decoder.attn.k_rot", ("layer", "head")),
        ("decoder.attn.v", ("layer", "head", "position")),
        ("decoder.attn.pattern", ("layer", "head", "position", "time")),
        ("decoder.mlp.up", ("layer", "position")),
        ("encoder.attn.z", ("layer", "head", "time")),
        ("encoder.resid_post", ("layer", "time")),
    ],
)
def test_resumed_cells_equal_single_patches(site, over):
    check_cells(site, over, window_s=0.08)


@pytest.mark.parametrize(
    "site", ["resid_pre", "attn.k_rot", "attn.scores", "attn.z", "mlp.post", "resid_post"]
)
def test_windows_of_audio_tokens_equal_single_patches(site):
    """Windows have two audio tokens, and the last one has one."""
    swept = check_cells(f"decoder.{site}", ("layer", "time"), window_s=0.08)
    np.testing.assert_allclose(swept.time, np.arange(4) * 0.08)


@pytest.mark.parametrize("site", ["decoder.attn.z", "encoder.resid_post"])
def test_voxtral_has_its_own_audio_tokens(site):
    """An audio token has 80 ms, and no frame is masked."""
    check_cells(site, ("layer", "time"), n_cells=3, family="voxtral", window_s=0.16)
