"""Finds a checkpoint by name: a path, an installed weights package, the Hugging Face cache, the hub."""
import os
from pathlib import Path

from jaxasr.weights import ctranslate2, packaged
from jaxasr.weights.checkpoint import Checkpoint
from jaxasr.weights.errors import WeightsError


def read_checkpoint(name_or_path: str | os.PathLike[str]) -> Checkpoint:
    """The checkpoint that `name_or_path` means; its tensors are read when they are asked for."""
    path = Path(name_or_path)
    if path.exists():
        return ctranslate2.read((path / "model.bin",), path, path.name)
    found = packaged.read(str(name_or_path))
    if found is None:
        raise WeightsError(f"{name_or_path}: not found")
    return found
