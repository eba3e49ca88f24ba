"""Prepares packaged weights for CTranslate2, the library below faster-whisper."""

from pathlib import Path

from jaxasr.weights import Checkpoint


def prepare(checkpoint: Checkpoint, into: Path) -> Path:
    """Returns a folder that CTranslate2 can load, with all weights in `model.bin`.

    Args:
        checkpoint: a checkpoint in the format of CTranslate2. Its weights may be in several files.
        into: folder that is written and returned if the weights are in several files.
    """
    assert checkpoint.tokenizer_file is not None  # a CTranslate2 folder has a tokenizer
    source = checkpoint.tokenizer_file.parent
    if checkpoint.weight_files == (source / "model.bin",):
        return source
    into.mkdir(parents=True, exist_ok=True)
    with open(into / "model.bin", "wb") as joined:
        for part in checkpoint.weight_files:
            joined.write(part.read_bytes())
    for file in source.iterdir():
        if file.suffix in (".json", ".txt"):
            (into / file.name).write_bytes(file.read_bytes())
    return into
