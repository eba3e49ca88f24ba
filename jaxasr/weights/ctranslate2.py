"""Reads a CTranslate2 folder, the format of faster-whisper and of the packaged weights.

`ctranslate2_file` reads the variables of `model.bin`. This module turns them into tensors under
OpenAI's names. It splits variables that concatenate several tensors, and dequantizes integers.
"""

import math
import re
from pathlib import Path

import numpy as np

from jaxasr.weights import files, tokenizer_files
from jaxasr.weights.checkpoint import (
    PROJECTION,
    Checkpoint,
    LazyTensor,
    Tensors,
    check_features,
    existing_heads,
    make_config,
    tie_projection,
    with_positions,
)
from jaxasr.weights.ctranslate2_file import RECONVERT, Variable, read_variables
from jaxasr.weights.errors import convert_errors, file_error
from jaxasr.weights.files import FileBytes

# Settings that change the arithmetic -> their values in every released Whisper. All other settings
# affect only decoding.
_REQUIRED_SETTINGS = {
    "decoder/activation": 3,  # CTranslate2's number of the exact GELU
    "decoder/pre_norm": 1,
    "decoder/alibi": 0,
    "decoder/scale_embeddings": 0,
    "decoder/start_from_zero_embedding": 0,
}
_ENCODER_POSITIONS = "encoder/position_encodings/encodings"

# CTranslate2's name of an array of a norm -> OpenAI's name.
_NORM_PARAMETERS = {"gamma": "weight", "beta": "bias"}
# Stack -> OpenAI's name of its final norm.
_FINAL_NORM = {"encoder": "encoder.ln_post", "decoder": "decoder.ln"}
# CTranslate2's name of an attention -> OpenAI's names of the attention and of its norm.
_ATTENTION_MODULES = {
    "self_attention": ("attn", "attn_ln"),
    "attention": ("cross_attn", "cross_attn_ln"),
}
# (module, index of a linear layer in it) -> the projections whose rows the layer concatenates.
_CONCATENATED_PROJECTIONS = {
    ("self_attention", 0): ("query", "key", "value"),
    ("self_attention", 1): ("out",),
    ("attention", 0): ("query",),
    ("attention", 1): ("key", "value"),
    ("attention", 2): ("out",),
}
# CTranslate2's name of a variable outside of the layers -> OpenAI's name.
_WHOLE_NAMES = {
    _ENCODER_POSITIONS: "encoder.positional_embedding",
    "decoder/position_encodings/encodings": "decoder.positional_embedding",
    "decoder/embeddings/weight": "decoder.token_embedding.weight",
    "decoder/projection/weight": PROJECTION,
} | {
    f"encoder/conv{i}/{array_name}": f"encoder.conv{i}.{array_name}"
    for i in (1, 2)
    for array_name in ("weight", "bias")
}
# Name of a variable in a layer: stack, layer, module, norm or linear layer with its index, array.
_LAYER_VARIABLE = re.compile(
    r"(encoder|decoder)/layer_(0|[1-9]\d{0,2})/(self_attention|attention|ffn)"
    r"/(layer_norm|linear_(\d))/(\w+)"
)


