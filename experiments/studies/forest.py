"""Draws the findings of a study as a forest plot: a line per estimate with its interval.

The figures need only `result.json`, and are narrow enough for the screen of a phone.
"""

import dataclasses
import io
import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.studies.claims import CONTRADICTED, SUPPORTED, UNDECIDED, UNTESTABLE, WEAKER
from experiments.studies.finding_rows import Row, format_evidence, notes, reaches_floor
from interventions.figures.plots import GREY, INK, escape_for_drawing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Colours that people with any type of colour vision can distinguish (Okabe and Ito).
COLOURS = {
    SUPPORTED: "#0072b2",
    WEAKER: "#4a9fd4",
    CONTRADICTED: "#c64a00",
    UNDECIDED: "#6b6b6b",
    UNTESTABLE: "#a8a59d",
}
# Markers differ as well, so that the figure can be printed in grey.
_MARKERS = {SUPPORTED: "o", WEAKER: "o", CONTRADICTED: "D", UNDECIDED: "o", UNTESTABLE: "x"}
WIDTH = 4.0  # inches, of which a phone shows every pixel
_LINE = 0.17  # height of a line of text in inches
_KEY_LINES, _AXIS_LINES = 1.6, 2.6  # heights of the key and of an axis, in lines of text
_MARGIN = 0.02  # at the left and the right, as a share of the width
_GAP_LINES = 0.7  # between two claims
_CHARACTERS = 54  # of a line of text
_TEXT_SIZE, _NOTE_SIZE = 8.0, 7.2
# A panel has estimates whose extents differ at most by this factor.
_MAX_RATIO = 8.0


@dataclasses.dataclass(frozen=True)
class _Entry:
    """A claim, with the finding of each model."""

    statement: list[str]
    rows: dict[str, Row]

    @property
    def points(self) -> np.ndarray:
        """All numbers that the figure must show."""
        return np.concatenate([_points(row) for row in self.rows.values()])

    @property
    def n_lines(self) -> float:
        return (
            len(self.statement)
            + sum(_n_lines(row, model) for model, row in self.rows.items())
            + 0.6
        )


def draw_forest(findings: Mapping[str, Mapping[str, Row]]) -> "Figure":
    """Draws every claim of one study.

    A panel per unit has the estimates with their intervals. A grey line is the null, a dotted line
    the least effect, and a triangle the paper's number. Colour, marker and word give the verdict.

    Args:
        findings: "findings" of the study's `result.json`, by name of the model. An empty name is
            not shown.

    Returns:
        A figure that is `WIDTH` inches wide.
    """
    from matplotlib.figure import Figure

    panels = _divide_into_panels(_make_entries(findings))
    heights = [sum(entry.n_lines for entry in panel) for panel in panels]
    axis_lines = [_AXIS_LINES if _has_axis(panel) else 0.0 for panel in panels]
    total = sum(heights) + sum(axis_lines) + _KEY_LINES
    figure = Figure(figsize=(WIDTH, _LINE * total))
    top = total - _KEY_LINES
    for panel, height, below in zip(panels, heights, axis_lines, strict=True):
        # Exact places give each line of text the same height in every panel.
        place = (_MARGIN, (top - height) / total, 1 - 2 * _MARGIN, height / total)
        axes = figure.add_axes(place)
        _draw_panel(axes, panel, height)
        top -= height + below
    _draw_key(figure)
    return figure


def png(figure: "Figure") -> bytes:
    """Encodes a figure as PNG.

    Example:
        >>> from interventions.figures import plots
        >>> png(plots.panels(1, 1)[0])[1:4]
        b'PNG'
    """
    buffer = io.BytesIO()
    # Without the version of matplotlib in the metadata, equal figures are equal files.
    figure.savefig(buffer, format="png", dpi=144, metadata={"Software": None})
    return buffer.getvalue()


