"""Saves figures as files."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from interventions.storage.atomic import replacing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMATS = ("png", "svg", "pdf")


def save(figure: "Figure", path: str | os.PathLike[str]) -> Path:
    """Saves a figure as png, svg or pdf.

    An interrupted save leaves no partial file. An svg holds its text as text, not as outlines. The
    same figure gives the same bytes in every run, if it is saved as png or svg.

    Args:
        figure: a matplotlib figure, such as that of `plot`.
        path: a file name that ends in .png, .svg or .pdf.

    Returns:
        `path` as a `Path`.

    Raises:
        ValueError: `path` has another suffix.

    Example:
        >>> import tempfile
        >>> from interventions.figures import panels
        >>> figure, axes = panels(1, 1)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save(figure, f"{folder}/empty.svg").name
        'empty.svg'
    """
    import matplotlib

    path = Path(path)
    kind = path.suffix[1:].lower()
    if kind not in FORMATS:
        raise ValueError(
            f"path: expected a name that ends in .{', .'.join(FORMATS)}, got {path.name!r}."
        )
    metadata = {"Date": None} if kind == "svg" else None
    # Without the option `svg.hashsalt`, matplotlib writes random ids into an svg.
    svg_options = matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "jaxasr"})
    with replacing(path) as temporary, svg_options:
        figure.savefig(temporary, format=kind, dpi=160, metadata=metadata)
    return path
