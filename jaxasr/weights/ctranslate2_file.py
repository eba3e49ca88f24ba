"""Reads the binary format of CTranslate2's `model.bin`.

The file holds, in this order (u32 is an unsigned integer of 32 bits):

* version u32, class of the model (a string), revision u32
* number of variables u32; per variable: name, rank u8, dimensions u32, type u8, bytes u32, data
* number of aliases u32; per alias: the alias, the name of the variable

A string is its length as u16, followed by its bytes. The last byte is NUL.

Source: CTranslate2 `models/model.cc`.
"""

import dataclasses
import math
import struct
from typing import Any

import ml_dtypes
import numpy as np

from jaxasr.weights.errors import file_error
from jaxasr.weights.files import FileBytes

# Dtype of a variable by its type id.
_DTYPES = (np.float32, np.int8, np.int16, np.int32, np.float16, ml_dtypes.bfloat16)
_VERSIONS = range(4, 7)  # supported versions of the format; earlier versions store no types
_CHUNK_BYTES = 1 << 12  # bytes read at a time, because a header has only a few bytes
_MAX_VARIABLES = 1 << 15  # even 256 layers in each stack have fewer variables
# Remedy for a file that another version of CTranslate2 wrote.
RECONVERT = (
    "Convert the model again with a current ct2-transformers-converter, or load the Hugging Face "
    "folder."
)


@dataclasses.dataclass(frozen=True)
class Variable:
    """A variable of the model and its place in the file.

    Attributes:
        name: CTranslate2's name.
        shape: shape of the array.
        dtype: NumPy dtype of the array.
        offset: position of the array's first byte in the file.
        nbytes: number of bytes of the array.
        file_bytes: bytes of the file.
    """

    name: str
    shape: tuple[int, ...]
    dtype: Any
    offset: int
    nbytes: int
    file_bytes: FileBytes

    def read(self) -> np.ndarray:
        """Reads the whole array."""
        return self.file_bytes.read(self.offset, self.nbytes).view(self.dtype).reshape(self.shape)

    def rows(self, start: int, stop: int) -> np.ndarray:
        """Reads only rows `start` to `stop` of the first axis."""
        row_bytes = self.nbytes // self.shape[0]
        raw = self.file_bytes.read(self.offset + start * row_bytes, (stop - start) * row_bytes)
        return raw.view(self.dtype).reshape(stop - start, *self.shape[1:])


class _HeaderReader:
    """Reads the headers of variables in order, and skips their data.

    Attributes:
        file_bytes: bytes of the file.
        position: byte at which the next value starts.
        chunk_start: byte at which `chunk` starts.
        chunk: bytes read from the file at once, for the next values.
    """

    def __init__(self, file_bytes: FileBytes):
        self.file_bytes, self.position = file_bytes, 0
        self.chunk_start, self.chunk = 0, b""

    def read_bytes(self, size: int) -> bytes:
        start, stop = self.position, self.position + size
        if start < self.chunk_start or stop > self.chunk_start + len(self.chunk):
            count = max(size, min(_CHUNK_BYTES, len(self.file_bytes) - start))
            self.chunk = self.file_bytes.read(start, count).tobytes()
            self.chunk_start = start
        self.position = stop
        return self.chunk[start - self.chunk_start : stop - self.chunk_start]

    def read_number(self, code: str) -> int:
        # `code` is a format of `struct`: B, H and I are unsigned integers of 8, 16 and 32 bits.
        return struct.unpack("<" + code, self.read_bytes(struct.calcsize("<" + code)))[0]

    def read_text(self) -> str:
        size = self.read_number("H")
        raw = self.read_bytes(size)
        text = raw[:-1].decode("latin-1")
        if not raw.endswith(b"\0") or not text.isascii() or not text.isprintable():
            raise file_error(
                self.file_bytes, f"a name at byte {self.position - size}", repr(raw[:40])
            )
        return text

    def read_variable(self) -> Variable:
        name = self.read_text()
        shape = tuple(self.read_number("I") for _ in range(self.read_number("B")))
        type_id, nbytes = self.read_number("B"), self.read_number("I")
        if type_id >= len(_DTYPES):
            raise file_error(self.file_bytes, f"{name}: a type id below {len(_DTYPES)}", type_id)
        dtype = np.dtype(_DTYPES[type_id])
        file_size = len(self.file_bytes)
        if nbytes != math.prod(shape) * dtype.itemsize or self.position + nbytes > file_size:
            expected = f"{name}: {list(shape)} {dtype} within {file_size} bytes"
            found = f"{nbytes} bytes at {self.position}"
            raise file_error(self.file_bytes, expected, found)
        self.position += nbytes  # skips the data
        return Variable(name, shape, dtype, self.position - nbytes, nbytes, self.file_bytes)

    def read_count(self, plural: str) -> int:
        count = self.read_number("I")
        if count > _MAX_VARIABLES:
            raise file_error(self.file_bytes, f"at most {_MAX_VARIABLES} {plural}", count)
        return count


def read_variables(file_bytes: FileBytes) -> dict[str, Variable]:
    """Reads the headers of all variables.

    Args:
        file_bytes: bytes of the file.

    Returns:
        Variables by name and by alias.

    Raises:
        WeightsError: the file is damaged or is not a Whisper model of CTranslate2.

    Example:
        ```python
        from jaxasr.weights import packaged
        from jaxasr.weights.ctranslate2_file import read_variables
        from jaxasr.weights.files import FileBytes

        variables = read_variables(FileBytes(packaged.locate("tiny.en")[0]))
        variables["encoder/conv1/weight"].shape  # (384, 80, 3)
        ```
    """
    reader = _HeaderReader(file_bytes)
    version = reader.read_number("I")
    if version not in _VERSIONS:
        expected = f"CTranslate2 binary version {_VERSIONS[0]} to {_VERSIONS[-1]}"
        raise file_error(file_bytes, expected, version, RECONVERT)
    spec, revision = reader.read_text(), reader.read_number("I")
    if spec != "WhisperSpec" or not 1 <= revision <= 3:
        expected = "WhisperSpec of revision 1 to 3"
        raise file_error(
            file_bytes, expected, f"{spec} of revision {revision}", "Give a Whisper model."
        )
    listed = [reader.read_variable() for _ in range(reader.read_count("variables"))]
    variables = {variable.name: variable for variable in listed}
    if len(variables) != len(listed):
        found = f"{len(listed)} variables with {len(variables)} names"
        raise file_error(file_bytes, "every variable once", found)
    aliases = [
        (reader.read_text(), reader.read_text()) for _ in range(reader.read_count("aliases"))
    ]
    if reader.position != len(file_bytes):
        raise file_error(file_bytes, f"the end at byte {reader.position}", len(file_bytes))
    absent = [name for _, name in aliases if name not in variables]
    if absent:
        raise file_error(file_bytes, "an alias of a variable", repr(absent[0]))
    return variables | {alias: variables[name] for alias, name in aliases}
