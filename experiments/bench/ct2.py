"""Prepares packaged weights for CTranslate2, which faster-whisper uses."""

from pathlib import Path

from jaxasr.weights import Checkpoint


def folder(checkpoint: Checkpoint, into: Path) -> Path:
    """Returns a folder that CTranslate2 can load, with the weights in one file.

    Args:
        checkpoint: a checkpoint in CTranslate2's format. Its weights may be in several files.
        into: folder to write if the weights are not in one file `model.bin` yet.
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
