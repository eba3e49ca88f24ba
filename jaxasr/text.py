"""Measures how repetitive a text is, and normalises texts for the comparison of words."""

import functools
import importlib.util
import zlib
from collections.abc import Callable
from importlib.machinery import PathFinder
from pathlib import Path
from types import ModuleType


def compression_ratio(text: str) -> float:
    """Returns the size of a text in bytes, divided by its size after compression with zlib.

    A text with a ratio above 2.4 is repetitive. The ratio of an empty text is 0.
    Source: openai/whisper `utils.py`.

    Example:
        >>> compression_ratio(" yes, no" * 60) > 10
        True
    """
    data = text.encode("utf-8")
    return len(data) / len(zlib.compress(data))


@functools.cache
def _load_normalizer(english: bool) -> Callable[[str], str]:
    # The argument {} is the table of British and American spellings, which is left empty.
    module = _import_normalizers()
    return module.EnglishTextNormalizer({}) if english else module.BasicTextNormalizer()


def _import_normalizers() -> ModuleType:
    """Imports the file with Whisper's normalisers from the package `transformers`."""
    # Imports the file alone, because importing the package takes most of a second.
    package = importlib.util.find_spec("transformers")
    if package is None or package.origin is None:
        raise ImportError(
            "normalise: expected the package transformers, found none. pip install transformers"
        )
    folder = Path(package.origin).parent / "models" / "whisper"
    spec = PathFinder.find_spec("english_normalizer", [str(folder)])
    if spec is None or spec.loader is None:
        raise ImportError(
            f"normalise: expected english_normalizer.py in {folder}, found none. "
            "Use another version of transformers."
        )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def normalise(text: str, language: str = "en") -> str:
    """Normalises a text as Whisper's papers do before they count word errors.

    Removes case, punctuation and fillers. In English also writes numbers as digits and spells out
    contractions. British and American spellings stay different, because the table that unifies them
    is part of a checkpoint, not of `transformers`.

    Args:
        text: the text.
        language: language code.

    Raises:
        ImportError: the package transformers, which holds the normalisers, is missing.

    Example:
        >>> normalise(" Uh, I won't pay twenty-five dollars!")
        'i will not pay $25'
    """
    return _load_normalizer(language == "en")(text).strip()
