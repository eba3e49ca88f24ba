"""CTranslate2 models load, also with quantized weights. Other models and versions are refused."""

import checkpoints
import numpy as np
import pytest

from jaxasr.weights import WeightsError, assemble, read_checkpoint


def test_int8_weights_are_dequantized_by_row(tmp_path):
    tensors = checkpoints.random_tensors()
    variables = checkpoints.ct2_variables(tensors)
    for name in [n for n, v in variables.items() if n.endswith("/weight") and np.ndim(v) == 2]:
        scale = (127 / np.abs(variables[name]).max(axis=1)).astype(np.float32)
        variables[name] = np.round(variables[name] * scale[:, None]).astype(np.int8)
        variables[name + "_scale"] = scale
    read = read_checkpoint(checkpoints.write_ct2_variables(tmp_path / "int8", variables))
    for name, expected in tensors.items():
        step = np.abs(expected).max() / 127
        np.testing.assert_allclose(read.tensors[name], expected, atol=0.51 * step, rtol=0)
    assemble(read)


def test_int16_weights_have_one_scale(tmp_path):
    tensors = checkpoints.random_tensors()
    variables = checkpoints.ct2_variables(tensors)
    name = "decoder/layer_1/self_attention/linear_0/weight"
    scale = np.float32(1000)
    variables |= {name: np.round(variables[name] * scale).astype(np.int16), name + "_scale": scale}
    read = read_checkpoint(checkpoints.write_ct2_variables(tmp_path / "int16", variables))
    np.testing.assert_allclose(
        read.tensors["decoder.blocks.1.attn.value.weight"],
        tensors["decoder.blocks.1.attn.value.weight"],
        atol=6e-4,
    )


def _replaced(variables: dict, **changes: object) -> dict:
    """Returns `variables` with changes; None removes a variable."""
    return {k: v for k, v in (variables | changes).items() if v is not None}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"decoder/pre_norm": np.int8(0)}, "decoder/pre_norm = 1, found 0"),
        ({"decoder/alibi": np.int8(1)}, "decoder/alibi = 0, found 1"),
        ({"decoder/surprise/weight": np.zeros((2, 2), np.float32)}, "decoder/surprise/weight"),
        (
            {"decoder/embeddings/weight": np.zeros((17, 12), np.int8)},
            "decoder/embeddings/weight_scale",
        ),
        (
            {"encoder/layer_0/self_attention/linear_0/bias": np.ones(36, np.float32)},
            "key projection has no bias",
        ),
        ({"encoder/conv1/weight": None}, "encoder/conv1/weight"),
        (
            {"decoder/num_heads": np.int16(5)},
            "n_text_head: expected a divisor of n_text_state 12, got 5",
        ),
    ],
)
def test_variables_of_another_model_are_refused(changes, message, tmp_path):
    variables = _replaced(checkpoints.ct2_variables(checkpoints.random_tensors()), **changes)
    with pytest.raises(WeightsError, match=message):
        read_checkpoint(checkpoints.write_ct2_variables(tmp_path / "m", variables))


@pytest.mark.parametrize("header", [{"version": 7}, {"version": 2}, {"spec": "TransformerSpec"}])
def test_another_version_or_kind_of_model_is_refused(header, tmp_path):
    variables = checkpoints.ct2_variables(checkpoints.random_tensors())
    with pytest.raises(WeightsError, match=r"expected .* found"):
        read_checkpoint(checkpoints.write_ct2_variables(tmp_path / "m", variables, **header))
