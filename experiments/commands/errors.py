"""Reports the errors of commands.

A command that fails because of its input prints one line and exits with status 2. After Ctrl-C it
exits with status 130.
"""

import functools
import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from experiments.progress import escape_hidden

FORESEEABLE = (ValueError, OSError)  # errors that input causes; WeightsError is a ValueError
INTERRUPTED = 130  # exit status after Ctrl-C in shells: 128 + 2, the number of the signal SIGINT
DebugOption = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


def report_errors(command: Callable[..., None], resumes: bool = False) -> Callable[..., None]:
    """Returns a command that prints each foreseeable error as one line, and has `--debug`.

    Args:
        command: a function with Typer annotations.
        resumes: whether a second run of the command continues an interrupted one.
    """
    stop_message = "stopped; run the same command again to continue." if resumes else "stopped."

    @functools.wraps(command)
    def run(*, debug: bool = False, **arguments: Any) -> None:
        try:
            command(**arguments)
        except FORESEEABLE as error:
            # Typer itself handles a broken pipe, such as that of `jaxasr … | head`.
            if debug or isinstance(error, BrokenPipeError):
                raise
            print_error(error)
            raise typer.Exit(2) from error
        except KeyboardInterrupt as interrupt:
            print_error(RuntimeError(stop_message))
            raise typer.Exit(INTERRUPTED) from interrupt

    # Typer reads the options from the signature, so the signature gets --debug as well.
    signature = inspect.signature(command)
    option = inspect.Parameter(
        "debug", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=DebugOption
    )
    with_debug = signature.replace(parameters=[*signature.parameters.values(), option])
    setattr(run, "__signature__", with_debug)  # noqa: B010, type checkers do not know the attribute
    run.__annotations__ = command.__annotations__ | {"debug": DebugOption}
    return run


def print_error(error: BaseException) -> None:
    """Prints an error as one line on standard error."""
    text = " ".join(str(error).split()) or type(error).__name__
    typer.secho(f"jaxasr: {escape_hidden(text)}", fg="red", err=True)


def check_recordings(paths: Sequence[Path]) -> None:
    """Checks that every path is a file with content, without reading it.

    Raises:
        FileNotFoundError: a path does not exist.
        ValueError: a path is a folder, a pipe, a device or an empty file.
    """
    for path in paths:
        if not path.exists():
            raise FileNotFoundError(f"{path}: no such file.")
        if path.is_dir():
            raise ValueError(f"{path}: expected a recording, got a folder.")
        if not path.is_file():
            raise ValueError(
                f"{path}: expected a file, got a pipe or a device. Save its content to a file."
            )
        if not path.stat().st_size:
            raise ValueError(f"{path}: expected a recording, got an empty file.")
