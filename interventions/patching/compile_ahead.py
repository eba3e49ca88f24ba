"""Compiles the programs of a sweep side by side, while the unedited passes run."""

from collections.abc import Hashable, Iterable, Sequence
from concurrent.futures import Future

import jax
import numpy as np
from jaxtyping import Int

from interventions.patching.cell_chunks import CellChunk
from interventions.patching.compute import RecordingChunk
from interventions.patching.plan import Plan
from jaxasr import ahead_of_time, compiled

# Keys of the programs that this process has compiled, so that a second sweep lists none.
_COMPILED: set[Hashable] = set()


class CompileAhead:
    """Compiles the programs of one sweep in threads, before they are called.

    A sweep has one program that encodes, one that decodes without an edit, and at most three for
    cells. A call of a program that is compiled already compiles nothing.

    Args:
        plan: the sweep.
    """

    def __init__(self, plan: Plan):
        self._plan, self._key = plan, _key_of(plan)
        self._unedited: list[Future[None]] = []
        self._cells: dict[Hashable, Future[None]] = {}

    def start(self, rows: Int[np.ndarray, "n"], groups: Iterable[list[CellChunk]]) -> None:
        """Starts to compile the programs of some rows of the target that are not compiled yet.

        Args:
            rows: indices of the rows.
            groups: the chunks of these rows that are dispatched together.
        """
        new = {
            group[0].program: group
            for group in groups
            if (self._key, group[0].program) not in _COMPILED
        }
        if self._key is None or not new:
            return

        finished = False

        def run() -> None:
            nonlocal finished
            recordings = RecordingChunk.of(self._plan, rows)
            for group in new.values():
                recordings.dispatch(group)
            finished = True

        programs = ahead_of_time.record(run)
        if not finished:
            # The metric or the edit reads values outside of the programs, so the calls compile.
            return
        _COMPILED.update((self._key, program) for program in new)
        futures = ahead_of_time.compile_in_threads(programs)
        # Every group is one program, and these programs come last.
        self._unedited = futures[: -len(new)]
        self._cells |= dict(zip(new, futures[-len(new) :], strict=True))

    def wait_for_unedited(self) -> None:
        """Waits until the programs of the unedited passes are compiled."""
        for future in self._unedited:
            future.result()

    def wait_for(self, group: Sequence[CellChunk]) -> None:
        """Waits until the program of a group of chunks is compiled."""
        future = self._cells.get(group[0].program)
        if future is not None:
            future.result()


def _key_of(plan: Plan) -> Hashable | None:
    """Returns a key that is equal for sweeps that run the same programs for equal chunks.

    None if programs cannot be compiled before their arguments exist.
    """
    model = plan.decoder.frozen
    arrays, structure = compiled.split((plan.target, plan.source, plan.edit, plan.metric))
    in_place = any(getattr(array, "committed", False) for array in (*model.arrays, *arrays))
    if plan.mesh is None and in_place:
        # The device of these arrays decides where the later programs run.
        return None
    work = plan.work
    return (
        structure,
        tuple((jax.typeof(array).shape, jax.typeof(array).dtype) for array in arrays),
        model.structure,
        plan.mesh,
        plan.averages_target,
        plan.encoder_sites,
        plan.decoder.read_sites,
        (
            work.grid.site,
            work.grid.dims,
            work.scored_position,
            work.reuse,
            work.recordings_per_chunk,
        ),
    )
