"""The command line `jaxasr`: one command per file of `experiments.commands`.

Commands import JAX only when they run, so that help and errors in the input appear at once.
"""

import importlib.metadata
import importlib.util
from pathlib import Path
from typing import Annotated

import typer

from experiments.commands import align, demo, info, lens, patch, probe, reproduce, scan, transcribe
from experiments.commands.errors import friendly, print_error

# name: the function, and the example its help ends with
COMMANDS = {
    "demo": (demo.demo, demo.EXAMPLE),
    "info": (info.info, info.EXAMPLE),
    "transcribe": (transcribe.transcribe, transcribe.EXAMPLE),
    "align": (align.align, align.EXAMPLE),
    "scan": (scan.scan, scan.EXAMPLE),
    "lens": (lens.lens, lens.EXAMPLE),
    "patch": (patch.patch, patch.EXAMPLE),
    "probe": (probe.probe, probe.EXAMPLE),
    "reproduce": (reproduce.reproduce, reproduce.EXAMPLE),
}
RESUMING = ("patch", "probe", "reproduce")  # they keep finished parts in --out

app = typer.Typer(
    name="jaxasr",
    help="Transcribe speech with Whisper, and see what each of its layers computes.",
    epilog="Compiled programs are kept in your cache folder. JAXASR_CACHE names another folder; "
    "JAXASR_CACHE=off keeps none.",
    no_args_is_help=True,
    rich_markup_mode="markdown",  # else line ends inside a paragraph of help would be kept
    pretty_exceptions_enable=False,
)


def print_version(wanted: bool) -> None:
    """Prints the installed version and exits, if `wanted`."""
    if wanted:
        print(f"jaxasr {importlib.metadata.version('jaxasr')}")
        raise typer.Exit()


def check_installation() -> None:
    """Checks that the three packages lie in one folder.

    `experiments` and `interventions` are common names: another distribution may have a package of
    that name, and Python takes the first that it finds.

    Raises:
        ImportError: naming the package that lies elsewhere.
    """
    root = Path(__file__).resolve().parents[1]
    for package in ("jaxasr", "interventions"):
        spec = importlib.util.find_spec(package)
        folder = Path(spec.origin).resolve().parent if spec and spec.origin else None
        if folder != root / package:
            raise ImportError(
                f"{package}: expected in {root}, where the package experiments is, got "
                f"{folder or 'none'}. Uninstall the other one, or use a fresh environment."
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
    """Runs before every command."""
    try:
        check_installation()
    except ImportError as error:
        print_error(error)
        raise typer.Exit(2) from error


for _name, (_command, _example) in COMMANDS.items():
    app.command(_name, epilog=f"Example:  {_example}")(
        friendly(_command, resumes=_name in RESUMING)
    )


if __name__ == "__main__":
    app()
