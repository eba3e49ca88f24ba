"""Shows progress on standard error, because standard output carries only results."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape

UNLIMITED_WIDTH = 100_000  # columns
EVERY_S = 5.0  # between lines of progress where there is no terminal


def console() -> Console:
    """Returns standard output. Where it is not a terminal, lines are neither cut nor wrapped."""
    return Console(highlight=False, width=None if Console().is_terminal else UNLIMITED_WIDTH)


def escape_hidden(text: str) -> str:
    """Escapes characters that act on a terminal, such as `\\x1b`.

    Most texts have none: only those that do wait for `interventions`, which imports JAX.
    """
    if text.isprintable():
        return text
    from interventions.storage.text_files import printable

    return printable(text)


class Progress:
    """Times the named steps of a command and shows them.

    On a terminal a spinner or a bar runs during a step. After it, one line has its seconds.

    Args:
        quiet: shows nothing.

    Attributes:
        seconds: time that each finished step took, by name.

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
        """Shows a bar during the step `name`; without a terminal, a line every few seconds.

        Yields:
            `progress(done, total)`, to be called as the work advances.
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
            if done < total and time.monotonic() - last >= EVERY_S:
                last = time.monotonic()
                line = f"          {done:g} of {total:g}  {escape(escape_hidden(name))}"
                self.console.print(line, soft_wrap=True)

        return progress

    def _finish(self, name: str, start: float) -> None:
        self.seconds[name] = time.perf_counter() - start
        line = f"[dim]{self.seconds[name]:6.2f} s[/]  {escape(escape_hidden(name))}"
        self.console.print(line)

    def note(self, *lines: str) -> None:
        """Prints lines as they are: texts from data are never read as markup."""
        for line in lines:
            text = escape_hidden(line)
            self.console.print(text, markup=False, emoji=False, soft_wrap=True)

    @property
    def total(self) -> float:
        """Seconds of all steps that finished."""
        return sum(self.seconds.values())

    def print_total(self) -> None:
        """Prints the seconds of all steps together."""
        self.console.print(f"[dim]{self.total:6.2f} s[/]  in all")
