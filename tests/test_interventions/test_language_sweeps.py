"""Every cell of a sweep of an audio language model equals a single patch of a plain pass."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.interpreters import partial_eval as pe

import interventions as iv
from interventions.patching import sources
from interventions.patching.cost import flops
from interventions.patching.resumed_encoder import resumed_memory
from jaxasr import sites
from tests.language_runs import LENGTHS, METRIC, N_BEFORE, SCORED_POSITION, model_of, runs_of


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
        ("encoder.pool", ("time",)),
        ("encoder.ln_post", ("time",)),
        ("encoder.project", ("time",)),
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


def test_cells_after_the_layers_of_the_encoder_compute_only_what_follows():
    model, (target, source) = model_of(), runs_of()
    options = {"over": ("time",), "metric": METRIC, "window_s": 0.08}
    for site, n_products in (("encoder.pool", 1), ("encoder.ln_post", 1), ("encoder.project", 0)):
        residuals = jnp.zeros((3, 1, 20, 18))
        edits = {site: iv.Zero()}
        program = jax.make_jaxpr(
            lambda x, edits=edits, site=site: resumed_memory(model, site, (x, x), edits, 0).xa
        )(residuals)
        dead_code_free, _ = pe.dce_jaxpr(program.jaxpr, [True])
        text = str(dead_code_free)
        assert text.count("dot_general") == n_products
        assert "conv_general" not in text
        assert "while" not in text
        plans = [
            iv.plan_sweep(model, target, source, site=site, reuse=reuse, **options)
            for reuse in (True, False)
        ]
        assert plans[0].encoder_sites[-1] == site
        resumed, whole = (flops(plan.work) for plan in plans)
        shape = model.config.encoder
        of_layer = 20 * 4 * shape.width * (2 * shape.width + shape.n_mlp + 20)
        n_cells = plans[0].work.grid.size
        assert whole - resumed == 2 * n_cells * shape.n_layer * of_layer


@pytest.mark.parametrize("site", ["decoder.attn.z", "encoder.resid_post"])
def test_voxtral_has_its_own_audio_tokens(site):
    """An audio token has 80 ms, and no frame is masked."""
    check_cells(site, ("layer", "time"), n_cells=3, family="voxtral", window_s=0.16)


def test_patches_of_the_target_itself_keep_the_metric():
    model, (target, _) = model_of(), runs_of()
    options = dict(site="decoder.attn.z", over=("layer", "head", "time"), metric=METRIC)
    swept = iv.sweep(model, target, target, **options, window_s=0.08)
    baseline = np.broadcast_to(swept.baseline.values[:, None, None, None], swept.shape)
    np.testing.assert_allclose(swept, baseline, atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"site": "decoder.cross_attn.z"}, "site of a model of the family 'qwen2_audio'"),
        ({"over": ("position", "time")}, "'position' and 'time' both select tokens"),
        ({"n_frames": 16}, "n_frames: expected 2 to 14 frames at 'decoder.attn.z', got 16"),
        ({"window_s": 0.01}, "window_s: expected at least one frame of 0.04 s"),
    ],
)
def test_edits_that_would_never_act_are_refused(changes, message):
    options = dict(site="decoder.attn.z", over=("layer", "time"), metric=METRIC) | changes
    with pytest.raises(ValueError, match=message):
        iv.plan_sweep(model_of(), *runs_of(), **options)


def test_rows_must_have_as_much_audio_as_tokens():
    target, source = runs_of()
    options = dict(site="decoder.attn.z", over=("layer", "time"), metric=METRIC)
    shorter = dataclasses.replace(target, lengths=np.array([29, 12], np.int32))
    with pytest.raises(ValueError, match=r"target: tokens: expected the audio token .* 3 times"):
        iv.plan_sweep(model_of(), shorter, source, **options)
    tokens = target.tokens.copy()
    tokens[1] = np.roll(tokens[1], 1)
    moved = dataclasses.replace(target, tokens=tokens)
    with pytest.raises(ValueError, match="'time' needs audio tokens at the same positions"):
        iv.plan_sweep(model_of(), moved, source, **options)


def test_windows_after_the_scored_position_or_in_the_last_layer_keep_the_baseline():
    model, runs = model_of(), runs_of()
    metric = iv.logit_diff(3, 5, position=N_BEFORE + 2)  # the third audio token
    options = dict(site="decoder.resid_post", over=("layer", "time"), metric=metric)
    swept = iv.sweep(model, *runs, **options, window_s=0.08)
    changes = np.abs(swept - swept.baseline).max("example").values
    assert (changes[:, 2:] == 0).all()
    assert (changes[:3, :2] > 0).all()
    np.testing.assert_array_equal(changes[3] > 0, [False, True, False, False])
