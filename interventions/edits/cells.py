"""Places one edit at the coordinates of each cell of a sweep.

A cell is a dict of coordinates, such as `{"layer": 2, "head": 1}`. Its values may be traced.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from interventions.edits.combining import Restrict, only
from jaxasr import pytrees, sites as model_sites
from jaxasr.config import Config
from jaxasr.taps import Edit, Edits

Cell = Mapping[str, Any]
# The cells of a sweep, as one array [cells] per coordinate.
Coordinates = dict[str, np.ndarray]
# A number of encoder frames, which may be traced.
FrameCount = Int[Array, ""] | Int[np.ndarray, ""] | np.integer | int


@pytrees.dataclass
class AtCell:
    """Places `edit` at a cell's layer, head, position, window of frames and strength.

    Pass it as `edits_of` to `sequence_sweep` or `generation.generate_cells`.

    Args:
        edit: the edit to place. A cell's "alpha" replaces the edit's field `alpha`, or `scale` if
            the edit has no `alpha`.
        site: the site to edit.
        window: frames per window. A cell's "time" is the first frame of its window.
        n_frames: frames of the recording. Windows end there, because later frames are padding.

    Raises:
        ValueError: a cell has "alpha", but the edit has no strength.

    Example:
        >>> from interventions.edits import AtCell, Zero
        >>> AtCell(Zero(), "decoder.cross_attn.z")({"layer": 2, "head": 1})
        {'decoder.cross_attn.z': Restrict(edit=Zero(), layers=[2], heads=[1])}
    """

    edit: Edit
    site: str = pytrees.field(pytree_node=False)
    window: FrameCount = 1
    n_frames: FrameCount = 1500

    def __call__(self, cell: Cell) -> Edits:
        return {self.site: place_at(self.edit, cell, self.window, self.n_frames)}


@pytrees.dataclass
class AtSites:
    """Places `edit` at a cell's site, layer, head and strength. Leaves other sites unchanged.

    One compiled program then serves the cells of all `sites`. `site_cells` lists the cells.

    Args:
        edit: the edit to place.
        sites: sites to edit. A cell's "site" is an index into this tuple.

    Example:
        >>> from interventions.edits import AtSites, Zero
        >>> edits_of = AtSites(Zero(), ("decoder.attn.z", "decoder.mlp_out"))
        >>> sorted(edits_of({"site": 1, "layer": 0, "head": -1}))
        ['decoder.attn.z', 'decoder.mlp_out']
    """

    edit: Edit
    sites: tuple[str, ...] = pytrees.field(pytree_node=False)

    def __call__(self, cell: Cell) -> Edits:
        edit = with_strength(self.edit, cell)
        return {site: self._place(edit, i, site, cell) for i, site in enumerate(self.sites)}

    def _place(self, edit: Edit, index: int, site: str, cell: Cell) -> Edit:
        heads = cell["head"] if "H" in model_sites.SITES[site] else None
        # The program edits every site, because the cell's site may be traced. `when` selects one.
        return only(edit, layers=cell["layer"], heads=heads, when=cell["site"] == index)


def site_cells(config: Config, sites: Sequence[str], alphas: Sequence[float] = ()) -> Coordinates:
    """Lists every layer and head of several sites as cells for `AtSites`.

    Args:
        config: the model's config.
        sites: sites with a layer axis.
        alphas: strengths. Each layer or head has one cell per strength. These cells are neighbours.

    Returns:
        int32 arrays [K] "site" (index into `sites`), "layer" and "head" (-1 at sites without
        heads), and, with `alphas`, float32 "alpha".

    Raises:
        ValueError: a site has no layers.

    Example:
        >>> import jaxasr
        >>> from interventions.edits import site_cells
        >>> cells = site_cells(jaxasr.SIZES["tiny.en"], ["decoder.attn.z", "decoder.mlp_out"])
        >>> {name: values.shape for name, values in cells.items()}
        {'site': (28,), 'layer': (28,), 'head': (28,)}
    """
    model_sites.check_known(sites, model_sites.LAYERED, "site of a layer")
    rows = []
    for index, site in enumerate(sites):
        spec = model_sites.spec(config, site, batch=1, n_tokens=1)
        heads = range(spec.size("H")) if "H" in spec.axes else [-1]
        rows += [(index, layer, head) for layer in range(spec.n_layer) for head in heads]
    cells: Coordinates = dict(zip(("site", "layer", "head"), np.array(rows, np.int32).T))
    if not len(alphas):
        return cells
    repeated = {name: np.repeat(values, len(alphas)) for name, values in cells.items()}
    return repeated | {"alpha": np.tile(np.asarray(alphas, np.float32), len(rows))}


def place_at(
    edit: Edit,
    cell: Cell,
    window: FrameCount,
    n_frames: FrameCount,
    when: Bool[Array, "..."] | None = None,
) -> Restrict:
    """Sets the strength of `edit`, and restricts it to one cell and to where `when` is True."""
    frames = None
    if "time" in cell:
        frames = slice(cell["time"], jnp.minimum(cell["time"] + window, n_frames))
    return only(
        with_strength(edit, cell),
        layers=cell.get("layer"),
        heads=cell.get("head"),
        positions=cell.get("position"),
        frames=frames,
        when=when,
    )


def with_strength(edit: Any, cell: Cell) -> Edit:
    """Sets the edit's `alpha` (or `scale`) to the cell's "alpha", if the cell has one.

    Example:
        >>> from interventions.edits import Noise
        >>> with_strength(Noise(seed=0), {"alpha": 0.5})
        Noise(seed=0, scale=0.5, replace=False)
    """
    if "alpha" not in cell:
        return edit
    for field in ("alpha", "scale"):
        if hasattr(edit, field):
            return dataclasses.replace(edit, **{field: cell["alpha"]})
    raise ValueError(
        f"over: 'alpha' needs an edit with a strength, such as Mix, Add or Noise, got {edit!r}."
    )
