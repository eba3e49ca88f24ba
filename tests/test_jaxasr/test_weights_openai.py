"""OpenAI's `.pt` files load with tensors of every layout, but not outside of their storage."""

import dataclasses
from pathlib import Path

import checkpoints
import ml_dtypes
import numpy as np
import pytest

from jaxasr.weights import WeightsError, openai, read_checkpoint

GOLDEN = Path(__file__).parents[1] / "golden"


def test_tensors_that_torch_saved_are_read_bitwise():
    """The file has tensors of all dtypes, transposed, with offset and stride, and a Parameter."""
    read = openai.read(GOLDEN / "torch_checkpoint.pt", "golden")
    expected = np.load(GOLDEN / "torch_checkpoint.npz")
    assert read.config == dataclasses.replace(
        read.config, n_mels=5, n_audio_state=6, n_text_head=2, n_vocab=11
    )
    assert set(read.tensors) == {*expected.files, "encoder.positional_embedding"}
    for name in expected.files:
        np.testing.assert_array_equal(read.tensors[name].astype(np.float64), expected[name])
    assert read.tensors["half"].dtype == np.float16
    assert read.tensors["bfloat"].dtype == ml_dtypes.bfloat16


@pytest.mark.parametrize(
    "wrong",
    [
        {"shape": (1 << 30, 12), "stride": (0, 1)},  # a broadcast that would fill the memory
        {"shape": (18, 12), "stride": (12, 1)},
        {"offset": 1},
        {"stride": (-1, 1)},
        {"stride": (12,)},
        {"shape": (-17, 12)},
    ],
)
def test_a_tensor_outside_of_its_storage_is_refused(wrong, tmp_path):
    tensors = checkpoints.random_tensors()
    state = {
        name: checkpoints.pickle_tensor(str(i), array)
        for i, (name, array) in enumerate(tensors.items())
    }
    at = list(tensors).index("decoder.token_embedding.weight")
    state["decoder.token_embedding.weight"] = checkpoints.pickle_tensor(
        str(at), tensors["decoder.token_embedding.weight"], **wrong
    )
    storages = {str(i): array.tobytes() for i, array in enumerate(tensors.values())}
    path = checkpoints.write_pt_raw(
        tmp_path / "m.pt", checkpoints.pickle_checkpoint(state), storages
    )
    with pytest.raises(
        WeightsError, match=r"decoder.token_embedding.weight: a (tensor within|size)"
    ):
        read_checkpoint(path)
