"""Holds the edits of many cells as arrays with a leading axis of cells."""

import dataclasses
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from jaxasr import compiled, pytrees
from jaxasr.taps import Edits

MakeEdits = Callable[[Any], Edits]  # makes `{site: edit}` of one cell

_Result = TypeVar("_Result")


@pytrees.dataclass
class CellEdits:
    """The edits of K cells.

    Attributes:
        arrays: the arrays of the cells, each with a leading [K] axis.
        structure: the static part of a cell. It decides what is compiled.
        edits_of: makes the edits of one cell; None if a cell is `{site: edit}` itself.

    Example:
        ```python
        from interventions.edits import AtCell, Zero
        from interventions.generation.cell_edits import CellEdits

        cells = CellEdits.of({"layer": np.arange(4)}, AtCell(Zero(), "decoder.mlp_out"))
        len(cells.take(np.array([0, 2])))  # 2
        ```
    """

    arrays: list[Any]
    structure: compiled.Structure = pytrees.field(pytree_node=False)
    edits_of: MakeEdits | None

    @classmethod
    def of(cls, cells: Any, edits_of: MakeEdits | None) -> "CellEdits":
        """Splits a pytree of cells into its arrays and its static structure.

        Args:
            cells: a pytree whose arrays have a leading [K] axis.
            edits_of: makes the edits of one cell; None if a cell is `{site: edit}` itself.

        Raises:
            ValueError: there is no array or no cell, or the arrays differ in the leading axis.
        """
        arrays, structure = compiled.split(cells)
        numbers = {np.shape(array)[:1] for array in arrays}  # () for an array without axes
        if len(numbers) != 1 or () in numbers or (0,) in numbers:
            raise ValueError(
                "cells: expected arrays with the same leading axis of cells, "
                f"got shapes {[np.shape(array) for array in arrays]}."
            )
        return cls([jnp.asarray(array) for array in arrays], structure, edits_of)

    def __len__(self) -> int:
        return len(self.arrays[0])

    def take(self, index: Int[np.ndarray, "n"]) -> "CellEdits":
        """Returns the cells at the indices `index`."""
        return dataclasses.replace(self, arrays=[array[index] for array in self.arrays])

    def edits(self, arrays: list[Array]) -> Edits:
        """Returns the edits of one cell from its arrays, without the [K] axis."""
        cell = self.structure.join(arrays)
        return cell if self.edits_of is None else self.edits_of(cell)

    def vmap(self, fn: Callable[[Edits], _Result], axis_name: str | None = None) -> _Result:
        """Maps `fn` over the edits of every cell with `jax.vmap`."""
        return jax.vmap(lambda arrays: fn(self.edits(arrays)), axis_name=axis_name)(self.arrays)
