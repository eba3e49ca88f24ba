"""Progress on standard error; standard output carries only results."""
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape

from experiments.files import printable


class Steps:
    """Named steps of one command, each timed: a spinner while it runs where there is a terminal, one line after it."""

    def __init__(self, quiet: bool = False):
        self.console = Console(stderr=True, quiet=quiet, highlight=False)
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        with self.console.status(f"{escape(printable(name))} …"):
            yield
        self._done(name, start)

    @contextmanager
    def bar(self, name: str) -> Iterator[Callable[[float, float], None]]:
        """The same with a bar: yields a function of what is done and what is to do in all."""
        from rich.progress import Progress

        start = time.perf_counter()
        with Progress(console=self.console, transient=True, disable=not self.console.is_terminal) as shown:
            task = shown.add_task(escape(printable(name)), total=None)
            yield lambda done, total: shown.update(task, completed=done, total=total)
        self._done(name, start)

    def _done(self, name: str, start: float) -> None:
        self.seconds[name] = time.perf_counter() - start
        self.console.print(f"[dim]{self.seconds[name]:6.2f} s[/]  ", escape(printable(name)), sep="")

    def note(self, *lines: str) -> None:
        """Prints lines that may hold texts from data: nothing in them is markup or acts on the terminal."""
        for line in lines:
            self.console.print(printable(line), markup=False, emoji=False, soft_wrap=True)

    @property
    def total(self) -> float:
        return sum(self.seconds.values())

    def say_total(self) -> None:
        self.console.print(f"[dim]{self.total:6.2f} s[/]  in all")
