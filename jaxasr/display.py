"""Formats short texts for `repr`, and small HTML tables for notebooks."""

import html
from collections.abc import Iterable, Sequence
from typing import Any

_MAX_LISTED = 4  # values in a line
_MAX_CHARACTERS = 60  # length of a shortened text


def listed(values: Sequence[Any]) -> str:
    """Returns the first four values in one line, and the number of the others.

    Example:
        >>> listed([7, 12, 9, 11, 30, 2])
        '7, 12, 9, 11 and 2 more'
    """
    text = ", ".join(map(str, values[:_MAX_LISTED]))
    more = len(values) - _MAX_LISTED
    return f"{text} and {more} more" if more > 0 else text


def shortened(text: str) -> str:
    """Returns a text, cut to at most 60 characters.

    Example:
        >>> len(shortened("a" * 100))
        60
    """
    return text if len(text) <= _MAX_CHARACTERS else f"{text[: _MAX_CHARACTERS - 1]}…"


def table(head: Iterable[Any], rows: Iterable[Iterable[Any]]) -> str:
    """Returns an HTML table. Special characters in names and cells are escaped.

    Args:
        head: column names; empty for a table without a head.
        rows: cells of each row.

    Example:
        >>> table((), [["a"]])
        '<table><tbody><tr><td style="text-align: left">a</td></tr></tbody></table>'
    """
    names = "".join(f"<th>{_escape(name)}</th>" for name in head)
    body = "".join(f"<tr>{_format_cells(row)}</tr>" for row in rows)
    return (
        f"<table>{f'<thead><tr>{names}</tr></thead>' if names else ''}<tbody>{body}</tbody></table>"
    )


def code(text: str) -> str:
    """Returns HTML of a text in a fixed-width font.

    Example:
        >>> code("1 < 2")
        '<code>1 &lt; 2</code>'
    """
    return f"<code>{_escape(text)}</code>"


def _format_cells(row: Iterable[Any]) -> str:
    return "".join(f'<td style="text-align: left">{_escape(cell)}</td>' for cell in row)


def _escape(value: Any) -> str:
    return html.escape(str(value))
