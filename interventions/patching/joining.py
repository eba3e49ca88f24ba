"""Opens the results that one or several processes saved for a sweep as one labelled array."""

import os
from pathlib import Path
from typing import Any

import xarray as xr

from interventions.patching.finished_groups import DIGEST_ATTRIBUTE, RESULT_FILE
from interventions.storage.process_parts import OtherProcesses, complete_parts, part_folder
from interventions.storage.results import load_result
from jaxasr.processes import Process


def open_sweep(
    store: str | os.PathLike[str], *, process: Process | None = None, wait_s: float | None = None
) -> xr.DataArray:
    """Opens the finished sweep in a folder, whether one process or several computed it.

    Args:
        store: the folder that was given to `sweep`.
        process: this process, if the others may still be running. Waits until they have finished.
        wait_s: longest time in seconds without a new file of an awaited process. Default: the
            environment variable `JAXASR_WAIT_S`, or else one hour.

    Returns:
        The array that `sweep` would return if one process had computed it, equal to the bit.

    Raises:
        FileNotFoundError: `store` has no finished sweep.
        ValueError: the part of a process is missing, damaged or of another sweep.
        TimeoutError: an awaited process does not write files any more.
        ChildProcessError: an awaited process failed.

    Example:
        ```python
        process = jaxasr.processes.this_process()
        options = {"site": "decoder.mlp_out", "over": ("layer",), "metric": iv.logprob(answer)}
        iv.sweep(model, run, "zero", process=process, store="cells", **options)
        if process.is_first:
            cells = iv.open_sweep("cells", process=process)
        ```
    """
    store = Path(store)
    if process is not None and process.count > 1:
        _wait_for_others(store, process, wait_s)
    if (store / RESULT_FILE).exists():
        return _load(store)[0]
    loaded = [_load(part) for part in complete_parts(store, _is_finished)]
    arrays, digests = zip(*loaded, strict=True)
    if len(set(digests)) > 1:
        raise ValueError(
            f"store: {str(store)!r} holds parts of different sweeps. Start the processes again "
            "with the same arguments, in another folder."
        )
    joined: Any = xr.concat(
        # A part without examples has no values that the others could contradict.
        [array for array in arrays if array.sizes["example"]],
        "example",
        coords="minimal",
        compat="override",
        join="exact",
        combine_attrs="identical",
    )
    return without_single_example(joined) if joined.sizes["example"] == 1 else joined


def without_single_example(result: xr.DataArray) -> xr.DataArray:
    """Drops the dimension of a result with one example, as `sweep` returns it."""
    return result.isel(example=0).drop_vars("example")


def _wait_for_others(store: Path, process: Process, wait_s: float | None) -> None:
    """Waits until every other process has finished the sweep that `process` has finished."""
    others = OtherProcesses(store, process, wait_s)
    _, digest = _load(part_folder(store, process))
    for other in process.others():
        part = part_folder(store, other)
        # The folder may hold the result of an earlier sweep, which its process will replace.
        others.wait(other, lambda part=part: _is_finished(part) and _load(part)[1] == digest)


def _is_finished(part: Path) -> bool:
    return (part / RESULT_FILE).exists()


def _load(part: Path) -> tuple[xr.DataArray, str]:
    """Loads the result of one process, and the fingerprint of its sweep."""
    # The encoding holds the sizes of the chunks on disk, which differ between parts.
    result = load_result(part / RESULT_FILE).drop_encoding()
    assert isinstance(result, xr.DataArray)
    return result, result.attrs.pop(DIGEST_ATTRIBUTE)
