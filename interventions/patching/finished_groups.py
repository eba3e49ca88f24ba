"""Finished groups of a sweep's cells on disk, so that an interrupted sweep goes on where it stopped."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np

from interventions.patching.planning import Finish
from interventions.storage import parts
from interventions.storage.atomic import only_writer
from interventions.storage.fingerprints import fingerprint

_MARK = f"sweep{parts.SUFFIX}"


class Groups:
    """The groups of one sweep in a folder, by example and layer; without a folder nothing is kept."""

    def __init__(self, folder: Path | None = None, digest: str = ""):
        self.folder, self.digest = folder, digest

    def begin(self, key: tuple, size: int, begin: Callable[[], Finish]) -> Finish:
        """Begins to compute the `size` values of a group, unless they are there."""
        if self.folder is None:
            return begin()
        path = self.folder / f"example-{key[0]}-layer-{key[1]}{parts.SUFFIX}"
        name = f"{self.digest} example {key[0]} layer {key[1]}"
        there = (parts.load(path, name) or {}).get("values")
        if there is not None and there.shape == (size,) and there.dtype == np.float64:
            return lambda: there
        finish = begin()

        def kept() -> np.ndarray:
            values = finish()
            parts.save(path, name, {"values": values})
            return values

        return kept


@contextmanager
def kept_in(folder: Any, plan: Any) -> Iterator[Groups]:
    """The groups of `plan` that are in `folder`, which no other process writes into meanwhile.

    Raises:
        ValueError: `folder` holds another sweep; the plan refers to code or values that are not the same in another process.
        BlockingIOError: another process is writing into `folder`.
    """
    if folder is None:
        yield Groups()
        return
    folder, digest = Path(folder), _digest(plan)
    with only_writer(folder):
        there = parts.load(folder / _MARK, _MARK)
        if there is not None and str(there["sha256"]) != digest:
            raise ValueError(
                f"store: {str(folder)!r} holds another sweep: its model, runs, site, grid, metric or edit differ, or the code of these, or "
                "the version of Python. Choose another folder."
            )
        if there is None:
            parts.save(folder / _MARK, _MARK, {"sha256": np.array(digest)})
        yield Groups(folder, digest)


def _digest(plan: Any) -> str:
    """Of everything that the values depend on."""
    grid = {
        "site": plan.grid.site,
        "coords": plan.grid.coords,
        "order": list(plan.grid.coords),
        "frames": plan.grid.frames,
    }
    how = {"scored": plan.scored, "reuse": plan.reuse}
    model = {"config": plan.model.config, "weights": jax.tree.leaves(plan.model)}
    return fingerprint(
        model=model, target=plan.target, grid=grid, how=how, metric=plan.metric, edit=plan.edit
    )
