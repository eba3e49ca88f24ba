"""Finds checkpoints in the local Hugging Face cache and downloads them from the hub."""

from pathlib import Path

from jaxasr.weights.errors import WeightsError

# Name of a size -> its repository on the hub. `openai/whisper-large` is large-v1.
REPOSITORIES = {
    "large-v1": "openai/whisper-large",
    "turbo": "openai/whisper-large-v3-turbo",
    **{
        f"distil-{size}": f"distil-whisper/distil-{size}"
        for size in ("small.en", "medium.en", "large-v2", "large-v3", "large-v3.5")
    },
    **{
        f"{size}{english}": f"openai/whisper-{size}{english}"
        for size in ("tiny", "base", "small", "medium")
        for english in ("", ".en")
    },
    **{size: f"openai/whisper-{size}" for size in ("large-v2", "large-v3", "large-v3-turbo")},
    "qwen2-audio-7b": "Qwen/Qwen2-Audio-7B",
    "qwen2-audio-7b-instruct": "Qwen/Qwen2-Audio-7B-Instruct",
    "voxtral-mini-3b": "mistralai/Voxtral-Mini-3B-2507",
    "audio-flamingo-3": "nvidia/audio-flamingo-3-hf",
}
# Patterns of files to download. Repositories also hold copies of the weights for other libraries.
_PATTERNS_WITHOUT_PICKLES = [
    "*.json",
    "model.safetensors",
    "model-0*.safetensors",
    "model.bin",
    "vocabulary.txt",
    "merges.txt",
]
# Patterns for repositories without safetensors.
_PATTERNS_WITH_PICKLES = [*_PATTERNS_WITHOUT_PICKLES, "pytorch_model.bin", "pytorch_model-0*.bin"]


def cached(repository: str) -> Path | None:
    """Returns the folder of a repository in the local cache, or None if the cache lacks it.

    Args:
        repository: id on the hub, such as "openai/whisper-tiny.en".

    Example:
        >>> cached("someone/no-such-model") is None
        True
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return Path(
            snapshot_download(
                repository, allow_patterns=_PATTERNS_WITH_PICKLES, local_files_only=True
            )
        )
    except LocalEntryNotFoundError:
        return None


def download(repository: str, remedy: str, pickled: bool = False) -> Path:
    """Downloads a repository into the local cache.

    Args:
        repository: id on the hub, such as "openai/whisper-tiny.en".
        remedy: a sentence that ends the error message.
        pickled: whether to download the files of `torch.save`, too.

    Returns:
        The folder in the cache.

    Raises:
        WeightsError: the download fails.
    """
    from huggingface_hub import snapshot_download

    patterns = _PATTERNS_WITH_PICKLES if pickled else _PATTERNS_WITHOUT_PICKLES
    try:
        return Path(snapshot_download(repository, allow_patterns=patterns))
    # Network, proxy and hub raise many types of exceptions, such as 401 for an unknown repository.
    except Exception as problem:
        # The first line is enough, because the messages of the hub are long.
        reason = f"{type(problem).__name__}: {str(problem).strip().partition(chr(10))[0][:200]}"
        raise WeightsError(
            f"{repository}: expected it in the Hugging Face cache or on the hub, found neither "
            f"({reason}). {remedy}"
        ) from problem
