"""Saves figures as files."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from interventions.storage.atomic import replacing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMATS = ("png", "svg", "pdf")


def save(figure: "Figure", path: str | os.PathLike[str]) -> Path:
    """Saves a figure as png, svg or pdf, complete or not at all.

    Text in an svg stays text. The bytes of a png or svg do not change from run to run.

    Args:
        figure: a matplotlib figure, such as that of `plot`.
        path: a file name that ends in .png, .svg or .pdf.

    Returns:
        The path.

    Raises:
        ValueError: another suffix.

    Example:
        ```python
        save(plot(cells), "heads.png")
        ```
    """
    import matplotlib

    path = Path(path)
    kind = path.suffix[1:].lower()
    if kind not in FORMATS:
        raise ValueError(
            f"path: expected a name that ends in .{', .'.join(FORMATS)}, got {path.name!r}."
        )
    metadata = {"Date": None} if kind == "svg" else None
    # A fixed salt makes the ids inside an svg, and so its bytes, the same in every run.
    stable = {"svg.fonttype": "none", "svg.hashsalt": "jaxasr"}
    with replacing(path) as temporary, matplotlib.rc_context(stable):
        figure.savefig(temporary, format=kind, dpi=160, metadata=metadata)
    return path
