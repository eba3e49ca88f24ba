"""One edit at every place of several sites: the cells that one loop can generate under, whatever site each of them edits."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from interventions.edits import only
from interventions.patching.grid import strength
from jaxasr import pytrees, sites as _sites
from jaxasr.config import Config
from jaxasr.taps import Edit, Edits

Cells = dict[str, np.ndarray]


@pytrees.dataclass
class AtSites:
    """The edits of one cell of `places`: `edit` at the cell's site, layer and head (and strength `alpha`), nothing at the other sites.

    As `edits_of` of `sequence.sequence_sweep` one program serves all sites.
    """

    edit: Edit
    sites: tuple[str, ...] = pytrees.field(pytree_node=False)

    def __call__(self, cell: dict[str, Any]) -> Edits:
        edit, cell = strength(self.edit, cell)
        return {
            site: self._placed(edit, number, site, cell) for number, site in enumerate(self.sites)
        }

    def _placed(self, edit: Edit, number: int, site: str, cell: dict[str, Any]) -> Edit:
        heads = cell["head"] if "H" in _sites.SITES[site] else None
        return only(edit, layers=cell["layer"], heads=heads, when=cell["site"] == number)


def places(config: Config, sites: Sequence[str], alphas: Sequence[float] = ()) -> Cells:
    """Every layer of every site, every head of it where it has heads: int arrays `site` (its number), `layer`, `head` (-1: no heads).

    With `alphas` each place at every strength, the last to vary, and a float array `alpha`.

    Raises ValueError for sites without layers.
    """
    _sites.check_known(sites, _sites.LAYERED, "site of a layer")
    rows = []
    for number, site in enumerate(sites):
        spec = _sites.spec(config, site, 1, 1)
        heads = range(spec.size("H")) if "H" in spec.axes else [-1]
        rows += [(number, layer, head) for layer in range(spec.n_layer) for head in heads]
    cells = dict(zip(("site", "layer", "head"), np.array(rows, np.int32).T))
    if not len(alphas):
        return cells
    repeated = {name: np.repeat(values, len(alphas)) for name, values in cells.items()}
    return repeated | {"alpha": np.tile(np.asarray(alphas, np.float32), len(rows))}
