"""The cells of a sweep: which dimensions, how long, and the edit of each cell."""

import dataclasses
import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from interventions.edits import Restrict, only
from jaxasr import pytrees
from jaxasr.config import FRAMES_PER_S
from jaxasr.sites import SiteSpec
from jaxasr.taps import Edit, Edits

DIMS = ("layer", "head", "position", "time", "alpha")
_WINDOWS = 8


@dataclasses.dataclass(frozen=True)
class Grid:
    """`coords[dim]` are the indices swept: of layers, heads, positions; first frames of windows for "time"; strengths for "alpha"."""

    site: str
    coords: dict[str, np.ndarray]
    window: int  # frames
    n_frames: int

    @classmethod
    def of(
        cls,
        spec: SiteSpec,
        over: Sequence[str],
        *,
        window_s: float,
        n_frames: int,
        alphas: Sequence[float],
        chosen: dict[str, Any],
    ) -> "Grid":
        """Raises ValueError for dimensions that the site does not have."""
        for dim in over:
            if dim not in _sizes(spec):
                raise ValueError(
                    f"over: {dim!r} is no dimension of a sweep at {spec.site!r}. There are: {', '.join(_sizes(spec))}."
                )
        if not over or len(set(over)) < len(over):
            raise ValueError(
                f"over: expected one or more different dimensions of {', '.join(_sizes(spec))}, got {tuple(over)}."
            )
        window = round(window_s * FRAMES_PER_S)
        if window < 1 or not 0 < n_frames <= 1500 * max(1, window):
            raise ValueError(
                f"window_s: expected at least one frame of {1 / FRAMES_PER_S} s, got {window_s}."
            )
        every = {dim: np.arange(n, dtype=np.int32) for dim, n in _sizes(spec).items()}
        every |= {
            "time": np.arange(0, n_frames, window, dtype=np.int32),
            "alpha": np.asarray(alphas, np.float32),
        }
        return cls(
            spec.site,
            {dim: _subset(every[dim], chosen.get(dim), dim) for dim in over},
            window,
            n_frames,
        )

    @property
    def dims(self) -> tuple[str, ...]:
        return tuple(self.coords)

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(len(values) for values in self.coords.values())

    @property
    def frames(self) -> tuple[np.int32, np.int32]:
        """In a window, and that are true: for a compiled function, numbers that never retrace."""
        return np.int32(self.window), np.int32(self.n_frames)

    def flat(self) -> dict[str, np.ndarray]:
        """Coordinates of every cell, in the order of the flat grid."""
        return dict(
            zip(
                self.dims,
                (axis.ravel() for axis in np.meshgrid(*self.coords.values(), indexing="ij")),
            )
        )

    def alike(self, *without: str) -> int:
        """How many cells there are over all dims but `without`, to choose a size of chunks by. Windows of time count as 8, however many
        there are, so that recordings of every length share executables; at most seven windows of filling up is the price.
        """
        counted = [
            _WINDOWS if dim == "time" else len(values)
            for dim, values in self.coords.items()
            if dim not in without
        ]
        return math.prod(counted)

    @property
    def layers(self) -> list[int | None]:
        """The groups that share a starting layer; None when the edit acts in all layers at once."""
        return [int(layer) for layer in self.coords["layer"]] if "layer" in self.coords else [None]

    def cells(self, layer: int | None) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Flat indices into the grid and coordinates of the cells of one group."""
        axes = [[layer] if dim == "layer" else values for dim, values in self.coords.items()]
        rows = np.array(list(itertools.product(*axes)), dtype=np.float64).reshape(
            -1, len(self.dims)
        )
        cells = {dim: rows[:, i].astype(self.coords[dim].dtype) for i, dim in enumerate(self.dims)}
        flat = np.arange(np.prod(self.shape, dtype=int)).reshape(self.shape)
        if layer is not None:
            flat = np.take(flat, [self.layers.index(layer)], axis=self.dims.index("layer"))
        return flat.ravel(), cells

    def columns(self, layer: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """The cells of one layer by position: flat indices [positions, K], and the K coordinates that cells of every position have."""
        dims = [dim for dim in self.dims if dim not in ("layer", "position")]
        flat = (
            np.arange(np.prod(self.shape, dtype=int))
            .reshape(self.shape)
            .take(self.layers.index(layer), self.dims.index("layer"))
        )
        if "position" in self.coords:
            flat = np.moveaxis(
                flat, [dim for dim in self.dims if dim != "layer"].index("position"), 0
            )
        n = len(self.coords.get("position", [0]))
        cells = np.meshgrid(*(self.coords[dim] for dim in dims), indexing="ij")
        return flat.reshape(n, -1), {dim: column.ravel() for dim, column in zip(dims, cells)} or {
            "one": np.zeros(1, np.int32)
        }

    def labels(self, tokens: Any = None) -> dict[str, Any]:
        """Coordinates of the labelled result: time in seconds from the start of the window; beside the positions the `token_id` there.

        tokens: int [B, T]; where the rows differ, the ids have examples too.
        """
        named: dict[str, Any] = dict(self.coords)
        if "time" in named:
            named["time"] = named["time"] / FRAMES_PER_S
        if tokens is not None and "position" in named:
            ids = np.asarray(tokens)[:, named["position"]]
            named["token_id"] = (
                ("position", ids[0]) if (ids == ids[0]).all() else (("example", "position"), ids)
            )
        return named


def placed(
    edit: Edit, cell: dict[str, Any], window: Any, n_frames: Any, when: Any = None
) -> Restrict:
    """`edit` at the place of one cell, whose coordinates may be traced, and `when`."""
    import jax.numpy as jnp

    frames = None
    if "time" in cell:
        frames = slice(cell["time"], jnp.minimum(cell["time"] + window, n_frames))
    return only(
        edit,
        layers=cell.get("layer"),
        heads=cell.get("head"),
        positions=cell.get("position"),
        frames=frames,
        when=when,
    )


@pytrees.dataclass
class AtCell:
    """The edits of one cell of a grid: `edit` at the cell's layer, head, position and window of frames, at its strength alpha."""

    edit: Edit
    site: str = pytrees.field(pytree_node=False)
    window: int = 1
    n_frames: int = 1500  # frames from here on are padding

    def __call__(self, cell: dict[str, Any]) -> Edits:
        edit, place = strength(self.edit, cell)
        return {self.site: placed(edit, place, self.window, self.n_frames)}


