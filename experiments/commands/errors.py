"""Reports the errors of commands.

Foreseeable errors become one line and exit status 2. Ctrl-C becomes exit status 130.
"""

import functools
import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from experiments.progress import escape_hidden

FORESEEABLE = (ValueError, OSError)  # errors of the input; WeightsError is a ValueError
INTERRUPTED = 130  # exit status of shells after Ctrl-C: 128 + the number of SIGINT, 2
DebugOption = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


def report_errors(command: Callable[..., None], resumes: bool = False) -> Callable[..., None]:
    """Wraps a command: its errors become one line, and it has the option `--debug`.

    Args:
        command: a function with Typer annotations.
        resumes: whether a second run continues where an interrupted one stopped.
    """
    stop_message = "stopped; run the same command again to continue." if resumes else "stopped."

    @functools.wraps(command)
    def run(*, debug: bool = False, **arguments: Any) -> None:
        try:
            command(**arguments)
        except FORESEEABLE as error:
            if debug or isinstance(error, BrokenPipeError):
                raise
            print_error(error)
            raise typer.Exit(2) from error
        except KeyboardInterrupt as interrupt:
            print_error(RuntimeError(stop_message))
            raise typer.Exit(INTERRUPTED) from interrupt

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
    """Checks that every path is a file that is not empty. Reads no file.

    Raises:
        FileNotFoundError: for the first path that does not exist.
        ValueError: for the first path that is a folder, a pipe, or an empty file.
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
