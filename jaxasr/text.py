"""Numbers about a transcription, and the normalisation under which word errors are counted."""

import functools
import importlib.util
import zlib
from collections.abc import Callable
from importlib.machinery import PathFinder
from pathlib import Path
from types import ModuleType


def compression_ratio(text: str) -> float:
    """Bytes of UTF-8 over bytes after zlib: above 2.4 a text repeats itself (openai/whisper `utils.py`). Of no text: 0."""
    raw = text.encode("utf-8")
    return len(raw) / len(zlib.compress(raw))


def avg_logprob(sum_logprob: float, n_tokens: int) -> float:
    """Mean log-probability of `n_tokens` written tokens and the end, which `sum_logprob` includes (openai/whisper `decoding.py`)."""
    return float(sum_logprob) / (n_tokens + 1)


@functools.cache
def _normalizer(english: bool) -> Callable[[str], str]:
    module = _normalizers()
    return module.EnglishTextNormalizer({}) if english else module.BasicTextNormalizer()


def _normalizers() -> ModuleType:
    """The file of `transformers` alone: it needs none of the rest, and the package takes most of a second to import."""
    folder = Path(importlib.util.find_spec("transformers").origin).parent / "models" / "whisper"
    spec = PathFinder.find_spec("english_normalizer", [str(folder)])
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def normalise(text: str, language: str = "en") -> str:
    """Text as Whisper's papers score it: lower case, no punctuation or fillers; in English numbers as digits and contractions spelled out.

    British and American spellings stay apart: that table comes with a checkpoint on the hub, not with a library.
    """
    return _normalizer(language == "en")(text).strip()