def strength(edit: Edit, cell: dict[str, Any]) -> tuple[Edit, dict[str, Any]]:
    """`edit` with the cell's strength, where the grid has one, in its own field (`alpha`, else `scale`). Raises ValueError without one."""
    if "alpha" not in cell:
        return edit, cell
    field = next((name for name in ("alpha", "scale") if hasattr(edit, name)), None)
    if field is None:
        raise ValueError(
            f"over: 'alpha' needs an edit with a strength, such as Mix, Add or Noise, got {edit!r}."
        )
    return edit.replace(**{field: cell["alpha"]}), cell


def _sizes(spec: SiteSpec) -> dict[str, int]:
    """The dimensions that a sweep can have at a site."""
    decoder, listens = (
        spec.site.startswith("decoder."),
        ".cross_attn." in spec.site and "S" in spec.axes,
    )
    sizes = {"layer": spec.n_layer} if spec.n_layer else {}
    if "H" in spec.axes:
        sizes["head"] = spec.size("H")
    if decoder and not (listens and "T" not in spec.axes):
        sizes["position"] = spec.size("T") if "T" in spec.axes else spec.size("S")
    if not decoder or listens:
        sizes["time"] = 0
    return sizes | {"alpha": 0}


def _subset(values: np.ndarray, chosen: Any, dim: str) -> np.ndarray:
    if chosen is None:
        return values
    chosen = np.atleast_1d(np.asarray(chosen, values.dtype))
    if bad := sorted(set(chosen.tolist()) - set(values.tolist())):
        raise ValueError(f"{dim}: expected some of {values.tolist()}, got {bad}.")
    return chosen
