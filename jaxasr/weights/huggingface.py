"""Reads a Hugging Face folder: `config.json`, and safetensors or `pytorch_model.bin` files."""

import json
import re
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from safetensors import safe_open

from jaxasr.config import Config
from jaxasr.weights import files, tokenizer_files, torch_file
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
from jaxasr.weights.errors import WeightsError, convert_errors, file_error, short_repr

# Names of weight files and of index files, which list the weight files of a large checkpoint.
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
_PICKLED_WEIGHTS, _PICKLED_INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"
WEIGHT_FILES = (WEIGHTS, INDEX, _PICKLED_WEIGHTS, _PICKLED_INDEX)  # in order of preference
_MAX_HEADER_BYTES = 1 << 22  # of a safetensors file; large-v3 has a header of 0.2 MB
# Dtype in a safetensors header -> NumPy's name.
_DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16", "F64": "float64"}

# Field of `Config` -> key of config.json.
CONFIG_KEYS = {
    "n_mels": "num_mel_bins",
    "n_audio_ctx": "max_source_positions",
    "n_audio_state": "d_model",
    "n_audio_head": "encoder_attention_heads",
    "n_audio_layer": "encoder_layers",
    "n_vocab": "vocab_size",
    "n_text_ctx": "max_target_positions",
    "n_text_state": "d_model",
    "n_text_head": "decoder_attention_heads",
    "n_text_layer": "decoder_layers",
}
# Settings of config.json that change the arithmetic -> their only supported values.
_REQUIRED_SETTINGS = {
    "model_type": "whisper",
    "activation_function": "gelu",
    "scale_embedding": False,
}

# Names in transformers `modeling_whisper.py` -> names in openai/whisper `model.py`. They are whole
# names, names of final norms, and names of modules in a layer.
_WHOLE_NAMES = {
    "encoder.embed_positions.weight": "encoder.positional_embedding",
    "decoder.embed_positions.weight": "decoder.positional_embedding",
    "decoder.embed_tokens.weight": "decoder.token_embedding.weight",
}
_HF_PROJECTION = "proj_out.weight"
_STACK_NORMS = {"encoder.layer_norm": "encoder.ln_post", "decoder.layer_norm": "decoder.ln"}
_LAYER_MODULES = {
    "self_attn_layer_norm": "attn_ln",
    "encoder_attn_layer_norm": "cross_attn_ln",
    "final_layer_norm": "mlp_ln",
    "fc1": "mlp.0",
    "fc2": "mlp.2",
} | {
    f"{hf_module}.{projection}_proj": f"{module}.{name}"
    for hf_module, module in (("self_attn", "attn"), ("encoder_attn", "cross_attn"))
    for projection, name in (("q", "query"), ("k", "key"), ("v", "value"), ("out", "out"))
}
# The inverse of `_LAYER_MODULES`.
_HF_LAYER_MODULES = {module: hf_module for hf_module, module in _LAYER_MODULES.items()}


def to_openai(name: str) -> str:
    """Returns OpenAI's name of a tensor. Only removes the prefix `model.` of an unknown name.

    Args:
        name: name of the tensor in transformers.

    Example:
        >>> to_openai("model.decoder.layers.0.fc1.weight")
        'decoder.blocks.0.mlp.0.weight'
    """
    short_name = name.removeprefix("model.")
    if short_name in _WHOLE_NAMES:
        return _WHOLE_NAMES[short_name]
    stem, _, array_name = short_name.rpartition(".")
    if stem in _STACK_NORMS:
        return f"{_STACK_NORMS[stem]}.{array_name}"
    layer = re.fullmatch(r"(encoder|decoder)\.layers\.(0|[1-9]\d*)\.(.+)", stem)
    if layer and layer[3] in _LAYER_MODULES:
        return f"{layer[1]}.blocks.{layer[2]}.{_LAYER_MODULES[layer[3]]}.{array_name}"
    return short_name


