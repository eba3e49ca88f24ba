"""First-order estimates cost a few passes, and new values reuse their compiled program."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from first_order_runs import METRIC, runs
from flax import nnx

import jaxasr
from interventions import Run
from interventions.effects.first_order import _estimate, attribution
from interventions.effects.first_order_cells import SiteCells
from interventions.metrics import logit_diff
from jaxasr import compiled
from jaxasr.cache import Memory


@pytest.fixture(scope="module")
def close_runs(tiny_model):
    return runs(tiny_model.config, 3e-3)


@pytest.fixture(scope="module")
def distant_runs(tiny_model):
    return runs(tiny_model.config, 1)


def test_every_head_of_both_attentions_costs_at_most_five_forwards():
    """Compares operations at tiny.en's size.

    The compiler counts the body of a loop once. Both programs loop over layers, so their ratio is
    right.
    """
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
        return _estimate(model, target, source, 1500, METRIC, cells=cells, ablation=None)

    assert flops(estimate, model, run, run) <= 5 * flops(forward, model, run)


def test_new_values_do_not_recompile(tiny_model, close_runs, distant_runs):
    call = functools.partial(
        attribution, tiny_model, site="decoder.cross_attn.z", over=("layer", "head")
    )
    call(target=close_runs[0], source=close_runs[1], metric=METRIC)
    before = compiled.n_compiled(_estimate)
    call(target=distant_runs[1], source=distant_runs[0], metric=logit_diff(7, 9))
    assert compiled.n_compiled(_estimate) == before


@pytest.mark.parametrize("site", ["encoder.attn.z", "decoder.cross_attn.k"])
def test_recordings_of_other_lengths_do_not_recompile(tiny_model, close_runs, site):
    call = functools.partial(
        attribution,
        tiny_model,
        target=close_runs[0],
        source=close_runs[1],
        site=site,
        metric=METRIC,
        window_s=4 / 50,
    )
    long = call(over=("layer", "time"), n_frames=11)
    before = compiled.n_compiled(_estimate)
    np.testing.assert_allclose(call(over=("layer", "time"), n_frames=8), long[..., :2], atol=1e-6)
    cut = call(over=("layer", "time"), n_frames=3)
    assert cut.sizes["time"] == 1
    # The window ends where the recording does.
    assert float(np.abs(cut - long[..., :1].values).max()) > 1e-6
    assert compiled.n_compiled(_estimate) == before
