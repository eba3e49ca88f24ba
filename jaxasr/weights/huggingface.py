"""Reads a Hugging Face folder: `config.json`, and safetensors or `pytorch_model.bin` files."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from jaxasr.config import Config
from jaxasr.families import FAMILIES, UNSUPPORTED, WHISPER
from jaxasr.weights import (
    files,
    language_names,
    language_settings,
    tensor_files,
    tokenizer_files,
    whisper_names,
)
from jaxasr.weights.checkpoint import (
    PROJECTION,
    Checkpoint,
    LazyTensor,
    Tensors,
    check_features,
    existing_heads,
    tie_projection,
    with_positions,
)
from jaxasr.weights.errors import WeightsError, file_error, short_repr


def _rename_tensors(
    tensors: dict[str, LazyTensor], rename: Callable[[str], str], path: Path
) -> dict[str, LazyTensor]:
    entries = {rename(name): entry for name, entry in tensors.items()}
    if len(entries) != len(tensors):
        found = f"{len(tensors)} tensors with {len(entries)} names"
        raise file_error(path, "every tensor once", found)
    return entries


def read(folder: Path, name: str, given: Path | None = None) -> Checkpoint:
    """Reads a checkpoint of the transformers library.

    Args:
        folder: folder of `config.json` and the weights.
        name: name of the checkpoint, such as "tiny.en".
        given: the weight file in `folder` to read. None: the first of
            `tensor_files.WEIGHT_FILES` that exists.

    Raises:
        WeightsError: a file is missing or damaged, or the family of the model is not
            supported.

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
    family = settings.get("model_type", WHISPER)
    if family not in (WHISPER, *FAMILIES):
        expected = f"model_type = {', '.join(map(repr, (WHISPER, *FAMILIES)))}"
        remedy = "Models of other types are not supported."
        if reason := UNSUPPORTED.get(str(family)):
            remedy = f"{family} is not supported, because {reason}."
        raise file_error(path, expected, short_repr(family), remedy)
    weight_files, tensors = tensor_files.find(folder, given)
    read_family = _read_whisper if family == WHISPER else _read_language_model
    config, entries = read_family(settings, path, tensors)
    check_features(folder, config)
    generation = folder / "generation_config.json"
    if generation.is_file():
        settings = settings | files.read_json(generation)
    checkpoint = Checkpoint(
        config=config,
        tensors=Tensors(with_positions(entries, config)),
        name=name,
        source=folder,
        format="huggingface",
        weight_files=weight_files,
        tokenizer_file=tokenizer_files.find(folder),
    )
    with_settings = _with_whisper_settings if family == WHISPER else _with_end_of_text
    return with_settings(checkpoint, settings, generation)


def _read_whisper(
    settings: dict[str, Any], path: Path, tensors: dict[str, LazyTensor]
) -> tuple[Config, dict[str, LazyTensor]]:
    config = whisper_names.read_config(settings, path)
    entries = _rename_tensors(tensors, whisper_names.to_openai, path)
    # The configuration may ask for a projection that the file lacks. `assemble` reports this error.
    projection = whisper_names.HF_PROJECTION
    untied = settings.get("tie_word_embeddings") is False and projection not in entries
    return config.replace(tied=tie_projection(entries, projection) and not untied), entries


def _read_language_model(
    settings: dict[str, Any], path: Path, tensors: dict[str, LazyTensor]
) -> tuple[Config, dict[str, LazyTensor]]:
    config = language_settings.read_config(settings, path)
    entries = _rename_tensors(
        tensors, lambda name: language_names.to_checkpoint(name, config.family), path
    )
    # A file with both is untied, even if they are equal: comparing them would read gigabytes.
    is_tied = language_settings.is_tied(settings) and PROJECTION not in entries
    return config.replace(tied=is_tied), entries


def _with_whisper_settings(
    checkpoint: Checkpoint, settings: dict[str, Any], path: Path
) -> Checkpoint:
    config = checkpoint.config
    heads = files.layer_head_pairs(settings, "alignment_heads", path)

    def ids(key: str) -> tuple[int, ...] | None:
        return files.token_ids(settings, key, path, config.n_vocab)

    return checkpoint.replace(
        alignment_heads=existing_heads(heads, config, path),
        suppress_ids=ids("suppress_tokens"),
        suppress_ids_begin=ids("begin_suppress_tokens"),
    )


def _with_end_of_text(checkpoint: Checkpoint, settings: dict[str, Any], path: Path) -> Checkpoint:
    eos = language_settings.read_end_of_text(settings)
    ids = files.token_ids({"eos_token_id": eos}, "eos_token_id", path, checkpoint.config.n_vocab)
    return checkpoint.replace(config=checkpoint.config.replace(eos=ids or ()))
