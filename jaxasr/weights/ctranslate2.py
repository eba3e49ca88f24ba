"""Reads a CTranslate2 folder (`model.bin`, `config.json`), the format of faster-whisper and of the packaged weights.

`model.bin` (CTranslate2 `models/model.cc`): version u32, spec name, revision u32, count u32, then for every variable its name,
rank u8, dimensions u32 each, type u8, bytes u32, data; then count u32 and pairs of names (alias, variable).
Strings are a u16 length and as many bytes, the last of them NUL.
"""

import dataclasses
import math
import re
import struct
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from jaxasr.weights import files, tokenizer_files
from jaxasr.weights.checkpoint import (
    PROJECTION,
    Checkpoint,
    Lazy,
    Tensors,
    check_features,
    known_heads,
    make_config,
    tie,
    with_positions,
)
from jaxasr.weights.errors import damaged, reading
from jaxasr.weights.files import Span

_DTYPES = (np.float32, np.int8, np.int16, np.int32, np.float16, ml_dtypes.bfloat16)
_VERSIONS = range(4, 7)  # binary format; before 4 the type was written as an item size
_CHUNK = 1 << 12  # bytes read ahead
_MAX_VARIABLES = 1 << 15  # above a model of 256 layers in each stack
_RECONVERT = "Convert the model again with a current ct2-transformers-converter, or load the Hugging Face folder."

# Settings of the graph that change its arithmetic: value in every released Whisper. The rest of the scalars only steer decoding.
_SETTINGS = {
    "decoder/activation": 3,  # exact gelu
    "decoder/pre_norm": 1,
    "decoder/alibi": 0,
    "decoder/scale_embeddings": 0,
    "decoder/start_from_zero_embedding": 0,
}

_NORM = {"gamma": "weight", "beta": "bias"}
_ATTENTION = {"self_attention": ("attn", "attn_ln"), "attention": ("cross_attn", "cross_attn_ln")}
# (module, index of its linear) -> the projections that it fuses, one under the other in the rows of its weight.
_FUSED = {
    ("self_attention", 0): ("query", "key", "value"),
    ("self_attention", 1): ("out",),
    ("attention", 0): ("query",),
    ("attention", 1): ("key", "value"),
    ("attention", 2): ("out",),
}
_WHOLE = {
    "encoder/position_encodings/encodings": "encoder.positional_embedding",
    "decoder/position_encodings/encodings": "decoder.positional_embedding",
    "decoder/embeddings/weight": "decoder.token_embedding.weight",
    "decoder/projection/weight": PROJECTION,
} | {
    f"encoder/conv{i}/{leaf}": f"encoder.conv{i}.{leaf}"
    for i in (1, 2)
    for leaf in ("weight", "bias")
}


@dataclasses.dataclass(frozen=True)
class Variable:
    """Where a variable lies in the file."""

    name: str
    shape: tuple[int, ...]
    dtype: Any
    offset: int
    nbytes: int
    span: Span

    def read(self) -> np.ndarray:
        return self.span.read(self.offset, self.nbytes).view(self.dtype).reshape(self.shape)

    def rows(self, start: int, stop: int) -> np.ndarray:
        """Rows `start` to `stop` of the first axis, and only these."""
        row = self.nbytes // self.shape[0]
        return (
            self.span.read(self.offset + start * row, (stop - start) * row)
            .view(self.dtype)
            .reshape(stop - start, *self.shape[1:])
        )


class _Reader:
    """A cursor over the headers of `model.bin`, which reads a few of them at a time."""

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
        if (
            not raw.endswith(b"\0")
            or not raw[:-1].isascii()
            or not raw[:-1].decode("ascii").isprintable()
        ):
            raise damaged(self.span, f"a name at byte {self.at - size}", repr(raw[:40]))
        return raw[:-1].decode("ascii")

    def variable(self) -> Variable:
        name = self.text()
        shape = tuple(self.number("I") for _ in range(self.number("B")))
        kind, nbytes = self.number("B"), self.number("I")
        if kind >= len(_DTYPES):
            raise damaged(self.span, f"{name}: a type id below {len(_DTYPES)}", kind)
        dtype = np.dtype(_DTYPES[kind])
        if nbytes != math.prod(shape) * dtype.itemsize or self.at + nbytes > len(self.span):
            raise damaged(
                self.span,
                f"{name}: {list(shape)} {dtype} within {len(self.span)} bytes",
                f"{nbytes} bytes at {self.at}",
            )
        self.at += nbytes
        return Variable(name, shape, dtype, self.at - nbytes, nbytes, self.span)


