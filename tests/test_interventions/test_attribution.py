import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from golden.tiny import tiny_inputs, uniform

import jaxasr
from interventions import Run
from interventions.edits.values import Noise, Patch, Zero, only
from interventions.effects import softmax_aware
from interventions.effects.first_order import _attribute, attribution
from interventions.effects.first_order_cells import SiteCells
from interventions.metrics import logit_diff, logprob, rank
from jaxasr import compiled
from jaxasr.cache import Memory

METRIC = logit_diff(3, 8)
WINDOW = 3  # frames


def runs(config, step):
    """A target, and a source `step` away from it in audio."""
    mel, tokens = tiny_inputs(config, 2, 5)
    return Run(mel=mel, tokens=tokens), Run(
        mel=mel + np.float32(step) * uniform(5, *mel.shape), tokens=tokens
    )


@pytest.fixture(scope="module")
def near(tiny_model):
    return runs(tiny_model.config, 3e-3)


@pytest.fixture(scope="module")
def far(tiny_model):
    return runs(tiny_model.config, 1)


def activation(model, run, site):
    seen = jaxasr.select(site)
    return (
        model.encode(run.mel, readout=seen)
        if site.startswith("encoder")
        else run.decode(model, readout=seen)
    )[1][site]


def exact(model, target, edit, site, sizes, metric=METRIC):
    """metric(patched) - metric(target), [B, *sizes], cell by cell with public edits."""
    memory = model.encode(target.mel)[0]

    def score(edits):
        heard = model.encode(target.mel, edits)[0] if site.startswith("encoder") else memory
        logits = model.decode(target.tokens, heard, {} if site.startswith("encoder") else edits)[0][
            :, -1
        ]
        return metric(logits if metric.vocab is None else logits[:, jnp.asarray([3, 8])])

    def cell(place):
        names = {"layer": "layers", "head": "heads", "position": "positions"}
        places = {names[dim]: index for dim, index in place.items() if dim != "time"}
        if "time" in place:
            places["frames"] = slice(
                WINDOW * place["time"], jnp.minimum(WINDOW * (place["time"] + 1), 11)
            )
        return score({site: only(edit, **places)}) - score({})

    grid = np.meshgrid(*(np.arange(n) for n in sizes.values()), indexing="ij")
    cells = {dim: jnp.asarray(index.ravel()) for dim, index in zip(sizes, grid, strict=True)}
    return np.moveaxis(
        np.asarray(jax.jit(functools.partial(jax.lax.map, cell))(cells)), 0, -1
    ).reshape(2, *sizes.values())


NEAR = [
    ("decoder.cross_attn.z", {"layer": 2, "head": 5, "position": 5}),
    ("decoder.cross_attn.q", {"layer": 2, "position": 5}),
    ("decoder.cross_attn.k", {"layer": 2, "head": 5, "time": 4}),
    ("decoder.cross_attn.pattern", {"layer": 2, "head": 5}),
    ("decoder.attn.k", {"head": 5, "position": 5}),
    ("decoder.ln", {"position": 5}),
    ("encoder.resid_post", {"layer": 4, "time": 4}),
    ("encoder.attn.k", {"layer": 4, "head": 3}),
    ("encoder.attn.q", {"layer": 4, "time": 4}),
    ("encoder.conv2", {"time": 4}),
]


@pytest.fixture(scope="module")
def all_near(tiny_model, near):
    """Every site of NEAR in calls that share their passes, by dimensions asked for."""
    calls = {}
    for site, sizes in NEAR:
        calls.setdefault(tuple(sizes), []).append(site)
    found = {}
    for over, sites in calls.items():
        found |= attribution(
            tiny_model,
            target=near[0],
            source=near[1],
            site=sites,
            over=over,
            metric=METRIC,
            window_s=0.06,
        )
    return found


@pytest.mark.parametrize(("site", "sizes"), NEAR, ids=[site for site, _ in NEAR])
def test_small_differences_are_exact(tiny_model, near, all_near, site, sizes):
    truth = exact(tiny_model, near[0], Patch(activation(tiny_model, near[1], site)), site, sizes)
    assert np.abs(truth).max() > 1e-5
    assert all_near[site].dims == ("example", *sizes)
    np.testing.assert_allclose(all_near[site], truth, atol=max(0.02 * np.abs(truth).max(), 1.5e-6))


