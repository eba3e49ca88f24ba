"""Reads the binary format of CTranslate2's `model.bin`.

The file (CTranslate2 `models/model.cc`) holds: version u32, spec name, revision u32, count u32; for
each variable its name, rank u8, dimensions u32 each, type u8, bytes u32, and data; then count u32
and pairs of names (alias, variable). A string is a u16 length and as many bytes, the last one NUL.
"""

import dataclasses
import math
import struct
from typing import Any

import ml_dtypes
import numpy as np

from jaxasr.weights.errors import file_error
from jaxasr.weights.files import Span

_DTYPES = (np.float32, np.int8, np.int16, np.int32, np.float16, ml_dtypes.bfloat16)
_VERSIONS = range(4, 7)  # of the binary format; earlier ones store an item size, not a type
_CHUNK = 1 << 12  # bytes read ahead
_MAX_VARIABLES = 1 << 15  # above a model of 256 layers in each stack
RECONVERT = (
    "Convert the model again with a current ct2-transformers-converter, or load the Hugging Face "
    "folder."
)


@dataclasses.dataclass(frozen=True)
class Variable:
    """A variable and its place in the file.

    Attributes:
        name: CTranslate2's name.
        shape: shape of the array.
        dtype: NumPy type of the array.
        offset: first byte in the file.
        nbytes: number of bytes.
        span: the file.
    """

    name: str
    shape: tuple[int, ...]
    dtype: Any
    offset: int
    nbytes: int
    span: Span

    def read(self) -> np.ndarray:
        """Reads the whole array."""
        return self.span.read(self.offset, self.nbytes).view(self.dtype).reshape(self.shape)

    def rows(self, start: int, stop: int) -> np.ndarray:
        """Reads only rows `start` to `stop` of the first axis."""
        row = self.nbytes // self.shape[0]
        raw = self.span.read(self.offset + start * row, (stop - start) * row)
        return raw.view(self.dtype).reshape(stop - start, *self.shape[1:])


class _Reader:
    """A cursor over the headers of the file, which reads small chunks ahead."""

    def __init__(self, span: Span):
        self.span, self.at = span, 0
        self.start, self.chunk = 0, b""

    def take(self, size: int) -> bytes:
        if not self.start <= self.at <= self.at + size <= self.start + len(self.chunk):
            count = max(size, min(_CHUNK, len(self.span) - self.at))
            self.start, self.chunk = self.at, self.span.read(self.at, count).tobytes()
        self.at += size
        return self.chunk[self.at - size - self.start : self.at - self.start]

    def number(self, code: str) -> int:
        return struct.unpack("<" + code, self.take(struct.calcsize("<" + code)))[0]

    def text(self) -> str:
        size = self.number("H")
        raw = self.take(size)
        text = raw[:-1].decode("latin-1")
        if not raw.endswith(b"\0") or not text.isascii() or not text.isprintable():
            raise file_error(self.span, f"a name at byte {self.at - size}", repr(raw[:40]))
        return text

    def variable(self) -> Variable:
        name = self.text()
        shape = tuple(self.number("I") for _ in range(self.number("B")))
        kind, nbytes = self.number("B"), self.number("I")
        if kind >= len(_DTYPES):
            raise file_error(self.span, f"{name}: a type id below {len(_DTYPES)}", kind)
        dtype = np.dtype(_DTYPES[kind])
        if nbytes != math.prod(shape) * dtype.itemsize or self.at + nbytes > len(self.span):
            raise file_error(
                self.span,
                f"{name}: {list(shape)} {dtype} within {len(self.span)} bytes",
                f"{nbytes} bytes at {self.at}",
            )
        self.at += nbytes
        return Variable(name, shape, dtype, self.at - nbytes, nbytes, self.span)

    def count(self, kind: str) -> int:
        count = self.number("I")
        if count > _MAX_VARIABLES:
            raise file_error(self.span, f"at most {_MAX_VARIABLES} {kind}", count)
        return count


def read_variables(span: Span) -> dict[str, Variable]:
    """Reads the headers of all variables.

    Args:
        span: the file, or its parts.

    Returns:
        Variables by name, aliases included.

    Raises:
        WeightsError: the file is damaged or is not a Whisper model of CTranslate2.
    """
    reader = _Reader(span)
    version = reader.number("I")
    if version not in _VERSIONS:
        expected = f"CTranslate2 binary version {_VERSIONS[0]} to {_VERSIONS[-1]}"
        raise file_error(span, expected, version, RECONVERT)
    spec, revision = reader.text(), reader.number("I")
    if spec != "WhisperSpec" or not 1 <= revision <= 3:
        expected = "WhisperSpec of revision 1 to 3"
        raise file_error(span, expected, f"{spec} of revision {revision}", "Give a Whisper model.")
    listed = [reader.variable() for _ in range(reader.count("variables"))]
    variables = {variable.name: variable for variable in listed}
    if len(variables) != len(listed):
        found = f"{len(listed)} variables with {len(variables)} names"
        raise file_error(span, "every variable once", found)
    aliases = [(reader.text(), reader.text()) for _ in range(reader.count("aliases"))]
    if reader.at != len(span):
        raise file_error(span, f"the end at byte {reader.at}", len(span))
    absent = [name for _, name in aliases if name not in variables]
    if absent:
        raise file_error(span, "an alias of a variable", repr(absent[0]))
    return variables | {alias: variables[name] for alias, name in aliases}
