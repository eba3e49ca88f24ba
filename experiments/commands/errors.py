"""Foreseeable errors are one line and exit status 2; `--debug` shows where they come from. Ctrl-C is one line and exit status 130."""

import functools
import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

FORESEEABLE = (ValueError, OSError)  # WeightsError is a ValueError
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
INTERRUPTED = 130  # 128 + SIGINT


def friendly(command: Callable[..., None], resumes: bool = False) -> Callable[..., None]:
    """`command` with a `--debug` option. `resumes`: whether it goes on where it was stopped."""

    @functools.wraps(command)
    def run(*, debug: bool = False, **arguments: Any) -> None:
        try:
            command(**arguments)
        except FORESEEABLE as problem:
            if debug or isinstance(problem, BrokenPipeError):
                raise
            say(problem)
            raise typer.Exit(2) from problem
        except KeyboardInterrupt as stop:
            say(
                RuntimeError(
                    "stopped; the same command goes on where it was." if resumes else "stopped."
                )
            )
            raise typer.Exit(INTERRUPTED) from stop

    signature = inspect.signature(command)
    option = inspect.Parameter(
        "debug", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=Debug
    )
    run.__signature__ = signature.replace(parameters=[*signature.parameters.values(), option])  # pyright: ignore
    run.__annotations__ = command.__annotations__ | {"debug": Debug}
    return run


def say(problem: BaseException) -> None:
    """An error as one line on standard error."""
    from interventions.storage.text_files import printable

    text = " ".join(str(problem).split()) or type(problem).__name__
    typer.secho(f"jaxasr: {printable(text)}", fg="red", err=True)


def check_recordings(paths: Sequence[Path]) -> None:
    """Raises FileNotFoundError or ValueError for the first path that is no file or an empty one; reads nothing, imports nothing."""
    for path in paths:
        if not path.exists():
            raise FileNotFoundError(f"{path}: no such file.")
        if path.is_dir():
            raise ValueError(f"{path}: expected a recording, got a folder.")
        if not path.is_file():
            raise ValueError(
                f"{path}: expected a file, got a pipe or a device. Write its content into a file first."
            )
        if not path.stat().st_size:
            raise ValueError(f"{path}: expected a recording, got an empty file.")
