"""Finds and selects the part of the edits of cells that belongs to single recordings."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Int

from interventions.edits.base import FromRow
from interventions.edits.cells import AtCell, AtSites
from interventions.edits.values import Add, Mix, Patch, Scale, Zero
from interventions.generation.cell_edits import CellEdits, MakeEdits
from jaxasr import sites
from jaxasr.meshes import CELLS, DATA


def row_axis(edits_of: MakeEdits | None, n_rows: int) -> int | None:
    """Returns the axis of recordings of the value of an `AtCell`; None if all share the value."""
    edit = getattr(edits_of, "edit", None)
    if not isinstance(edits_of, AtCell) or not isinstance(edit, Patch | Mix):
        return None
    # At a site with layers, the axis of examples follows the axis of layers.
    shape, axis = getattr(edit.value, "shape", ()), int(edits_of.site in sites.LAYERED)
    if len(shape) != len(sites.SITES[edits_of.site]) + axis or shape[axis] != n_rows:
        return None
    return axis


def value_of_rows(
    edits_of: MakeEdits | None, axis: int | None, rows: Int[np.ndarray, "R"]
) -> Array | None:
    """Selects the rows of the value of an `AtCell`; None if all recordings share the value."""
    if axis is None:
        return None
    value = _edit(edits_of).value
    assert not isinstance(value, FromRow)  # `row_axis` returns None for it
    return jnp.take(value, rows, axis)


def with_value(cells: CellEdits, value: Array | None) -> CellEdits:
    """Returns cells with another value; with the same one for None."""
    if value is None:
        return cells
    edit = dataclasses.replace(_edit(cells.edits_of), value=value)
    return dataclasses.replace(cells, edits_of=dataclasses.replace(_at_cell(cells), edit=edit))


def cell_specs(cells: CellEdits, axis: int | None) -> CellEdits:
    """Returns the `PartitionSpec` of every array of cells whose value has an `axis` of rows."""
    specs = jax.tree.map(lambda _: P(), cells).replace(arrays=[P(CELLS)] * len(cells.arrays))
    value: Any = None if axis is None else P(*[None] * axis, DATA)
    return with_value(specs, value)


def acts_on_rows_alone(edits_of: MakeEdits | None, n_rows: int) -> bool:
    """Returns whether the edits of a row are known not to depend on the other rows."""
    edit = getattr(edits_of, "edit", None)
    if not isinstance(edits_of, AtCell | AtSites):
        return False
    if not isinstance(edit, Patch | Mix | Add | Scale | Zero):
        return False
    if isinstance(getattr(edit, "value", None), FromRow):
        return False
    has_rows = row_axis(edits_of, n_rows) is not None
    return has_rows or all(np.ndim(leaf) <= 1 for leaf in jax.tree.leaves(edit))


def _at_cell(cells: CellEdits) -> AtCell:
    assert isinstance(cells.edits_of, AtCell)
    return cells.edits_of


def _edit(edits_of: MakeEdits | None) -> Patch | Mix:
    assert isinstance(edits_of, AtCell)
    assert isinstance(edits_of.edit, Patch | Mix)
    return edits_of.edit
