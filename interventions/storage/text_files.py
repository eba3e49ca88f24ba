"""Writing results: text and strict JSON. See `interventions.storage.atomic` for how a file appears whole under its name, or not at all."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np

from interventions.storage.atomic import (
    only_writer as only_writer,
    replacing as replacing,
    staging as staging,
)

# Control characters, overrides of the direction of text, line separators, and halves of surrogate pairs (bytes of a file name that
# are no UTF-8).
_HIDDEN = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufeff]"
)


def printable(text: Any, lines: bool = False) -> str:
    """`text` with characters that would act on a terminal, or that UTF-8 cannot hold, as escapes such as `\\x1b`.

    lines: keeps line ends and tabs as they are.
    """
    return _HIDDEN.sub(
        lambda found: found[0] if lines and found[0] in "\n\t" else _escape(found[0]), str(text)
    )


def _escape(character: str) -> str:
    code = ord(character)
    return {"\n": "\\n", "\r": "\\r", "\t": "\\t"}.get(character) or (
        f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"
    )


def utf8(value: Any) -> Any:
    """`value`, a text or plain values with texts, with escapes for what UTF-8 does not have: the bytes of some file names."""
    if isinstance(value, dict):
        return {utf8(key): utf8(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [utf8(item) for item in value]
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value


def write_text(path: Path, text: str) -> Path:
    """Writes UTF-8; a character that it does not have, such as a byte of a file name, is written as an escape."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")
    return path


def write_json(path: Path, value: Any) -> Path:
    return write_text(path, to_json(value) + "\n")


def to_json(value: Any) -> str:
    """Strict JSON, safe to print: arrays become lists; what is not finite becomes null; hidden characters are escaped."""
    text = json.dumps(plain(value), ensure_ascii=False, allow_nan=False)
    return _HIDDEN.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def plain(value: Any) -> Any:
    """`value` in terms of dict, list, str, int, float, bool and None."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float | np.floating):
        return float(value) if np.isfinite(value) else None
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    return value if isinstance(value, str | int | bool | None) else str(value)
