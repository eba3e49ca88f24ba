"""Shows progress on standard error, because standard output carries only results."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape

from experiments import compile_cache
from experiments.compiling import count_compilations

UNLIMITED_WIDTH = 100_000  # width of a console in characters, so that no line is wrapped
LINE_INTERVAL_S = 5.0  # seconds between two lines of progress if there is no terminal


def console() -> Console:
    """Returns a console on standard output, which does not wrap lines in a file or pipe.

    Example:
        ```python
        console().print("layer 3")
        ```
    """
    return Console(highlight=False, width=None if Console().is_terminal else UNLIMITED_WIDTH)


def escape_hidden(text: str) -> str:
    """Escapes characters that control a terminal, such as `\\x1b`.

    Example:
        >>> print(escape_hidden("red: \\x1b[31m"))
        red: \\x1b[31m
    """
    if text.isprintable():
        return text
    # Imported only here, because an import of `interventions` loads JAX, and that takes seconds.
    from interventions.storage.text_files import printable

    return printable(text)


class Progress:
    """Times the named steps of a command and shows them.

    On a terminal, a spinner or a bar runs during each step. After a step, a line shows how many
    seconds it took.

    Args:
        quiet: whether to show nothing.

    Attributes:
        seconds: seconds that each finished step took, by its name.

    Example:
        ```python
        steps = Progress()
        with steps("load the model"):
            asr = jaxasr.load("tiny.en")
        with steps.bar("transcribe") as progress:
            asr.transcribe(audio, progress=progress)
        ```
    """

    def __init__(self, quiet: bool = False):
        self.console = Console(stderr=True, quiet=quiet, highlight=False, emoji=False)
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Shows a spinner during the step `name`."""
        start = time.perf_counter()
        with self.console.status(f"{escape(escape_hidden(name))} …"):
            yield
        self._finish(name, start)

    @contextmanager
    def bar(self, name: str) -> Iterator[Callable[[float, float], None]]:
        """Shows a bar during the step `name`. Without a terminal, prints a line every few seconds.

        Yields:
            A function `progress(done, total)`, to call whenever a part of the work is done.

        Example:
            ```python
            with steps.bar("square") as progress:
                for i in range(10):
                    progress(i + 1, 10)
            ```
        """
        start = time.perf_counter()
        if self.console.is_terminal:
            from rich.progress import Progress as Bars

            with Bars(console=self.console, transient=True) as bars:
                task = bars.add_task(escape(escape_hidden(name)), total=None)
                yield lambda done, total: bars.update(task, completed=done, total=total)
        else:
            yield self._print_every_few_seconds(name)
        self._finish(name, start)

    def _print_every_few_seconds(self, name: str) -> Callable[[float, float], None]:
        last = -math.inf

        def progress(done: float, total: float) -> None:
            nonlocal last
            if done < total and time.monotonic() - last >= LINE_INTERVAL_S:
                last = time.monotonic()
                line = f"          {done:g} of {total:g}  {escape(escape_hidden(name))}"
                self.console.print(line, soft_wrap=True)

        return progress

    def _finish(self, name: str, start: float) -> None:
        self.seconds[name] = time.perf_counter() - start
        line = f"[dim]{self.seconds[name]:6.2f} s[/]  {escape(escape_hidden(name))}"
        self.console.print(line)

    def note(self, *lines: str) -> None:
        """Prints lines without interpreting them as markup, because they may contain data."""
        for line in lines:
            text = escape_hidden(line)
            self.console.print(text, markup=False, emoji=False, soft_wrap=True)

    @property
    def total(self) -> float:
        """Sum of the seconds of all finished steps."""
        return sum(self.seconds.values())

    def print_total(self) -> None:
        """Prints the sum of the seconds of all steps, and what JAX compiled or read from disk."""
        counts = count_compilations().copy()
        self.console.print(f"[dim]{self.total:6.2f} s[/]  in all")
        self.note(*(f"          {line}" for line in compile_cache.describe(counts)))
