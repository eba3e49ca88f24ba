"""Errors name all tensors that do not fit. Damaged files raise errors and run no code."""

import json
import os
import pickle
import tracemalloc
import warnings
import zipfile

import checkpoints
import numpy as np
import pytest
from checkpoints import TINY, WRITERS
from hypothesis import HealthCheck, given, settings, strategies as st

from jaxasr.weights import WeightsError, assemble, read_checkpoint
from jaxasr.weights.resolve import read_path


@pytest.mark.parametrize("form", ["huggingface", "sharded", "openai"])
def test_the_error_lists_every_tensor_that_does_not_fit(form, tmp_path):
    tensors = checkpoints.random_tensors()
    missing = ["encoder.conv1.bias", "decoder.blocks.2.cross_attn.key.weight"]
    for name in missing:
        del tensors[name]
    tensors["decoder.blocks.1.mlp.0.weight"] = np.zeros((48, 11), np.float32)
    tensors["encoder.ln_post.bias"] = np.zeros((13,), np.float32)
    tensors["decoder.blocks.3.mlp.0.bias"] = np.zeros((48,), np.float32)
    read = read_checkpoint(WRITERS[form](tmp_path / "m", tensors))
    with pytest.raises(WeightsError) as caught:
        assemble(read)
    message = str(caught.value)
    assert "missing (2)" in message
    assert all(name in message for name in missing)
    assert "left over (1): decoder.blocks.3.mlp.0.bias [48]" in message
    assert "of another shape (2)" in message
    assert "decoder.blocks.1.mlp.0.weight: expected [48, 12], found [48, 11]" in message
    assert "encoder.ln_post.bias: expected [12], found [13]" in message
    assert str(read.source) in message


def test_shapes_are_checked_before_tensors_are_read(tmp_path):
    """A configuration with sizes far above those of the file must not allocate memory."""
    folder = checkpoints.write_hf(tmp_path / "hf", checkpoints.random_tensors())
    claimed = {
        "vocab_size": 1 << 20,
        "d_model": 1 << 14,
        "encoder_attention_heads": 2,
        "encoder_layers": 200,
    }
    (folder / "config.json").write_text(json.dumps(checkpoints.hf_config() | claimed))
    tracemalloc.start()
    with pytest.raises(WeightsError, match="of another shape"):
        assemble(read_checkpoint(folder))
    assert tracemalloc.get_traced_memory()[1] < 100e6
    tracemalloc.stop()


class _Attack:
    """An object whose pickle calls `os.system`."""

    def __init__(self, command: str):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


def _attacks(command: str) -> dict[str, bytes]:
    """Returns pickles that would run a shell command if a reader executed them."""
    pickles = {
        f"protocol {p}": pickle.dumps(
            {"dims": {}, "model_state_dict": _Attack(command)}, protocol=p
        )
        for p in range(6)
    }
    text = checkpoints.pickle_text(command)
    pickles |= {
        "global": b"\x80\x02cos\nsystem\n" + checkpoints.pickle_tuple(text) + b"R.",
        "eval": b"\x80\x02cbuiltins\neval\n" + checkpoints.pickle_tuple(text) + b"R.",
        "stack global": b"\x80\x04\x8c\x05posix\x8c\x06system\x93"
        + checkpoints.pickle_tuple(text)
        + b"R.",
        "inst": b"(S'" + command.encode() + b"'\nios\nsystem\n.",
        "obj": b"(cos\nsystem\n" + text + b"o.",
        "newobj": b"\x80\x02csubprocess\nPopen\n" + checkpoints.pickle_tuple(text) + b"\x81.",
        "build": b"\x80\x02ctorch\nFloatStorage\n}"
        + checkpoints.pickle_text("__setstate__")
        + b"cos\nsystem\nsb.",
        "dotted": b"\x80\x04\x8c\x0ctorch._utils\x8c\x0cos.system...\x93"
        + checkpoints.pickle_tuple(text)
        + b"R.",
        "through torch": b"\x80\x02ctorch._utils\nos.system\n"
        + checkpoints.pickle_tuple(text)
        + b"R.",
    }
    return pickles


@pytest.mark.parametrize("attack", _attacks(""))
def test_a_pickle_never_runs_code(attack, tmp_path):
    marker = tmp_path / "was-here"
    pickled = _attacks(f"echo > {marker}")[attack]
    checkpoints.write_pt_raw(tmp_path / "evil.pt", pickled, {})
    with pytest.raises(WeightsError, match=r"evil\.pt: expected"):
        read_checkpoint(tmp_path / "evil.pt")
    assert not marker.exists()


def test_a_pickle_without_zip_is_refused_without_loading_it(tmp_path):
    marker = tmp_path / "was-here"
    (tmp_path / "old.pt").write_bytes(pickle.dumps(_Attack(f"echo > {marker}")))
    with pytest.raises(WeightsError, match="zip"):
        read_checkpoint(tmp_path / "old.pt")
    assert not marker.exists()


