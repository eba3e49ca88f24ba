"""`python -m experiments.bench NAME`: every file of this folder with a `main` is a measurement."""
import importlib
import pkgutil
import sys
from pathlib import Path

import typer

HELPERS = {"__main__", "compiling", "contenders", "ct2", "flops", "greedy", "readers", "recordings", "reference", "torch_whisper", "worker"}


def run() -> None:
    names = sorted({module.name for module in pkgutil.iter_modules([str(Path(__file__).parent)])} - HELPERS)
    if len(sys.argv) < 2 or sys.argv[1] not in names:
        sys.exit(f"python -m experiments.bench NAME [options]; NAME is one of: {', '.join(names)}")
    name = sys.argv.pop(1)
    typer.run(importlib.import_module(f"experiments.bench.{name}").main)


if __name__ == "__main__":
    run()
