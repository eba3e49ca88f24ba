"""Defines the error for weights that cannot be used."""

import contextlib
import reprlib
from collections.abc import Iterator


class WeightsError(ValueError):
    """A checkpoint is missing or damaged, or its tensors have unexpected shapes.

    The message gives the file, the expected content, the content that was found, and the remedy.

    Example:
        ```python
        try:
            jaxasr.load("no-such-size")
        except jaxasr.WeightsError as error:
            print(error)
        ```
    """


# Remedy for a damaged file.
FETCH_AGAIN = "Fetch or convert the file again."


def file_error(
    path: object, expected: str, found: object, remedy: str = FETCH_AGAIN
) -> WeightsError:
    """Returns the error for a file with unexpected content.

    Args:
        path: the file.
        expected: the expected content.
        found: the content that was found.
        remedy: a sentence that ends the message.

    Example:
        >>> str(file_error("model.bin", "3 tensors", 2))
        'model.bin: expected 3 tensors, found 2. Fetch or convert the file again.'
    """
    return WeightsError(f"{path}: expected {expected}, found {found}. {remedy}")


def short_repr(value: object) -> str:
    """Returns a short repr of a value that was read from a file.

    A damaged file can nest the same container so often that a full repr does not fit into memory.
    `reprlib` limits time and memory.

    Example:
        >>> short_repr("large-v3")
        "'large-v3'"
    """
    return reprlib.repr(value)[:80]


@contextlib.contextmanager
def convert_errors(path: object, expected: str) -> Iterator[None]:
    """Turns any exception in a `with` block into a `WeightsError`.

    Args:
        path: the file that the block reads.
        expected: the expected content of the file.

    Example:
        >>> with convert_errors("config.json", "an integer"):
        ...     value = int("24")
    """
    try:
        yield
    except WeightsError:
        raise
    # A damaged file can make any parser (struct, zipfile, json, safetensors) raise any exception.
    except Exception as problem:
        found = f"{type(problem).__name__}: {problem}".rstrip(": ").rstrip(".")
        raise file_error(path, expected, found) from problem
