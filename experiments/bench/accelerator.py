"""Measures this library on an accelerator: `python -m experiments.bench accelerator`.

Every section runs in a process of its own, and appends a line of JSON per figure to a file at once.
A section that fails or exceeds its time costs only itself. Other libraries are measured if they are
installed. All weights are random.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import typer

# Sections in the order of their runs, and their shares of the time. A section that ends early
# leaves its time to the later ones.
SECTIONS = {
    "machine": 25,
    "attention": 20,
    "transcribe": 75,
    "many": 75,
    "encoder_sweep": 55,
    "probes": 35,
    "decoder_sweep": 45,
    "capture": 30,
}
SIZES = ("large-v3", "tiny")
_DTYPE_OF_SIZE = {"large-v3": "bfloat16", "tiny": "float32"}


def main(
    size: Annotated[str, typer.Option(help="large-v3, or tiny for a dry run.")] = "large-v3",
    section: Annotated[
        list[str] | None,
        typer.Option(help=f"{', '.join(SECTIONS)}; may be repeated. Default: all."),
    ] = None,
    budget_s: Annotated[
        float, typer.Option("--budget-s", help="Seconds for all sections together.")
    ] = 360.0,
    dtype: Annotated[
        str | None, typer.Option(help="Default: bfloat16 for large-v3, float32 for tiny.")
    ] = None,
    alone: Annotated[bool, typer.Option(help="Measure jaxasr only.")] = False,
    out: Annotated[Path, typer.Option("--out", help="File to which figures are appended.")] = Path(
        "figures.jsonl"
    ),
) -> None:
    """Measures matrix products, attention, transcription, sweeps, probes and readouts."""
    for name, value, expected in (("--size", size, SIZES), *_named_sections(section)):
        if value not in expected:
            raise typer.BadParameter(f"{name} {value}: expected one of {', '.join(expected)}.")
    names = [name for name in SECTIONS if not section or name in section]
    end = time.perf_counter() + budget_s
    failed = []
    with tempfile.TemporaryDirectory() as folder:
        job = {
            "size": size,
            "dtype": dtype or _DTYPE_OF_SIZE[size],
            "alone": alone,
            "folder": folder,
            "out": str(out.resolve()),
        }
        for index, name in enumerate(names):
            shares = [SECTIONS[later] for later in names[index:]]
            limit = (end - time.perf_counter()) * shares[0] / sum(shares)
            if not run_section(name, job, limit):
                failed.append(name)
    if failed:
        print(f"Sections that failed: {', '.join(failed)}", file=sys.stderr)
        raise typer.Exit(1)


def _named_sections(section: list[str] | None) -> list[tuple[str, str, Any]]:
    return [("--section", name, SECTIONS) for name in section or ()]


def run_section(name: str, job: dict[str, Any], limit_s: float) -> bool:
    """Runs a section in a process of its own. Returns whether it finished in time.

    Args:
        name: a key of `SECTIONS`.
        job: `size`, `dtype`, `alone`, a temporary `folder`, and `out`, the file of the figures.
        limit_s: seconds after which the process is stopped.
    """
    start, out = time.perf_counter(), Path(job["out"])
    lines_before = _read_lines(out)
    process = subprocess.Popen(
        [sys.executable, "-m", "experiments.bench.accelerator_sections", name, json.dumps(job)],
        # Another library may need memory, so JAX must not reserve all of it.
        env={**os.environ, "XLA_PYTHON_CLIENT_PREALLOCATE": "false"},
    )
    try:
        code = process.wait(max(1.0, limit_s))
        error = "" if code == 0 else f"ended with code {code}"
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        error = f"stopped after {limit_s:.0f} s"
    record: dict[str, Any] = {"section": name, "took_s": time.perf_counter() - start}
    append(out, record | ({"error": error} if error else {}))
    for line in _read_lines(out)[len(lines_before) :]:
        print(_shorten(json.loads(line)), flush=True)
    return not error


def append(out: Path, figure: dict[str, Any]) -> None:
    """Appends a figure to a file as one line of JSON.

    Example:
        ```python
        append(Path("figures.jsonl"), {"section": "attention", "ms": 0.6})
        ```
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    with out.open("a") as file:
        file.write(json.dumps(figure) + "\n")


def _read_lines(out: Path) -> list[str]:
    return out.read_text().splitlines() if out.exists() else []


def _shorten(figure: dict[str, Any]) -> str:
    """Returns a figure as one short line, without what is equal in all figures."""
    values = {key: value for key, value in figure.items() if key not in ORIGIN}
    return "  ".join(
        f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {str(value)[:120]}"
        for key, value in values.items()
    )


# Entries of a figure that are equal in all figures of a run.
ORIGIN = ("device", "date", "commit", "versions", "size", "dtype")
