"""Reads a Hugging Face folder: `config.json` and `model.safetensors` or `pytorch_model.bin`, or shards with an index."""

import re
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open

from jaxasr.config import Config
from jaxasr.weights import files, tokenizer_files, torch_file
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
from jaxasr.weights.errors import WeightsError, damaged, reading, shown

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
_PICKLED, _PICKLED_INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"
WEIGHT_FILES = (WEIGHTS, INDEX, _PICKLED, _PICKLED_INDEX)  # the first of them that is there is read
_MAX_HEADER = 1 << 22  # bytes of names and shapes in a safetensors file: large-v3 has 0.2 MB
_DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16", "F64": "float64"}

# Config field -> key of config.json
FIELDS = {
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
# What changes the arithmetic, and its only supported value.
_SETTINGS = {"model_type": "whisper", "activation_function": "gelu", "scale_embedding": False}

# transformers `modeling_whisper.py` -> openai/whisper `model.py`
_STEMS = {
    "encoder.embed_positions.weight": "encoder.positional_embedding",
    "decoder.embed_positions.weight": "decoder.positional_embedding",
    "decoder.embed_tokens.weight": "decoder.token_embedding.weight",
}
_OUTPUT = "proj_out.weight"
_STACK_NORMS = {"encoder.layer_norm": "encoder.ln_post", "decoder.layer_norm": "decoder.ln"}
_PARTS = {
    "self_attn_layer_norm": "attn_ln",
    "encoder_attn_layer_norm": "cross_attn_ln",
    "final_layer_norm": "mlp_ln",
    "fc1": "mlp.0",
    "fc2": "mlp.2",
} | {
    f"{theirs}.{projection}_proj": f"{ours}.{name}"
    for theirs, ours in (("self_attn", "attn"), ("encoder_attn", "cross_attn"))
    for projection, name in (("q", "query"), ("k", "key"), ("v", "value"), ("out", "out"))
}
_OPENAI_PARTS = {ours: theirs for theirs, ours in _PARTS.items()}


def to_openai(name: str) -> str:
    """OpenAI's name of a tensor; a name that is no Whisper's stays as it is."""
    bare = name.removeprefix("model.")
    if bare in _STEMS:
        return _STEMS[bare]
    stem, _, leaf = bare.rpartition(".")
    if stem in _STACK_NORMS:
        return f"{_STACK_NORMS[stem]}.{leaf}"
    layer = re.fullmatch(r"(encoder|decoder)\.layers\.(0|[1-9]\d*)\.(.+)", stem)
    if layer and layer[3] in _PARTS:
        return f"{layer[1]}.blocks.{layer[2]}.{_PARTS[layer[3]]}.{leaf}"
    return bare


def from_openai(name: str) -> str:
    """The inverse of `to_openai`, with the prefix `model.`, which the output projection has not."""
    if name == PROJECTION:
        return _OUTPUT
    for theirs, ours in (_STEMS | _STACK_NORMS).items():
        if name == ours or name.startswith(ours + "."):
            return f"model.{theirs}{name[len(ours) :]}"
    layer = re.fullmatch(r"(encoder|decoder)\.blocks\.(\d+)\.(.+)\.(weight|bias)", name)
    return (
        f"model.{layer[1]}.layers.{layer[2]}.{_OPENAI_PARTS[layer[3]]}.{layer[4]}"
        if layer
        else f"model.{name}"
    )


def _config(said: dict[str, Any], path: Path) -> Config:
    for key, value in _SETTINGS.items():
        if said.get(key, value) != value:
            raise damaged(
                path, f"{key} = {value!r}", shown(said[key]), "Give a Whisper checkpoint."
            )
    missing = sorted({key for key in FIELDS.values() if key not in said})
    if missing:
        raise damaged(
            path,
            "a Whisper configuration",
            f"none of {', '.join(missing)}",
            "Give the checkpoint's own config.json.",
        )
    return make_config({field: said[key] for field, key in FIELDS.items()}, path)


def _entry(path: Path, name: str, shape: tuple[int, ...], kind: str) -> Lazy:
    if kind not in _DTYPES:
        raise damaged(
            path,
            f"{name} as one of {', '.join(_DTYPES)}",
            kind,
            "Convert the weights to floating point.",
        )

    def read() -> np.ndarray:
        # Opened for one tensor at a time: pages of the file would else stay resident beside the model.
        with reading(path, "a safetensors file"), safe_open(path, framework="numpy") as file:
            return file.get_tensor(name)

    return Lazy(shape, _DTYPES[kind], read)


def _tensors(path: Path) -> dict[str, Lazy]:
    if path.suffix == ".bin":
        return _pickled(path)
    header = int.from_bytes(files.Span(path).read(0, 8).tobytes(), "little")
    if header > _MAX_HEADER:
        raise damaged(
            path, f"a safetensors file whose header has at most {_MAX_HEADER} bytes", header
        )
    with reading(path, "a safetensors file"), safe_open(path, framework="numpy") as file:
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        return {
            name: _entry(path, name, tuple(s.get_shape()), s.get_dtype())
            for name, s in slices.items()
        }


def _pickled(path: Path) -> dict[str, Lazy]:
    archive, state = torch_file.load(path)
    if type(state) is not dict:
        raise damaged(
            path, "a state dict of tensors", type(state).__name__, "Save it with save_pretrained."
        )
    return torch_file.tensors(archive, state)


def _weights(folder: Path, named: Path | None) -> tuple[tuple[Path, ...], dict[str, Lazy]]:
    """The files of the folder and all their tensors, under their own names.

    `named` is the file that the user gave, if it was one; a shard stands for all of them.
    """
    if named is not None and not re.search(r"-\d{5}-of-\d{5}|\.json$", named.name):
        return (named,), _tensors(named)
    first = next(
        (folder / name for name in WEIGHT_FILES if (folder / name).is_file()), folder / WEIGHTS
    )
    return _shards(first) if first.suffix == ".json" else ((first,), _tensors(first))


def _shards(index: Path) -> tuple[tuple[Path, ...], dict[str, Lazy]]:
    placed = files.read_json(index).get("weight_map")
    if (
        not isinstance(placed, dict)
        or not placed
        or not all(isinstance(f, str) and Path(f).name == f for f in placed.values())
    ):
        raise damaged(index, "a weight_map of tensor names to files of this folder", shown(placed))
    paths = tuple(index.parent / shard for shard in sorted(set(placed.values())))
    absent = [path.name for path in paths if not path.is_file()]
    if absent:
        raise damaged(
            index, f"{len(paths)} files", f"none of {', '.join(absent)}", "Fetch the missing files."
        )
    shards = {path.name: _tensors(path) for path in paths}
    wrong = sorted({name for name, file in placed.items() if name not in shards[file]})
    wrong += sorted(
        {
            f"{name} ({file})"
            for file, held in shards.items()
            for name in held
            if placed.get(name) != file
        }
    )
    if wrong:
        raise damaged(
            index,
            "every tensor in the file that the index names",
            f"otherwise for {', '.join(wrong)}",
        )
    return paths, {name: entry for shard in shards.values() for name, entry in shard.items()}


def _renamed(held: dict[str, Lazy], path: Path) -> dict[str, Lazy]:
    entries = {to_openai(name): entry for name, entry in held.items()}
    if len(entries) != len(held):
        raise damaged(path, "every tensor once", f"{len(held)} tensors with {len(entries)} names")
    return entries


def read(folder: Path, name: str, named: Path | None = None) -> Checkpoint:
    """The checkpoint in a Hugging Face folder; `named` is one of its weight files, if one was given. Raises `WeightsError`."""
    path = folder / "config.json"
    if not path.is_file():
        raise WeightsError(
            f"{path}: expected the configuration of the weights beside it, found none. Fetch it from the same place."
        )
    said = files.read_json(path)
    config = _config(said, path)
    weight_files, held = _weights(folder, named)
    entries = _renamed(held, weight_files[0])
    wanted = (
        said.get("tie_word_embeddings") is False and _OUTPUT not in entries
    )  # and so it is named as missing
    config = config.replace(tied=tie(entries, _OUTPUT) and not wanted)
    check_features(folder, config)
    generation = folder / "generation_config.json"
    if generation.is_file():
        said = said | files.read_json(generation)
    return Checkpoint(
        config=config,
        tensors=Tensors(with_positions(entries, config)),
        name=name,
        source=folder,
        format="huggingface",
        weight_files=weight_files,
        tokenizer_file=tokenizer_files.find(folder),
        alignment_heads=known_heads(
            files.pair_list(said, "alignment_heads", generation), config, generation
        ),
        suppress_ids=files.token_ids(said, "suppress_tokens", generation, config.n_vocab),
        suppress_ids_begin=files.token_ids(
            said, "begin_suppress_tokens", generation, config.n_vocab
        ),
    )
