"""What is said when a file of weights cannot be used."""
import contextlib
from collections.abc import Iterator


class WeightsError(ValueError):
    """A checkpoint that is missing, damaged or of another shape: says the file, what was expected, what was found, and the remedy."""


FETCH_AGAIN = "Fetch or convert the file again."


def damaged(path: object, expected: str, found: object, remedy: str = FETCH_AGAIN) -> WeightsError:
    return WeightsError(f"{path}: expected {expected}, found {found}. {remedy}")


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
        raise damaged(path, expected, f"{type(problem).__name__}: {problem}".rstrip(": ").rstrip(".")) from problem