def from_openai(name: str) -> str:
    """Returns the name of a tensor in transformers. This is the inverse of `to_openai`.

    Args:
        name: OpenAI's name of the tensor.

    Returns:
        The name, with the prefix `model.` unless the tensor is the output projection.

    Example:
        >>> from_openai("decoder.blocks.0.mlp.0.weight")
        'model.decoder.layers.0.fc1.weight'
    """
    if name == PROJECTION:
        return _HF_PROJECTION
    for hf_name, openai_name in (_WHOLE_NAMES | _STACK_NORMS).items():
        if name == openai_name or name.startswith(openai_name + "."):
            return f"model.{hf_name}{name[len(openai_name) :]}"
    layer = re.fullmatch(r"(encoder|decoder)\.blocks\.(\d+)\.(.+)\.(weight|bias)", name)
    if not layer:
        return f"model.{name}"
    return f"model.{layer[1]}.layers.{layer[2]}.{_HF_LAYER_MODULES[layer[3]]}.{layer[4]}"


def _read_config(settings: dict[str, Any], path: Path) -> Config:
    for key, value in _REQUIRED_SETTINGS.items():
        if settings.get(key, value) != value:
            found = short_repr(settings[key])
            raise file_error(path, f"{key} = {value!r}", found, "Give a Whisper checkpoint.")
    missing = sorted({key for key in CONFIG_KEYS.values() if key not in settings})
    if missing:
        found = f"none of {', '.join(missing)}"
        remedy = "Give the config.json of this checkpoint."
        raise file_error(path, "a Whisper configuration", found, remedy)
    return make_config({field: settings[key] for field, key in CONFIG_KEYS.items()}, path)


def _make_lazy_tensor(
    file: files.FileBytes, name: str, entry: dict[str, Any], data_start: int
) -> LazyTensor:
    dtype_code, shape = entry["dtype"], tuple(entry["shape"])
    if dtype_code not in _DTYPES:
        expected = f"{name} as one of {', '.join(_DTYPES)}"
        raise file_error(file, expected, dtype_code, "Convert the weights to floating point.")
    start, end = entry["data_offsets"]  # in bytes after the header

    def read() -> np.ndarray:
        dtype = jnp.dtype(_DTYPES[dtype_code])
        return file.read(data_start + start, end - start).view(dtype).reshape(shape)

    return LazyTensor(shape, _DTYPES[dtype_code], read)


def _read_tensors(path: Path) -> dict[str, LazyTensor]:
    if path.suffix == ".bin":
        return _read_pickled_tensors(path)
    # A safetensors file begins with the length of its header, a number of 8 bytes.
    file = files.FileBytes(path)
    header_bytes = int.from_bytes(file.read(offset=0, count=8).tobytes(), "little")
    if header_bytes > _MAX_HEADER_BYTES:
        expected = f"a safetensors file whose header has at most {_MAX_HEADER_BYTES} bytes"
        raise file_error(path, expected, header_bytes)
    with convert_errors(path, "a safetensors file"):
        # Checks that every tensor has the bytes of its shape, inside of the file.
        with safe_open(path, framework="numpy"):
            pass
        header = json.loads(file.read(8, header_bytes).tobytes())
        return {
            name: _make_lazy_tensor(file, name, entry, 8 + header_bytes)
            for name, entry in header.items()
            if name != "__metadata__"
        }


def _read_pickled_tensors(path: Path) -> dict[str, LazyTensor]:
    archive, state = torch_file.load(path)
    if type(state) is not dict:
        remedy = "Save it with save_pretrained."
        raise file_error(path, "a state dict of tensors", type(state).__name__, remedy)
    return torch_file.tensors(archive, state)


def _find_weights(
    folder: Path, given: Path | None
) -> tuple[tuple[Path, ...], dict[str, LazyTensor]]:
    """Returns the weight files of a folder, and their tensors under the names in the files.

    `given` is the file that the user named, or None. If it is one of several shards, all shards are
    read.
    """
    # A shard or an index stands for the whole checkpoint.
    if given is not None and not re.search(r"-\d{5}-of-\d{5}|\.json$", given.name):
        return (given,), _read_tensors(given)
    present = [folder / name for name in WEIGHT_FILES if (folder / name).is_file()]
    file = present[0] if present else folder / WEIGHTS
    return _read_shards(file) if file.suffix == ".json" else ((file,), _read_tensors(file))


