"""Files that would hang, exhaust the memory or run code are refused."""

import json
import os
import pickle
import resource
import struct
import time
import tracemalloc
import zipfile

import checkpoints
import numpy as np
import pytest
from checkpoints import TINY

import jaxasr
from jaxasr.weights import WeightsError, assemble, inert_pickle, read_checkpoint, save
from jaxasr.weights.openai import DIMENSIONS


@pytest.mark.parametrize("name", ["m.pt", "model.bin", "model.safetensors", "pytorch_model.bin"])
def test_only_regular_files_are_opened(name, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(checkpoints.hf_config()))
    for make in (lambda path: path.symlink_to("/dev/zero"), os.mkfifo):
        make(tmp_path / name)
        for path in (tmp_path / name, tmp_path):
            with pytest.raises(WeightsError, match=r"regular file|expected model\.safetensors"):
                read_checkpoint(path)
        (tmp_path / name).unlink()


def test_an_index_that_is_a_pipe_is_refused(tmp_path):
    folder = checkpoints.write_hf(tmp_path / "m", checkpoints.random_tensors(), shards=2)
    (folder / "model.safetensors.index.json").unlink()
    os.mkfifo(folder / "model.safetensors.index.json")
    with pytest.raises(WeightsError, match="regular file"):
        read_checkpoint(folder / "model.safetensors.index.json")


def test_a_git_lfs_pointer_names_the_remedy(tmp_path):
    folder = checkpoints.write_hf(tmp_path / "m", checkpoints.random_tensors())
    (folder / "model.safetensors").write_text(
        "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
    )
    with pytest.raises(WeightsError, match="git lfs pull"):
        read_checkpoint(folder)


def _assert_refused_within(seconds, path, match):
    """Checks that loading `path` raises within `seconds`, and takes little memory."""
    start = time.process_time()
    tracemalloc.start()
    try:
        with pytest.raises(WeightsError, match=match):
            assemble(read_checkpoint(path))
        assert tracemalloc.get_traced_memory()[1] < 400e6
    finally:
        tracemalloc.stop()
    assert time.process_time() - start < seconds


# A pickle of nested tuples that share their parts. The repr of this tuple would have 2**60 parts.
_BOMB = b")q\x00" + b"".join(b"h" + bytes([i]) + b"\x86q" + bytes([i + 1]) for i in range(60))


@pytest.mark.parametrize(
    "part", ["dims", "size", "stride", "offset", "key", "count", "name", "call"]
)
def test_tuples_that_share_their_parts_are_refused_quickly(part, tmp_path):
    array = np.zeros((2, 2), np.float32)
    dims = {key: checkpoints.pickle_int(getattr(TINY, key)) for key in DIMENSIONS}
    dims |= {"n_mels": _BOMB} if part == "dims" else {}
    parts = {
        "size": checkpoints.pickle_tuple(*[checkpoints.pickle_int(2)] * 2),
        "stride": checkpoints.pickle_tuple(*map(checkpoints.pickle_int, (2, 1))),
    }
    parts |= {
        "offset": checkpoints.pickle_int(0),
        "key": checkpoints.pickle_text("0"),
        "count": checkpoints.pickle_int(4),
    }
    parts |= {"name": b"ctorch\nFloatStorage\n"}
    parts = {name: _BOMB if name == part else raw for name, raw in parts.items()}
    storage_key = (
        checkpoints.pickle_text("storage"),
        parts["name"],
        parts["key"],
        checkpoints.pickle_text("cpu"),
        parts["count"],
    )
    args = (
        checkpoints.pickle_tuple(*storage_key) + b"Q",
        parts["offset"],
        parts["size"],
        parts["stride"],
        b"\x89",  # False: needs no gradient
    )
    tensor = b"ctorch._utils\n_rebuild_tensor_v2\n" + checkpoints.pickle_tuple(*args) + b"R"
    if part == "call":
        tensor = b"ctorch._utils\n_rebuild_parameter\n" + checkpoints.pickle_tuple(_BOMB) + b"R"
    state = checkpoints.pickle_dict({"encoder.conv1.bias": tensor})
    pickled = (
        b"\x80\x02"
        + checkpoints.pickle_dict(
            {"dims": checkpoints.pickle_dict(dims), "model_state_dict": state}
        )
        + b"."
    )
    _assert_refused_within(
        2,
        checkpoints.write_pt_raw(tmp_path / "m.pt", pickled, {"0": array.tobytes()}),
        r"m\.pt: expected",
    )


@pytest.mark.parametrize("reference", [_BOMB + _BOMB + b"\x93", b"\x8c\x05torch" + _BOMB + b"\x93"])
def test_a_reference_that_is_not_text_is_refused_before_it_is_hashed(reference):
    with pytest.raises(ValueError, match="not text"):
        inert_pickle.loads(b"\x80\x04" + reference + b".")


def test_marks_are_found_in_linear_time(tmp_path):
    n = 50_000  # a reader that copies its stack at every mark would take ten seconds
    for pickled in (b"(" * n + b"t" * n, b"(" + b"N" * n + b"(t" * n, b"N" * n + b"(1" * n):
        _assert_refused_within(
            5,
            checkpoints.write_pt_raw(tmp_path / "m.pt", b"\x80\x02" + pickled + b".", {}),
            "expected",
        )


