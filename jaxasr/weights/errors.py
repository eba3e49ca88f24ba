"""What is said when a file of weights cannot be used."""

import contextlib
import reprlib
from collections.abc import Iterator


class WeightsError(ValueError):
    """A checkpoint that is missing, damaged or of another shape: says the file, what was expected, what was found, and the remedy."""


FETCH_AGAIN = "Fetch or convert the file again."


def damaged(path: object, expected: str, found: object, remedy: str = FETCH_AGAIN) -> WeightsError:
    return WeightsError(f"{path}: expected {expected}, found {found}. {remedy}")


def shown(value: object) -> str:
    """Returns a short repr of a value read from a file.

    The cost is bounded: containers that share parts can describe a value whose full repr
    does not fit into memory.
    """
    return reprlib.repr(value)[:80]


@contextlib.contextmanager
def reading(path: object, expected: str) -> Iterator[None]:
    """Whatever goes wrong while reading `path` becomes a `WeightsError`.

    A damaged file can fail in the parser of any library (struct, zipfile, json, safetensors) with an exception of any type:
    hence the broad clause.
    """
    try:
        yield
    except WeightsError:
        raise
    except Exception as problem:
        raise damaged(
            path, expected, f"{type(problem).__name__}: {problem}".rstrip(": ").rstrip(".")
        ) from problem