def test_labels_are_those_of_a_sweep(tiny_model, far, all_near):
    cells = all_near["decoder.cross_attn.k"]
    np.testing.assert_allclose(cells.time, [0, 0.06, 0.12, 0.18])
    np.testing.assert_array_equal(cells.layer, [0, 1])
    baseline = METRIC(far[0].decode(tiny_model)[0][:, -1][:, np.array([3, 8])])
    np.testing.assert_allclose(cells.baseline, baseline, atol=1e-6)
    target, source = (run.encode(tiny_model).row(1) for run in far)
    two = ["decoder.cross_attn.z", "decoder.mlp_out"]
    both = attribution(
        tiny_model, target=target, source=source, site=two, over=("layer", "head"), metric=METRIC
    )
    assert {site: cells.dims for site, cells in both.items()} == {
        "decoder.cross_attn.z": ("layer", "head"),
        "decoder.mlp_out": ("layer",),
    }
    alone = attribution(
        tiny_model,
        target=far[0],
        source=far[1],
        site="decoder.mlp_out",
        over=("layer",),
        metric=METRIC,
    )
    np.testing.assert_allclose(both["decoder.mlp_out"], alone.sel(example=1), atol=1e-6)


@pytest.mark.parametrize("kind", ["zero", "mean", "noise"])
def test_other_sources_are_linear_where_the_model_is(tiny_model, far, kind):
    """Behind the final norm nothing bends: the estimate must be exact however far the source is."""
    sizes, site, x = {"position": 5}, "decoder.ln", activation(tiny_model, far[0], "decoder.ln")
    edit = {
        "zero": Zero(),
        "mean": Patch(jnp.broadcast_to(x.mean(1, keepdims=True), x.shape)),
        "noise": Noise(0, replace=True),
    }[kind]
    found = attribution(
        tiny_model, target=far[0], source=kind, site=site, over=("position",), metric=METRIC
    )
    truth = exact(tiny_model, far[0], edit, site, sizes)
    np.testing.assert_allclose(found.sel(example=0), truth[0], atol=1e-5)
    if kind != "noise":  # every example draws as if it were alone
        np.testing.assert_allclose(found, truth, atol=1e-5)


def saturated(model):
    """The same model with cross-attention heads that look at next to nothing but one frame."""

    def sharpen(path, x):
        return (
            12 * x
            if "cross_attn" in jax.tree_util.keystr(path) and "query" in jax.tree_util.keystr(path)
            else x
        )

    return jax.tree_util.tree_map_with_path(sharpen, model)


@pytest.mark.parametrize("name", ["q", "k"])
def test_the_correction_matters_where_softmax_is_saturated(tiny_model, far, name):
    model, site = saturated(tiny_model), f"decoder.cross_attn.{name}"
    sizes = {"layer": 2, "head": 5, **({"position": 5} if name == "q" else {"time": 4})}
    truth = exact(model, far[0], Patch(activation(model, far[1], site)), site, sizes)
    call = functools.partial(
        attribution,
        model,
        target=far[0],
        source=far[1],
        site=site,
        over=tuple(sizes),
        metric=METRIC,
        window_s=0.06,
    )
    error = {
        aware: float(np.abs(call(correction=aware).values - truth).mean())
        for aware in (True, False)
    }
    assert error[True] < 0.5 * error[False], error


ATTEND, KEY_EFFECT = (
    jax.jit(softmax_aware.attend),
    jax.jit(softmax_aware.key_effect, static_argnums=6),
)


