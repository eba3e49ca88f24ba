"""Cells of a language model attend to shared keys and to their own in one softmax."""

import jax.numpy as jnp
import numpy as np
import pytest

from interventions.patching.resumed_language import attend_to_shared_and_own
from jaxasr.fused_attention import attend_by_xla


@pytest.mark.parametrize(
    ("n_head", "n_groups", "n_queries", "n_own", "n_shared"),
    [(4, 2, 2, 5, 7), (4, 2, 5, 5, 0), (6, 1, 1, 4, 3), (4, 4, 3, 3, 9)],
)
def test_it_equals_attention_to_all_keys(n_head, n_groups, n_queries, n_own, n_shared):
    rng, n_cells, d_head = np.random.default_rng(0), 3, 8

    def draw(*shape):
        return jnp.asarray(rng.normal(size=shape).astype(np.float32))

    mask = rng.random((n_queries, n_shared + n_own)) < 0.5
    mask[np.arange(n_queries), n_shared + np.arange(n_queries)] = True  # its own key
    q = draw(n_cells, n_head, n_queries, d_head)
    shared = [draw(n_groups, n_shared, d_head) for _ in range(2)]
    own = [draw(n_cells, n_groups, n_own, d_head) for _ in range(2)]
    keys, values = (
        jnp.concatenate([jnp.broadcast_to(x, (n_cells, *x.shape)), y], 2).repeat(
            n_head // n_groups, 1
        )
        for x, y in zip(shared, own)
    )
    expected = attend_by_xla(q, keys, values, jnp.asarray(mask)[None, None])
    z = attend_to_shared_and_own(q, *shared, *own, jnp.asarray(mask))
    np.testing.assert_allclose(z, expected, atol=1e-6)
