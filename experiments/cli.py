"""Defines the command line `jaxasr`. Each command is a file of `experiments.commands`.

Commands import JAX only when they run, so that help texts and input errors appear at once.
"""

import importlib.metadata
import importlib.util
from pathlib import Path
from typing import Annotated

import typer

from experiments.commands import (
    align,
    demo,
    info,
    lens,
    loops,
    patch,
    plan,
    probe,
    reproduce,
    scan,
    transcribe,
)
from experiments.commands.errors import print_error, report_errors

# By name of the command: its function, and the example at the end of its help text.
COMMANDS = {
    "demo": (demo.demo, demo.EXAMPLE),
    "info": (info.info, info.EXAMPLE),
    "transcribe": (transcribe.transcribe, transcribe.EXAMPLE),
    "align": (align.align, align.EXAMPLE),
    "scan": (scan.scan, scan.EXAMPLE),
    "lens": (lens.lens, lens.EXAMPLE),
    "patch": (patch.patch, patch.EXAMPLE),
    "loops": (loops.loops, loops.EXAMPLE),
    "probe": (probe.probe, probe.EXAMPLE),
    "reproduce": (reproduce.reproduce, reproduce.EXAMPLE),
}
# Commands that save finished parts in --out, so that a second run continues an interrupted one.
RESUMING = ("patch", "loops", "probe", "reproduce")

app = typer.Typer(
    name="jaxasr",
    help="Transcribe speech with Whisper, and see what each of its layers computes.",
    epilog="Compiled programs are saved in your cache folder. JAXASR_CACHE names another folder. "
    "With JAXASR_CACHE=off, none are saved.",
    no_args_is_help=True,
    rich_markup_mode="markdown",  # joins the lines of a paragraph of help
    pretty_exceptions_enable=False,
)


def print_version(wanted: bool) -> None:
    """Prints the installed version and exits, if `wanted` is True."""
    if wanted:
        print(f"jaxasr {importlib.metadata.version('jaxasr')}")
        raise typer.Exit()


def check_installation() -> None:
    """Checks that `jaxasr`, `interventions` and `experiments` are in one folder.

    Another installed project may also have a package `interventions` or `experiments`. Python
    imports the first one that it finds.

    Raises:
        ImportError: a package is in another folder. The message names that folder.
    """
    root = Path(__file__).resolve().parents[1]
    # `find_spec` finds a package without importing it, so that JAX is not loaded.
    for package in ("jaxasr", "interventions"):
        spec = importlib.util.find_spec(package)
        folder = Path(spec.origin).resolve().parent if spec and spec.origin else None
        if folder != root / package:
            raise ImportError(
                f"{package}: expected in {root}, the folder of the package experiments, got "
                f"{folder or 'none'}. Uninstall the other package, or use a fresh environment."
            )


@app.callback()
def main(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=print_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    """Checks the installation before every command."""
    try:
        check_installation()
    except ImportError as error:
        print_error(error)
        raise typer.Exit(2) from error


for _name, (_command, _example) in COMMANDS.items():
    app.command(_name, epilog=f"Example:  {_example}")(
        report_errors(_command, resumes=_name in RESUMING)
    )
for _name, (_command, _example) in plan.COMMANDS.items():
    plan.app.command(_name, epilog=f"Example:  {_example}")(report_errors(_command))
app.add_typer(plan.app, name="plan")


if __name__ == "__main__":
    app()
