"""Writes texts and JSON to files, and makes hidden characters visible."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np

# Imported under their own names, so that other modules can import them from here.
from interventions.storage.atomic import (
    only_writer as only_writer,
    replacing as replacing,
    staging as staging,
)

# Control characters, direction overrides, line separators and lone surrogates. Python decodes bytes
# of a file name that are not UTF-8 to lone surrogates.
_HIDDEN_CHARACTERS = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufeff]"
)


def printable(text: object, keep_lines: bool = False) -> str:
    """Escapes characters that control a terminal, or that UTF-8 cannot encode.

    Args:
        text: any value, which `str` converts to a text.
        keep_lines: whether to leave line ends and tabs unescaped.

    Returns:
        The text with escapes such as `\\x1b`.

    Example:
        >>> print(printable("red: \\x1b[31m"))
        red: \\x1b[31m
    """
    return _HIDDEN_CHARACTERS.sub(
        lambda match: match[0] if keep_lines and match[0] in "\n\t" else _escape(match[0]),
        str(text),
    )


def _escape(character: str) -> str:
    code = ord(character)
    return {"\n": "\\n", "\r": "\\r", "\t": "\\t"}.get(character) or (
        f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"
    )


def escape_surrogates(value: Any) -> Any:
    """Escapes lone surrogates in a text or nested value, because UTF-8 cannot encode them.

    Example:
        >>> print(escape_surrogates("a\\udc80"))
        a\\udc80
    """
    if isinstance(value, dict):
        return {escape_surrogates(key): escape_surrogates(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [escape_surrogates(item) for item in value]
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value


def write_text(path: Path, text: str) -> Path:
    """Writes a text as UTF-8, and escapes characters that UTF-8 cannot encode.

    An interrupted call leaves the file unchanged.

    Returns:
        `path`.
    """
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")
    return path


def write_json(path: Path, value: Any) -> Path:
    """Writes a value as strict JSON (see `to_json` and `write_text`).

    Returns:
        `path`.
    """
    return write_text(path, to_json(value) + "\n")


def to_json(value: Any) -> str:
    """Encodes a value as strict JSON that is safe to print.

    Arrays become lists, and NaN and infinities become null. Hidden characters are escaped.

    Example:
        >>> to_json({"loss": float("nan"), "sizes": (1, 2)})
        '{"loss": null, "sizes": [1, 2]}'
    """
    text = json.dumps(to_json_types(value), ensure_ascii=False, allow_nan=False)
    return _HIDDEN_CHARACTERS.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def to_json_types(value: Any) -> Any:
    """Converts a value to the types of JSON: dict, list, str, int, float, bool and None.

    NaN and infinities become None. Values of other types become texts.

    Example:
        >>> to_json_types({"mean": np.float32(0.5), 3: np.arange(2)})
        {'mean': 0.5, '3': [0, 1]}
    """
    if isinstance(value, dict):
        return {str(key): to_json_types(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_json_types(item) for item in value]
    if isinstance(value, float | np.floating):
        return float(value) if np.isfinite(value) else None
    if hasattr(value, "tolist"):
        return to_json_types(value.tolist())
    return value if isinstance(value, str | int | bool | None) else str(value)
