"""Reads a store as labelled arrays, as one NumPy array, or in shards on the device."""

import dataclasses
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import ml_dtypes
import numpy as np
import xarray
from jaxtyping import Array, Float, Int

from experiments.store import integrity, joining, layout, pools
from interventions.storage.process_parts import find_parts
from jaxasr.processes import Process


def open(
    path: str | os.PathLike[str], *, process: Process | None = None, wait_s: float | None = None
) -> "Store":
    """Opens a store, finished or not, or the finished shares of several processes as one store.

    Args:
        path: the store's folder.
        process: this process, if others may still be extracting their shares. Waits for them.
        wait_s: longest time in seconds without a new file of an awaited process. Default: the
            environment variable `JAXASR_WAIT_S`, or else one hour.

    Returns:
        The store. Activations are read only when they are used.

    Raises:
        FileNotFoundError: there is no store at `path`.
        StoreError: the store is damaged or has another format, or shares do not fit together.
        ValueError: the share of a process is missing or unfinished.
        TimeoutError: an awaited process does not write files any more.
        ChildProcessError: an awaited process failed.

    Example:
        ```python
        X = store.open("activations").activations("encoder.resid_post")  # [L, N, D]
        ```
    """
    path = Path(path)
    if process is not None and process.count > 1:
        joining.wait_for_shares(path, process, wait_s)
    if not (path / "zarr.json").exists() and find_parts(path):
        shares = joining.open_shares(path)
        return Store(path, shares.dataset(), shares)
    group = integrity.open_existing(path, "r") if path.exists() else None
    # `status` is created last, so a store without it was interrupted before the first batch.
    if group is None or "status" not in group:
        raise FileNotFoundError(
            f"path: expected an activation store, found none at {str(path)!r}. "
            "Write one with `extract`."
        )
    with layout.report_damage(group, "dataset"):  # xarray reads the coordinates here
        return Store(path, xarray.open_zarr(path, consolidated=False, chunks=None), group)


