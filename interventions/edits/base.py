"""The base class of edits, and the references that their values may be."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from interventions.edits.matching import check_fits, matched
from jaxasr import pytrees
from jaxasr.sites import SiteSpec
from jaxasr.taps import At, Edit, is_traced


def _short(value: Any) -> str:
    """Small arrays as lists, larger ones as dtype and shape."""
    if not hasattr(value, "dtype"):
        return repr(value)
    small = value.size <= 4 and not is_traced(value)
    return str(value.tolist()) if small else f"{value.dtype}{list(value.shape)}"


class EditBase:
    """Base class of the edits in this package: prints class and fields on one line.

    An edit of your own may inherit from it, but need not.

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
        shown = ", ".join(f"{name}={_short(value)}" for name, value in fields.items())
        return f"{type(self).__name__}({shown})"


@pytrees.dataclass(repr=False)
class FromRow(EditBase):
    """A reference to other rows of the same batch, used as the `value` of `Patch` or `Mix`.

    Row b of the batch reads from `rows[b]` at the same site, layer and step. With
    `jaxasr.generate(leader=...)` a recording is patched from another one while both are decoded.

    Args:
        rows: int [B], the row that each row reads from; its own number leaves a row unchanged.

    Example:
        >>> from interventions import FromRow, Mix
        >>> Mix(0.4, FromRow(jnp.array([1, 1])))
        Mix(alpha=0.4, value=FromRow(rows=[1, 1]), partial=False)
    """

    rows: Int[Array, "B"]


Reference = Float[Array, "..."] | FromRow


def resolve(value: Reference, x: Array, at: At) -> Array:
    """`value` at this layer and these positions; `x` at positions that `value` does not cover."""
    if isinstance(value, FromRow):
        return x[value.rows]
    reference, covered = matched(value, x, at)
    return jnp.where(covered, reference, x)


def check_reference(value: Reference, spec: SiteSpec, partial: bool) -> None:
    """Raises ValueError unless `value` fits the site in this pass."""
    if not isinstance(value, FromRow):
        check_fits(value, spec, partial)
    elif value.rows.shape != (spec.size("B"),):
        raise ValueError(
            f"FromRow: expected one source row for each of {spec.size('B')} rows, "
            f"got shape {list(value.rows.shape)}."
        )


def check_edit(edit: Edit, spec: SiteSpec) -> None:
    """Calls the edit's own `check(spec)` where it has one."""
    check = getattr(edit, "check", None)
    if check is not None:
        check(spec)
