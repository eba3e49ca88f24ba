"""Prints the logit lens and the encoder lens as tables in a terminal."""

import math

import numpy as np
from rich.table import Table
from rich.text import Text

from experiments.pages.lens_page import EncoderRow, LensPage, LogitTable
from experiments.progress import console as standard_output
from interventions.storage.text_files import printable

MAX_TOKENS = 40  # most rows of the logit lens in a terminal
# Widths in characters.
_COLUMN_CHARS = 13  # widest column of a layer or of the tokens
_GAP_CHARS = 2  # between two columns, as rich pads each column with a space at both sides
# Width of all columns other than layers: seconds (5), tokens (13), saturation (9), and their gaps.
_OTHER_CHARS = 5 + _COLUMN_CHARS + 9 + 2 * _GAP_CHARS
# A text of more than 160 characters is cut to 150. The note of its length takes the other 10.
_LONG_TEXT, _SHOWN_TEXT = 160, 150
_DIM_BELOW = 0.1  # probability; candidates with a lower one are dim
_TABLE_STYLE = {"box": None, "header_style": "dim", "pad_edge": False}


def print_page(page: LensPage) -> None:
    """Prints the text, its signs of loops and silence, and a table for each lens.

    Prints shorter tables in a terminal than in a file or pipe.
    """
    console = standard_output()
    n_tokens = len(page.logit.tokens)
    rows = MAX_TOKENS if console.is_terminal else n_tokens
    console.print(Text(printable(page.text, keep_lines=True) or "(no text)", style="bold"))
    for line in page.signs.lines():
        console.print(Text(printable(line), style="yellow"))
    console.print("\nLogit lens: the token that each decoder layer predicts")
    console.print(logit_table(page.logit, console.width, rows))
    if n_tokens > rows:
        console.print(f"      … {n_tokens - rows} more tokens on the page", style="dim")
    console.print("\nEncoder lens: the text generated from each encoder layer")
    console.print(encoder_table(page.encoder, shorten=console.is_terminal))


def logit_table(table: LogitTable, width: int, rows: int = MAX_TOKENS) -> Table:
    """Makes a table with one row per token and one column per layer.

    Args:
        table: predictions of every layer.
        width: number of characters of a line. If not all layers fit into it, the table has evenly
            spaced layers, among them the last.
        rows: most tokens to show.
    """
    room = (width - _OTHER_CHARS) // (_COLUMN_CHARS + _GAP_CHARS)
    layers = choose_layers(len(table.candidates), room)
    terminal_table = Table(**_TABLE_STYLE)
    terminal_table.add_column("s", justify="right", style="dim")
    terminal_table.add_column("token", max_width=_COLUMN_CHARS, no_wrap=True)
    for layer in layers:
        terminal_table.add_column(f"layer {layer}", max_width=_COLUMN_CHARS, no_wrap=True)
    terminal_table.add_column("saturates", justify="right")
    for t, token in enumerate(table.tokens[:rows]):
        start = table.times[t][0]
        time = f"{start:.2f}" if math.isfinite(start) else ""
        cells = [_candidate_cell(table, layer, t) for layer in layers]
        token_cell = Text(visible(token), style="bold")
        terminal_table.add_row(time, token_cell, *cells, _format_saturation(table, t))
    return terminal_table


def encoder_table(rows: tuple[EncoderRow, ...], shorten: bool = True) -> Table:
    """Makes a table with one row per encoder layer.

    Args:
        rows: text generated from each encoder layer.
        shorten: whether to cut long texts.
    """
    terminal_table = Table(**_TABLE_STYLE)
    terminal_table.add_column("layer", justify="right")
    terminal_table.add_column("kind")
    terminal_table.add_column("log-prob per token", justify="right")
    terminal_table.add_column("text", overflow="fold")
    for layer, row in enumerate(rows):
        text = row.text
        if shorten and len(text) > _LONG_TEXT:
            text = f"{text[:_SHOWN_TEXT]} … ({len(text)} characters)"
        terminal_table.add_row(str(layer), row.category, f"{row.logprob:.2f}", Text(text))
    return terminal_table


def choose_layers(n_layers: int, room: int) -> list[int]:
    """Chooses evenly spaced layers, among them the last.

    Args:
        n_layers: number of all layers.
        room: most layers to choose. If it is less than 2, two layers are chosen.

    Example:
        >>> choose_layers(12, room=3)
        [0, 6, 11]
    """
    count = min(n_layers, max(room, 2))
    return sorted({round(layer) for layer in np.linspace(0, n_layers - 1, count)})


def visible(token: str) -> str:
    r"""Makes line ends, tabs and empty tokens visible, and drops the leading space.

    Example:
        >>> visible(" old\n")
        'old↵'
    """
    return printable(token.removeprefix(" ").replace("\n", "↵").replace("\t", "⇥")) or "␣"


def _format_saturation(table: LogitTable, t: int) -> str:
    return str(table.saturation[t]) if table.saturation[t] < len(table.candidates) else "–"


def _candidate_cell(table: LogitTable, layer: int, t: int) -> Text:
    probability = math.exp(table.logprobs[layer, t, 0])
    other_style = "" if probability >= _DIM_BELOW else "dim"
    style = "green" if table.rank[layer, t] == 0 else other_style
    return Text(visible(table.candidates[layer][t][0]), style=style)
