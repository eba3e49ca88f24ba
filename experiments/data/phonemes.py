"""Phonemes of words, by espeak-ng: the extra `phonemes` (phonemizer and espeakng-loader, under the GPL), used where it is installed."""

import functools
import importlib.util
from collections.abc import Sequence
from typing import Any

import jiwer

MISSING = "espeak-ng is not installed: pip install jaxasr[phonemes]"
_VOICES = {
    "en": "en-us",
    "fr": "fr-fr",
    "zh": "cmn",
}  # espeak-ng's names where they are not the code
_UNREAD = frozenset({"ja"})  # espeak-ng spells Chinese characters out in English here

Phonemes = tuple[str, ...]


def installed() -> bool:
    """Whether phonemes can be asked for."""
    return all(importlib.util.find_spec(name) for name in ("phonemizer", "espeakng_loader"))


def phonemes(texts: Sequence[str], language: str) -> list[Phonemes]:
    """The phonemes of every text, stress left out; of one that cannot be read, and of every one in an unknown language, none.

    Raises ModuleNotFoundError naming the extra.
    """
    backend = _backend(language)
    if backend is None:
        return [()] * len(texts)
    from phonemizer.separator import Separator

    said = backend.phonemize(
        list(texts), separator=Separator(phone=" ", word="|", syllable=""), strip=True
    )
    return [tuple(one.replace("|", " ").split()) for one in said]


@functools.lru_cache(maxsize=1 << 16)
def phoneme_error_rate(said: Phonemes, meant: Phonemes) -> float:
    """Edits from `meant` to `said` over the length of `meant`, at most 1. Raises ValueError when nothing is meant."""
    if not meant:
        raise ValueError("meant: expected at least one phoneme, got none.")
    return min(jiwer.wer(" ".join(meant), " ".join(said)), 1.0)


@functools.cache
def _backend(language: str) -> Any:
    if not installed():
        raise ModuleNotFoundError(MISSING)
    import espeakng_loader
    from phonemizer.backend import EspeakBackend
    from phonemizer.backend.espeak.wrapper import EspeakWrapper

    EspeakWrapper.set_library(espeakng_loader.get_library_path())
    EspeakWrapper.set_data_path(espeakng_loader.get_data_path())
    voice = _VOICES.get(language, language)
    if language in _UNREAD or voice not in EspeakBackend.supported_languages():
        return None
    return EspeakBackend(voice, with_stress=False, language_switch="remove-flags")