@pytest.mark.parametrize(
    "pickled",
    [
        b"\x80\x02}r\xff\xff\xff\xff.",  # memo index 2**32: a list of this size has 32 GB
        b"\x80\x04\x8e" + b"\xff" * 7 + b"\x7f.",  # 2**63 bytes
        b"\x80\x04\x96" + b"\x00" * 5 + b"\x10\x00\x00.",  # a bytearray of 2**44
        b"\x80\x02" + b"\x86" * 3 + b".",
        b"\x80\x02" + b"(" * 50_000 + b".",
        b"\x80\x02]" + b"]" * 50_000 + b"a" * 50_000 + b".",  # 50,000 nested lists
        b"",
        b".",
        b"\x80\x02}",
    ],
)
def test_a_pickle_that_would_exhaust_the_memory_is_refused(pickled, tmp_path):
    path = checkpoints.write_pt_raw(tmp_path / "m.pt", pickled, {})
    tracemalloc.start()
    with pytest.raises(WeightsError):
        read_checkpoint(path)
    assert tracemalloc.get_traced_memory()[1] < 50e6
    tracemalloc.stop()


def test_a_zip_bomb_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "m.pt", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("tiny/data.pkl", bytes(50_000_000))
    with pytest.raises(WeightsError, match="without compression"):
        read_checkpoint(tmp_path / "m.pt")


_CONFIG = TINY.replace(n_audio_layer=1, n_text_layer=1)
# Per case: the file that is damaged, and the function that writes the checkpoint.
_DAMAGED = {
    "huggingface": ("model.safetensors", checkpoints.write_hf),
    "configuration": ("config.json", checkpoints.write_hf),
    "generation": ("generation_config.json", checkpoints.write_hf),
    "index": (
        "model.safetensors.index.json",
        lambda folder, tensors, config: checkpoints.write_hf(folder, tensors, config, shards=2),
    ),
    "ctranslate2": ("model.bin", checkpoints.write_ct2),
    "openai": (
        "m.pt",
        lambda folder, tensors, config: (
            checkpoints.write_pt(folder / "m.pt", tensors, config).parent
        ),
    ),
}


@pytest.fixture(scope="module", params=_DAMAGED)
def file_to_damage(request, tmp_path_factory):
    """Returns a folder, the file in it that will be damaged, and the bytes of that file."""
    file, write = _DAMAGED[request.param]
    folder = write(
        tmp_path_factory.mktemp("victim") / request.param,
        checkpoints.random_tensors(_CONFIG),
        _CONFIG,
    )
    assert _can_be_read(folder)
    return folder, folder / file, (folder / file).read_bytes()


def _can_be_read(folder) -> bool:
    """Reads all tensors. Returns False if the file is refused. Fails if too much memory is used."""
    problem = None
    tracemalloc.start()
    try:
        with warnings.catch_warnings():
            # A flipped bit may name an alignment head that does not exist, which is a warning.
            warnings.simplefilter("ignore", UserWarning)
            read = read_path(folder)
        for name in read.tensors:
            assert read.tensors[name].shape == read.tensors.shape(name)
    except WeightsError as refused:
        problem = str(refused)
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 30e6, f"{peak / 1e6:.0f} MB for a file of kilobytes"
    assert problem is None or (str(folder) in problem and "expected" in problem)
    return problem is None


# Settings of hypothesis for damaged files.
_FUZZ = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@_FUZZ
@given(data=st.data())
def test_a_truncated_file_is_refused(file_to_damage, data):
    folder, file, intact = file_to_damage
    file.write_bytes(intact[: data.draw(st.integers(0, len(intact) - 1))])
    assert not _can_be_read(folder)


@_FUZZ
@given(data=st.data())
def test_a_file_with_flipped_bits_is_read_or_refused(file_to_damage, data):
    folder, file, intact = file_to_damage
    damaged = bytearray(intact)
    # Half of the flips go to the headers at either end, which are much smaller than the data.
    ends = st.one_of(
        st.integers(0, min(600, len(intact) - 1)),
        st.integers(max(len(intact) - 6000, 0), len(intact) - 1),
    )
    for at in data.draw(
        st.lists(st.one_of(ends, st.integers(0, len(intact) - 1)), min_size=1, max_size=4)
    ):
        damaged[at] ^= 1 << data.draw(st.integers(0, 7))
    file.write_bytes(damaged)
    _can_be_read(folder)


@_FUZZ
@given(data=st.data())
def test_a_damaged_pickle_with_a_valid_checksum_is_read_or_refused(tmp_path_factory, data):
    """An attacker can write a valid checksum, so the checksum is not a protection."""
    tensors = checkpoints.random_tensors(_CONFIG)
    state = {
        name: checkpoints.pickle_tensor(str(i), array)
        for i, (name, array) in enumerate(tensors.items())
    }
    pickled = bytearray(checkpoints.pickle_checkpoint(state, _CONFIG))
    for _ in range(data.draw(st.integers(1, 5))):
        pickled[data.draw(st.integers(0, len(pickled) - 1))] = data.draw(st.integers(0, 255))
    folder = tmp_path_factory.mktemp("pickle")
    checkpoints.write_pt_raw(
        folder / "m.pt",
        bytes(pickled),
        {str(i): array.tobytes() for i, array in enumerate(tensors.values())},
    )
    _can_be_read(folder)
