"""Writes tiny files of `torch.save`, opcode by opcode, without torch."""

import struct
import zipfile
from pathlib import Path

import numpy as np
from tiny_tensors import TINY

from jaxasr.config import Config
from jaxasr.weights.openai import DIMENSIONS

# torch's name of the storage, per dtype.
_STORAGES = {
    "float32": "FloatStorage",
    "float16": "HalfStorage",
    "bfloat16": "BFloat16Storage",
    "float64": "DoubleStorage",
}


def pickle_text(text: str) -> bytes:
    return b"X" + struct.pack("<I", len(text.encode())) + text.encode()


def pickle_int(value: int) -> bytes:
    return b"J" + struct.pack("<i", value)


def pickle_tuple(*items: bytes) -> bytes:
    return b"(" + b"".join(items) + b"t"


def pickle_dict(items: dict[str, bytes]) -> bytes:
    return b"}(" + b"".join(pickle_text(key) + value for key, value in items.items()) + b"u"


def pickle_tensor(
    key: str,
    array: np.ndarray,
    stride: tuple | None = None,
    offset: int = 0,
    shape: tuple | None = None,
) -> bytes:
    shape = array.shape if shape is None else shape
    stride = tuple(s // array.itemsize for s in array.strides) if stride is None else stride
    kind = f"ctorch\n{_STORAGES[array.dtype.name]}\n".encode()
    storage = (
        pickle_tuple(
            pickle_text("storage"),
            kind,
            pickle_text(key),
            pickle_text("cpu"),
            pickle_int(array.size),
        )
        + b"Q"
    )
    hooks = b"ccollections\nOrderedDict\n)R"
    args = (
        storage,
        pickle_int(offset),
        pickle_tuple(*map(pickle_int, shape)),
        pickle_tuple(*map(pickle_int, stride)),
        b"\x89",
        hooks,
    )
    return b"ctorch._utils\n_rebuild_tensor_v2\n" + pickle_tuple(*args) + b"R"


def pickle_checkpoint(state: dict[str, bytes], config: Config = TINY) -> bytes:
    dims = {name: pickle_int(getattr(config, name)) for name in DIMENSIONS}
    return (
        b"\x80\x02"
        + pickle_dict({"dims": pickle_dict(dims), "model_state_dict": pickle_dict(state)})
        + b"."
    )


def write_pt_raw(path: Path, pickled: bytes, storages: dict[str, bytes]) -> Path:
    """Writes the zip of `torch.save` with any pickle and storages."""
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("tiny/data.pkl", pickled)
        for key, raw in storages.items():
            file.writestr(f"tiny/data/{key}", raw)
    return path


def write_pt(path: Path, tensors: dict[str, np.ndarray], config: Config = TINY) -> Path:
    """Writes an OpenAI checkpoint."""
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {name: pickle_tensor(str(i), array) for i, (name, array) in enumerate(tensors.items())}
    return write_pt_raw(
        path,
        pickle_checkpoint(state, config),
        {str(i): array.tobytes() for i, array in enumerate(tensors.values())},
    )


def write_state(path: Path, tensors: dict[str, np.ndarray]) -> Path:
    """Writes a state dict without a configuration, as in `pytorch_model.bin`."""
    state = {name: pickle_tensor(str(i), array) for i, (name, array) in enumerate(tensors.items())}
    return write_pt_raw(
        path,
        b"\x80\x02" + pickle_dict(state) + b".",
        {str(i): array.tobytes() for i, array in enumerate(tensors.values())},
    )
