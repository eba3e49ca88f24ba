"""Opens a corpus and detects its layout."""

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path

from experiments.data.corpora import common_voice, hugging_face, librispeech, manifest, timit
from experiments.data.corpora.utterance import Corpus, Utterance

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


def join(corpora: Sequence[Corpus]) -> Corpus:
    """Joins corpora into one.

    Args:
        corpora: at least one corpus.

    Returns:
        All utterances in order. The ids of a corpus that repeats an earlier id begin with the name
        of this corpus. The name of the result is the names of the corpora, joined by "+".

    Raises:
        ValueError: two corpora have the same name and an id in common.

    Example:
        >>> from experiments.data.corpora import Utterance
        >>> left, right = (Corpus(n, "manifest", (Utterance("1", Path("1.wav")),)) for n in "ab")
        >>> [clip.id for clip in join([left, right]).utterances]
        ['1', 'b/1']
    """
    if len(corpora) == 1:
        return corpora[0]
    utterances: list[Utterance] = []
    ids: set[str] = set()
    names = [corpus.name for corpus in corpora]
    for position, corpus in enumerate(corpora):
        repeats = any(clip.id in ids for clip in corpus.utterances)
        # Without a prefix, `Corpus` refuses the ids of a corpus that is given twice.
        is_prefixed = repeats and corpus.name not in names[:position]
        for clip in corpus.utterances:
            clip_id = f"{corpus.name}/{clip.id}" if is_prefixed else clip.id
            utterances.append(dataclasses.replace(clip, id=clip_id))
            ids.add(clip_id)
    layouts = dict.fromkeys(corpus.layout for corpus in corpora)  # unique, in order
    return Corpus("+".join(names), "+".join(layouts), tuple(utterances))


def _expected_layouts() -> str:
    layouts = "; ".join(module.LAYOUT_DESCRIPTION for module in (*_LAYOUTS.values(), hugging_face))
    return f"Expected one of: {layouts}."
