"""Computes the rows of runs in chunks that fit the memory, on one device or on a mesh."""

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec as P
from jaxtyping import Int

from interventions.forward import mel_of
from interventions.memory_budget import memory_budget
from interventions.patching.axes import axes_of_acts
from interventions.patching.chunks import run_one_ahead
from interventions.patching.programs import encode
from interventions.run import Run
from jaxasr import compiled
from jaxasr.cache import EncodedAudio, Memory, Prefix
from jaxasr.config import Config
from jaxasr.meshes import DATA, axes_of_memory, axis_size, size_per_device, specs_of
from jaxasr.model import SpeechModel
from jaxasr.taps import Acts, select

# Bytes of the rows that a CPU computes together.
CPU_ROW_BUDGET = 1 << 30
Rows = Int[np.ndarray, "R"]


@dataclasses.dataclass(frozen=True)
class RowChunks:
    """Chunks of rows. All chunks have the same size, so that one program computes them.

    Attributes:
        n_rows: number of rows.
        per_device: rows that each device computes in one call.
        n_devices: number of devices that divide the rows.
    """

    n_rows: int
    per_device: int
    n_devices: int

    @classmethod
    def of(
        cls, n_rows: int, max_rows: int, mesh: Mesh | None, per_device: int | None = None
    ) -> "RowChunks":
        """Chooses the size of the chunks.

        Args:
            n_rows: number of rows.
            max_rows: most rows that fit the memory of a device; see `rows_that_fit`.
            mesh: the mesh that divides the rows; None for one device.
            per_device: rows that each device computes in one call; None for as many as fit.

        Raises:
            ValueError: `per_device` is less than 1. The message calls it `recordings`.
        """
        n_devices = 0 if mesh is None else axis_size(mesh, DATA)
        if per_device is None:
            per_device = size_per_device(n_rows, n_devices, max_rows)
        check_recordings(per_device)
        return cls(n_rows, per_device, max(1, n_devices))

    def __iter__(self) -> Iterator[Rows]:
        """Yields the indices of the rows of each chunk, without padding."""
        size = self.per_device * self.n_devices
        rows = np.arange(self.n_rows)
        return (rows[start : start + size] for start in range(0, self.n_rows, size))

    def padded(self, rows: Rows) -> Rows:
        """Repeats the last of `rows` until the chunk is full."""
        return np.pad(rows, (0, self.per_device * self.n_devices - len(rows)), mode="edge")

    def map(self, dispatch: Callable[[Rows], Any]) -> Any:
        """Computes every chunk. The next one is dispatched before the last one is read.

        Args:
            dispatch: starts to compute the rows of a padded chunk. Returns a pytree of arrays whose
                first axis is the rows.

        Returns:
            The pytree with NumPy arrays of all rows.
        """
        parts: list[Any] = []

        def store(result: Any, n: int) -> None:
            parts.append(jax.tree.map(lambda x: np.asarray(x)[:n], result))

        run_one_ahead(
            functools.partial(store, dispatch(self.padded(rows)), len(rows)) for rows in self
        )
        return parts[0] if len(parts) == 1 else jax.tree.map(lambda *x: np.concatenate(x), *parts)


def rows_that_fit(row_bytes: int) -> int:
    """Returns how many rows of `row_bytes` fit the memory of a device."""
    return memory_budget(None, cpu=CPU_ROW_BUDGET) // row_bytes


def check_recordings(recordings: int | None) -> None:
    """Raises ValueError for fewer than one recording."""
    if recordings is not None and recordings < 1:
        raise ValueError(f"recordings: expected 1 or more, got {recordings}.")


def select_rows(run: Run, rows: Rows) -> Run:
    """Returns the rows `rows` of a run."""
    # Selecting all rows would copy the memory.
    is_whole = np.array_equal(rows, np.arange(run.batch))
    return dataclasses.replace(run, tokens=jnp.asarray(run.tokens)) if is_whole else run.rows(rows)


def encode_rows(
    model: SpeechModel, run: Run, mesh: Mesh | None, names: tuple[str, ...] = ()
) -> tuple[Run, Acts]:
    """Encodes a run unless it is encoded and no activation of the encoder is needed.

    Args:
        model: the model, on the devices of the mesh.
        run: as many rows as all devices compute together.
        mesh: the mesh; None for one device.
        names: sites of the encoder whose activations are needed.

    Returns:
        The encoded run, and the activations.
    """
    if run.memory is not None and not names:
        return run, {}
    memory_axes = _axes_of_encoded(model.config)
    memory, acts = compiled.call_on_mesh(
        mesh,
        encode,
        model,
        mel_of(run),
        run.lengths,
        select(*names),
        specs=(P(), P(DATA), None if run.lengths is None else P(DATA), P()),
        out_specs=specs_of((memory_axes, axes_of_acts(names))),
    )
    if run.memory is None:
        run = dataclasses.replace(run, memory=memory, mel=None, encoded_mel=run.mel)
    return run, acts


def _axes_of_encoded(config: Config) -> EncodedAudio:
    """Returns the axis of recordings of every array that `encode` returns."""
    if config.audio_language is not None:
        return Prefix(0, 0)  # pyright: ignore[reportArgumentType]
    per_layer: Any = (0,) * config.n_text_layer
    stacked = Memory(0, per_layer, per_layer)  # pyright: ignore[reportArgumentType]
    return axes_of_memory(stacked, unstacked=False)