def _read_shards(index: Path) -> tuple[tuple[Path, ...], dict[str, LazyTensor]]:
    file_of = files.read_json(index).get("weight_map")
    # The name of a shard must not be a path, so that no file outside of the folder is read.
    if (
        not isinstance(file_of, dict)
        or not file_of
        or not all(isinstance(f, str) and Path(f).name == f for f in file_of.values())
    ):
        expected = "a weight_map of tensor names to files of this folder"
        raise file_error(index, expected, short_repr(file_of))
    paths = tuple(index.parent / shard for shard in sorted(set(file_of.values())))
    absent = [path.name for path in paths if not path.is_file()]
    if absent:
        found = f"none of {', '.join(absent)}"
        raise file_error(index, f"{len(paths)} files", found, "Fetch the missing files.")
    shards = {path.name: _read_tensors(path) for path in paths}
    # The index and the shards must name the same tensors in the same files.
    missing = sorted({name for name, file in file_of.items() if name not in shards[file]})
    misplaced = sorted(
        f"{name} ({file})"
        for file, tensors in shards.items()
        for name in tensors
        if file_of.get(name) != file
    )
    if missing or misplaced:
        expected = "every tensor in the file that the index names"
        raise file_error(index, expected, f"otherwise for {', '.join(missing + misplaced)}")
    return paths, {name: entry for shard in shards.values() for name, entry in shard.items()}


def _rename_tensors(tensors: dict[str, LazyTensor], path: Path) -> dict[str, LazyTensor]:
    entries = {to_openai(name): entry for name, entry in tensors.items()}
    if len(entries) != len(tensors):
        found = f"{len(tensors)} tensors with {len(entries)} names"
        raise file_error(path, "every tensor once", found)
    return entries


def read(folder: Path, name: str, given: Path | None = None) -> Checkpoint:
    """Reads a checkpoint of the transformers library.

    Args:
        folder: folder of `config.json` and the weights.
        name: name of the checkpoint, such as "tiny.en".
        given: the weight file in `folder` to read. None: the first of `WEIGHT_FILES` that exists.

    Raises:
        WeightsError: a file is missing or damaged, or the model is not a Whisper.

    Example:
        ```python
        from jaxasr.weights import huggingface

        folder = jaxasr.save(asr, "copy-of-tiny.en")
        huggingface.read(folder, "tiny.en").config.n_text_layer  # 4
        ```
    """
    path = folder / "config.json"
    if not path.is_file():
        raise WeightsError(
            f"{path}: expected the configuration of the weights, found none. "
            "Fetch it from the same place."
        )
    settings = files.read_json(path)
    config = _read_config(settings, path)
    weight_files, tensors = _find_weights(folder, given)
    entries = _rename_tensors(tensors, weight_files[0])
    # The configuration may ask for a projection that the file lacks. `assemble` reports this error.
    untied = settings.get("tie_word_embeddings") is False and _HF_PROJECTION not in entries
    config = config.replace(tied=tie_projection(entries, _HF_PROJECTION) and not untied)
    check_features(folder, config)
    generation = folder / "generation_config.json"
    if generation.is_file():
        settings = settings | files.read_json(generation)
    heads = files.layer_head_pairs(settings, "alignment_heads", generation)

    def ids(key: str) -> tuple[int, ...] | None:
        return files.token_ids(settings, key, generation, config.n_vocab)

    return Checkpoint(
        config=config,
        tensors=Tensors(with_positions(entries, config)),
        name=name,
        source=folder,
        format="huggingface",
        weight_files=weight_files,
        tokenizer_file=tokenizer_files.find(folder),
        alignment_heads=existing_heads(heads, config, generation),
        suppress_ids=ids("suppress_tokens"),
        suppress_ids_begin=ids("begin_suppress_tokens"),
    )
