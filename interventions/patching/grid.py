"""Defines the grid of a sweep: its dimensions, and the coordinates of its cells."""

import dataclasses
import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

from interventions.edits.combining import position_and_frame_axes
from jaxasr.config import FRAMES_PER_S
from jaxasr.sites import SiteSpec

# Number of windows of time that chunk sizes assume, so that they do not depend on the recording.
_NOMINAL_WINDOWS = 8


@dataclasses.dataclass(frozen=True)
class Grid:
    """The cells of a sweep at one site.

    Attributes:
        site: the patched site.
        coords: the values along each dimension. For "layer", "head" and "position" the values are
            indices, for "time" the first frame of each window, and for "alpha" strengths.
        window: number of frames per window of time.
        n_frames: number of frames without padding. The last window ends here.
        frames_per_step: 1 if frames are encoder frames of 20 ms. At sites after the pooling of an
            audio language model, frames are audio tokens, and this is their length in encoder
            frames.
        audio_positions: decoder position of each audio token; None if windows of time do not
            select positions of the decoder.
    """

    site: str
    coords: dict[str, np.ndarray]
    window: int
    n_frames: int
    frames_per_step: int = 1
    audio_positions: Int[np.ndarray, "A"] | None = None

    @classmethod
    def of(
        cls,
        spec: SiteSpec,
        over: Sequence[str],
        *,
        window_s: float,
        n_frames: int,
        alphas: Sequence[float],
        selected: dict[str, Any],
        audio_positions: Int[np.ndarray, "A"] | None = None,
    ) -> "Grid":
        """Makes the grid of a site.

        Args:
            spec: the site and its sizes in the pass that is swept.
            over: dimensions, in order.
            window_s: seconds per window of time.
            n_frames: encoder frames of 20 ms without padding.
            alphas: strengths.
            selected: the indices to sweep, {dimension: indices}. All indices of a dimension are
                swept if it is missing or None.
            audio_positions: decoder position of each audio token, if the site is in the decoder of
                an audio language model and `over` has "time".

        Raises:
            ValueError: the site lacks a dimension, an index or a frame, or the window is too short.
        """
        sizes = swept_sizes(spec)
        _check_dims(spec, over, sizes)
        n_steps, window = _count_steps(spec, n_frames, window_s, audio_positions)
        indices = {dim: np.arange(size, dtype=np.int32) for dim, size in sizes.items()} | {
            "time": np.arange(0, n_steps, window, dtype=np.int32),
            "alpha": np.asarray(alphas, np.float32),
        }
        coords = {dim: _select_indices(indices[dim], selected.get(dim), dim) for dim in over}
        selects_keys = "S" in spec.axes and "T" in spec.axes  # at `scores` and `pattern`
        positions = None if selects_keys else audio_positions
        return cls(spec.site, coords, window, n_steps, spec.frames_per_step, positions)

    @property
    def dims(self) -> tuple[str, ...]:
        """Names of the dimensions, in order."""
        return tuple(self.coords)

    @property
    def shape(self) -> tuple[int, ...]:
        """Size of each dimension."""
        return tuple(len(values) for values in self.coords.values())

    @property
    def size(self) -> int:
        """Number of cells."""
        return math.prod(self.shape)

    @property
    def place_dim(self) -> str | None:
        """The dimension that selects decoder positions; None if cells patch all positions."""
        if "position" in self.coords:
            return "position"
        return "time" if "time" in self.coords and self.audio_positions is not None else None

    @property
    def n_places(self) -> int:
        """Number of places along `place_dim`; 1 if all positions are patched at once."""
        return 1 if self.place_dim is None else len(self.coords[self.place_dim])

    def patched_positions(self) -> list[Int[np.ndarray, "n"]]:
        """Returns the decoder positions that the cells of each place patch, in ascending order."""
        if self.place_dim != "time":
            return [np.array([position]) for position in self.coords["position"]]
        audio = self.audio_positions
        assert audio is not None
        stops = np.minimum(self.coords["time"] + self.window, self.n_frames)
        return [audio[start:stop] for start, stop in zip(self.coords["time"], stops)]

    def seconds(self, n_frames: Any) -> Any:
        """Converts a number of frames, or several, to seconds."""
        return n_frames * self.frames_per_step / FRAMES_PER_S

    @property
    def frames(self) -> tuple[np.int32, np.int32]:
        """`window` and `n_frames` as NumPy scalars, because a new Python int would retrace."""
        return np.int32(self.window), np.int32(self.n_frames)

    def cell_coords(self) -> dict[str, np.ndarray]:
        """Returns the coordinates of every cell, in row-major order."""
        axes = np.meshgrid(*self.coords.values(), indexing="ij")
        return {dim: axis.ravel() for dim, axis in zip(self.dims, axes)}

    def nominal_n_cells(self, *excluded: str | None) -> int:
        """Counts the cells over all dimensions except `excluded`, to choose a chunk size.

        Time counts as 8 windows, so that recordings of all lengths share compiled programs. A chunk
        then has at most seven windows of padding.
        """
        return math.prod(
            _NOMINAL_WINDOWS if dim == "time" else len(values)
            for dim, values in self.coords.items()
            if dim not in excluded
        )

    @property
    def layers(self) -> list[int | None]:
        """The swept layers; [None] if every cell edits all layers."""
        return [int(layer) for layer in self.coords["layer"]] if "layer" in self.coords else [None]

    def cells_of_layer(self, layer: int | None) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Returns flat indices and coordinates of the cells that edit `layer`."""
        axes = [[layer] if dim == "layer" else values for dim, values in self.coords.items()]
        # One array needs one dtype. float64 represents indices and strengths exactly, and each
        # dimension is cast back below.
        rows = np.array(list(itertools.product(*axes)), np.float64).reshape(-1, len(self.dims))
        cells = {dim: rows[:, i].astype(self.coords[dim].dtype) for i, dim in enumerate(self.dims)}
        flat = np.arange(self.size).reshape(self.shape)
        if layer is not None:
            flat = np.take(flat, [self.layers.index(layer)], axis=self.dims.index("layer"))
        return flat.ravel(), cells

    def cells_by_place(self, layer: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Returns the cells that edit `layer`, arranged by place.

        Returns:
            Flat indices [places, K], and the coordinates [K] of the cells of one place. The cells
            of every place have the same coordinates.
        """
        axis = self.dims.index("layer")
        flat: np.ndarray = np.arange(self.size).reshape(self.shape)
        flat = np.asarray(flat.take(self.layers.index(layer), axis))
        if self.place_dim is not None:
            remaining = [dim for dim in self.dims if dim != "layer"]
            flat = np.moveaxis(flat, remaining.index(self.place_dim), 0)
        dims = [dim for dim in self.dims if dim not in ("layer", self.place_dim)]
        axes = np.meshgrid(*(self.coords[dim] for dim in dims), indexing="ij")
        cells = {dim: axis.ravel() for dim, axis in zip(dims, axes)}
        # If the grid has no other dimension, `vmap` needs an array of one cell all the same.
        return flat.reshape(self.n_places, -1), cells or {"cell": np.zeros(1, np.int32)}

    def labels(self, tokens: Any = None) -> dict[str, Any]:
        """Returns the coordinates of the labelled result.

        Args:
            tokens: int [B, T], to add the coordinate `token_id` along "position". If rows differ,
                `token_id` also has the dimension "example".

        Returns:
            Coordinates for xarray. Those of "time" are the starts of windows in seconds.
        """
        labels: dict[str, Any] = dict(self.coords)
        if "time" in labels:
            labels["time"] = self.seconds(labels["time"])
        if tokens is not None and "position" in labels:
            ids = np.asarray(tokens)[:, labels["position"]]
            same = bool((ids == ids[0]).all())
            labels["token_id"] = ("position", ids[0]) if same else (("example", "position"), ids)
        return labels


