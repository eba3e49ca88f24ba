"""For small changes, first-order estimates equal exact patches."""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from first_order_runs import METRIC, runs

import jaxasr
from interventions import sweep
from interventions.edits import Noise, Patch, Zero, only
from interventions.effects.first_order import attribution
from interventions.metrics import logprob, rank

WINDOW = 3  # frames


@pytest.fixture(scope="module")
def close_runs(tiny_model):
    return runs(tiny_model.config, 3e-3)


@pytest.fixture(scope="module")
def distant_runs(tiny_model):
    return runs(tiny_model.config, 1)


def activation(model, run, site):
    seen = jaxasr.select(site)
    return (
        model.encode(run.mel, readout=seen)
        if site.startswith("encoder")
        else run.decode(model, readout=seen)
    )[1][site]


def exact_changes(model, target, edit, site, sizes, metric=METRIC):
    """Computes metric(patched) - metric(target) of every cell by an edit, [B, *sizes]."""
    memory = model.encode(target.mel)[0]

    def score(edits):
        is_encoder = site.startswith("encoder")
        edited_memory = model.encode(target.mel, edits)[0] if is_encoder else memory
        logits, _ = model.decode(target.tokens, edited_memory, {} if is_encoder else edits)
        logits = logits[:, -1]
        return metric(logits if metric.vocab is None else logits[:, jnp.asarray([3, 8])])

    def cell(place):
        names = {"layer": "layers", "head": "heads", "position": "positions"}
        places = {names[dim]: index for dim, index in place.items() if dim != "time"}
        if "time" in place:
            places["frames"] = slice(
                WINDOW * place["time"], jnp.minimum(WINDOW * (place["time"] + 1), 11)
            )
        return score({site: only(edit, **places)}) - score({})

    # One compiled program computes the cells one after the other.
    grid = np.meshgrid(*(np.arange(n) for n in sizes.values()), indexing="ij")
    cells = {dim: jnp.asarray(index.ravel()) for dim, index in zip(sizes, grid, strict=True)}
    return np.moveaxis(
        np.asarray(jax.jit(functools.partial(jax.lax.map, cell))(cells)), 0, -1
    ).reshape(2, *sizes.values())


# Sites with the dimensions of their cells, and the number of cells along each dimension.
SITES_AND_SIZES = [
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
def near_estimates(tiny_model, close_runs):
    """Estimates for every site of NEAR, in one call per set of dimensions."""
    calls = {}
    for site, sizes in SITES_AND_SIZES:
        calls.setdefault(tuple(sizes), []).append(site)
    estimates = {}
    for over, sites in calls.items():
        estimates |= attribution(
            tiny_model, *close_runs, site=sites, over=over, metric=METRIC, window_s=0.06
        )
    return estimates


@pytest.mark.parametrize(
    ("site", "sizes"), SITES_AND_SIZES, ids=[site for site, _ in SITES_AND_SIZES]
)
def test_small_changes_are_exact(tiny_model, close_runs, near_estimates, site, sizes):
    truth = exact_changes(
        tiny_model, close_runs[0], Patch(activation(tiny_model, close_runs[1], site)), site, sizes
    )
    assert np.abs(truth).max() > 1e-5
    assert near_estimates[site].dims == ("example", *sizes)
    np.testing.assert_allclose(
        near_estimates[site], truth, atol=max(0.02 * np.abs(truth).max(), 1.5e-6)
    )


def test_arguments_are_those_of_a_sweep(tiny_model, distant_runs):
    shared = {"site": "decoder.mlp_out", "over": ("layer",), "metric": METRIC}
    by_position = attribution(tiny_model, *distant_runs, **shared)
    by_keyword = attribution(tiny_model, target=distant_runs[0], source=distant_runs[1], **shared)
    assert by_position.identical(by_keyword)
    parameters = [*inspect.signature(attribution).parameters]
    in_sweep = [name for name in inspect.signature(sweep).parameters if name in parameters]
    assert [name for name in parameters if name in in_sweep] == in_sweep


def test_labels_are_those_of_a_sweep(tiny_model, distant_runs, near_estimates):
    cells = near_estimates["decoder.cross_attn.k"]
    np.testing.assert_allclose(cells.time, [0, 0.06, 0.12, 0.18])
    np.testing.assert_array_equal(cells.layer, [0, 1])
    baseline = METRIC(distant_runs[0].decode(tiny_model)[0][:, -1][:, np.array([3, 8])])
    np.testing.assert_allclose(cells.baseline, baseline, atol=1e-6)
    target, source = (run.encode(tiny_model).row(1) for run in distant_runs)
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
        target=distant_runs[0],
        source=distant_runs[1],
        site="decoder.mlp_out",
        over=("layer",),
        metric=METRIC,
    )
    np.testing.assert_allclose(both["decoder.mlp_out"], alone.sel(example=1), atol=1e-6)


