"""Formats a ranking as the page index.html and as tables for the terminal."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.pages.data_uris import png_uri
from experiments.pages.html_templates import environment, flat, policy, template
from experiments.studies.finding_rows import SIGNS
from experiments.studies.loop_figures import KIND_TITLES
from experiments.studies.loop_ranking.ranking import UNITS

PAGE_ROWS = 12  # parts per table of the page; result.json has all
_TERMINAL_ROWS = {"layers": 3, "heads": 5}
_TEXT_CHARS = 90  # of a text in a terminal
_ABOUT = {
    "noise": "The activation for white noise of the recording's length and level replaces the "
    "part's activation. The control moves the activation equally far in random directions.",
    "zero": "Zero replaces the part's activation.",
    "mean": "The mean over texts of clean speech replaces the part's activation.",
}
Row = Mapping[str, Any]


def render(result: Mapping[str, Any], figures: Mapping[str, bytes]) -> str:
    """Renders the page, which loads no other file and runs no script. All texts are escaped.

    Args:
        result: content of result.json.
        figures: contents of PNG files by name.

    Returns:
        HTML.
    """
    page = environment().get_template("loops.html")
    style = "".join(map(template, ("lens.css", "study.css", "patch.css", "loops.css")))
    return page.render(
        result=result,
        kinds=[_view_kind(kind, rows, result) for kind, rows in result["ranking"].items()],
        head=heading(result),
        figures={name: png_uri(image) for name, image in figures.items()},
        policy=policy(),
        style=style,
        provenance=flat(dict(result["provenance"])),
    )


def heading(result: Mapping[str, Any]) -> str:
    """Describes the recordings in a few sentences."""
    loops, clean = result["loops"], result["clean"]
    n_loops, n_left_out = len(loops), len(result["loops_left_out"])
    n_tokens = result["settings"]["max_new_tokens"]
    sentences = [
        f"{n_loops} of {n_loops + n_left_out} recordings loop in the first {n_tokens} tokens, from "
        f"{_count(result['sources_of_loops'], 'independent source')}.",
        f"Costs come from {_count(clean['n'], 'clean recording')} of "
        f"{_count(clean['speakers'], 'speaker')}, {clean['with_transcript']} with a transcript"
        + (
            f" (word error rate {100 * clean['word_error_rate']:.1f} %)."
            if clean["with_transcript"]
            else "."
        ),
    ]
    if not result["why_undivided"]:
        sentences.append(
            f"The parts are ranked by {result['chosen_with']} loops. Their shares come from the "
            f"other {result['judged_with']}, which have other sources."
        )
    return " ".join(sentences)


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}{'' if n == 1 else 's'}"


def _view_kind(kind: str, ranked: Mapping[str, Any], result: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the texts of one kind of patch."""
    units = [_view_unit(unit, ranked, result) for unit in UNITS if ranked[unit]]
    names = {"title": KIND_TITLES[kind], "about": _ABOUT[kind], "kind": kind}
    return names | {"units": units, "idle": ", ".join(ranked["idle"])}


