"""Opens a corpus and detects its layout."""

import os
from pathlib import Path

from experiments.data.corpora import common_voice, hugging_face, librispeech, manifest, timit
from experiments.data.corpora.utterance import Corpus

# The manifest comes first, because a folder of another layout may have a manifest too.
_LAYOUTS = {
    "manifest": manifest,
    "timit": timit,
    "librispeech": librispeech,
    "common_voice": common_voice,
}


def open_corpus(path: str | os.PathLike) -> Corpus:
    """Opens a corpus and detects its layout.

    Audio is read later. A missing or broken recording raises an error when its samples are read.

    Args:
        path: a manifest, a folder of TIMIT, LibriSpeech or Common Voice, or `hf:NAME`.

    Returns:
        The corpus.

    Raises:
        FileNotFoundError: `path` does not exist.
        ValueError: the layout is unknown, or a file is malformed.

    Example:
        ```python
        corpus = open_corpus("recordings/manifest.jsonl")
        audio = corpus.utterances[0].samples()
        ```
    """
    name = os.fspath(path)
    if address := hugging_face.find(name):
        return Corpus(name, "hugging_face", tuple(hugging_face.read(address)))
    if not Path(name).exists():
        raise FileNotFoundError(f"corpus: found nothing at {name!r}. {_expected_layouts()}")
    for layout, module in _LAYOUTS.items():
        if source := module.find(Path(name)):
            return Corpus(source.name, layout, tuple(module.read(source)))
    raise ValueError(f"corpus: {name!r} has an unknown layout. {_expected_layouts()}")


def _expected_layouts() -> str:
    layouts = "; ".join(module.LAYOUT_DESCRIPTION for module in (*_LAYOUTS.values(), hugging_face))
    return f"Expected one of: {layouts}."