@pytest.mark.parametrize("kind", ["zero", "mean", "noise"])
def test_ablations_are_exact_after_the_final_norm(tiny_model, distant_runs, kind):
    """After the final norm the model is linear, so estimates are exact for any source."""
    sizes, site, x = (
        {"position": 5},
        "decoder.ln",
        activation(tiny_model, distant_runs[0], "decoder.ln"),
    )
    edit = {
        "zero": Zero(),
        "mean": Patch(jnp.broadcast_to(x.mean(1, keepdims=True), x.shape)),
        "noise": Noise(0, replace=True),
    }[kind]
    estimate = attribution(
        tiny_model,
        target=distant_runs[0],
        source=kind,
        site=site,
        over=("position",),
        metric=METRIC,
    )
    truth = exact_changes(tiny_model, distant_runs[0], edit, site, sizes)
    np.testing.assert_allclose(estimate.sel(example=0), truth[0], atol=1e-5)
    # A sweep patches one example at a time, so the noise of each example is that of row 0.
    if kind != "noise":
        np.testing.assert_allclose(estimate, truth, atol=1e-5)


def saturated(model):
    """Returns a model whose cross-attention heads attend almost to a single frame each."""

    def sharpen(path, x):
        name = jax.tree_util.keystr(path)
        return 12 * x if "cross_attn" in name and "query" in name else x

    return jax.tree_util.tree_map_with_path(sharpen, model)


@pytest.mark.parametrize("name", ["q", "k"])
def test_the_correction_halves_the_error_where_softmax_is_saturated(tiny_model, distant_runs, name):
    model, site = saturated(tiny_model), f"decoder.cross_attn.{name}"
    sizes = {"layer": 2, "head": 5, **({"position": 5} if name == "q" else {"time": 4})}
    truth = exact_changes(
        model, distant_runs[0], Patch(activation(model, distant_runs[1], site)), site, sizes
    )
    call = functools.partial(
        attribution,
        model,
        target=distant_runs[0],
        source=distant_runs[1],
        site=site,
        over=tuple(sizes),
        metric=METRIC,
        window_s=0.06,
    )
    error = {
        corrected: float(np.abs(call(correction=corrected).values - truth).mean())
        for corrected in (True, False)
    }
    assert error[True] < 0.5 * error[False], error


def test_recomputing_encoder_attention_does_not_change_the_estimate(
    tiny_model, close_runs, near_estimates, monkeypatch
):
    monkeypatch.setattr("interventions.forward._MAX_KEPT_BYTES", 0)
    # Another batch size compiles the program again, with the changed limit.
    shorter = [run.replace(tokens=run.tokens[:1], mel=run.mel[:1]) for run in close_runs]
    call = {
        "site": "encoder.resid_post",
        "over": ("layer", "time"),
        "metric": METRIC,
        "window_s": 0.06,
    }
    estimate = attribution(tiny_model, target=shorter[0], source=shorter[1], **call)
    np.testing.assert_allclose(
        estimate, near_estimates["encoder.resid_post"].sel(example=0), atol=1e-6
    )


def test_wrong_arguments_raise(tiny_model, close_runs):
    good = {
        "target": close_runs[0],
        "source": close_runs[1],
        "site": "decoder.cross_attn.z",
        "over": ("layer",),
        "metric": logprob(3),
    }
    encoded = close_runs[0].encode(tiny_model)
    for change, message in (
        ({"metric": rank(3)}, "rank has no gradient"),
        ({"over": ("alpha",)}, "proportional to 'alpha'"),
        ({"over": ("time",), "site": "decoder.mlp_out"}, "is not a dimension of a sweep"),
        ({"source": "silence"}, "expected a Run or one of"),
        ({"source": close_runs[1].replace(tokens=close_runs[1].tokens[:, :3])}, "do not line up"),
        (
            {"target": encoded.replace(encoded_mel=None), "site": "encoder.resid_post"},
            "needs the recording",
        ),
        ({"target": encoded.replace(positions=np.zeros((2, 5), np.int32))}, "equal length"),
    ):
        with pytest.raises(ValueError, match=message):
            attribution(tiny_model, **(good | change))
