"""Shards load with little memory. Errors name the file and the tensor."""

import json

import checkpoints
import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from jaxasr.weights import WeightsError, assemble, read_checkpoint, save
from jaxasr.weights.tensor_files import write

INDEX = "model.safetensors.index.json"
SECOND = "model-00002-of-00003.safetensors"


@pytest.fixture
def folder(tmp_path):
    return checkpoints.write_hf(tmp_path / "hf", checkpoints.random_tensors(), shards=3)


def first_tensor(folder):
    """Returns the name of the first tensor of the second shard."""
    file_of = json.loads((folder / INDEX).read_text())["weight_map"]
    return next(name for name, file in file_of.items() if file == SECOND)


def change(folder, change_tensors):
    tensors = load_file(folder / SECOND)
    change_tensors(tensors)
    save_file(tensors, folder / SECOND)


def error(folder):
    with pytest.raises(WeightsError) as caught:
        assemble(read_checkpoint(folder))
    return str(caught.value)


def test_a_truncated_shard_is_named_with_its_incomplete_tensors(folder):
    data = (folder / SECOND).read_bytes()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    header.pop("__metadata__", None)
    last = max(header, key=lambda name: header[name]["data_offsets"])
    (folder / SECOND).write_bytes(data[:-1])
    message = error(folder)
    assert SECOND in message
    assert f"so that {last} are incomplete" in message


def test_a_missing_shard_is_named_with_its_tensors(folder):
    name = first_tensor(folder)
    (folder / SECOND).unlink()
    message = error(folder)
    assert f"none of {SECOND}, which hold {name}" in message
    assert "more. Fetch the missing files." in message


def test_a_renamed_tensor_is_named_with_its_file(folder):
    name = first_tensor(folder)
    change(folder, lambda tensors: tensors.update(other=tensors.pop(name)))
    message = error(folder)
    assert f"{name} (not in {SECOND})" in message
    assert f"other (in {SECOND})" in message
    # The index may have the new name, too.
    index = (folder / INDEX).read_text()
    (folder / INDEX).write_text(index.replace(f'"{name}"', '"other"'))
    message = error(folder)
    assert "missing (1)" in message
    assert f"left over (1): other {list(load_file(folder / SECOND)['other'].shape)}" in message
    assert f"(other of {SECOND})" in message


def test_a_tensor_of_another_shape_is_named_with_its_file(folder):
    name = first_tensor(folder)
    change(folder, lambda tensors: tensors.update({name: np.zeros((3, 2), np.float32)}))
    assert f"found [3, 2] ({name} of {SECOND})" in error(folder)


@pytest.mark.parametrize("shard_bytes", [1, 6000, 10**9])
def test_saved_shards_hold_the_same_model(folder, shard_bytes, tmp_path):
    model = assemble(read_checkpoint(folder))
    saved = save(model, tmp_path / "saved", shard_bytes=shard_bytes)
    files = sorted(path.name for path in saved.glob("model*"))
    sizes = [sum(a.nbytes for a in load_file(path).values()) for path in saved.glob("*tensors")]
    if shard_bytes == 10**9:
        assert files == ["model.safetensors"]
    else:
        assert INDEX in files
        n = len(sizes)
        assert f"model-{n:05}-of-{n:05}.safetensors" in files
        assert all(size <= shard_bytes for size in sizes) or shard_bytes == 1
        assert json.loads((saved / INDEX).read_text())["metadata"]["total_size"] == sum(sizes)
    again = assemble(read_checkpoint(saved))
    assert jax.tree.all(jax.tree.map(np.array_equal, model, again))


def test_only_one_shard_is_in_memory_while_saving(tmp_path):
    alive = []

    def tensors():
        for i in range(6):
            written = len(list(tmp_path.glob("shard-*")))
            alive.append(i - 2 * written)
            yield f"tensor {i}", np.zeros(10, np.float32)

    write(tensors(), tmp_path, shard_bytes=80)
    assert max(alive) <= 2
    assert len(list(tmp_path.glob("model-*-of-00003.safetensors"))) == 3
