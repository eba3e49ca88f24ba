"""Defines the options that measurements share, and writes their results."""

import json
import os
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from interventions.storage.text_files import to_json_types, write_text

Data = Annotated[
    Path | None,
    typer.Option(
        "--data", help="Folder with manifest.jsonl. Default: $JAXASR_DATA, else the demo recording."
    ),
]
Out = Annotated[Path | None, typer.Option("--out", help="JSON file for the numbers.")]
Dtype = Annotated[str, typer.Option("--dtype", help="float32 or bfloat16.")]
Models = Annotated[
    list[str] | None,
    typer.Option("--model", help="tiny.en, base, ...; repeatable. Default: tiny.en."),
]
Model = Annotated[str, typer.Option("--model", help="A model that `jaxasr.load` accepts.")]


def start(data: Path | None, width: int = 120) -> Console:
    """Sets the data folder and returns a console.

    The console has `width` columns if the output is not a terminal.
    """
    if data:
        os.environ["JAXASR_DATA"] = str(data)
    return Console(width=None if Console().is_terminal else width)


def save(out: Path | None, numbers: dict[str, Any]) -> None:
    """Writes numbers to `out` as JSON, atomically; does nothing if `out` is None."""
    if out:
        write_text(out, json.dumps(to_json_types(numbers), indent=1, ensure_ascii=False) + "\n")
