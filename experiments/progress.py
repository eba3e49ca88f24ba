"""Progress on standard error; standard output carries only results."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape

from interventions.storage.text_files import printable

_ANY_WIDTH = 100_000
EVERY_S = 5.0  # between lines of progress where there is no terminal


def console() -> Console:
    """Standard output. Where it is no terminal, as in a log file, nothing is shortened or wrapped to fit a width."""
    return Console(highlight=False, width=None if Console().is_terminal else _ANY_WIDTH)


class Progress:
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
        """The same with a bar, without a terminal a line every few seconds: yields a function of what is done and what is to do in all."""
        start = time.perf_counter()
        if self.console.is_terminal:
            from rich.progress import Progress

            with Progress(console=self.console, transient=True) as shown:
                task = shown.add_task(escape(printable(name)), total=None)
                yield lambda done, total: shown.update(task, completed=done, total=total)
        else:
            yield self._lines(name)
        self._done(name, start)

    def _lines(self, name: str) -> Callable[[float, float], None]:
        last = -math.inf

        def show(done: float, total: float) -> None:
            nonlocal last
            if done < total and time.monotonic() - last >= EVERY_S:
                last = time.monotonic()
                self.console.print(
                    f"          {done:g} of {total:g}  ",
                    escape(printable(name)),
                    sep="",
                    soft_wrap=True,
                )

        return show

    def _done(self, name: str, start: float) -> None:
        self.seconds[name] = time.perf_counter() - start
        self.console.print(
            f"[dim]{self.seconds[name]:6.2f} s[/]  ", escape(printable(name)), sep=""
        )

    def note(self, *lines: str) -> None:
        """Prints lines that may hold texts from data: nothing in them is markup or acts on the terminal."""
        for line in lines:
            self.console.print(printable(line), markup=False, emoji=False, soft_wrap=True)

    @property
    def total(self) -> float:
        return sum(self.seconds.values())

    def say_total(self) -> None:
        self.console.print(f"[dim]{self.total:6.2f} s[/]  in all")