@pytest.mark.parametrize("group", [1, 3])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("scale", [1.0, 20.0])
def test_key_effect_is_exact_for_each_group_of_keys(group, masked, scale):
    n_keys = 7
    q, k, new, v, g = (
        uniform(i, 2, 7, 3, 5) * np.float32(scale if i in (1, 2) else 2) for i in range(5)
    )
    mask = (
        np.broadcast_to(np.tril(np.ones((7, n_keys), bool)), (2, 1, 7, n_keys)) if masked else None
    )
    before = np.asarray(ATTEND(q, k, v, mask))
    want = []
    for start in range(0, n_keys, group):
        changed = (np.arange(n_keys) // group == start // group)[:, None, None]
        z = np.asarray(ATTEND(q, np.where(changed, new, k), v, mask))
        want.append((g * (z - before)).sum((1, 3)))
    found = KEY_EFFECT(q, k, new, v, g, mask, group)
    np.testing.assert_allclose(found, np.stack(want, 1), atol=2e-5 * scale, rtol=1e-4)
    every = KEY_EFFECT(q, k, new, v, g, mask, n_keys)
    np.testing.assert_allclose(
        every, softmax_aware.all_keys_effect(q, k, new, v, g, mask), atol=2e-5 * scale, rtol=1e-4
    )


def test_recomputing_the_encoder_s_attention_changes_nothing(
    tiny_model, near, all_near, monkeypatch
):
    monkeypatch.setattr("interventions.forward._KEEP_BYTES", 0)
    shorter = [
        run.replace(tokens=run.tokens[:1], mel=run.mel[:1]) for run in near
    ]  # another shape: compiled anew
    call = {
        "site": "encoder.resid_post",
        "over": ("layer", "time"),
        "metric": METRIC,
        "window_s": 0.06,
    }
    found = attribution(tiny_model, target=shorter[0], source=shorter[1], **call)
    np.testing.assert_allclose(found, all_near["encoder.resid_post"].sel(example=0), atol=1e-6)


def test_every_head_of_both_attentions_costs_at_most_five_forwards():
    """Operations that the compiler counts at tiny.en's size, layers only; both programs loop over layers, so the loop cancels."""
    config = jaxasr.config.SIZES["tiny.en"]
    model = jax.eval_shape(lambda: jaxasr.Whisper(config, rngs=nnx.Rngs(0)))
    kv = jax.ShapeDtypeStruct((4, 1, 6, 1500, 64), jnp.float32)
    run = Run(
        memory=Memory(jax.ShapeDtypeStruct((1, 1500, 384), jnp.float32), kv, kv),
        tokens=jax.ShapeDtypeStruct((1, 11), jnp.int32),
    )
    sites = [f"decoder.{part}.{name}" for part in ("attn", "cross_attn") for name in "zq"]
    cells = tuple(SiteCells(site, ("layer", "head"), 25, site.endswith(".q")) for site in sites)

    def flops(fn, *args):
        return jax.jit(fn).lower(*args).compile().cost_analysis()["flops"]

    def forward(model, run):
        return model.decoder.residual(
            run.tokens, jnp.zeros(run.tokens.shape, jnp.int32), run.memory, {}, jaxasr.select()
        )[0]

    def estimate(model, target, source):
        return _attribute(model, target, source, 1500, METRIC, cells=cells, ablation=None)

    assert flops(estimate, model, run, run) <= 5 * flops(forward, model, run)


def test_other_numbers_compile_nothing(tiny_model, near, far):
    call = functools.partial(
        attribution, tiny_model, site="decoder.cross_attn.z", over=("layer", "head")
    )
    call(target=near[0], source=near[1], metric=METRIC)
    before = compiled.n_compiled(_attribute)
    call(target=far[1], source=far[0], metric=logit_diff(7, 9))
    assert compiled.n_compiled(_attribute) == before


@pytest.mark.parametrize("site", ["encoder.attn.z", "decoder.cross_attn.k"])
def test_recordings_of_other_lengths_compile_nothing(tiny_model, near, site):
    call = functools.partial(
        attribution,
        tiny_model,
        target=near[0],
        source=near[1],
        site=site,
        metric=METRIC,
        window_s=4 / 50,
    )
    long = call(over=("layer", "time"), n_frames=11)
    before = compiled.n_compiled(_attribute)
    np.testing.assert_allclose(call(over=("layer", "time"), n_frames=8), long[..., :2], atol=1e-6)
    cut = call(over=("layer", "time"), n_frames=3)
    assert cut.sizes["time"] == 1
    assert (
        float(np.abs(cut - long[..., :1].values).max()) > 1e-6
    )  # a window ends where the recording does
    assert compiled.n_compiled(_attribute) == before


def test_what_has_no_estimate_is_refused(tiny_model, near):
    good = {
        "target": near[0],
        "source": near[1],
        "site": "decoder.cross_attn.z",
        "over": ("layer",),
        "metric": logprob(3),
    }
    heard = near[0].encode(tiny_model)
    for change, message in (
        ({"metric": rank(3)}, "rank has no gradient"),
        ({"over": ("alpha",)}, "proportional to 'alpha'"),
        ({"over": ("time",), "site": "decoder.mlp_out"}, "no dimension of a sweep"),
        ({"source": "silence"}, "expected a Run or one of"),
        ({"source": near[1].replace(tokens=near[1].tokens[:, :3])}, "do not line up"),
        (
            {"target": heard.replace(sound=None), "site": "encoder.resid_post"},
            "needs the recording",
        ),
        ({"target": heard.replace(positions=np.zeros((2, 5), np.int32))}, "equal length"),
    ):
        with pytest.raises(ValueError, match=message):
            attribution(tiny_model, **(good | change))