def swept_sizes(spec: SiteSpec) -> dict[str, int]:
    """Returns the dimensions that a sweep of a site can have, with their sizes.

    The sizes of "time" and "alpha" are 0, because the site does not determine them.
    """
    in_decoder = spec.site.startswith("decoder.")
    has_audio_keys = ".cross_attn." in spec.site and "S" in spec.axes
    sizes = {"layer": spec.n_layer} if spec.n_layer else {}
    if "H" in spec.axes:
        sizes["head"] = spec.size("H")
    if in_decoder and "T" in spec.axes:
        sizes["position"] = spec.size("T")
    elif in_decoder and not has_audio_keys:
        # Keys and values of decoder self-attention have one position per token.
        sizes["position"] = spec.size("S")
    if not in_decoder or has_audio_keys or spec.n_audio_tokens:
        sizes["time"] = 0
    return sizes | {"alpha": 0}


def _check_dims(spec: SiteSpec, over: Sequence[str], sizes: dict[str, int]) -> None:
    expected = f"expected some of {', '.join(sizes)}."
    for dim in over:
        if dim not in sizes:
            message = f"over: {dim!r} is not a dimension of a sweep at {spec.site!r}; "
            raise ValueError(message + expected)
    if not over or len(set(over)) < len(over):
        raise ValueError(
            f"over: expected one or more different dimensions of {', '.join(sizes)}, "
            f"got {tuple(over)}."
        )
    axes = position_and_frame_axes(spec.axes, spec.site, spec.n_audio_tokens > 0)
    if {"position", "time"} <= {*over} and axes[0] == axes[1]:
        raise ValueError(
            f"over: 'position' and 'time' both select tokens at {spec.site!r}; expected one of "
            "the two."
        )


def _count_steps(
    spec: SiteSpec, n_frames: int, window_s: float, audio_positions: np.ndarray | None
) -> tuple[int, int]:
    """Returns the number of frames without padding, and per window, in steps of the site."""
    per_step = spec.frames_per_step
    window = round(window_s * FRAMES_PER_S / per_step)
    if window < 1:
        raise ValueError(
            f"window_s: expected at least one frame of {per_step / FRAMES_PER_S} s, got {window_s}."
        )
    if spec.n_audio_tokens:
        size = spec.n_audio_tokens if audio_positions is None else len(audio_positions)
    else:
        _, frame_axis = position_and_frame_axes(spec.axes, spec.site)
        size = None if frame_axis is None else spec.size(frame_axis)
    n_steps = n_frames // per_step
    if size is not None and not 0 < n_steps <= size:
        raise ValueError(
            f"n_frames: expected {per_step} to {size * per_step} frames at {spec.site!r}, "
            f"got {n_frames}."
        )
    return n_steps, window


def _select_indices(values: np.ndarray, selected: Any, dim: str) -> np.ndarray:
    """Returns `selected`, or all `values` if it is None. Raises ValueError for any other index."""
    if selected is None:
        return values
    selected = np.atleast_1d(np.asarray(selected, values.dtype))
    if unknown := sorted(set(selected.tolist()) - set(values.tolist())):
        raise ValueError(f"{dim}: expected some of {values.tolist()}, got {unknown}.")
    return selected
