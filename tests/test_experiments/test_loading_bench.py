"""Loading a checkpoint in several files takes little more memory than the model."""

import pytest

from experiments.bench.loading import measure, shrink


def test_shards_are_read_tensor_by_tensor(tmp_path):
    config = shrink(100e6, "bfloat16")
    numbers = measure(config, 4, tmp_path / "random")
    assert numbers["files"] == pytest.approx(4, abs=1)
    assert 80e6 < numbers["model_bytes"] < 100e6
    if not numbers["before_bytes"]:
        pytest.fail("the memory of a process cannot be measured on this system")
    added = numbers["peak_bytes"] - numbers["before_bytes"]
    assert 0.9 < added / numbers["model_bytes"] < 1.2


def test_a_model_that_is_too_small_is_refused():
    with pytest.raises(ValueError, match="several MB"):
        shrink(1e5, "float32")
