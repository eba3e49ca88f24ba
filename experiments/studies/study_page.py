"""Renders the page of a study and the index of all studies as HTML.

The pages are self-contained and have no scripts.
"""

from pathlib import Path
from typing import Any

from experiments.pages.data_uris import png_uri
from experiments.pages.html_templates import environment, flat, template
from experiments.studies import finding_rows
from experiments.studies.claims import VERDICTS
from experiments.studies.finding_rows import Row
from experiments.studies.registry import study_modules
from interventions.storage.untrusted_files import read_json

# Content security policy of the pages: only inline styles and embedded images are allowed.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def render(result: dict[str, Any], figures: dict[str, bytes]) -> str:
    """Renders the page of one study. All text is escaped.

    Args:
        result: the return value of `experiments.studies.reproduce.reproduce`.
        figures: contents of PNG files by name. The one with the name "forest" comes first.

    Returns:
        HTML.
    """
    page = environment().get_template("study.html")
    return page.render(
        result=result,
        findings=_views(result),
        summary=finding_rows.summarise(result["findings"].values()),
        forest=png_uri(figures["forest"]) if "forest" in figures else "",
        figures={name: png_uri(png) for name, png in figures.items() if name != "forest"},
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
    findings = [finding for row in rows for finding in row["findings"]]
    summary = finding_rows.summarise(finding["row"] for finding in findings)
    page = environment().get_template("studies.html")
    return page.render(rows=rows, summary=summary, **_shared_variables())


def _index_row(folder: Path) -> dict[str, Any] | None:
    """Returns the error or the result of a folder; None if the folder has neither."""
    error, file = folder / "error.txt", folder / "result.json"
    if error.exists():
        lines = error.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return _failed_row(folder, (lines or ["unknown"])[-1])
    if not file.exists():
        return None
    try:
        result = read_json(file)
        if problem := outdated_format(result):
            return _failed_row(folder, problem)
        return {"name": folder.name, "error": "", "result": result, "findings": _views(result)}
    except ValueError as problem:
        return _failed_row(folder, str(problem))


def outdated_format(result: dict[str, Any]) -> str:
    """Returns why a result has no verdicts that this version can show; "" if it has.

    Example:
        >>> outdated_format({"findings": {}})
        ''
    """
    rows = result["findings"].values()
    if all("least" in row and row["verdict"] in VERDICTS for row in rows):
        return ""
    return "written by an earlier version, which had other verdicts; run the study again"


def _failed_row(folder: Path, problem: str) -> dict[str, Any]:
    return {"name": folder.name, "error": problem, "result": None, "findings": []}


def _views(result: dict[str, Any]) -> list[dict[str, Any]]:
    """Returns the texts of each finding."""
    return [_view(row) for row in result["findings"].values()]


def _view(row: Row) -> dict[str, Any]:
    bounds = f"{row['side']} the null of {finding_rows.format_value(row['null'], row['unit'])}"
    if row["least"] != row["null"]:
        bounds += f", least effect {finding_rows.format_value(row['least'], row['unit'])}"
    return {
        "row": row,
        "verdict": finding_rows.format_verdict(row),
        "evidence": finding_rows.format_evidence(row),
        "notes": finding_rows.notes(row),
        "bounds": bounds,
    }


def _shared_variables() -> dict[str, Any]:
    """Returns the variables of both templates, the page of a study and the index."""
    return {
        "policy": POLICY,
        "style": template("lens.css") + template("study.css"),
        "meanings": finding_rows.MEANINGS,
        "signs": finding_rows.SIGNS,
        "legend": finding_rows.LEGEND,
    }
