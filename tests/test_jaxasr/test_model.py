"""Invariances of the model hold for any weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden.tiny import tiny_inputs, tiny_model
from jax.tree_util import Partial
from rounding import assert_all_near, assert_near

import jaxasr
from jaxasr.sites import LAYERED, sites_of
from jaxasr.weights.assemble import abstract_model

# Readouts of all sites of a stack.
ENCODER, DECODER = jaxasr.select(*sites_of("encoder")), jaxasr.select(*sites_of("decoder"))


# A scan over layers equals the layers one by one.


@pytest.mark.parametrize("unroll", [2, True])
def test_an_unrolled_scan_equals_the_scan(model, mel, tokens, memory, unroll):
    scanned, unrolled = (
        model.encode(mel, readout=ENCODER),
        model.encode(mel, readout=ENCODER, unroll=unroll),
    )
    assert_all_near(scanned, unrolled)
    assert_all_near(
        model.decode(tokens, memory, readout=DECODER),
        model.decode(tokens, memory, readout=DECODER, unroll=unroll),
    )


def test_each_layer_of_the_scan_equals_the_layer_run_alone(model, mel, tokens, memory):
    """Runs each layer alone in a model with one layer, on the stream recorded before the layer."""
    readouts = {"encoder": ENCODER, "decoder": DECODER}
    whole = {
        **model.encode(mel, readout=ENCODER)[1],
        **model.decode(tokens, memory, readout=DECODER)[1],
    }
    for stack, readout in readouts.items():
        for layer in range(whole[f"{stack}.resid_pre"].shape[0]):
            single = _single_layer(model, stack, layer)
            edits = {
                f"{stack}.resid_pre": Partial(
                    _replace, np.asarray(whole[f"{stack}.resid_pre"])[layer]
                )
            }
            if stack == "encoder":
                acts = single.encode(mel, edits, readout)[1]
            else:
                acts = single.decode(tokens, single.memory(memory.xa), edits, readout)[1]
            for site in sites_of(stack):
                if site in LAYERED:
                    assert_near(acts[site][0], whole[site][layer])


def _replace(value: jax.Array, x: jax.Array, at: jaxasr.At) -> jax.Array:
    return value


def _single_layer(model: jaxasr.Whisper, stack: str, layer: int) -> jaxasr.Whisper:
    """Returns a model in which `stack` consists of one layer of `model`."""
    config = model.config.replace(**{f"n_{'audio' if stack == 'encoder' else 'text'}_layer": 1})
    leaves = [
        leaf[layer : layer + 1]
        if f"{stack}.blocks" in jax.tree_util.keystr(path, simple=True, separator=".")
        else leaf
        for path, leaf in jax.tree_util.tree_flatten_with_path(model)[0]
    ]
    return jax.tree.unflatten(jax.tree.structure(abstract_model(config)), leaves)


def test_the_residual_stream_is_the_sum_of_what_layers_add(model, mel, tokens, memory):
    acts = {
        **model.encode(mel, readout=ENCODER)[1],
        **model.decode(tokens, memory, readout=DECODER)[1],
    }
    for stack in ("encoder", "decoder"):
        values = {site.removeprefix(f"{stack}."): np.asarray(value) for site, value in acts.items()}
        assert_near(values["resid_mid"], values["resid_pre"] + values["attn_out"])
        before_mlp = values["resid_mid"]
        if stack == "decoder":
            before_mlp = values["resid_mid_cross"]
            assert_near(before_mlp, values["resid_mid"] + values["cross_attn_out"])
        assert_near(values["resid_post"], before_mlp + values["mlp_out"])
        assert_near(values["resid_pre"][1:], values["resid_post"][:-1], 0)
        assert_near(values["resid_pre"][0], values["embed"], 0)
        assert_near(values["attn.pattern"].sum(-1), np.ones(values["attn.pattern"].shape[:-1]))


# Positions and rows depend only on what they may attend to.


def test_a_token_does_not_depend_on_later_tokens(model, tokens, memory):
    before = model.decode(tokens, memory, readout=DECODER)[1]
    for t in range(1, tokens.shape[1]):
        changed = np.where(
            np.arange(tokens.shape[1]) >= t, (tokens + 1) % model.config.n_vocab, tokens
        )
        logits, after = model.decode(changed, memory, readout=DECODER)
        assert_near(logits[:, :t], before["decoder.logits"][:, :t], 0)
        assert_near(
            after["decoder.resid_post"][:, :, :t], before["decoder.resid_post"][:, :, :t], 0
        )
        assert not np.allclose(logits[:, t:], before["decoder.logits"][:, t:])
    assert not np.triu(np.asarray(before["decoder.attn.pattern"]), 1).any()


@pytest.mark.parametrize("n_tokens", [1, 5])
def test_a_prefix_has_the_logits_of_the_whole_text(model, memory, n_tokens):
    whole = tiny_inputs(model.config, n_tokens=model.config.n_text_ctx)[1]
    assert_near(
        model.decode(whole[:, :n_tokens], memory)[0], model.decode(whole, memory)[0][:, :n_tokens]
    )


def test_rows_of_a_batch_do_not_influence_each_other(model, mel, tokens):
    memory, encoder = model.encode(mel, readout=ENCODER)
    _, decoder = model.decode(tokens, memory, readout=DECODER)
    for row in range(2):
        alone, acts = model.encode(mel[row : row + 1], readout=ENCODER)
        acts |= model.decode(tokens[row : row + 1], alone, readout=DECODER)[1]
        for site, value in {**encoder, **decoder}.items():
            axis = 1 if site in LAYERED else 0
            assert_near(acts[site], np.take(value, [row], axis))


def test_no_token_attends_to_padding(model, memory):
    whole = tiny_inputs(model.config)[1]
    positions = np.stack([np.arange(5), np.arange(5) - 2]).astype(np.int32)
    shifted = np.stack([whole[0], np.concatenate([[0, 1], whole[1, :3]])])
    for padding in ([0, 1], [7, 7]):
        shifted[1, :2] = padding
        logits, acts = model.decode(shifted, memory, readout=DECODER, positions=positions)
        plain = model.decode(whole, memory)[0]
        assert_near(logits[0], plain[0])
        assert_near(logits[1, 2:], plain[1, :3])
        assert not np.asarray(acts["decoder.attn.pattern"])[:, 1, :, 2:, :2].any()
        assert np.isfinite(logits).all()


# Activations that are not read cost nothing.


def temporary_bytes(fn, *args) -> int:
    """Returns the bytes that a compiled function needs for intermediate results."""
    return jax.jit(fn).lower(*args).compile().memory_analysis().temp_size_in_bytes


def test_readouts_whose_result_is_unused_take_no_memory(model, mel, tokens, memory):
    plain = temporary_bytes(lambda m, x: m.encode(x)[0], model, mel)
    readout = jaxasr.select("encoder.resid_post", "encoder.mlp.post", "encoder.attn.q")
    assert temporary_bytes(lambda m, x: m.encode(x, readout=readout)[0], model, mel) == plain
    plain = temporary_bytes(lambda m, x, xa: m.decode(x, m.memory(xa))[0], model, tokens, memory.xa)
    readout = jaxasr.select(
        "decoder.resid_pre", "decoder.cross_attn.z", "decoder.mlp.pre", "decoder.embed"
    )
    assert (
        temporary_bytes(
            lambda m, x, xa: m.decode(x, m.memory(xa), readout=readout)[0], model, tokens, memory.xa
        )
        == plain
    )


def test_a_reduction_never_stacks_the_activation_it_reduces(model, mel):
    site = "encoder.attn.pattern"
    whole = temporary_bytes(
        lambda m, x: m.encode(x, readout=jaxasr.select(site))[1][site].max((-2, -1)), model, mel
    )
    reduced = jaxasr.reduce("largest", site, lambda pattern: pattern.max((-2, -1)))
    assert (
        temporary_bytes(lambda m, x: m.encode(x, readout=reduced)[1]["largest"], model, mel)
        <= whole
    )
    largest = model.encode(mel, readout=jaxasr.select(site))[1][site].max((-2, -1))
    assert_near(model.encode(mel, readout=reduced)[1]["largest"], largest)


def test_a_readout_outside_attention_leaves_the_output_bitwise_the_same(model, mel, tokens, memory):
    readout = jaxasr.select("decoder.resid_post")
    np.testing.assert_array_equal(
        model.decode(tokens, memory, edits={}, readout=None)[0],
        model.decode(tokens, memory, edits=None, readout=readout)[0],
    )
    assert model.decode(tokens, memory)[1] == {}
    np.testing.assert_array_equal(
        model.encode(mel)[0].xa, model.encode(mel, {}, jaxasr.select())[0].xa
    )


# Lower precision gives nearly the same results.


@pytest.mark.parametrize(
    ("dtype", "param_dtype"), [("bfloat16", "bfloat16"), ("bfloat16", "float32")]
)
def test_bfloat16_is_near_float32(model, dtype, param_dtype):
    float32_model, model = model, tiny_model("80 mels", dtype=dtype, param_dtype=param_dtype)
    mel, tokens = tiny_inputs(model.config)
    assert {leaf.dtype for leaf in jax.tree.leaves(model)} == {jnp.dtype(param_dtype)}
    memory, encoder = model.encode(mel, readout=ENCODER)
    logits, decoder = model.decode(tokens, memory, readout=DECODER)
    assert logits.dtype == jnp.float32
    for site, value in {**encoder, **decoder}.items():
        assert value.dtype == (jnp.float32 if site == "decoder.logits" else jnp.bfloat16), site
    expected = float32_model.decode(tokens, float32_model.encode(mel)[0])[0]
    error = np.abs(np.asarray(logits - expected))
    assert error.mean() < 0.02 * np.abs(expected).max()
    assert error.max() < 0.1 * np.abs(expected).max()
    assert error.max() > 1e-4  # a smaller error would show that the model computed in float32
