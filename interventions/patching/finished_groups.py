"""Keeps the finished groups of a sweep on disk, so that an interrupted sweep resumes.

A group is the cells of one example that edit the same layer. The labelled result of a finished
sweep is saved next to its groups. Each of several processes has a folder of its own.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import jax
import numpy as np
import xarray as xr
from jaxtyping import Float

from interventions.patching.plan import Plan
from interventions.storage import parts
from interventions.storage.atomic import only_writer
from interventions.storage.fingerprints import fingerprint
from interventions.storage.process_parts import OtherProcesses, part_folder
from interventions.storage.results import save_result

_SWEEP_FILE = f"sweep{parts.SUFFIX}"
RESULT_FILE = "result.zarr"
DIGEST_ATTRIBUTE = "sweep_sha256"  # the fingerprint of the sweep, which only the saved result has


class FinishedGroups:
    """The finished groups of one sweep in a folder, by example and layer.

    Without a folder, nothing is saved or loaded.

    Args:
        folder: the folder of the sweep, if any.
        digest: fingerprint of the sweep. A group of another sweep is not loaded.
    """

    def __init__(self, folder: Path | None = None, digest: str = ""):
        self.folder, self.digest = folder, digest

    def load(self, example: int, layer: int | None, size: int) -> Float[np.ndarray, "n"] | None:
        """Returns the values of a group of `size` cells; None if its file is missing or damaged."""
        if self.folder is None:
            return None
        part = parts.load(self._path(example, layer), self._key(example, layer)) or {}
        values = part.get("values")
        # Another shape or dtype would be broadcast or cast without an error.
        if values is None or values.shape != (size,) or values.dtype != np.float64:
            return None
        return values

    def save(self, example: int, layer: int | None, values: Float[np.ndarray, "n"]) -> None:
        """Saves the values of a group."""
        if self.folder is not None:
            parts.save(self._path(example, layer), self._key(example, layer), {"values": values})

    def save_result(self, result: xr.DataArray) -> None:
        """Saves the labelled result of all examples of this process."""
        if self.folder is not None:
            labelled = result.assign_attrs({DIGEST_ATTRIBUTE: self.digest})
            save_result(labelled, self.folder / RESULT_FILE)

    def _path(self, example: int, layer: int | None) -> Path:
        assert self.folder is not None
        return self.folder / f"example-{example}-layer-{layer}{parts.SUFFIX}"

    def _key(self, example: int, layer: int | None) -> str:
        return f"{self.digest} example {example} layer {layer}"


@contextmanager
def finished_groups(folder: str | os.PathLike | None, plan: Plan) -> Iterator[FinishedGroups]:
    """Opens the finished groups of `plan` in `folder`, for this process alone.

    Each of several processes has a subfolder.

    Raises:
        ValueError: `folder` holds another sweep, or the plan holds code or values that differ
            between processes, so that it has no fingerprint.
        BlockingIOError: another process uses `folder`.
    """
    if folder is None:
        yield FinishedGroups()
        return
    others, digest = OtherProcesses(folder, plan.process), _digest(plan)
    folder = part_folder(folder, plan.process)
    with only_writer(folder), others.reporting_failure():
        saved = parts.load(folder / _SWEEP_FILE, _SWEEP_FILE)
        if saved is not None and str(saved["sha256"]) != digest:
            raise ValueError(
                f"store: {str(folder)!r} holds another sweep. Its model, runs, site, grid, metric, "
                "edit, their code or its version of Python differs. Choose another folder."
            )
        if saved is None:
            parts.save(folder / _SWEEP_FILE, _SWEEP_FILE, {"sha256": np.array(digest)})
        yield FinishedGroups(folder, digest)


def _digest(plan: Plan) -> str:
    """Returns the fingerprint of all inputs that the values depend on."""
    grid = plan.work.grid
    # A dict has no order in a fingerprint, but the order of the dimensions orders the cells.
    cells = {
        "site": grid.site,
        "coords": grid.coords,
        "order": list(grid.coords),
        "frames": grid.frames,
    }
    computation = {"scored": plan.work.scored_position, "reuse": plan.work.reuse}
    model = {"config": plan.model.config, "weights": jax.tree.leaves(plan.model)}
    return fingerprint(
        model=model,
        target=plan.target,
        source=[plan.source, plan.averages_target],
        grid=cells,
        how=computation,
        metric=plan.metric,
        edit=plan.edit,
    )
