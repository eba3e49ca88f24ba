"""Foreseeable errors are one line and exit status 2; `--debug` shows where they come from."""
import functools
import inspect
from collections.abc import Callable
from typing import Annotated, Any

import typer

FORESEEABLE = (ValueError, OSError)  # WeightsError is a ValueError
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


def friendly(command: Callable[..., None]) -> Callable[..., None]:
    """`command` with a `--debug` option."""

    @functools.wraps(command)
    def run(*, debug: bool = False, **arguments: Any) -> None:
        try:
            command(**arguments)
        except FORESEEABLE as problem:
            if debug or isinstance(problem, BrokenPipeError):
                raise
            say(problem)
            raise typer.Exit(2) from problem

    signature = inspect.signature(command)
    option = inspect.Parameter("debug", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=Debug)
    run.__signature__ = signature.replace(parameters=[*signature.parameters.values(), option])  # pyright: ignore
    run.__annotations__ = command.__annotations__ | {"debug": Debug}
    return run


def say(problem: BaseException) -> None:
    """An error as one line on standard error."""
    from experiments.files import printable

    text = " ".join(str(problem).split()) or type(problem).__name__
    typer.secho(f"jaxasr: {printable(text)}", fg="red", err=True)
