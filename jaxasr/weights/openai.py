"""Reads OpenAI's `.pt` files, in which `torch.save` wrote the dimensions and a state dict."""

import dataclasses
from pathlib import Path
from typing import Any

from jaxasr.config import Config
from jaxasr.weights import tokenizer_files, torch_file
from jaxasr.weights.checkpoint import (
    PROJECTION,
    Checkpoint,
    Tensors,
    make_config,
    tie_projection,
    with_positions,
)
from jaxasr.weights.errors import file_error

# Names of the dimensions, which are fields of `Config`. Those with a default are of other families.
DIMENSIONS = tuple(
    field.name
    for field in dataclasses.fields(Config)
    if field.name.startswith("n_") and field.default is dataclasses.MISSING
)
_RESAVE_REMEDY = (
    "Save it again with torch.save({'dims': ..., 'model_state_dict': ...}, path), as "
    "openai/whisper does."
)


def _split_content(value: Any, path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    content = value if type(value) is dict else {}
    dims, state = content.get("dims"), content.get("model_state_dict")
    if type(dims) is not dict or type(state) is not dict:
        expected = "a dictionary of 'dims' and 'model_state_dict'"
        raise file_error(path, expected, type(value).__name__, _RESAVE_REMEDY)
    missing = [key for key in DIMENSIONS if key not in dims]
    if missing:
        raise file_error(
            path, f"dims {', '.join(DIMENSIONS)}", f"none of {', '.join(missing)}", _RESAVE_REMEDY
        )
    return {key: dims[key] for key in DIMENSIONS}, state


def read(path: Path, name: str) -> Checkpoint:
    """Reads an OpenAI `.pt` file. No code in the file runs.

    Args:
        path: the `.pt` file.
        name: name of the checkpoint, such as "tiny.en".

    Raises:
        WeightsError: the file is damaged or is not a Whisper model.
    """
    # `value` is the pickle as plain data; `archive` holds the numbers of its tensors.
    archive, value = torch_file.load(path)
    dims, state = _split_content(value, path)
    config = make_config(dims, path)
    entries = torch_file.tensors(archive, state)
    config = config.replace(tied=tie_projection(entries, PROJECTION))
    return Checkpoint(
        config=config,
        tensors=Tensors(with_positions(entries, config)),
        name=name,
        source=path,
        format="openai",
        weight_files=(path,),
        tokenizer_file=tokenizer_files.find(path.parent),
    )
