"""Defines the options that several measurements share, and writes the results of measurements."""

import json
import os
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from interventions.storage.text_files import to_json_types, write_text

Data = Annotated[
    Path | None,
    typer.Option("--data", help="Folder of recordings with manifest.jsonl. Default: $JAXASR_DATA."),
]
Out = Annotated[Path | None, typer.Option("--out", help="JSON file for the results.")]
Dtype = Annotated[str, typer.Option("--dtype", help="float32 or bfloat16.")]
Models = Annotated[
    list[str] | None,
    typer.Option("--model", help="tiny.en, base, ...; may be repeated. Default: tiny.en."),
]
Model = Annotated[str, typer.Option("--model", help="A model that `jaxasr.load` accepts.")]


def set_data_folder(data: Path | None) -> None:
    """Sets the data folder for this process and its workers. None: the folder is not changed."""
    if data:
        os.environ["JAXASR_DATA"] = str(data)


def make_console(width: int = 120) -> Console:
    """Returns a console, with `width` columns if the output is not a terminal."""
    return Console(width=None if Console().is_terminal else width)


def save(out: Path | None, numbers: dict[str, Any]) -> None:
    """Writes numbers to the JSON file `out`, or nothing if `out` is None.

    The file always has complete content, because a complete new file replaces it.
    """
    if out:
        write_text(out, json.dumps(to_json_types(numbers), indent=1, ensure_ascii=False) + "\n")
