"""Measures repetition in a text, and normalises texts before words are compared."""

import functools
import importlib.util
import zlib
from collections.abc import Callable
from importlib.machinery import PathFinder
from pathlib import Path
from types import ModuleType


def compression_ratio(text: str) -> float:
    """Returns the bytes of a text divided by its bytes after zlib; a ratio above 2.4 is repetitive.

    Source: openai/whisper `utils.py`. The ratio of an empty text is 0.

    Example:
        >>> compression_ratio(" yes, no" * 60) > 10
        True
    """
    data = text.encode("utf-8")
    return len(data) / len(zlib.compress(data))


@functools.cache
def _normalizer(english: bool) -> Callable[[str], str]:
    module = _whisper_normalizers()
    return module.EnglishTextNormalizer({}) if english else module.BasicTextNormalizer()


def _whisper_normalizers() -> ModuleType:
    """Imports Whisper's normalisers, one file of `transformers`, without importing the package."""
    # Importing transformers itself takes most of a second, and the file does not need it.
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

    Lowers the case, removes punctuation and fillers; in English also writes numbers as digits and
    spells out contractions. British and American spellings remain different, because their table
    comes with a checkpoint and not with a library.

    Args:
        text: the text.
        language: language code.

    Raises:
        ImportError: the package transformers, which holds the normalisers, is missing.

    Example:
        >>> normalise(" Uh, I won't pay twenty-five dollars!")
        'i will not pay $25'
    """
    return _normalizer(language == "en")(text).strip()
