"""Devices that share a model compute what one device computes."""

import jax
import pytest

import jaxasr
from jaxasr import divided_weights
from jaxasr.divided_weights import MODEL, divide_weights, spec_of
from jaxasr.language.sizes import AUDIO_LANGUAGE_SIZES
from jaxasr.weights.assemble import abstract_model, parameters_by_name

QWEN = AUDIO_LANGUAGE_SIZES["qwen2-audio-7b"]


def divided_axes(config, n_devices):
    """Returns the divided axis of every weight; None for one that is whole."""
    axes = {}
    for name, array in parameters_by_name(abstract_model(config)).items():
        spec = spec_of(name, array.ndim, config, n_devices)
        axes[name] = spec.index(MODEL) if MODEL in spec else None
        assert MODEL not in spec or array.shape[axes[name]] % n_devices == 0
    return axes


def test_large_weights_are_divided_and_norms_are_whole():
    axes = divided_axes(QWEN, 4)
    assert axes["decoder.blocks.attn.query.kernel"] == 2
    assert axes["decoder.blocks.attn.value.bias"] == 1
    assert axes["decoder.blocks.attn.out.kernel"] == 1
    assert axes["decoder.blocks.mlp.gate.kernel"] == 2
    assert axes["decoder.blocks.mlp.down.kernel"] == 1
    assert axes["decoder.token_embedding"] == axes["decoder.projection"] == 0
    assert axes["encoder.blocks.attn.query.kernel"] == 2
    assert axes["encoder.blocks.mlp.fc1.bias"] == 1
    whole = {name for name, axis in axes.items() if axis is None}
    assert all("ln" in name or name.startswith("encoder.") for name in whole)
    assert not any("mlp.fc" in name and name.endswith("kernel") for name in whole)


def test_a_head_is_never_split_between_devices():
    assert QWEN.n_audio_state % 8 == 0  # 160 columns per device would be two heads and a half
    axes = divided_axes(QWEN, 8)
    assert axes["encoder.blocks.attn.query.kernel"] is None
    assert axes["encoder.blocks.attn.out.kernel"] is None
    assert axes["encoder.blocks.mlp.fc1.kernel"] == 2
    axes = divided_axes(QWEN.replace(n_text_kv_head=4), 8)
    assert axes["decoder.blocks.attn.key.kernel"] is None
    assert axes["decoder.blocks.attn.query.kernel"] == 2


def test_8_devices_hold_less_than_a_sixth_of_the_7b_model_each():
    weights = parameters_by_name(abstract_model(QWEN))
    axes = divided_axes(QWEN, 8)
    held = sum(x.size / (1 if axes[name] is None else 8) for name, x in weights.items())
    assert held < sum(x.size for x in weights.values()) / 6


def test_keys_and_values_are_divided_by_heads():
    assert spec_of("past.k", 5, QWEN, 8)[2] == MODEL
    assert spec_of("past.3.v", 4, QWEN, 8)[1] == MODEL
    assert not spec_of("decoder.attn.k", 5, QWEN, 8)  # an activation [L, B, S, H, Dh]


def test_one_device_keeps_the_model_to_the_bit(tiny_model):
    divided = divide_weights(tiny_model, 1)
    for before, after in zip(jax.tree.leaves(tiny_model), jax.tree.leaves(divided), strict=True):
        assert (before == after).all()
    with pytest.raises(ValueError, match=r"n_devices: expected 1 to 1, .* got 99"):
        divide_weights(tiny_model, 99)


def test_a_fused_kernel_of_a_tpu_is_an_error():
    divided_weights.check_kernel(jaxasr.SIZES["tiny"], "cpu")
    divided_weights.check_kernel(jaxasr.SIZES["tiny"].replace(attention_kernel="xla"), "tpu")
    with pytest.raises(ValueError, match="attention_kernel: expected 'xla'"):
        divided_weights.check_kernel(jaxasr.SIZES["tiny"], "tpu")
