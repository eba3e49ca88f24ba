"""Checkpoints on the Hugging Face hub, and in its cache on this machine."""

from pathlib import Path

from jaxasr.weights.errors import WeightsError

# Size -> repository. `openai/whisper-large` is the first large one.
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
}
# Not `*`: repositories hold the same weights again for torch, TensorFlow, Flax and in other types.
_WANTED = [
    "*.json",
    "model.safetensors",
    "model-0*.safetensors",
    "model.bin",
    "vocabulary.txt",
    "merges.txt",
]
# What repositories without these hold.
_PICKLED = [*_WANTED, "pytorch_model.bin", "pytorch_model-0*.bin"]


def cached(repository: str) -> Path | None:
    """The folder of `repository` in the local cache, or None."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return Path(snapshot_download(repository, allow_patterns=_PICKLED, local_files_only=True))
    except LocalEntryNotFoundError:
        return None


def fetched(repository: str, remedy: str, pickled: bool = False) -> Path:
    """Downloads `repository` into the cache and returns its folder there.

    `pickled` adds the files of `torch.save`. Raises `WeightsError` with `remedy`.
    """
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(repository, allow_patterns=_PICKLED if pickled else _WANTED))
    except (
        Exception
    ) as problem:  # anything from the network: DNS, proxy, 401 for a repository that does not exist
        reason = f"{type(problem).__name__}: {str(problem).strip().partition(chr(10))[0][:200]}"
        said = f"{repository}: expected it in the Hugging Face cache or on the hub, found neither ({reason}). {remedy}"
        raise WeightsError(said) from problem