def read_variables(span: Span) -> dict[str, Variable]:
    """Every variable of `model.bin` by name, aliases included. Raises `WeightsError` for a damaged or foreign file."""
    reader = _Reader(span)
    version = reader.number("I")
    if version not in _VERSIONS:
        raise damaged(
            span,
            f"CTranslate2 binary version {_VERSIONS[0]} to {_VERSIONS[-1]}",
            version,
            _RECONVERT,
        )
    spec, revision = reader.text(), reader.number("I")
    if spec != "WhisperSpec" or not 1 <= revision <= 3:
        raise damaged(
            span,
            "WhisperSpec of revision 1 to 3",
            f"{spec} of revision {revision}",
            "Give a Whisper model.",
        )
    if (count := reader.number("I")) > _MAX_VARIABLES:
        raise damaged(span, f"at most {_MAX_VARIABLES} variables", count)
    found = [reader.variable() for _ in range(count)]
    variables = {variable.name: variable for variable in found}
    if len(variables) != len(found):
        raise damaged(
            span, "every variable once", f"{len(found)} variables with {len(variables)} names"
        )
    if (count := reader.number("I")) > _MAX_VARIABLES:
        raise damaged(span, f"at most {_MAX_VARIABLES} aliases", count)
    aliases = [(reader.text(), reader.text()) for _ in range(count)]
    if reader.at != len(span):
        raise damaged(span, f"the end at byte {reader.at}", len(span))
    return variables | {alias: _aliased(variables, name, span) for alias, name in aliases}


def _aliased(variables: dict[str, Variable], name: str, span: Span) -> Variable:
    if name not in variables:
        raise damaged(span, "an alias of a variable", repr(name))
    return variables[name]


