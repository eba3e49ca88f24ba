"""CTranslate2 and faster-whisper on the packaged weights."""

from pathlib import Path

from jaxasr.weights import Checkpoint


def folder(checkpoint: Checkpoint, into: Path) -> Path:
    """A folder as CTranslate2 wants it, with the weights in one piece; the checkpoint's own where it is one already."""
    there = checkpoint.tokenizer_file.parent
    if checkpoint.weight_files == (there / "model.bin",):
        return there
    into.mkdir(parents=True, exist_ok=True)
    with open(into / "model.bin", "wb") as whole:
        for part in checkpoint.weight_files:
            whole.write(part.read_bytes())
    for file in there.iterdir():
        if file.suffix in (".json", ".txt"):
            (into / file.name).write_bytes(file.read_bytes())
    return into
