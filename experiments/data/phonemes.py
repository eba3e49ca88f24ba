"""Converts words to phonemes with espeak-ng, and compares phonemes.

The module needs the extra `phonemes`. Its packages, phonemizer and espeakng-loader, are licensed
under the GPL.
"""

import functools
import importlib.util
from collections.abc import Sequence
from typing import TYPE_CHECKING

import jiwer

if TYPE_CHECKING:
    from phonemizer.backend import EspeakBackend

ESPEAK_MISSING = "espeak-ng is not installed: pip install jaxasr[phonemes]"
# Name of the voice, where it differs from the language code.
_VOICE_OF_LANGUAGE = {"en": "en-us", "fr": "fr-fr", "zh": "cmn"}
_UNREADABLE_LANGUAGES = frozenset({"ja"})  # espeak-ng reads kanji as English words

Phonemes = tuple[str, ...]  # in the International Phonetic Alphabet


def espeak_installed() -> bool:
    """Returns whether the extra `phonemes` is installed."""
    return all(importlib.util.find_spec(name) for name in ("phonemizer", "espeakng_loader"))


def phonemes(texts: Sequence[str], language: str) -> list[Phonemes]:
    """Converts texts to phonemes, without stress.

    Args:
        texts: words or sentences.
        language: language code, such as "en".

    Returns:
        The phonemes of each text. All are empty if espeak-ng cannot read the language.

    Raises:
        ModuleNotFoundError: the extra `phonemes` is not installed.

    Example:
        >>> phonemes(["rice"], "en") if espeak_installed() else [("ɹ", "aɪ", "s")]
        [('ɹ', 'aɪ', 's')]
    """
    backend = _load_backend(language)
    if backend is None:
        return [()] * len(texts)
    from phonemizer.separator import Separator

    # Phones are separated by spaces, words by bars.
    separator = Separator(phone=" ", word="|", syllable="")
    lines = backend.phonemize(list(texts), separator=separator, strip=True)
    return [tuple(line.replace("|", " ").split()) for line in lines]


@functools.lru_cache(maxsize=1 << 16)
def phoneme_error_rate(hypothesis: Phonemes, reference: Phonemes) -> float:
    """Computes the edit distance per phoneme of the reference, limited to 1.

    Raises:
        ValueError: the reference is empty.

    Example:
        >>> phoneme_error_rate(("l", "aɪ", "s"), ("ɹ", "aɪ", "s"))
        0.3333333333333333
    """
    if not reference:
        raise ValueError("reference: expected at least one phoneme, got none.")
    return min(jiwer.wer(" ".join(reference), " ".join(hypothesis)), 1.0)


@functools.cache
def _load_backend(language: str) -> "EspeakBackend | None":
    if not espeak_installed():
        raise ModuleNotFoundError(ESPEAK_MISSING)
    import espeakng_loader
    from phonemizer.backend import EspeakBackend
    from phonemizer.backend.espeak.wrapper import EspeakWrapper

    EspeakWrapper.set_library(espeakng_loader.get_library_path())
    EspeakWrapper.set_data_path(espeakng_loader.get_data_path())
    voice = _VOICE_OF_LANGUAGE.get(language, language)
    if language in _UNREADABLE_LANGUAGES or voice not in EspeakBackend.supported_languages():
        return None
    return EspeakBackend(voice, with_stress=False, language_switch="remove-flags")
