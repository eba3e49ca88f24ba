"""Compression ratios and normalised texts equal those of openai/whisper."""

import importlib.util

import pytest

from jaxasr import text as text_module
from jaxasr.text import compression_ratio, normalise


def test_repetition_raises_the_compression_ratio():
    assert compression_ratio("") == 0
    assert (
        compression_ratio("And so, my fellow Americans: ask not what your country can do for you.")
        < 1.5
    )
    assert compression_ratio(" yes, no" * 60) > 10
    assert compression_ratio("é") == 2 / 10


@pytest.mark.parametrize(
    ("text", "language", "expected"),
    [
        (" Uh, I won't pay twenty-five dollars!", "en", "i will not pay $25"),
        ("Mr. Smith [laughs] said: “hello”", "en", "mister smith said hello"),
        ("Grüße, aus (leise) Köln.", "de", "grüße aus köln"),
        ("", "en", ""),
    ],
)
def test_texts_are_normalised_as_by_openai(text, language, expected):
    assert normalise(text, language) == expected


def test_without_transformers_the_error_names_the_package(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match="pip install transformers"):
        text_module._import_normalizers()
