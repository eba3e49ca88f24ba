"""The policies of precision: which dtypes they use, and how near they are to float32."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden.tiny import TINY, checkpoint, tiny_inputs, tiny_state

import jaxasr
from jaxasr.model import full_precision
from jaxasr.precision import PRECISIONS, precision_fields, precision_name
from jaxasr.sites import sites_of
from jaxasr.weights import assemble

CONFIG = TINY["80 mels"]


def load(policy):
    return assemble(checkpoint(CONFIG, tiny_state(CONFIG)), **precision_fields(policy))


def forward(model):
    mel, tokens = tiny_inputs(model.config)
    memory, encoder = model.encode(mel, readout=jaxasr.select(*sites_of("encoder")))
    logits, decoder = model.decode(tokens, memory, readout=jaxasr.select(*sites_of("decoder")))
    return memory, logits, {**encoder, **decoder}


def test_mixed_rounds_weights_and_products_and_keeps_the_rest_in_float32():
    model = load("mixed")
    assert {leaf.dtype for leaf in jax.tree.leaves(model)} == {jnp.dtype("bfloat16")}
    memory, logits, acts = forward(model)
    assert logits.dtype == memory.xa.dtype == jnp.float32
    assert memory.k.dtype == memory.v.dtype == jnp.bfloat16
    for site, value in acts.items():
        is_key_or_value = site.endswith((".k", ".v"))
        assert value.dtype == (jnp.bfloat16 if is_key_or_value else jnp.float32), site


def products(jaxpr):
    for equation in jaxpr.eqns:
        if equation.primitive.name in ("dot_general", "conv_general_dilated"):
            yield equation
        for value in jax.tree.leaves(equation.params, is_leaf=lambda x: hasattr(x, "eqns")):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from products(inner)


def test_mixed_multiplies_bfloat16_everywhere_but_for_the_logits():
    model = load("mixed")
    mel, tokens = tiny_inputs(CONFIG)
    jaxpr = jax.make_jaxpr(lambda mel, tokens: model.decode(tokens, model.encode(mel)[0])[0])(
        mel, tokens
    ).jaxpr
    narrow = {jnp.dtype("bfloat16")}
    wide = [e for e in products(jaxpr) if {v.aval.dtype for v in e.invars} != narrow]
    assert len(list(products(jaxpr))) > 20
    assert [CONFIG.n_vocab in e.outvars[0].aval.shape for e in wide] == [True]


def test_mixed_is_nearer_to_float32_than_bfloat16():
    expected = forward(load("float32"))[1]
    errors = {name: np.abs(forward(load(name))[1] - expected).mean() for name in PRECISIONS}
    assert 0 < errors["mixed"] < 0.8 * errors["bfloat16"]
    assert errors["high"] == errors["float32"] == 0  # they differ on accelerators only


def test_cached_generation_in_mixed_precision_equals_teacher_forcing():
    model = load("mixed")
    mel, tokens = tiny_inputs(CONFIG)
    memory = model.encode(mel)[0]
    out = jaxasr.generate(model, memory, tokens[:, :3], max_new_tokens=5, eot=CONFIG.n_vocab - 1)
    whole = np.concatenate([tokens[:, :3], out.tokens], axis=1)
    logits = model.decode(whole, memory)[0][:, 2:-1]
    np.testing.assert_array_equal(np.argmax(logits, -1)[:, 0], out.tokens[:, 0])
    logprobs = np.take_along_axis(
        np.asarray(jax.nn.log_softmax(logits)), np.asarray(out.tokens)[..., None], -1
    )[..., 0]
    np.testing.assert_allclose(out.logprobs, logprobs, atol=2e-2)


@pytest.mark.parametrize(
    ("policy", "expected"),
    [("float32", "highest"), ("high", "high"), ("mixed", "highest"), ("bfloat16", None)],
)
def test_a_policy_sets_the_precision_of_float32_products(policy, expected):
    with full_precision(load(policy)):
        assert jax.config.jax_default_matmul_precision in (expected, expected or "default")


@pytest.mark.parametrize("policy", PRECISIONS)
def test_a_policy_is_found_again_by_its_fields(policy):
    config = CONFIG.replace(**precision_fields(policy))
    assert precision_name(config) == policy
    assert policy in repr(load(policy))


def test_load_takes_a_policy_or_dtypes():
    with pytest.raises(ValueError, match="precision: expected one of 'float32', 'high', 'mixed'"):
        jaxasr.load("tiny.en", precision="half")
    with pytest.raises(ValueError, match="leave out dtype= and param_dtype="):
        jaxasr.load("tiny.en", precision="mixed", dtype="float32")
    with pytest.raises(ValueError, match="attention_kernel: expected one of 'auto'"):
        CONFIG.replace(attention_kernel="flash")
    with pytest.raises(ValueError, match="float32_products: expected one of 'highest', 'high'"):
        CONFIG.replace(float32_products="low")
