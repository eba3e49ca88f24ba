"""Runs a measurement: `python -m experiments.bench NAME`.

NAME is the name of a file in this folder that has a function `main`.
"""

import importlib
import sys
from pathlib import Path

import typer

FOLDER = Path(__file__).parent


def run() -> None:
    """Runs the measurement that the command line names."""
    names = sorted(file.stem for file in FOLDER.glob("*.py") if "\ndef main(" in file.read_text())
    if len(sys.argv) < 2 or sys.argv[1] not in names:
        sys.exit(f"python -m experiments.bench NAME [options]; NAME is one of: {', '.join(names)}")
    name = sys.argv.pop(1)
    typer.run(importlib.import_module(f"experiments.bench.{name}").main)


if __name__ == "__main__":
    run()
