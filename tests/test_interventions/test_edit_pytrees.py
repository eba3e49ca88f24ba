"""Edits are pytrees whose leaves are their numbers, and they print on one line."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxasr
from interventions.edits import Add, FromRow, Mix, Noise, Patch, Project, Scale, Zero, chain, only

B, T = 2, 6

EDITS = [
    Patch(jnp.ones(15)),
    Mix(jnp.float32(0.5), jnp.ones(15)),
    Mix(jnp.float32(0.5), FromRow(jnp.array([1, 0]))),
    Add(jnp.ones(15), jnp.float32(2)),
    Scale(jnp.float32(0.5)),
    Zero(),
    Noise(jnp.int32(3), jnp.float32(0.5)),
    Project.span(np.eye(15, dtype=np.float32)[:2]),
    chain(Scale(jnp.float32(0.5)), Zero()),
    only(Scale(jnp.float32(0.5)), layers=1, positions=jnp.int32(3), rows=[0, 1]),
]


@pytest.mark.parametrize("edit", EDITS, ids=repr)
def test_edits_work_under_jit_vmap_and_grad(edit):
    x = np.random.default_rng(0).standard_normal((B, T, 15)).astype(np.float32)
    positions = jnp.tile(jnp.arange(T, dtype=jnp.int32), (B, 1))

    def edited(edit):
        return edit(jnp.asarray(x), jaxasr.At(jnp.int32(1), positions, None, "decoder.resid_mid"))

    assert len(repr(edit)) < 140
    assert type(edit).__name__ in repr(edit)
    value = edited(edit)
    np.testing.assert_allclose(jax.jit(edited)(edit), value, rtol=1e-6, atol=1e-6)
    doubled = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), edit)
    if jax.tree.leaves(edit):
        np.testing.assert_allclose(
            jax.jit(jax.vmap(edited))(doubled), [value, value], rtol=1e-5, atol=1e-6
        )
        slopes = jax.grad(lambda edit: edited(edit).sum(), allow_int=True)(edit)
        assert jax.tree.structure(slopes) == jax.tree.structure(edit)
