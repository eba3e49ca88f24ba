"""Defines the base class of edits, and the values that patches insert."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from interventions.edits.matching import check_fits, select_matching
from jaxasr import pytrees
from jaxasr.sites import SiteSpec
from jaxasr.taps import At, Edit, is_traced


def _format_value(value: Any) -> str:
    """Formats a small array as a list and a larger one as dtype and shape."""
    if not hasattr(value, "dtype"):
        return repr(value)
    # Tracers and placeholders of arrays have no values to print.
    small = hasattr(value, "tolist") and value.size <= 4 and not is_traced(value)
    return str(value.tolist()) if small else f"{value.dtype}{list(value.shape)}"


class EditBase:
    """Base class of the edits in this package. Its `repr` shows the class and the fields.

    An edit that you write need not inherit from this class.

    Example:
        >>> from interventions.edits import EditBase
        >>> @jaxasr.pytrees.dataclass(repr=False)
        ... class Shift(EditBase):
        ...     value: float
        ...     def __call__(self, x, at):
        ...         return x + self.value
        >>> Shift(2.0)
        Shift(value=2.0)
    """

    def __repr__(self) -> str:
        fields = {name: value for name, value in vars(self).items() if value is not None}
        arguments = ", ".join(f"{name}={_format_value(value)}" for name, value in fields.items())
        return f"{type(self).__name__}({arguments})"


@pytrees.dataclass(repr=False)
class FromRow(EditBase):
    """Refers to other rows of the same batch, as the `value` of `Patch` or `Mix`.

    Row b of the batch takes the activation of row `rows[b]`, at the same site, layer and step.
    `jaxasr.generate(leader=...)` decodes two recordings together, so that one can be patched from
    the other.

    Args:
        rows: int [B], the index of the row that each row takes its activation from.
            `rows[b] = b` leaves row b unchanged.

    Example:
        >>> from interventions import FromRow, Mix
        >>> Mix(0.4, FromRow(jnp.array([1, 1])))
        Mix(alpha=0.4, value=FromRow(rows=[1, 1]), partial=False)
    """

    rows: Int[Array, "B"]


# The `value` of `Patch`, `Mix` and `RandomDirection`.
PatchValue = Float[Array, "..."] | FromRow


def select_patch_value(value: PatchValue, x: Array, at: At) -> Array:
    """Returns `value` at the layer and positions of `at`. Positions that `value` lacks get `x`."""
    if isinstance(value, FromRow):
        return x[value.rows]
    selected, covered = select_matching(value, x, at)
    return jnp.where(covered, selected, x)


def check_patch_value(value: PatchValue, spec: SiteSpec, partial: bool) -> None:
    """Raises ValueError unless `value` fits the site in this pass."""
    if not isinstance(value, FromRow):
        check_fits(value, spec, partial)
    elif value.rows.shape != (spec.size("B"),):
        raise ValueError(
            f"FromRow: expected one source row for each of {spec.size('B')} rows, "
            f"got shape {list(value.rows.shape)}."
        )


def check_edit(edit: Edit, spec: SiteSpec) -> None:
    """Calls `edit.check(spec)` if the edit defines it."""
    check = getattr(edit, "check", None)
    if check is not None:
        check(spec)