@dataclasses.dataclass(frozen=True, eq=False)
class Store:
    """Activations of a corpus on disk.

    Attributes:
        path: folder of the store.
        dataset: all variables as labelled arrays, which are read when they are used.
            `experiments.store.layout` lists them.
        group: zarr group of the store, or of the shares of all processes.
    """

    path: Path
    dataset: xarray.Dataset
    group: layout.Group = dataclasses.field(repr=False)

    def __repr__(self) -> str:
        sites, state = ", ".join(self.sites), "" if self.complete else ", unfinished"
        return f"Store({str(self.path)!r}: {len(self.done_rows)} utterances at {sites}{state})"

    @property
    def attrs(self) -> dict[str, Any]:
        """Attributes of the store, such as model, corpus, settings and checksums."""
        return dict(self.group.attrs)

    @property
    def complete(self) -> bool:
        """Whether the extraction has finished."""
        return bool(self.group.attrs["complete"])

    @property
    def sites(self) -> list[str]:
        """The sites that were extracted."""
        return list(self.group.attrs["settings"]["sites"])

    @property
    def done_rows(self) -> Int[np.ndarray, "N"]:
        """Indices of the utterances that have activations, ascending."""
        return np.flatnonzero(self._read("status") == layout.DONE)

    @property
    def ids(self) -> list[str]:
        """The ids of the utterances that have activations, in the store's order."""
        return self._read("utterance")[self.done_rows].tolist()

    @property
    def problems(self) -> dict[str, str]:
        """The reason why each utterance was left out, by its id. Others are not included."""
        names, problems = self._read("utterance").tolist(), self._read("problem").tolist()
        return {name: problem for name, problem in zip(names, problems) if problem}

    def activations(
        self, site: str, pool: str = "speech", rows: np.ndarray | slice | None = None
    ) -> Float[np.ndarray, "L N D"]:
        """Reads pooled activations.

        Args:
            site: one of `sites`.
            pool: one of the store's pools.
            rows: indices into `ids`. None: all.

        Returns:
            [L, N, D] in the order of `ids`. L is 1 at a site without layers.

        Raises:
            ValueError: the store lacks the site or pool. The message lists what it has.
            StoreError: the store is damaged.

        Example:
            ```python
            X = activations.activations("encoder.resid_post", "speech")  # [L, N, D]
            ```
        """
        array, names = self._find_array(site), self.group.attrs["settings"]["pools"]
        if pool not in names:
            raise ValueError(
                f"pool: the store at {str(self.path)!r} has {', '.join(names)}, got {pool!r}."
            )
        wanted = self.done_rows if rows is None else self.done_rows[rows]
        index = names.index(pool)
        if not len(wanted):
            return _with_layers(array, array[index][..., :0, :])
        # One contiguous read is much faster in zarr than one per row.
        first, last = int(wanted.min()), int(wanted.max()) + 1
        block = self._read(site, index, ..., slice(first, last), slice(None))
        return _with_layers(array, block[..., wanted - first, :])

    def mel(self) -> Float[np.ndarray, "N M"]:
        """Reads the mean log-mel features over speech, in the order of `ids`."""
        return self._read("mel")[self.done_rows]

    def shards(
        self, site: str, pool: str = "speech", size: int = 1024
    ) -> Iterator[tuple[list[str], Float[Array, "L n D"]]]:
        """Yields ids and activations on the device, for `size` utterances at a time.

        Use this method if the activations of all utterances do not fit into memory.

        Args:
            site: one of `sites`.
            pool: one of the store's pools.
            size: utterances per shard.

        Yields:
            The ids of the shard, and its activations [L, n, D].

        Example:
            ```python
            for ids, X in activations.shards("encoder.resid_post", size=64):
                means = X.mean(axis=1)
            ```
        """
        ids = self.ids
        for start in range(0, len(ids), size):
            rows = slice(start, start + size)
            yield ids[rows], jax.device_put(self.activations(site, pool, rows))

    def frame_counts(self, site: str, ids: Sequence[str] | None = None) -> Int[np.ndarray, "n"]:
        """Returns the number of frames of each utterance in `ids`, without padding. None: all."""
        return self._frame_spans(site, ids)[1]

    def frames(
        self, site: str, ids: Sequence[str] | None = None, rows: np.ndarray | None = None
    ) -> tuple[Float[np.ndarray, "L N D"], Int[np.ndarray, "n+1"]]:
        """Reads the frames of utterances, without padding, and concatenates them.

        Args:
            site: one of `sites`. The store must have the pool "frames".
            ids: the utterances. None: all.
            rows: ascending indices of the frames to return, among the frames of `ids`. None: all.
                With `rows`, only one utterance at a time is held in memory with all its frames.

        Returns:
            The frames [L, N, D].
            The offsets [n + 1]. Utterance i has the frames from offsets[i] to offsets[i + 1] - 1,
            counted before `rows` selects some of them.

        Raises:
            ValueError: the store has no frames of the site.
            StoreError: the store is damaged.

        Example:
            ```python
            X, offsets = activations.frames("encoder.resid_post")  # needs the pool "frames"
            first_utterance = X[:, offsets[0] : offsets[1]]
            ```
        """
        name = f"{site}.{pools.FRAMES_POOL}"
        array = self._find_array(name)
        starts, counts = self._frame_spans(site, ids)
        offsets = np.concatenate([[0], np.cumsum(counts)])
        blocks = [array[..., :0, :]]  # gives the shape and dtype of a result without frames
        for offset, start, count in zip(offsets, starts, counts):
            chosen = _rows_of_utterance(rows, offset, count)
            if rows is None or len(chosen):
                block = self._read(name, ..., slice(start, start + count), slice(None))
                blocks.append(block[..., chosen, :])
        return _with_layers(array, np.concatenate(blocks, axis=-2)), offsets

    def _frame_spans(self, site: str, ids: Sequence[str] | None) -> tuple[np.ndarray, np.ndarray]:
        """Returns the index of the first frame of each utterance, and the number of its frames."""
        self._find_array(f"{site}.{pools.FRAMES_POOL}")
        row_of = {name: row for row, name in enumerate(self._read("utterance").tolist())}
        chosen = np.array([row_of[name] for name in (self.ids if ids is None else ids)], int)
        clock = layout.clock_of(self.group, site)
        scale = 2 if site == "encoder.conv1" else 1  # frames of the site per encoder frame
        starts, counts = (
            scale * self._read(f"{clock}_frame_{name}")[chosen] for name in ("start", "count")
        )
        return starts, counts

    def _find_array(self, name: str) -> Any:
        if name not in self.group:
            names = ", ".join(sorted(self.group.array_keys()))
            raise ValueError(f"site: the store at {str(self.path)!r} has {names}, got {name!r}.")
        return self.group[name]

    def _read(self, name: str, *where: Any) -> np.ndarray:
        return layout.read(self.group, name, *where)

    def verify(self) -> None:
        """Reads every variable, and checks all checksums of a complete store.

        Raises:
            StoreError: the store is unfinished, or a variable differs from what was written. The
                message names the variable.

        Example:
            ```python
            activations.verify()
            ```
        """
        for name in self.group.array_keys():
            self._read(name)
        self.verify_checksums()

    def verify_checksums(self) -> None:
        """Checks the files of a complete store against their checksums, without decoding them.

        Raises:
            StoreError: the store is unfinished, or a variable differs from what was written. The
                message names the variable.
        """
        for group in getattr(self.group, "parts", (self.group,)):
            integrity.compare_checksums(group)


def _rows_of_utterance(rows: np.ndarray | None, offset: int, count: int) -> Any:
    """Returns those of `rows` that are frames of one utterance, counted from its first frame.

    Args:
        rows: ascending indices of frames, or None for all frames.
        offset: index of the utterance's first frame.
        count: number of the utterance's frames.
    """
    if rows is None:
        return slice(None)
    first, end = np.searchsorted(rows, (offset, offset + count))
    return rows[first:end] - offset


def _with_layers(array: Any, x: np.ndarray) -> Float[np.ndarray, "L N D"]:
    """Converts values read from `array` to float32 or wider, and adds a layer axis if needed."""
    if array.attrs["dtype"] == "bfloat16":  # the integers on disk are the bits of bfloat16
        x = x.view(ml_dtypes.bfloat16)
    wide = x if x.dtype == np.float64 else x.astype(np.float32)
    return wide if wide.ndim == 3 else wide[None]