def _view_unit(unit: str, ranked: Mapping[str, Any], result: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the table of the layers or heads, and the texts that the best one leads to."""
    rows, p = ranked[unit], ranked["p"][unit]
    best = rows[0]
    return {
        "title": unit,
        "rows": [view_row(row) for row in rows[:PAGE_ROWS]],
        "n_more": max(0, len(rows) - PAGE_ROWS),
        "has_control": any(row["control"] for row in rows),
        "has_choice": any(row["chosen_with"] for row in rows),
        "best": best["name"],
        "p": "" if p is None else f"{p:.2g}",
        "texts": [
            {**loop, "new": text, "resolved": resolved}
            for loop, text, resolved in zip(result["loops"], best["texts"], best["resolves"])
        ],
    }


def view_row(row: Row) -> dict[str, str]:
    """Formats the numbers of a part.

    Args:
        row: a row of `Ranking.numbers`.

    Returns:
        Texts by column; "" for numbers that were not measured.
    """
    cost = row["cost"]
    verdict = cost["verdict"] if cost else ""
    return {
        "name": row["name"],
        "resolved": format_share(row["resolved"]),
        "chosen_with": format_share(row["chosen_with"]),
        "control": format_share(row["control"]),
        "beyond_control": format_points(row["beyond_control"]),
        "changed": format_share(cost["changed"]) if cost else "",
        "word_errors": format_points(cost["word_error_rate"]) if cost else "",
        "verdict": verdict,
        "sign": SIGNS[verdict] if verdict else "",
        "notes": "; ".join(cost["notes"]) if cost else "",
    }


def format_share(share: Row | None) -> str:
    """Formats a share with its 95 % interval.

    Example:
        >>> format_share({"value": 0.8, "low": 0.444, "high": 0.975, "counts": [8, 10]})
        '8 of 10 [44, 98 %]'
    """
    if share is None:
        return ""
    value, low, high = _percent(share, 0)
    counts = share.get("counts")
    text = f"{counts[0]} of {counts[1]}" if counts else f"{value} %"
    return f"{text} [{low}, {high} %]" if low else f"{text}, no interval"


def format_points(difference: Row | None) -> str:
    """Formats a difference in points of percent with its 95 % interval.

    Example:
        >>> format_points({"value": 0.004, "low": -0.001, "high": 0.01})
        '+0.4 [-0.1, +1.0]'
    """
    if difference is None:
        return ""
    value, low, high = _percent(difference, 1, "+")
    return f"{value} [{low}, {high}]" if low else value or "not measured"


def _percent(numbers: Row, digits: int, sign: str = "") -> list[str]:
    """Formats value and interval times 100; "" for a number that is missing."""
    values = [numbers[name] for name in ("value", "low", "high")]
    # JSON has no NaN, so that a missing number is None. Adding 0 turns -0.0 into 0.0.
    rounded = [None if x is None else round(100 * x, digits) + 0.0 for x in values]
    return ["" if x is None else f"{x:{sign}.{digits}f}" for x in rounded]


def print_result(result: Mapping[str, Any], out: Path, json: bool) -> None:
    """Prints the best parts and the path of the page, or with `json` everything as JSON."""
    from rich.table import Table
    from rich.text import Text

    from experiments.progress import console as standard_output
    from interventions.storage.text_files import printable, to_json

    if json:
        print(to_json({**result, "page": str(out / "index.html")}))
        return
    console = standard_output()
    for line in (heading(result), *_left_out_lines(result), result["why_undivided"]):
        if line:
            console.print(Text(printable(line)))
    table = Table(box=None, header_style="dim", pad_edge=False)
    columns = ("patch", "part", "loops resolved", "random moves", "clean texts that change")
    for column in (*columns, "word errors, points", "below 2 points"):
        table.add_column(column, overflow="fold")
    for cells in _terminal_rows(result):
        table.add_row(*(Text(printable(cell)) for cell in cells))
    console.print(table)
    console.print()
    for line in _text_lines(result):
        console.print(Text(printable(line)))
    print(f"\n{printable(out / 'index.html')}")


def _left_out_lines(result: Mapping[str, Any]) -> Iterator[str]:
    for key in ("loops_left_out", "clean_left_out"):
        for item in result[key]:
            yield f"left out {item['name']}: {item['why']}"


def _terminal_rows(result: Mapping[str, Any]) -> Iterator[Sequence[str]]:
    for kind, ranked in result["ranking"].items():
        for unit, n in _TERMINAL_ROWS.items():
            for row in ranked[unit][:n]:
                view = view_row(row)
                names = ("name", "resolved", "control", "changed", "word_errors")
                verdict = f"{view['sign']} {view['verdict']}".strip()
                yield (KIND_TITLES[kind], *(view[name] for name in names), verdict)


def _text_lines(result: Mapping[str, Any]) -> Iterator[str]:
    """Yields the new texts of the first kind's best head."""
    ranked = next(iter(result["ranking"].values()))
    rows = ranked["heads"] or ranked["layers"]
    if not rows:
        return
    yield f"Texts with {rows[0]['name']} patched:"
    for loop, text in zip(result["loops"], rows[0]["texts"]):
        yield f"  {loop['name']}: {text.strip()[:_TEXT_CHARS] or '(no text)'}"