def _dequantize(variable: Variable, values: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Inverts round(weight * scale), with one scale per row (int8) or per tensor (int16)."""
    # A scale per row gets axes of size 1, so that it divides all values of its row.
    shape = (-1, *[1] * (values.ndim - 1)) if scale.size > 1 else ()
    scale = scale.astype(np.float32).reshape(shape)
    if not np.all(np.isfinite(scale)) or not np.all(scale):
        expected = f"{variable.name}_scale: finite and non-zero"
        raise file_error(variable.file_bytes, expected, "other values")
    return values.astype(np.float32) / scale


def _select_row_block(
    variable: Variable, scale: Variable | None, index: int, n_parts: int
) -> LazyTensor:
    """Returns one block of rows of a variable that consists of `n_parts` equal blocks."""
    if variable.shape[0] % n_parts:
        expected = f"{variable.name}: rows divisible by {n_parts}"
        raise file_error(variable.file_bytes, expected, variable.shape[0])
    n_rows = variable.shape[0] // n_parts
    first, last = index * n_rows, (index + 1) * n_rows

    def read() -> np.ndarray:
        values = variable.rows(first, last)
        if scale is None:
            return values
        scales = scale.read()
        return _dequantize(variable, values, scales if scales.size == 1 else scales[first:last])

    dtype = "float32" if scale else variable.dtype.name
    return LazyTensor((n_rows, *variable.shape[1:]), dtype, read)


def _check_zero_bias(variable: Variable, part: LazyTensor) -> None:
    # CTranslate2 concatenates the biases of key and value. Whisper's key has no bias, so the
    # part of the key in the variable must be zero.
    if np.any(part.read()):
        expected = f"{variable.name}: zeros where the key projection has no bias"
        raise file_error(variable.file_bytes, expected, "other values", RECONVERT)


def _find_openai_names(name: str) -> list[str | None] | None:
    """Returns OpenAI's names of the tensors in a variable, or None for an unknown variable.

    In the list, None stands for the bias of a key projection. Whisper does not have this bias.
    """
    if name in _WHOLE_NAMES:
        return [_WHOLE_NAMES[name]]
    norm = re.fullmatch(r"(encoder|decoder)/layer_norm/(gamma|beta)", name)
    if norm:
        return [f"{_FINAL_NORM[norm[1]]}.{_NORM_PARAMETERS[norm[2]]}"]
    match = _LAYER_VARIABLE.fullmatch(name)
    if not match:
        return None
    stack, layer, module, part, index, array_name = match.groups()
    block = f"{stack}.blocks.{layer}"
    if part == "layer_norm":
        ln = "mlp_ln" if module == "ffn" else _ATTENTION_MODULES[module][1]
        return (
            [f"{block}.{ln}.{_NORM_PARAMETERS[array_name]}"]
            if array_name in _NORM_PARAMETERS
            else None
        )
    if array_name not in ("weight", "bias"):
        return None
    if module == "ffn":
        # OpenAI's mlp.1 is the activation, so the two linear layers are mlp.0 and mlp.2.
        return [f"{block}.mlp.{2 * int(index)}.{array_name}"] if index in "01" else None
    projections = _CONCATENATED_PROJECTIONS.get((module, int(index)))
    return projections and [
        None
        if (projection, array_name) == ("key", "bias")
        else f"{block}.{_ATTENTION_MODULES[module][0]}.{projection}.{array_name}"
        for projection in projections
    ]


def _rename_tensors(variables: dict[str, Variable], file_bytes: FileBytes) -> dict[str, LazyTensor]:
    """Returns all tensors under OpenAI's names."""
    tensors: dict[str, LazyTensor] = {}
    unknown = []
    for name, variable in variables.items():
        is_scale = name.endswith("_scale") and name.removesuffix("_scale") in variables
        if not variable.shape or is_scale:
            continue  # a variable without axes is a setting, and a scale is read with its weight
        targets = _find_openai_names(name)
        if targets is None:
            unknown.append(name)
            continue
        scale = _find_scale(variables, variable)
        for i, target in enumerate(targets):
            part = _select_row_block(variable, scale, index=i, n_parts=len(targets))
            if target is None:
                _check_zero_bias(variable, part)
            else:
                tensors[target] = part
    if unknown:
        raise file_error(file_bytes, "only variables of a Whisper", ", ".join(unknown), RECONVERT)
    return tensors


def _find_scale(variables: dict[str, Variable], variable: Variable) -> Variable | None:
    """Returns the scale of a quantized variable, or None for floating-point weights."""
    scale = variables.get(variable.name + "_scale")
    quantized = np.issubdtype(variable.dtype, np.integer)
    if scale is None:
        if quantized:
            expected = f"{variable.name}_scale for {variable.dtype} weights"
            raise file_error(variable.file_bytes, expected, "none", RECONVERT)
        return None
    fits = math.prod(scale.shape) in (1, variable.shape[0])
    if not quantized or scale.dtype != np.float32 or not fits:
        expected = f"{scale.name}: one float32 for each of {variable.shape[0]} rows of integers"
        found = f"{list(scale.shape)} {scale.dtype} for {variable.dtype}"
        raise file_error(variable.file_bytes, expected, found, RECONVERT)
    return scale


def _read_setting(variables: dict[str, Variable], name: str) -> int | None:
    variable = variables.get(name)
    if variable is None or variable.shape:
        return None
    with convert_errors(variable.file_bytes, f"{name}: an integer"):
        return int(variable.read())


def _count_heads(variables: dict[str, Variable], stack: str, width: int) -> int:
    # Only older files lack this setting. They hold released models, whose heads have width 64.
    heads = _read_setting(variables, f"{stack}/num_heads")
    return max(width // 64, 1) if heads is None else heads


def _count_layers(variables: dict[str, Variable], stack: str) -> int:
    prefix = f"{stack}/layer_"
    names = [name for name in variables if name.startswith(prefix) and name.count("/") > 2]
    return len({name.split("/")[1] for name in names})


def _read_dimensions(variables: dict[str, Variable], file_bytes: FileBytes) -> dict[str, int]:
    """Returns the dimensions of the model, from the shapes of variables and from settings."""

    def size(name: str, axis: int) -> int:
        variable = variables.get(name)
        if variable is None or axis >= len(variable.shape):
            expected = f"the variable {name} with {axis + 1} axes or more"
            raise file_error(file_bytes, expected, "none", RECONVERT)
        return variable.shape[axis]

    audio_width = size("encoder/conv1/weight", axis=0)
    text_width = size("decoder/embeddings/weight", axis=1)
    return {
        "n_mels": size("encoder/conv1/weight", axis=1),
        # A file without positions holds a released model, which encodes 30 s in 1,500 frames.
        "n_audio_ctx": size(_ENCODER_POSITIONS, axis=0)
        if _ENCODER_POSITIONS in variables
        else 1500,
        "n_audio_state": audio_width,
        "n_audio_head": _count_heads(variables, "encoder", audio_width),
        "n_audio_layer": _count_layers(variables, "encoder"),
        "n_vocab": size("decoder/embeddings/weight", axis=0),
        "n_text_ctx": size("decoder/position_encodings/encodings", axis=0),
        "n_text_state": text_width,
        "n_text_head": _count_heads(variables, "decoder", text_width),
        "n_text_layer": _count_layers(variables, "decoder"),
    }


def read(parts: tuple[Path, ...], folder: Path, name: str) -> Checkpoint:
    """Reads a CTranslate2 model.

    Args:
        parts: `model.bin`, or the files into which it is split, in order.
        folder: folder of `config.json` and `tokenizer.json`.
        name: name of the checkpoint, such as "tiny.en".

    Raises:
        WeightsError: a file is damaged or is not a Whisper model.

    Example:
        ```python
        from jaxasr.weights import ctranslate2, packaged

        model_bin = packaged.locate("tiny.en")[0]
        ctranslate2.read((model_bin,), model_bin.parent, "tiny.en").config.n_text_layer  # 4
        ```
    """
    file_bytes = FileBytes(*parts)
    variables = read_variables(file_bytes)
    for setting, expected in _REQUIRED_SETTINGS.items():
        value = _read_setting(variables, setting)
        if value not in (None, expected):
            raise file_error(file_bytes, f"{setting} = {expected}", value, RECONVERT)
    config = make_config(_read_dimensions(variables, file_bytes), file_bytes)
    tensors = _rename_tensors(variables, file_bytes)
    config = config.replace(tied=tie_projection(tensors, PROJECTION))
    check_features(folder, config)
    path = folder / "config.json"
    settings = files.read_json(path) if path.is_file() else {}
    heads = files.layer_head_pairs(settings, "alignment_heads", path)
    return Checkpoint(
        config=config,
        tensors=Tensors(with_positions(tensors, config)),
        name=name,
        source=folder,
        format="ctranslate2",
        weight_files=parts,
        tokenizer_file=tokenizer_files.find(folder),
        alignment_heads=existing_heads(heads, config, path),
        suppress_ids=files.token_ids(settings, "suppress_ids", path, config.n_vocab),
        suppress_ids_begin=files.token_ids(settings, "suppress_ids_begin", path, config.n_vocab),
    )
