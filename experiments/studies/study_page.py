"""A study as a page, and the index over all studies of a folder. Both open from disk, load nothing and run no script."""

from pathlib import Path
from typing import Any

from experiments.pages.data_uris import png_uri
from experiments.pages.html_templates import environment, flat, template
from experiments.studies.registry import names
from interventions.storage.inert import read_json

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
_BADGES = {
    "replicates": "yes",
    "does not replicate at this scale": "no",
    "not testable here": "open",
}


def render(result: dict[str, Any], figures: dict[str, bytes]) -> str:
    """The page of one study: what `experiments.studies.reproduce` returned, and its figures as PNG by name. All text is escaped."""
    return (
        environment()
        .get_template("study.html")
        .render(
            result=result,
            figures={name: png_uri(png) for name, png in figures.items()},
            numbers=flat(result["numbers"]),
            provenance=flat(result["provenance"]),
            **_shared(),
        )
    )


def index(folder: Path) -> str:
    """The index page over `folder/*/result.json`, with those that failed (`error.txt`)."""
    known = {name: place for place, name in enumerate(names())}
    found = sorted(
        (path for path in folder.iterdir() if path.is_dir()),
        key=lambda path: (known.get(path.name, len(known)), path.name),
    )
    rows = [row for row in map(_row, found) if row]
    return environment().get_template("studies.html").render(rows=rows, **_shared())


def _row(folder: Path) -> dict[str, Any] | None:
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


def shown(ours: dict[str, Any] | None) -> str:
    """`0.31 [0.20, 0.42], n 34, p 0.001`."""
    if not ours or ours["value"] is None:
        return "—"
    interval = "" if ours["low"] is None else f" [{_digits(ours['low'])}, {_digits(ours['high'])}]"
    p = (
        ""
        if ours["p"] is None
        else f", p {'< 0.001' if ours['p'] < 0.001 else format(ours['p'], '.3f')}"
    )
    return f"{_digits(ours['value'])}{interval}, n {ours['n']}{p}"


def _digits(x: float) -> str:
    return f"{x:.2f}" if abs(x) >= 0.095 or x == 0 else f"{x:.2g}"


def _shared() -> dict[str, Any]:
    return {
        "policy": POLICY,
        "style": template("lens.css") + template("study.css"),
        "badges": _BADGES,
        "shown": shown,
    }
