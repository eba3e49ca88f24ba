"""Both lenses as tables for a terminal."""

import math

import numpy as np
from rich.table import Table
from rich.text import Text

from experiments.pages.lens_page import EncoderRow, LensPage, LogitTable
from experiments.progress import console as standard_output
from interventions.storage.text_files import printable

ROWS = 40  # tokens shown in a terminal
_CELL = 13  # columns of one layer
_PLAIN = {"box": None, "header_style": "dim", "pad_edge": False}


def print_page(page: LensPage) -> None:
    """The text, then one row a token (its candidates by layer), then one row an encoder layer; shortened in a terminal only."""
    console = standard_output()
    rows = ROWS if console.is_terminal else len(page.logit.tokens)
    console.print(Text(printable(page.text, lines=True) or "(no text)", style="bold"))
    for line in page.signs.lines():
        console.print(Text(printable(line), style="yellow"))
    console.print()
    console.print("Logit lens: top token by decoder layer")
    console.print(logit_table(page.logit, console.width, rows))
    if (more := len(page.logit.tokens) - rows) > 0:
        console.print(f"      … {more} more tokens on the page", style="dim")
    console.print("\nEncoder lens: what the decoder writes from each encoder layer")
    console.print(encoder_table(page.encoder, shorten=console.is_terminal))


def logit_table(table: LogitTable, width: int, rows: int = ROWS) -> Table:
    """The first `rows` tokens downwards, layers across: as many layers as fit, evenly chosen, always the last."""
    layers = chosen_layers(len(table.candidates), (width - 34) // _CELL)
    shown = Table(**_PLAIN)
    shown.add_column("s", justify="right", style="dim")
    shown.add_column("token", max_width=_CELL, no_wrap=True)
    for layer in layers:
        shown.add_column(f"layer {layer}", max_width=_CELL, no_wrap=True)
    shown.add_column("saturates", justify="right")
    for t, token in enumerate(table.tokens[:rows]):
        start = table.times[t][0]
        when = f"{start:.2f}" if math.isfinite(start) else ""
        cells = [_cell(table, layer, t) for layer in layers]
        shown.add_row(when, Text(visible(token), style="bold"), *cells, _saturation(table, t))
    return shown


def encoder_table(rows: tuple[EncoderRow, ...], shorten: bool = True) -> Table:
    shown = Table(**_PLAIN)
    shown.add_column("layer", justify="right")
    shown.add_column("kind")
    shown.add_column("log-prob", justify="right")
    shown.add_column("text", overflow="fold")
    for layer, row in enumerate(rows):
        text = (
            row.text
            if len(row.text) <= 160 or not shorten
            else f"{row.text[:150]} … ({len(row.text)} characters)"
        )
        shown.add_row(str(layer), row.category, f"{row.logprob:.2f}", Text(text))
    return shown


def chosen_layers(n_layers: int, room: int) -> list[int]:
    """At most `room` (at least 2) of the layers, evenly spaced, the last among them."""
    count = min(n_layers, max(room, 2))
    return sorted({round(x) for x in np.linspace(0, n_layers - 1, count)})


def visible(token: str) -> str:
    """A token without its leading space; what else is invisible in it is shown."""
    return printable(token.removeprefix(" ").replace("\n", "↵").replace("\t", "⇥")) or "␣"


def _saturation(table: LogitTable, t: int) -> str:
    return str(table.saturation[t]) if table.saturation[t] < len(table.candidates) else "–"


def _cell(table: LogitTable, layer: int, t: int) -> Text:
    p = math.exp(table.logprobs[layer, t, 0])
    style = "green" if table.rank[layer, t] == 0 else ("" if p >= 0.1 else "dim")
    return Text(visible(table.candidates[layer][t][0]), style=style)
