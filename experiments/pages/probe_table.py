"""Prints scores and controls of probes as a table."""

from collections.abc import Sequence
from typing import Any

from rich.table import Table

from experiments.progress import console as standard_output

_COLUMN_GAP = 2  # spaces that rich puts between columns without a box


def print_table(rows: Sequence[dict[str, Any]]) -> None:
    """Prints a table of scores.

    Leaves out the columns that do not fit into the console, and prints their names below the table.

    Args:
        rows: a dictionary per layer and penalty, as in table.csv. The keys name the columns.

    Example:
        ```python
        print_table([{"layer": 0, "accuracy": 0.5}, {"layer": 1, "accuracy": 0.7}])
        ```
    """
    console = standard_output()
    texts = {name: [_format(row[name]) for row in rows] for name in rows[0]}
    fitting = fitting_columns(texts, console.width)
    table = Table(*fitting, box=None, header_style="dim", pad_edge=False)
    for cells in zip(*(texts[name] for name in fitting)):
        table.add_row(*cells)
    console.print(table)
    if hidden := [name for name in texts if name not in fitting]:
        console.print(f"Only in table.csv: {', '.join(hidden)}", style="dim")


def fitting_columns(texts: dict[str, list[str]], width: int) -> list[str]:
    """Returns the names of the first columns that fit into a line.

    Args:
        texts: the texts of the cells of each column, by the column's name.
        width: number of characters of a line.

    Example:
        >>> fitting_columns({"layer": ["0"], "accuracy": ["0.5"]}, width=10)
        ['layer']
    """
    fitting, used = [], 0
    for name, cells in texts.items():
        used += max(map(len, [name, *cells])) + (_COLUMN_GAP if fitting else 0)
        if used > width:
            break
        fitting.append(name)
    return fitting


def _format(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
