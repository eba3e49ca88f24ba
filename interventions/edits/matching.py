"""Selects the part of a stored activation that an edit needs at its layer and positions."""

import jax.numpy as jnp
from jaxtyping import Array, Bool

from jaxasr.sites import SiteSpec
from jaxasr.taps import At


def select_matching(value: Array, x: Array, at: At) -> tuple[Array, Bool[Array, "..."]]:
    """Selects the part of a stored activation that matches `x`.

    `at.layer` indexes a leading layer axis. Absolute positions index the axes of time and keys, so
    cached steps and rows with padding select the right positions.

    Returns:
        The selected values, which broadcast to `x`, and a mask. The mask is False at positions
        that `value` does not have, which are padding and tokens after the end of `value`.
    """
    value = jnp.asarray(value).astype(x.dtype)
    if value.ndim == x.ndim + 1:
        value = value[at.layer]
    covered = jnp.asarray(True)
    if value.ndim < x.ndim:
        return value, covered
    # Only `scores` and `pattern` have `at.keys`. At `k` and `v` the time steps are keys.
    positions_of = {"T": at.positions, "S": at.positions if at.keys is None else at.keys}
    for i, axis in enumerate(at.axes):
        if axis in positions_of and value.shape[i] > 1:
            value, exists = _take_positions(value, positions_of[axis], i)
            covered = covered & exists
    return value, covered


def _take_positions(value: Array, positions: Array, axis: int) -> tuple[Array, Bool[Array, "..."]]:
    """Returns value[b, ..., positions[b, t], ...], and True at positions that exist."""
    shape = [positions.shape[0], *[1] * (value.ndim - 1)]
    shape[axis] = positions.shape[1]
    n, index = value.shape[axis], positions.reshape(shape)
    if value.shape[0] != positions.shape[0]:  # one value for all rows
        value = jnp.broadcast_to(value, (positions.shape[0], *value.shape[1:]))
    # Positions that do not exist are clipped. The mask marks their values as unused.
    values = jnp.take_along_axis(value, jnp.clip(index, 0, n - 1), axis)
    return values, (index >= 0) & (index < n)


def check_fits(value: Array, spec: SiteSpec, partial: bool) -> None:
    """Raises ValueError if `value` cannot replace the activation of the site in this pass."""
    shape, expected = jnp.shape(value), spec.shape
    if len(shape) == len(expected) + 1:
        if not spec.n_layer or shape[0] not in (1, spec.n_layer):
            raise ValueError(_misfit_message(shape, spec))
        shape = shape[1:]
    if len(shape) > len(expected):
        raise ValueError(_misfit_message(jnp.shape(value), spec))
    # Axes match from the last one, as in broadcasting.
    for size, full_size, axis in zip(shape[::-1], expected[::-1], spec.axes[::-1]):
        shorter = partial and axis in "TS" and size < full_size
        if size not in (1, full_size) and not shorter:
            raise ValueError(_misfit_message(jnp.shape(value), spec))


def _misfit_message(shape: tuple[int, ...], spec: SiteSpec) -> str:
    layers = f"[{spec.n_layer} layers, ...] or " if spec.n_layer else ""
    return (
        f"value: shape {list(shape)} does not fit {spec.site!r}; expected {layers}"
        f"{list(spec.shape)} (axes {' '.join(spec.axes)}); axes of size 1 are allowed. If the "
        "value covers only the beginning, pass partial=True. Otherwise align its length first."
    )
