"""Tables fit into the terminal, and texts in them are not markup."""

import dataclasses
import io

import pytest
from fake_page import TOKENS, fake_page, fake_table
from rich.console import Console

from experiments.pages import probe_table, terminal
from experiments.pages.probe_table import fitting_columns
from experiments.pages.terminal import (
    MAX_TOKENS,
    choose_layers,
    encoder_table,
    logit_table,
    print_page,
    visible,
)


def printed(table, width: int = 100) -> str:
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(table)
    return console.export_text()


@pytest.mark.parametrize(
    ("n", "room", "layers"),
    [(4, 9, [0, 1, 2, 3]), (32, 4, [0, 10, 21, 31]), (32, 0, [0, 31]), (1, 5, [0])],
)
def test_as_many_layers_as_fit_are_chosen(n, room, layers):
    assert choose_layers(n, room) == layers


def test_there_is_one_row_per_token_and_texts_are_not_markup():
    text = printed(logit_table(fake_table(tokens=(" [red]x[/]", *TOKENS[1:])), 100))
    assert len(text.strip().splitlines()) == 1 + len(TOKENS)
    assert "[red]x[/]" in text


@pytest.mark.parametrize("width", range(61, 130, 2))
def test_the_longest_tokens_of_all_shown_layers_fit(width):
    table = fake_table(tokens=(" " + "w" * 13,) * 2, layers=32)
    table = dataclasses.replace(table, times=table.times + 20)
    header, row, _ = printed(logit_table(table, width), width).splitlines()
    assert row.count("w" * 13) == 1 + header.count("layer ")
    assert header.endswith("saturates")


# Three tokens more than a terminal shows.
LONG_TABLE = fake_table(tokens=tuple(f" w{i}" for i in range(MAX_TOKENS + 3)))


def test_a_terminal_shows_the_first_tokens_and_how_many_more_there_are(monkeypatch):
    console = Console(width=100, record=True, file=io.StringIO(), force_terminal=True)
    monkeypatch.setattr(terminal, "standard_output", lambda: console)
    print_page(fake_page(logit=LONG_TABLE))
    text = console.export_text()
    assert f"w{MAX_TOKENS - 1} " in text
    assert f"w{MAX_TOKENS} " not in text
    assert "3 more tokens on the page" in text
    assert "(594 characters)" in text  # the note after a long encoder text that is cut


def test_a_log_file_is_not_shortened(capsys):
    deep = fake_table(tokens=tuple(f" w{i}" for i in range(MAX_TOKENS + 3)), layers=32)
    print_page(fake_page(logit=deep, text="word " * 100))
    text = capsys.readouterr().out
    assert f"w{MAX_TOKENS + 2} " in text
    assert "more tokens" not in text
    assert all(f"layer {layer}" in text for layer in range(32))
    assert max(len(line.rstrip()) for line in text.splitlines()) > 590
    assert "word " * 99 in text


def test_long_encoder_texts_are_cut():
    assert "(594 characters)" in printed(encoder_table(fake_page().encoder))


def test_invisible_tokens_are_made_visible():
    assert [visible(token) for token in (" a", "a", "", " ", "\n")] == ["a", "a", "␣", "␣", "↵"]


def test_texts_of_a_page_are_not_markup(capsys):
    print_page(fake_page(text="[bold]not markup[/]"))
    assert "[bold]not markup[/]" in capsys.readouterr().out


# Texts of a table of probes by column. The columns are 5, 7 and 8 characters wide.
CELLS = {"layer": ["0", "11"], "penalty": ["1", "1"], "accuracy": ["0.123", "0.123"]}


def test_columns_of_probes_that_do_not_fit_are_left_out():
    assert fitting_columns(CELLS, width=23) == ["layer", "penalty"]
    assert fitting_columns(CELLS, width=24) == ["layer", "penalty", "accuracy"]


@pytest.mark.parametrize("width", [5, 13, 14, 23, 24])
def test_columns_of_probes_are_not_cut_in_a_narrow_terminal(monkeypatch, width):
    console = Console(width=width, record=True, file=io.StringIO(), force_terminal=True)
    monkeypatch.setattr(probe_table, "standard_output", lambda: console)
    rows = [{"layer": layer, "penalty": 1.0, "accuracy": 0.123} for layer in (0, 11)]
    probe_table.print_table(rows)
    names = [name for name in rows[0] if name in fitting_columns(CELLS, width)]
    assert console.export_text().splitlines()[0].split() == names