def test_a_large_pickle_is_refused_without_reading_it(tmp_path):
    pickled = b"\x80\x02" + b"N0" * (1 << 22) + b"."
    _assert_refused_within(
        2,
        checkpoints.write_pt_raw(tmp_path / "m.pt", pickled, {}),
        r"at most \d+ bytes of data.pkl",
    )


def test_a_zip_with_a_large_directory_is_refused_without_opening_it(tmp_path):
    # An entry of the directory of a zip, for an empty file with the name "a".
    entry = (
        struct.pack(
            "<4s4B4HL2L5H2L", b"PK\1\2", 20, 3, 20, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0
        )
        + b"a"
    )
    directory = entry * 200_000
    # The record at the end of the zip gives the size and the place of the directory.
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, len(directory), 4, 0)
    (tmp_path / "m.pt").write_bytes(b"PK\3\4" + directory + end)
    _assert_refused_within(2, tmp_path / "m.pt", "bytes of a zip directory")


def test_tensors_that_all_read_one_storage_are_refused(tmp_path):
    """A reader that reads the whole storage for each tensor would take very long."""
    array = np.zeros(TINY.n_vocab * 100, np.float32)
    state = {
        name: checkpoints.pickle_tensor("0", array, shape=shape, stride=(1,) * len(shape))
        for name, shape in checkpoints.shapes().items()
    }
    path = checkpoints.write_pt_raw(
        tmp_path / "m.pt", checkpoints.pickle_checkpoint(state), {"0": array.tobytes()}
    )
    _assert_refused_within(2, path, r"separate storages.*clone")


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "[],"])
def test_nested_json_is_refused(text, tmp_path):
    folder = checkpoints.write_hf(tmp_path / "m", checkpoints.random_tensors())
    for name in ("config.json", "generation_config.json", "tokenizer_config.json"):
        intact = (folder / name).read_bytes() if (folder / name).exists() else b"{}"
        (folder / name).write_text(text)
        (folder / "tokenizer.json").unlink(missing_ok=True)
        if name == "tokenizer_config.json":
            (folder / "tokenizer.json").write_bytes(
                (checkpoints.tokenizer_folder() / "tokenizer.json").read_bytes()
            )
        with pytest.raises(WeightsError, match=f"{name}: expected a JSON object"):
            jaxasr.load(folder)
        (folder / name).write_bytes(intact)


def test_a_header_that_would_exhaust_the_memory_is_refused(tmp_path):
    folder = checkpoints.write_hf(tmp_path / "m", checkpoints.random_tensors())
    empty = {f"{i}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for i in range(100_000)}
    header = json.dumps(empty).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    _assert_refused_within(2, folder, "header has at most")
    variables = (
        struct.pack("<I", 6)
        + checkpoints.ct2_text("WhisperSpec")
        + struct.pack("<II", 3, 1_000_000)
    )
    (tmp_path / "model.bin").write_bytes(
        variables + b"\x01\x00\x00\x00\x04\x00\x00\x00\x00" * 1_000_000
    )
    _assert_refused_within(2, tmp_path / "model.bin", "at most 32768 variables")


def test_a_pickled_state_dict_never_runs_code(tmp_path):
    class Attack:
        def __reduce__(self):
            return os.system, (f"echo > {tmp_path / 'was-here'}",)

    folder = checkpoints.write_hf(tmp_path / "m", checkpoints.random_tensors(), pickled=True)
    for protocol in range(6):
        checkpoints.write_pt_raw(
            folder / "pytorch_model.bin", pickle.dumps({"proj_out.weight": Attack()}, protocol), {}
        )
        with pytest.raises(WeightsError, match=r"pytorch_model\.bin: expected"):
            read_checkpoint(folder)
        (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Attack(), protocol))
        with pytest.raises(WeightsError, match="zip"):
            read_checkpoint(folder)
    assert not (tmp_path / "was-here").exists()


def test_a_file_of_old_torch_names_the_remedy(tmp_path):
    (tmp_path / "m.pt").write_bytes(pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2))
    with pytest.raises(
        WeightsError,
        match=r"since 1.6, found an older format.*torch.load\(path, weights_only=True\)",
    ):
        read_checkpoint(tmp_path / "m.pt")


def test_a_compressed_member_is_refused(tmp_path):
    path = checkpoints.write_pt(tmp_path / "m.pt", checkpoints.random_tensors())
    with zipfile.ZipFile(path) as file, zipfile.ZipFile(tmp_path / "z.pt", "w") as out:
        for info in file.infolist():
            compressed = (
                zipfile.ZIP_DEFLATED if info.filename == "tiny/data/3" else zipfile.ZIP_STORED
            )
            out.writestr(info.filename, file.read(info), compressed)
    with pytest.raises(WeightsError, match="tiny/data/3 stored without compression"):
        read_checkpoint(tmp_path / "z.pt")


@pytest.mark.parametrize("limit", [1000, 20_000])
def test_a_full_disk_raises_os_error_and_leaves_no_files(limit, tmp_path, tmp_path_factory):
    folder = tmp_path_factory.mktemp("m") / "hf"
    model = assemble(read_checkpoint(checkpoints.write_hf(folder, checkpoints.random_tensors())))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    # Python ignores SIGXFSZ, so writing beyond the limit fails.
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        with pytest.raises(
            OSError, match=r"out: expected to write the weights.*File too large.*Free space"
        ):
            save(model, tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(tmp_path.iterdir()) == []
