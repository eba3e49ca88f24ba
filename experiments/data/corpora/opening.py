"""Which layout a path has."""

import os
from pathlib import Path

from experiments.data.corpora import common_voice, hugging_face, librispeech, manifest, timit
from experiments.data.corpora.utterance import Corpus

# In this order: a manifest says what is meant, whatever lies around it.
_LAYOUTS = {
    "manifest": manifest,
    "timit": timit,
    "librispeech": librispeech,
    "common_voice": common_voice,
}


def open_corpus(where: str | os.PathLike) -> Corpus:
    """The recordings at `where`, in place: a manifest, TIMIT, LibriSpeech, Common Voice, or `hf:NAME`.

    Recordings are not opened yet: one that is missing or broken is reported by who reads it.
    Raises FileNotFoundError when there is nothing, ValueError listing what is looked for when no layout fits.
    """
    named = os.fspath(where)
    if remote := hugging_face.find(named):
        return Corpus(named, "hugging_face", tuple(hugging_face.read(remote)))
    path = Path(named)
    if not path.exists():
        raise FileNotFoundError(f"corpus: found nothing at {named!r}. {_expected()}")
    for layout, module in _LAYOUTS.items():
        if found := module.find(path):
            return Corpus(found.name, layout, tuple(module.read(found)))
    raise ValueError(f"corpus: {named!r} has no layout that is known. {_expected()}")


def _expected() -> str:
    return (
        "Expected one of: "
        + "; ".join(module.LOOKS_FOR for module in (*_LAYOUTS.values(), hugging_face))
        + "."
    )
