"""Runs a measurement: `python -m experiments.bench NAME`.

Every file of this folder with a `main` is a measurement.
"""

import importlib
import sys
from pathlib import Path

import typer

HERE = Path(__file__).parent


def run() -> None:
    """Runs the measurement that the command line names."""
    names = sorted(file.stem for file in HERE.glob("*.py") if "\ndef main(" in file.read_text())
    if len(sys.argv) < 2 or sys.argv[1] not in names:
        sys.exit(f"python -m experiments.bench NAME [options]; NAME is one of: {', '.join(names)}")
    name = sys.argv.pop(1)
    typer.run(importlib.import_module(f"experiments.bench.{name}").main)


if __name__ == "__main__":
    run()
