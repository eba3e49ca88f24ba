"""Reads OpenAI's `.pt` files: dimensions and a state dict, as `torch.save` writes them."""

from pathlib import Path
from typing import Any

from jaxasr.config import Config
from jaxasr.weights import tokenizer_files, torch_file
from jaxasr.weights.checkpoint import Checkpoint, Tensors, make_config, tie, with_positions
from jaxasr.weights.errors import damaged

_DIMS = tuple(field for field in Config.__dataclass_fields__ if field.startswith("n_"))
_RESAVE = "Save it again with torch.save({'dims': ..., 'model_state_dict': ...}, path), as openai/whisper does."


def _parsed(found: Any, path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    dims, state = (
        found.get(key) if type(found) is dict else None for key in ("dims", "model_state_dict")
    )
    if type(dims) is not dict or type(state) is not dict:
        raise damaged(
            path, "a dictionary of 'dims' and 'model_state_dict'", type(found).__name__, _RESAVE
        )
    missing = [key for key in _DIMS if key not in dims]
    if missing:
        raise damaged(path, f"dims {', '.join(_DIMS)}", f"none of {', '.join(missing)}", _RESAVE)
    return {key: dims[key] for key in _DIMS}, state


def read(path: Path, name: str) -> Checkpoint:
    """The checkpoint in an OpenAI `.pt` file. Raises `WeightsError`; runs nothing that the file says."""
    archive, found = torch_file.load(path)
    dims, state = _parsed(found, path)
    config = make_config(dims, path)
    entries = torch_file.tensors(archive, state)
    config = config.replace(tied=tie(entries, "decoder.projection.weight"))
    return Checkpoint(
        config=config,
        tensors=Tensors(with_positions(entries, config)),
        name=name,
        source=path,
        format="openai",
        weight_files=(path,),
        tokenizer_file=tokenizer_files.find(path.parent),
    )
