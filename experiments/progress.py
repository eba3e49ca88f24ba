"""Progress on standard error; standard output carries only results."""
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console


class Steps:
    """Named steps of one command, each timed: a spinner while it runs where there is a terminal, one line after it."""

    def __init__(self, quiet: bool = False):
        self.console = Console(stderr=True, quiet=quiet, highlight=False)
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        with self.console.status(f"{name} …"):
            yield
        self.seconds[name] = time.perf_counter() - start
        self.console.print(f"[dim]{self.seconds[name]:6.2f} s[/]  {name}")

    @property
    def total(self) -> float:
        return sum(self.seconds.values())
