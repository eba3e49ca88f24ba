"""Defines the error for weights that cannot be used."""

import contextlib
import reprlib
from collections.abc import Iterator


class WeightsError(ValueError):
    """A checkpoint is missing, damaged or has another shape.

    The message names the file, what was expected, what was found, and the remedy.
    """


FETCH_AGAIN = "Fetch or convert the file again."


def file_error(
    path: object, expected: str, found: object, remedy: str = FETCH_AGAIN
) -> WeightsError:
    """Returns the error for a file that does not hold what it should."""
    return WeightsError(f"{path}: expected {expected}, found {found}. {remedy}")


def short_repr(value: object) -> str:
    """Returns a short repr of a value that was read from a file.

    `reprlib` limits time and memory. A damaged file can describe containers that share their parts
    so often that a full repr does not fit into memory.
    """
    return reprlib.repr(value)[:80]


@contextlib.contextmanager
def convert_errors(path: object, expected: str) -> Iterator[None]:
    """Turns any exception raised while `path` is read into a `WeightsError`."""
    try:
        yield
    except WeightsError:
        raise
    # A damaged file can make any parser (struct, zipfile, json, safetensors) raise any exception.
    except Exception as problem:
        found = f"{type(problem).__name__}: {problem}".rstrip(": ").rstrip(".")
        raise file_error(path, expected, found) from problem
