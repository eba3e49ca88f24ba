"""Chooses the path of a fit: that of a CPU, or that of an accelerator.

On a CPU, NumPy standardises the features, and every layer is a separate loop. On an accelerator,
one program standardises and fits a chunk of layers, and all layers take their steps together.
"""

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar

from jaxasr.target_device import target_device

_is_forced = ContextVar("_is_forced", default=False)


def is_used() -> bool:
    """Returns whether fits take the path of an accelerator."""
    return _is_forced.get() or target_device().platform != "cpu"


@contextlib.contextmanager
def force() -> Iterator[None]:
    """Makes fits take the path of an accelerator also on a CPU, for tests and measurements.

    Example:
        >>> with force():
        ...     is_used()
        True
    """
    token = _is_forced.set(True)
    try:
        yield
    finally:
        _is_forced.reset(token)