def _make_entries(findings: Mapping[str, Mapping[str, Row]]) -> list[_Entry]:
    entries = []
    for key in dict.fromkeys(key for rows in findings.values() for key in rows):
        by_model = {model: rows[key] for model, rows in findings.items() if key in rows}
        statement = escape_for_drawing(next(iter(by_model.values()))["statement"])
        entries.append(_Entry(textwrap.wrap(statement, _CHARACTERS), by_model))
    return entries


def _points(row: Row) -> np.ndarray:
    """Returns the null, the least effect, the paper's number and our estimate, in units shown."""
    evidence = row["ours"] or {}
    names = ("null", "least", "paper_value")
    values = [*(row[name] for name in names), evidence.get("value"), evidence.get("floor")]
    values += [evidence.get("low"), evidence.get("high")]
    return _scale(row) * np.array([value for value in values if value is not None], float)


def _scale(row: Row) -> float:
    return 100.0 if row["unit"] == "%" else 1.0


def _divide_into_panels(entries: Sequence[_Entry]) -> list[list[_Entry]]:
    """Groups claims of one unit and of similar extents, so that no interval is too short to read.

    Claims without any estimate come last, in a panel without an axis.
    """
    measured = [entry for entry in entries if _has_axis([entry])]
    panels: list[list[_Entry]] = []
    for unit in dict.fromkeys(_unit(entry) for entry in measured):
        group = [entry for entry in measured if _unit(entry) == unit]
        extents = {id(entry): max(float(np.ptp(entry.points)), 1e-9) for entry in group}
        while group:
            widest = max(extents[id(entry)] for entry in group)
            panel = [entry for entry in group if widest <= _MAX_RATIO * extents[id(entry)]]
            panels.append(panel)
            group = [entry for entry in group if entry not in panel]
    rest = [entry for entry in entries if not _has_axis([entry])]
    return panels + ([rest] if rest else [])


def _unit(entry: _Entry) -> str:
    return next(iter(entry.rows.values()))["unit"]


def _is_drawn(row: Row) -> bool:
    return row["ours"] is not None and row["ours"]["value"] is not None


def _row_texts(row: Row) -> list[str]:
    """Returns the lines below the verdict: what a reader needs next to it."""
    return textwrap.wrap(escape_for_drawing("; ".join(notes(row))), _CHARACTERS + 8)


def _n_lines(row: Row, model: str) -> float:
    return len(_row_heading(row, model)) + len(_row_texts(row)) + (1.1 if _is_drawn(row) else 0)


def _draw_panel(axes: "Axes", panel: Sequence[_Entry], height: float) -> None:
    left, right = _limits(panel)
    y = -0.5
    for entry in panel:
        for line in entry.statement:
            y = _write(axes, y, line, weight="bold", size=_TEXT_SIZE, color=INK)
        for model, row in entry.rows.items():
            y = _draw_row(axes, y, model, row, (left, right))
        y -= _GAP_LINES
    axes.set(xlim=(left, right), ylim=(-height, 0), yticks=[])
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="x", labelsize=_NOTE_SIZE, colors=INK)
    if not _has_axis(panel):
        axes.set_axis_off()
    elif _unit(panel[0]):
        axes.set_xlabel(escape_for_drawing(_unit(panel[0])), fontsize=_NOTE_SIZE, color=INK)


def _has_axis(panel: Sequence[_Entry]) -> bool:
    return any(_is_drawn(row) for entry in panel for row in entry.rows.values())


def _limits(panel: Sequence[_Entry]) -> tuple[float, float]:
    """Returns the limits of the axis. A very long interval is cut off."""
    fixed = np.concatenate([_fixed_points(row) for entry in panel for row in entry.rows.values()])
    everything = np.concatenate([entry.points for entry in panel])
    span = max(float(np.ptp(fixed)), 0.25 * float(np.ptp(everything)), 1e-9)
    low = max(everything.min(), fixed.min() - 2 * span)
    high = min(everything.max(), fixed.max() + 2 * span)
    margin = 0.04 * (high - low) or 0.5
    return low - margin, high + margin


