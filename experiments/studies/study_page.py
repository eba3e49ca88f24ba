"""Renders the page of a study and the index of all studies as HTML.

The pages are self-contained and have no scripts.
"""

from pathlib import Path
from typing import Any

from experiments.pages.data_uris import png_uri
from experiments.pages.html_templates import environment, flat, template
from experiments.studies.claims import CONTRADICTED, SUPPORTED, UNDECIDED, UNTESTABLE, WEAKER
from experiments.studies.registry import study_modules
from interventions.storage.untrusted_files import read_json

# Content security policy of the pages: only inline styles and embedded images are allowed.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
# CSS class of each verdict.
_BADGE_CLASSES = {
    SUPPORTED: "yes",
    WEAKER: "yes",
    CONTRADICTED: "no",
    UNDECIDED: "open",
    UNTESTABLE: "open",
}


def render(result: dict[str, Any], figures: dict[str, bytes]) -> str:
    """Renders the page of one study. All text is escaped.

    Args:
        result: the return value of `experiments.studies.reproduce.reproduce`.
        figures: contents of PNG files by name.

    Returns:
        HTML.
    """
    page = environment().get_template("study.html")
    return page.render(
        result=result,
        figures={name: png_uri(png) for name, png in figures.items()},
        numbers=flat(result["numbers"]),
        provenance=flat(result["provenance"]),
        **_shared_variables(),
    )


def index(folder: Path) -> str:
    """Renders the index of the studies in a folder.

    Args:
        folder: folder with one folder per study, each with `result.json` or `error.txt`.

    Returns:
        HTML.
    """
    # Folders that are not studies of this version come last, by name.
    order = {name: position for position, name in enumerate(study_modules())}
    folders = sorted(
        (path for path in folder.iterdir() if path.is_dir()),
        key=lambda path: (order.get(path.name, len(order)), path.name),
    )
    rows = [row for row in map(_index_row, folders) if row]
    return environment().get_template("studies.html").render(rows=rows, **_shared_variables())


def _index_row(folder: Path) -> dict[str, Any] | None:
    """Returns the error or the result of a folder; None if the folder has neither."""
    error, result = folder / "error.txt", folder / "result.json"
    if error.exists():
        lines = error.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return {"name": folder.name, "error": (lines or ["unknown"])[-1], "result": None}
    if not result.exists():
        return None
    try:
        return {"name": folder.name, "error": "", "result": read_json(result)}
    except ValueError as problem:
        return {"name": folder.name, "error": str(problem), "result": None}


def format_evidence(evidence: dict[str, Any] | None) -> str:
    """Formats the evidence of a finding in `result.json`.

    Example:
        >>> format_evidence({"value": 0.31, "low": 0.2, "high": 0.42, "n": 34, "p": 0.0004})
        '0.31 [0.20, 0.42], n 34, p < 0.001'
    """
    if not evidence or evidence["value"] is None:
        return "—"
    value, n = _digits(evidence["value"]), evidence["n"]
    return f"{value}{_interval(evidence)}, n {n}{_p_value(evidence['p'])}"


def _interval(evidence: dict[str, Any]) -> str:
    if evidence["low"] is None:
        return ""
    return f" [{_digits(evidence['low'])}, {_digits(evidence['high'])}]"


def _p_value(p: float | None) -> str:
    if p is None:
        return ""
    return ", p < 0.001" if p < 0.001 else f", p {p:.3f}"


def _digits(x: float) -> str:
    """Formats with two decimals, or with two significant digits if |x| is below 0.095."""
    return f"{x:.2f}" if abs(x) >= 0.095 or x == 0 else f"{x:.2g}"


def _shared_variables() -> dict[str, Any]:
    """Returns the variables of both templates, the page of a study and the index."""
    style = template("lens.css") + template("study.css")
    return {"policy": POLICY, "style": style, "badges": _BADGE_CLASSES, "shown": format_evidence}
