"""Runs a measurement: `python -m experiments.bench NAME`.

NAME is a file of this folder, without `.py`, that defines a function `main`.
"""

import importlib
import sys
from pathlib import Path

import typer

FOLDER = Path(__file__).parent


def run() -> None:
    """Runs the measurement that is the first argument of the command line."""
    names = sorted(file.stem for file in FOLDER.glob("*.py") if "\ndef main(" in file.read_text())
    if len(sys.argv) < 2 or sys.argv[1] not in names:
        sys.exit(f"python -m experiments.bench NAME [options]: expected {', '.join(names)}.")
    name = sys.argv.pop(1)  # the other arguments are options of the measurement
    typer.run(importlib.import_module(f"experiments.bench.{name}").main)


if __name__ == "__main__":
    run()