def _fixed_points(row: Row) -> np.ndarray:
    values = [row["null"], row["least"], row["paper_value"], (row["ours"] or {}).get("value")]
    return _scale(row) * np.array([value for value in values if value is not None], float)


def _write(axes: "Axes", y: float, text: str, **style: Any) -> float:
    """Writes a line of text, and returns the place of the next."""
    axes.text(0, y, text, transform=axes.get_yaxis_transform(), va="center", **style)
    return y - 1


def _draw_row(axes: "Axes", y: float, model: str, row: Row, limits: tuple[float, float]) -> float:
    for line in _row_heading(row, model):
        y = _write(axes, y, line, color=_text_colour(row), size=_TEXT_SIZE)
    for line in _row_texts(row):
        y = _write(axes, y, line, color=COLOURS[UNDECIDED], size=_NOTE_SIZE)
    if not _is_drawn(row):
        return y
    _draw_interval(axes, y, row, limits)
    return y - 1.1


def _row_heading(row: Row, model: str) -> list[str]:
    degree = " °" if reaches_floor(row) else ""
    evidence = format_evidence(row, adjusted=False) if _is_drawn(row) else ""
    words = [model, f"{row['verdict']}{degree}", evidence]
    text = "   ".join(escape_for_drawing(word) for word in words if word)
    return textwrap.wrap(text, _CHARACTERS + 6)


def _text_colour(row: Row) -> str:
    # Grey and light blue are hard to read as text.
    darker = {WEAKER: "#1f73a8", UNTESTABLE: "#77746c"}
    return darker.get(row["verdict"], COLOURS[row["verdict"]])


def _draw_interval(axes: "Axes", y: float, row: Row, limits: tuple[float, float]) -> None:
    scale, evidence, colour = _scale(row), row["ours"], COLOURS[row["verdict"]]
    axes.axhline(y, color="#eceae4", linewidth=0.8, zorder=0)
    axes.vlines(scale * row["null"], y - 0.45, y + 0.45, color=GREY, linewidth=1.4, zorder=1)
    if row["least"] is not None and row["least"] != row["null"]:
        least = scale * row["least"]
        axes.vlines(least, y - 0.45, y + 0.45, color=GREY, linestyle=":", linewidth=1.4, zorder=1)
    if row["paper_value"] is not None:
        x = scale * row["paper_value"]
        axes.plot(x, y + 0.3, marker="v", color=INK, markersize=5, clip_on=False, zorder=4)
    if evidence["floor"] is not None:
        axes.plot(
            scale * evidence["floor"], y - 0.3, marker="^", color=GREY, markersize=4, zorder=2
        )
    ends = [evidence["low"], evidence["high"]]
    if None not in ends:
        low, high = np.clip(scale * np.array(ends, float), *limits)
        axes.hlines(y, low, high, color=colour, linewidth=2.2, zorder=2)
    # The empty part of a marker is white, so that it covers the interval below it.
    fill = {UNDECIDED: "white"}.get(row["verdict"], colour)
    style: dict[str, Any] = {
        "fillstyle": "left" if row["verdict"] == WEAKER else "full",
        "markerfacecolor": fill,
    }
    style |= {"marker": _MARKERS[row["verdict"]], "markersize": 6.5, "markerfacecoloralt": "white"}
    axes.plot(scale * evidence["value"], y, color=colour, zorder=3, **style)


def _draw_key(figure: "Figure") -> None:
    from matplotlib.lines import Line2D

    signs = [
        Line2D([], [], color=GREY, linewidth=0, marker="|", markersize=9, label="null"),
        Line2D([], [], color=GREY, linestyle=":", linewidth=1.4, label="least effect"),
        Line2D([], [], color=INK, linewidth=0, marker="v", markersize=5, label="paper"),
        Line2D([], [], color=GREY, linewidth=0, marker="^", markersize=4, label="baseline"),
    ]
    figure.legend(
        handles=signs,
        loc="upper left",
        ncols=4,
        frameon=False,
        fontsize=_NOTE_SIZE,
        borderaxespad=0,
        handletextpad=0.3,
        columnspacing=1.2,
    )
