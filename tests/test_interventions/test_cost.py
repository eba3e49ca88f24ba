"""The operations that a plan counts are those of a count by hand, and of the traced programs."""

import functools
import math

import jax
import jax.interpreters.partial_eval as pe
import numpy as np
import pytest
from tiny_sweeps import target_and_source

import interventions as iv
from interventions.patching import cost, programs
from interventions.patching.cell_chunks import cell_chunks
from interventions.patching.compute import RecordingChunk
from jaxasr import compiled, sites

D, FRAMES = 15, 11  # width of the tiny decoder, and number of encoder frames
SCORED = 4  # the scored position, of 7
ALPHAS = (0.5, 1.0)
SITES = [site for site in sites.sites_of("decoder") if site in sites.LAYERED]


def make_plan(model, site):
    target, _ = target_and_source(model)
    has_positions = not site.endswith(("cross_attn.k", "cross_attn.v"))
    return iv.plan_sweep(
        model,
        target.encode(model).row(0),
        "zero",
        site=site,
        over=("layer", "position", "alpha") if has_positions else ("layer", "alpha"),
        alphas=ALPHAS,
        metric=iv.logprob(3, position=SCORED),
    )


def products(jaxpr):
    """Yields the dot_general equations of a program and of all its inner programs."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            yield equation
        for value in jax.tree.leaves(list(equation.params.values())):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from products(inner)


def count_operations(equation, n_vocab):
    """Counts the operations of a product that `cost.flops` includes; 0 for any other product."""
    shapes = [variable.aval.shape for variable in equation.invars]
    (contracted, _), (batch, _) = equation.params["dimension_numbers"]
    sizes = {*shapes[0], *shapes[1]}
    is_self_attention = len(batch) > 0 and FRAMES not in sizes
    if is_self_attention or n_vocab in sizes:
        return 0
    n_contracted = math.prod(shapes[0][axis] for axis in contracted)
    return 2 * n_contracted * math.prod(equation.outvars[0].aval.shape)


@pytest.mark.parametrize("site", SITES)
def test_counted_operations_are_those_of_the_programs(tiny_model, site, monkeypatch):
    plan = make_plan(tiny_model, site)
    recordings, n_operations = RecordingChunk.of(plan, np.array([0])), []

    def trace(mesh, function, *arguments, specs, out_specs, **static):
        assert function is programs.resumed_decoder_cells
        program = jax.make_jaxpr(functools.partial(function, **static))(*arguments)
        used, _ = pe.dce_jaxpr(program.jaxpr, [True])  # without unused results, as in XLA
        n_vocab = tiny_model.config.n_vocab
        n_operations.extend(count_operations(product, n_vocab) for product in products(used))

        return np.zeros((1, 1, 1))

    monkeypatch.setattr(compiled, "call_on_mesh", trace)
    for layer in plan.work.grid.layers:
        for chunk in cell_chunks(plan.work, layer):
            recordings.dispatch([chunk])
    assert cost.flops(plan.work) == sum(n_operations) > 0


# Operations of one layer by hand. The edited layer computes some once, and others per strength.
KEYS_VALUES = 2 * 2 * D * D  # two products of [D] with [D, D], two operations per multiply-add
QUERY_OUT = 2 * 2 * D * D
CROSS_ATTENTION = 2 * 2 * FRAMES * D  # scores of all frames, and their weighted sum of values
MLP = 2 * 2 * D * 4 * D
LAYER = KEYS_VALUES + QUERY_OUT + QUERY_OUT + CROSS_ATTENTION + MLP


@pytest.mark.parametrize(
    ("site", "after_edit"),
    [
        ("decoder.attn.z", 2 * D * D + QUERY_OUT + CROSS_ATTENTION + MLP),
        ("decoder.cross_attn.q", CROSS_ATTENTION + 2 * D * D + MLP),
        ("decoder.cross_attn.z", 2 * D * D + MLP),
        ("decoder.mlp.post", MLP // 2),
        ("decoder.mlp_out", 0),
        ("decoder.resid_post", 0),
    ],
)
def test_counted_operations_equal_a_count_by_hand(tiny_model, site, after_edit):
    """Positions 0 to 4 reach the scored position 4 from layer 0; only position 4 from layer 1."""
    n_positions, n_strengths = SCORED + 1, len(ALPHAS)
    # Keys and values of the edited layer are stored.
    edited_layer = LAYER - KEYS_VALUES - after_edit + n_strengths * after_edit
    # The last layer has keys and values of the edited and the scored position (one for position 4).
    n_rows = 2 * n_positions - 1
    last_layer = n_rows * KEYS_VALUES + n_positions * (LAYER - KEYS_VALUES)
    by_hand = (n_positions + 1) * edited_layer + n_strengths * last_layer
    assert cost.flops(make_plan(tiny_model, site).work) == by_hand
