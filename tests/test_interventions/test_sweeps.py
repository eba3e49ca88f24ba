"""Every cell of a sweep equals a single patch, although the sweep skips most computations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from tiny_sweeps import METRIC, SCORED_POSITION, WINDOW, target_and_source

import interventions as iv
import jaxasr
from interventions.patching import sources, unedited, workload
from interventions.patching.grid import swept_sizes
from jaxasr import sites

# Sites of every kind: in both stacks, with and without axes for layers, heads, keys and frames. At
# some, editing one position changes other positions of the same layer.
SITES = [
    "decoder.cross_attn.z",
    "decoder.attn.k",
    "decoder.resid_pre",
    "decoder.resid_post",
    "decoder.cross_attn.pattern",
    "decoder.mlp.post",
    "decoder.logits",
    "encoder.resid_post",
    "encoder.attn.z",
    "encoder.conv2",
]


@pytest.fixture(scope="module")
def runs(tiny_model):
    return target_and_source(tiny_model)


def dims_of(model, site):
    sizes = swept_sizes(sites.spec(model.config, site, 1, 7))
    return tuple(dim for dim in sizes if dim != "alpha")


def patch_one_cell(model, target, source, site, cell, n_frames):
    """Computes the metric of one cell by a plain pass of the whole model."""
    edit = iv.only(
        iv.Patch(sources.activation(model, source.encode(model), site)),
        layers=cell.get("layer"),
        heads=cell.get("head"),
        positions=cell.get("position"),
        frames=slice(WINDOW * cell["time"], min(WINDOW * (cell["time"] + 1), n_frames))
        if "time" in cell
        else None,
    )
    encoder = site.startswith("encoder.")
    memory = model.encode(target.mel, edits={site: edit} if encoder else None)[0]
    logits = model.decode(target.tokens, memory, edits=None if encoder else {site: edit})[0][
        :, SCORED_POSITION
    ]
    return logits[:, 3] - logits[:, 5]


@pytest.mark.parametrize("site", SITES)
def test_every_cell_equals_a_single_patch(tiny_model, runs, site):
    target, source = runs
    over, n_frames = dims_of(tiny_model, site), tiny_model.config.n_audio_ctx
    swept = iv.sweep(
        tiny_model,
        target,
        source,
        site=site,
        over=over,
        metric=METRIC,
        window_s=WINDOW / 50,
        n_frames=n_frames,
    )
    assert swept.dims == ("example", *over)
    rng, scale = np.random.default_rng(0), max(1.0, float(np.abs(swept).max()))
    for _ in range(6):
        cell = {dim: int(rng.integers(swept.sizes[dim])) for dim in over}
        expected = patch_one_cell(tiny_model, target, source, site, cell, n_frames)
        np.testing.assert_allclose(swept.isel(cell).values, expected, atol=1e-5 * scale, rtol=0)
    assert float(np.abs(swept - swept.baseline).max()) > 1e-3  # the patches have an effect


@pytest.mark.parametrize(
    ("site", "over"),
    [
        ("decoder.cross_attn.z", None),
        ("decoder.attn.v", None),
        ("decoder.attn.pattern", None),
        ("decoder.attn.pattern", ("layer", "head")),
        ("decoder.attn.scores", ("layer",)),
        ("encoder.resid_post", None),
    ],
)
def test_reuse_changes_no_result(tiny_model, runs, site, over):
    options = dict(
        site=site,
        over=over or dims_of(tiny_model, site),
        metric=METRIC,
        window_s=WINDOW / 50,
        n_frames=11,
    )
    fast, slow = (iv.sweep(tiny_model, *runs, reuse=reuse, **options) for reuse in (True, False))
    np.testing.assert_allclose(fast, slow, atol=1e-5 * max(1.0, float(np.abs(slow).max())), rtol=0)


@pytest.fixture(scope="module")
def deep_model_and_runs():
    """Returns a model whose four decoder layers let several follow an edited one, and two runs."""
    c = jaxasr.Config(
        n_mels=5,
        n_audio_ctx=11,
        n_audio_state=21,
        n_audio_head=3,
        n_audio_layer=1,
        n_vocab=101,
        n_text_ctx=23,
        n_text_state=21,
        n_text_head=7,
        n_text_layer=4,
    )
    mels = jax.random.normal(jax.random.key(1), (2, 2, 5, 22))
    tokens = jax.random.randint(jax.random.key(2), (2, 7), 0, 101)
    return jaxasr.Whisper(c, rngs=nnx.Rngs(0)), [iv.Run(mel=mel, tokens=tokens) for mel in mels]


@pytest.mark.parametrize(
    ("site", "budget", "unrolled"),
    [
        ("decoder.cross_attn.z", None, True),
        ("decoder.cross_attn.z", 14_000, False),
        ("decoder.resid_pre", 14_000, True),
    ],
)
def test_any_packing_equals_the_whole_pass(
    deep_model_and_runs, site, budget, unrolled, monkeypatch
):
    """Checks each way to pack the positions that cells recompute into batches.

    Covers cells that change one position or several in the edited layer, one and several batches,
    and decoder layers that are unrolled or scanned.
    """
    monkeypatch.setattr(unedited, "unrolls_layers", lambda config: unrolled)
    model, runs = deep_model_and_runs
    options = dict(site=site, over=("layer", "position"), metric=METRIC)
    plan = iv.plan_sweep(model, *runs, **options, budget=budget)
    assert (len(workload.decoder_batches(plan.work, 0)) > 1) == (budget is not None)
    fast, slow = (
        iv.sweep(model, *runs, **options, budget=budget),
        iv.sweep(model, *runs, **options, reuse=False),
    )
    np.testing.assert_allclose(fast, slow, atol=1e-5 * max(1.0, float(np.abs(slow).max())), rtol=0)
    assert np.unique(np.round(slow.sel(position=slice(0, 5)), 5)).size > 30  # cells differ


@pytest.mark.parametrize(
    ("site", "over"), [("encoder.resid_post", ("time",)), ("decoder.attn.z", ("head", "position"))]
)
def test_without_layers_the_edit_acts_in_all_of_them(tiny_model, runs, site, over):
    options = dict(site=site, over=over, metric=METRIC, window_s=WINDOW / 50, n_frames=11)
    swept = iv.sweep(tiny_model, *runs, **options)
    cell = dict.fromkeys(over, 1)
    np.testing.assert_allclose(
        swept.isel(cell), patch_one_cell(tiny_model, *runs, site, cell, 11), atol=1e-5
    )


def test_patching_everything_gives_the_source(tiny_model, runs):
    target, source = runs
    patched = iv.sweep(
        tiny_model,
        target,
        source,
        site="decoder.embed",
        over=("alpha",),
        metric=METRIC,
        alphas=(0.0, 1.0),
    )
    np.testing.assert_allclose(patched.sel(alpha=0), patched.baseline, atol=1e-6)
    whole = iv.sweep(
        tiny_model,
        target,
        source,
        site="encoder.ln_post",
        over=("alpha",),
        metric=METRIC,
        alphas=(0.0, 1.0),
    )
    np.testing.assert_allclose(whole.sel(alpha=0), whole.baseline, atol=1e-6)
    np.testing.assert_allclose(whole.sel(alpha=1), whole.source, atol=1e-5)


def test_a_position_after_the_scored_one_is_not_computed(tiny_model, runs):
    swept = iv.sweep(
        tiny_model, *runs, site="decoder.cross_attn.z", over=("layer", "position"), metric=METRIC
    )
    np.testing.assert_array_equal(
        swept.isel(position=6),
        np.broadcast_to(swept.baseline.values[:, None], swept.isel(position=6).shape),
    )


def test_strengths_and_named_sources_change_the_metric(tiny_model, runs):
    target, source = runs
    options = dict(
        site="decoder.mlp_out", over=("layer", "alpha"), metric=METRIC, alphas=(0.0, 0.5, 1.5)
    )
    doses = iv.sweep(tiny_model, target, source, **options)
    np.testing.assert_allclose(
        doses.sel(alpha=0),
        np.broadcast_to(doses.baseline.values[:, None], doses.sel(alpha=0).shape),
        atol=1e-5,
    )
    for name in ("zero", "mean", "noise"):
        values = iv.sweep(
            tiny_model, target, name, site="decoder.mlp_out", over=("layer",), metric=METRIC
        )
        assert np.isfinite(values).all()
        assert np.abs(values - values.baseline).max() > 1e-4
    own = iv.sweep(
        tiny_model, target, edit=iv.Zero(), site="decoder.mlp_out", over=("layer",), metric=METRIC
    )
    np.testing.assert_array_equal(
        own,
        iv.sweep(
            tiny_model, target, "zero", site="decoder.mlp_out", over=("layer",), metric=METRIC
        ),
    )


@pytest.mark.parametrize(
    "metric",
    [
        iv.logprob(3, SCORED_POSITION),
        iv.metrics.rank(jnp.array([3, 4]), SCORED_POSITION),
        iv.logit_diff(jnp.array([1, 2]), 3, SCORED_POSITION),
    ],
)
def test_metrics_equal_those_of_plain_logits(tiny_model, runs, metric):
    target, source = runs
    swept = iv.sweep(
        tiny_model, target, source, site="decoder.resid_mid", over=("layer",), metric=metric
    )
    logits = target.decode(tiny_model)[0][:, SCORED_POSITION]
    wanted = (
        logits
        if metric.vocab is None
        else jnp.take_along_axis(logits, jnp.broadcast_to(metric.vocab, (2, 2)), 1)
    )
    np.testing.assert_allclose(swept.baseline, metric(wanted), rtol=1e-5)


def test_silencing_cross_attention_lowers_the_probability_of_the_words(asr):
    from importlib import resources

    audio = jaxasr.load_audio(str(resources.files("experiments") / "assets" / "demo.flac"))
    tokens = jnp.asarray([[*asr.tokenizer.prompt(), *asr.tokenizer.encode(" The captain")]])
    target, silent = (
        iv.Run(mel=jaxasr.log_mel(sound, 80)[None], tokens=tokens) for sound in (audio, 0 * audio)
    )
    options = dict(
        site="decoder.cross_attn.z",
        over=("layer", "head", "position"),
        metric=iv.logprob(tokens[0, -1], -2),
    )
    swept = iv.sweep(asr.model, target, silent, **options)
    assert swept.dims == ("layer", "head", "position")
    assert float(swept.baseline) > -1
    assert float(swept.source) < float(swept.baseline) - 2
    assert float(swept.min()) < float(swept.baseline) - 0.05


@pytest.mark.parametrize("site", ["decoder.cross_attn.pattern", "encoder.resid_post"])
@pytest.mark.parametrize("call", [iv.plan_sweep, iv.attribution])
def test_more_frames_than_the_recording_has_are_refused(tiny_model, runs, site, call):
    for n_frames in (0, 12):
        message = rf"n_frames: expected 1 to 11 frames at '{site}', got {n_frames}\."
        with pytest.raises(ValueError, match=message):
            call(tiny_model, *runs, site=site, over=("time",), metric=METRIC, n_frames=n_frames)
