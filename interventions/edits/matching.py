"""A stored activation brought to where an edit is: its layer, its positions, its keys."""

import jax.numpy as jnp
from jaxtyping import Array, Bool

from jaxasr.sites import SiteSpec
from jaxasr.taps import At


def aligned(value: Array, x: Array, at: At) -> tuple[Array, Bool[Array, "..."]]:
    """`value` broadcastable to `x`, and where it says something at all.

    A leading layer axis is indexed by `at.layer`; time and key axes by absolute position, so that steps of cached generation
    and rows of a padded batch find their own. Positions that `value` does not have (padding, tokens past its end) are False.
    """
    value = jnp.asarray(value).astype(x.dtype)
    if value.ndim == x.ndim + 1:
        value = value[at.layer]
    there = jnp.asarray(True)
    if value.ndim < x.ndim:
        return value, there
    numbers = {"T": at.positions, "S": at.positions if at.keys is None else at.keys}
    for i, axis in enumerate(at.axes):
        if axis in numbers and value.shape[i] > 1:
            value, has = _take(value, numbers[axis], i)
            there = there & has
    return value, there


def _take(value: Array, positions: Array, axis: int) -> tuple[Array, Bool[Array, "..."]]:
    """value[b, ..., positions[b, t], ...] along `axis`, and where that exists; a batch axis of size 1 serves every row."""
    shape = [positions.shape[0], *[1] * (value.ndim - 1)]
    shape[axis] = positions.shape[1]
    n, index = value.shape[axis], positions.reshape(shape)
    rows = (
        value
        if value.shape[0] == positions.shape[0]
        else jnp.broadcast_to(value, (positions.shape[0], *value.shape[1:]))
    )
    taken = jnp.take_along_axis(rows, jnp.clip(index, 0, n - 1), axis)
    return taken, (index >= 0) & (index < n)


def check_fits(value: Array, spec: SiteSpec, partial: bool) -> None:
    """Raises ValueError when `value` cannot stand at this site in this pass."""
    shape, expected = jnp.shape(value), spec.shape
    if len(shape) == len(expected) + 1:
        if not spec.n_layer or shape[0] not in (1, spec.n_layer):
            raise ValueError(_misfit(shape, spec))
        shape = shape[1:]
    if len(shape) > len(expected):
        raise ValueError(_misfit(jnp.shape(value), spec))
    for size, want, axis in zip(shape[::-1], expected[::-1], spec.axes[::-1]):
        if size not in (1, want) and not (partial and axis in "TS" and size < want):
            raise ValueError(_misfit(jnp.shape(value), spec))


def _misfit(shape: tuple[int, ...], spec: SiteSpec) -> str:
    layers = f"[{spec.n_layer} layers, ...] or " if spec.n_layer else ""
    return (
        f"value: shape {list(shape)} cannot stand at {spec.site!r}; expected {layers}{list(spec.shape)} (axes {' '.join(spec.axes)}), "
        "axes of size 1 allowed. A source of another length needs an alignment of your own; partial=True if it covers the beginning only."
    )
