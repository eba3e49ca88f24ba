"""A store read back: as labelled arrays, as a matrix for a fit, or in shards on the device."""

import dataclasses
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import ml_dtypes
import numpy as np
import xarray
from jaxtyping import Array, Float

from experiments.store import layout, pools
from jaxasr.sites import stack_of


def open(path: str | os.PathLike) -> "Store":
    """A store, finished or not. Raises FileNotFoundError, and StoreError when it is of another format."""
    path = Path(path)
    group = layout.existing(path, "r") if path.exists() else None
    if group is None or "status" not in group:
        raise FileNotFoundError(
            f"path: expected an activation store, found none at {str(path)!r}. Write one with `extract`."
        )
    if group.attrs["format"] != layout.FORMAT:
        raise layout.StoreError(
            f"path: {str(path)!r} has format {group.attrs['format']}, this version reads {layout.FORMAT}."
        )
    with layout.damage_named(group, "dataset"):  # the coordinates are read now
        return Store(path, xarray.open_zarr(path, consolidated=False, chunks=None), group)


@dataclasses.dataclass(frozen=True, eq=False)
class Store:
    """`dataset` is the whole store, read when it is used: dims utterance, pool, encoder_layer, feature … (`layout`)."""

    path: Path
    dataset: xarray.Dataset
    group: layout.Group = dataclasses.field(repr=False)

    @property
    def attrs(self) -> dict[str, Any]:
        return dict(self.group.attrs)

    @property
    def complete(self) -> bool:
        return bool(self.group.attrs["complete"])

    @property
    def sites(self) -> list[str]:
        return list(self.group.attrs["settings"]["sites"])

    @property
    def done(self) -> np.ndarray:
        """Indices of the utterances that are there, in the store's order."""
        return np.flatnonzero(self._read("status") == layout.DONE)

    @property
    def ids(self) -> list[str]:
        """Of the utterances that are there."""
        return self._read("utterance")[self.done].tolist()

    @property
    def problems(self) -> dict[str, str]:
        """Utterances that were left out, and why."""
        names, problems = self._read("utterance").tolist(), self._read("problem").tolist()
        return {name: problem for name, problem in zip(names, problems) if problem}

    def activations(
        self, site: str, pool: str = "speech", rows: np.ndarray | slice | None = None
    ) -> np.ndarray:
        """[L, N, D] of the utterances that are there, in the order of `ids`, or only `rows` of them; L is 1 where a site has no layers.

        Raises ValueError listing what the store has for a site or pool that it lacks.
        """
        array, names = self._array(site), self.group.attrs["settings"]["pools"]
        if pool not in names:
            raise ValueError(
                f"pool: the store at {str(self.path)!r} has {', '.join(names)}, got {pool!r}."
            )
        wanted = self.done if rows is None else self.done[rows]
        if not len(wanted):
            return self._wide(array, array[names.index(pool)][..., :0, :])
        first, last = int(wanted.min()), int(wanted.max()) + 1
        return self._wide(
            array,
            self._read(site, names.index(pool), ..., slice(first, last), slice(None))[
                ..., wanted - first, :
            ],
        )

    def mel(self) -> Float[np.ndarray, "N M"]:
        """Mean log-mel features over speech of the utterances that are there."""
        return self._read("mel")[self.done]

    def shards(
        self, site: str, pool: str = "speech", size: int = 1024
    ) -> Iterator[tuple[list[str], Float[Array, "L n D"]]]:
        """Ids and activations on the device, `size` utterances at a time: for fits of more than memory holds."""
        ids = self.ids
        for start in range(0, len(ids), size):
            here = slice(start, start + size)
            yield ids[here], jax.device_put(self.activations(site, pool, here))

    def frame_counts(self, site: str, ids: Sequence[str] | None = None) -> np.ndarray:
        """True frames [n] of all utterances, or of `ids`."""
        return self._spans(site, ids)[1]

    def frames(
        self, site: str, ids: Sequence[str] | None = None, rows: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """True frames: [L, N, D] of all utterances (or of `ids`) one after the other, and offsets [n + 1] of each in N.

        rows: only these of the N, ascending. One utterance at a time is read, so what is not asked for takes no memory.
        """
        array = self._array(f"{site}.{pools.FRAMES}")
        start, count = self._spans(site, ids)
        offsets = np.concatenate([[0], np.cumsum(count)])
        parts = [array[..., :0, :]]
        for first, a, n in zip(offsets, start, count):
            here = (
                slice(None)
                if rows is None
                else rows[slice(*np.searchsorted(rows, (first, first + n)))] - first
            )
            if rows is None or len(here):
                parts.append(
                    self._read(f"{site}.{pools.FRAMES}", ..., slice(a, a + n), slice(None))[
                        ..., here, :
                    ]
                )
        return self._wide(array, np.concatenate(parts, axis=-2)), offsets

    def _spans(self, site: str, ids: Sequence[str] | None) -> tuple[np.ndarray, np.ndarray]:
        """Where the frames of each utterance start, and how many there are."""
        self._array(f"{site}.{pools.FRAMES}")
        where = {name: i for i, name in enumerate(self._read("utterance").tolist())}
        chosen = np.array([where[name] for name in (self.ids if ids is None else ids)], int)
        per = 2 if site == "encoder.conv1" else 1
        start, count = (
            per * self._read(f"{stack_of(site)}_frame_{name}")[chosen]
            for name in ("start", "count")
        )
        return start, count

    def _array(self, name: str) -> Any:
        if name not in self.group:
            raise ValueError(
                f"site: the store at {str(self.path)!r} has {', '.join(sorted(self.group.array_keys()))}, got {name!r}."
            )
        return self.group[name]

    def _read(self, name: str, *where: Any) -> np.ndarray:
        return layout.read(self.group, name, *where)

    @staticmethod
    def _wide(array: Any, x: np.ndarray) -> np.ndarray:
        """As numbers to compute with, with a layer axis."""
        bits = array.attrs["dtype"] == "bfloat16"
        x = x.view(ml_dtypes.bfloat16) if bits else x
        wide = x if x.dtype == np.float64 else x.astype(np.float32)
        return wide if wide.ndim == 3 else wide[None]

    def verify(self) -> None:
        """Reads everything. Raises StoreError naming the variable that is not what was written."""
        for name in self.group.array_keys():
            self._read(name)
        self.verify_checksums()

    def verify_checksums(self) -> None:
        """Reads all files of a finished store without decoding them. Raises StoreError naming what is not what was written."""
        now = layout.checksums(self.group)
        changed = [
            name
            for name, value in self.attrs.get("checksums", {}).items()
            if now.get(name) != value
        ]
        if changed:
            raise layout.StoreError(
                f"{str(self.path)!r}: {', '.join(changed)} differ from what was written. {layout.REMEDY}"
            )
