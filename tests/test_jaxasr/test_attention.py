"""Explicit attention, which computes scores and patterns, and fused attention agree."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rounding import ROUNDING, assert_near

import jaxasr
from jaxasr import attention, fused_attention
from jaxasr.sites import sites_of


def test_fused_attention_equals_explicit_attention(model, mel, tokens, memory):
    encoder, decoder = (
        jaxasr.select(*[site for site in sites_of(stack) if site.endswith(("scores", "pattern"))])
        for stack in ("encoder", "decoder")
    )
    assert_near(model.encode(mel)[0].xa, model.encode(mel, readout=encoder)[0].xa)
    assert_near(model.decode(tokens, memory)[0], model.decode(tokens, memory, readout=decoder)[0])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("n_query", [5, 311])  # fewer and more than `MIN_LONG_QUERIES`
def test_fused_attention_of_many_queries_equals_explicit_attention(dtype, n_query):
    """On a CPU, another kernel computes many queries. Large scores must not overflow in it."""
    # In bfloat16, rounding alone would change scores in the hundreds by more than the tolerance.
    scale = 30 if dtype == "float32" else 1
    rng = np.random.default_rng(0)
    q, k, v = (
        (scale * rng.normal(size=(2, 3, n, 7))).astype(jnp.dtype(dtype))
        for n in (n_query, 313, 313)
    )
    fused = jax.jit(lambda q, k, v: fused_attention.attend(q, k, v, "auto"))(q, k, v)
    explicit = jax.jit(
        lambda q, k, v: attention._attend_explicitly(q, k, v, None, lambda site, x: x, q.dtype)
    )(q, k, v)
    assert fused.dtype == explicit.dtype == q.dtype
    assert_near(fused, explicit, ROUNDING if dtype == "float32" else 2e-2)
    assert np.isfinite(np.asarray(fused, np.float32)).all()