def _dequantized(span: Span, name: str, values: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """CTranslate2 stores round(w * scale), with a scale for every row (int8) or for the tensor (int16)."""
    scale = (
        scale.astype(np.float32).reshape(-1, *[1] * (values.ndim - 1))
        if scale.size > 1
        else np.float32(scale.reshape(()))
    )
    if not np.all(np.isfinite(scale)) or not np.all(scale):
        raise damaged(span, f"{name}_scale: finite and non-zero", "other values")
    return values.astype(np.float32) / scale


def _piece(variable: Variable, scale: Variable | None, index: int, of: int) -> Lazy:
    """Part `index` of `of` equal parts of the first axis."""
    if variable.shape[0] % of:
        raise damaged(variable.span, f"{variable.name}: rows divisible by {of}", variable.shape[0])
    n = variable.shape[0] // of

    def read() -> np.ndarray:
        values = variable.rows(index * n, (index + 1) * n)
        if scale is None:
            return values
        scales = scale.read()
        return _dequantized(
            variable.span,
            variable.name,
            values,
            scales if scales.size == 1 else scales[index * n : (index + 1) * n],
        )

    return Lazy((n, *variable.shape[1:]), "float32" if scale else variable.dtype.name, read)


def _zero_bias(variable: Variable, piece: Lazy) -> None:
    if np.any(piece.read()):
        raise damaged(
            variable.span,
            f"{variable.name}: zeros where the key projection has no bias",
            "other values",
            _RECONVERT,
        )


def _split(name: str) -> list[str | None] | None:
    """The names that a variable of a layer holds, one under the other; None in place of a key's bias, or for an unknown name."""
    match = re.fullmatch(
        r"(encoder|decoder)/layer_(0|[1-9]\d{0,2})/(self_attention|attention|ffn)/(layer_norm|linear_(\d))/(\w+)",
        name,
    )
    if not match:
        norm = re.fullmatch(r"(encoder|decoder)/layer_norm/(gamma|beta)", name)
        final = {"encoder": "encoder.ln_post", "decoder": "decoder.ln"}
        return [f"{final[norm[1]]}.{_NORM[norm[2]]}"] if norm else None
    stack, layer, module, part, index, leaf = match.groups()
    block = f"{stack}.blocks.{layer}"
    if part == "layer_norm":
        ln = "mlp_ln" if module == "ffn" else _ATTENTION[module][1]
        return [f"{block}.{ln}.{_NORM[leaf]}"] if leaf in _NORM else None
    if leaf not in ("weight", "bias"):
        return None
    if module == "ffn":
        return [f"{block}.mlp.{2 * int(index)}.{leaf}"] if index in "01" else None
    fused = _FUSED.get((module, int(index)))
    return fused and [
        None if (p, leaf) == ("key", "bias") else f"{block}.{_ATTENTION[module][0]}.{p}.{leaf}"
        for p in fused
    ]


def _entries(variables: dict[str, Variable], span: Span) -> dict[str, Lazy]:
    entries: dict[str, Lazy] = {}
    unknown = []
    for name, variable in variables.items():
        if not variable.shape or (
            name.endswith("_scale") and name.removesuffix("_scale") in variables
        ):
            continue  # a setting, or a scale which is read with its weight
        names = [_WHOLE[name]] if name in _WHOLE else _split(name)
        if names is None:
            unknown.append(name)
            continue
        scale = _scale_of(variables, variable)
        for i, target in enumerate(names):
            piece = _piece(variable, scale, i, len(names))
            if target is None:
                _zero_bias(variable, piece)
            else:
                entries[target] = piece
    if unknown:
        raise damaged(span, "only variables of a Whisper", ", ".join(unknown), _RECONVERT)
    return entries


def _scale_of(variables: dict[str, Variable], variable: Variable) -> Variable | None:
    scale = variables.get(variable.name + "_scale")
    quantized = np.issubdtype(variable.dtype, np.integer)
    if quantized and scale is None:
        raise damaged(
            variable.span,
            f"{variable.name}_scale beside {variable.dtype} weights",
            "none",
            _RECONVERT,
        )
    if scale is not None and (
        not quantized
        or scale.dtype != np.float32
        or math.prod(scale.shape) not in (1, variable.shape[0])
    ):
        expected = f"{scale.name}: one float32 for each of {variable.shape[0]} rows of integers"
        raise damaged(
            variable.span,
            expected,
            f"{list(scale.shape)} {scale.dtype} for {variable.dtype}",
            _RECONVERT,
        )
    return scale


def _setting(variables: dict[str, Variable], name: str) -> int | None:
    variable = variables.get(name)
    if variable is None or variable.shape:
        return None
    with reading(variable.span, f"{name}: an integer"):
        return int(variable.read())


def _heads(variables: dict[str, Variable], stack: str, state: int) -> int:
    heads = _setting(variables, f"{stack}/num_heads")
    return max(state // 64, 1) if heads is None else heads  # every released Whisper has heads of 64


def _dims(variables: dict[str, Variable], span: Span) -> dict[str, int]:
    def layers(stack: str) -> int:
        return len(
            {
                n.split("/")[1]
                for n in variables
                if n.startswith(f"{stack}/layer_") and n.count("/") > 2
            }
        )

    def size(name: str, axis: int) -> int:
        variable = variables.get(name)
        if variable is None or axis >= len(variable.shape):
            raise damaged(
                span, f"the variable {name} with {axis + 1} axes or more", "none", _RECONVERT
            )
        return variable.shape[axis]

    audio, text = size("encoder/conv1/weight", 0), size("decoder/embeddings/weight", 1)
    return {
        "n_mels": size("encoder/conv1/weight", 1),
        "n_audio_ctx": size("encoder/position_encodings/encodings", 0)
        if "encoder/position_encodings/encodings" in variables
        else 1500,
        "n_audio_state": audio,
        "n_audio_head": _heads(variables, "encoder", audio),
        "n_audio_layer": layers("encoder"),
        "n_vocab": size("decoder/embeddings/weight", 0),
        "n_text_ctx": size("decoder/position_encodings/encodings", 0),
        "n_text_state": text,
        "n_text_head": _heads(variables, "decoder", text),
        "n_text_layer": layers("decoder"),
    }


def read(parts: tuple[Path, ...], folder: Path, name: str) -> Checkpoint:
    """The model in `parts` of a `model.bin`, whose `config.json` and `tokenizer.json` lie in `folder`. Raises `WeightsError`."""
    span = Span(*parts)
    variables = read_variables(span)
    for setting, value in _SETTINGS.items():
        if (found := _setting(variables, setting)) not in (None, value):
            raise damaged(span, f"{setting} = {value}", found, _RECONVERT)
    config = make_config(_dims(variables, span), span)
    entries = _entries(variables, span)
    config = config.replace(tied=tie(entries, PROJECTION))
    check_features(folder, config)
    path = folder / "config.json"
    said = files.read_json(path) if path.is_file() else {}
    return Checkpoint(
        config=config,
        tensors=Tensors(with_positions(entries, config)),
        name=name,
        source=folder,
        format="ctranslate2",
        weight_files=parts,
        tokenizer_file=tokenizer_files.find(folder),
        alignment_heads=known_heads(files.pair_list(said, "alignment_heads", path), config, path),
        suppress_ids=files.token_ids(said, "suppress_ids", path, config.n_vocab),
        suppress_ids_begin=files.token_ids(said, "suppress_ids_begin", path, config.n_vocab),
    )
