"""Edits of attention itself: where a head looks. See `edits` for what an edit is."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from interventions.edits.places import Place, check_within, place
from interventions.edits.values import Patch, _Edit
from jaxasr import pytrees
from jaxasr.sites import SITES, SiteSpec
from jaxasr.taps import At, is_traced


@pytrees.dataclass(repr=False)
class AttendOnlyTo(_Edit):
    """pattern ← uniform over `keys`; made by `attend_only_to`. Of a decoder's self-attention only keys that are not in the future count,
    and a query that sees none of them keeps its pattern."""

    keys: Place

    def __call__(self, x: Float[Array, "B H T S"], at: At) -> Float[Array, "B H T S"]:
        chosen = self.keys(at.keys)[:, None, None, :] & _visible(at)
        number = chosen.sum(-1, keepdims=True)
        return jnp.where(number > 0, chosen / jnp.maximum(number, 1), x).astype(x.dtype)

    def check(self, spec: SiteSpec) -> None:
        _check_site(spec, "pattern", "AttendOnlyTo")
        check_within(self.keys, spec.size("S"), "keys", spec.site)


@pytrees.dataclass(repr=False)
class Knockout(_Edit):
    """scores ← -∞ at `keys`; made by `knockout`. The softmax that follows shares their weight among the others.

    A query that would be left with nothing to look at (in a decoder's self-attention, the first ones) keeps its scores.
    """

    keys: Place

    def __call__(self, x: Float[Array, "B H T S"], at: At) -> Float[Array, "B H T S"]:
        out, visible = self.keys(at.keys)[:, None, None, :], _visible(at)
        left = (visible & ~out).any(-1, keepdims=True)
        return jnp.where(out & left, -jnp.inf, x).astype(x.dtype)

    def check(self, spec: SiteSpec) -> None:
        _check_site(spec, "scores", "Knockout")
        check_within(self.keys, spec.size("S"), "keys", spec.site)
        if not is_traced(self.keys) and np.asarray(self.keys(jnp.arange(spec.size("S")))).all():
            raise ValueError(
                f"keys: all {spec.size('S')} keys at {spec.site!r} would be knocked out; leave at least one to look at."
            )


def attend_only_to(keys: int | list[int] | range | slice | Array | np.ndarray) -> AttendOnlyTo:
    """At `pattern`: every query looks at `keys` alone, at all of them alike; frames of 20 ms, or positions of a self-attention."""
    return AttendOnlyTo(_place(keys))


def knockout(keys: int | list[int] | range | slice | Array | np.ndarray) -> Knockout:
    """At `scores`: nobody looks at `keys`, a band of frames, say `slice(50, 100)` for the second second. One head: `only(..., heads=)`."""
    return Knockout(_place(keys))


def freeze_pattern(pattern: Float[Array, "*L B H T S"], partial: bool = False) -> Patch:
    """At `pattern`: as it was in another pass, whatever the queries and keys are now. `partial` as in `Patch`."""
    return Patch(pattern, partial)


def mean_ablation(
    activation: Float[Array, "..."], site: str, valid: Bool[Array, "B T"] | None = None
) -> Patch:
    """Mean ablation at `site`: its activation ← the mean over rows and time of `activation`, [L, B, ...] as a readout gave it.

    `valid` marks the steps that count: without it, the padding of short recordings does. It is over queries, at `k` and `v` over keys.
    Raises ValueError for another number of axes, and when nothing is valid.
    """
    axes = SITES[site]
    batch = activation.ndim - len(axes)
    if batch not in (0, 1):
        raise ValueError(
            f"activation: expected [L, {', '.join(axes)}] or without L at {site!r}, got shape {list(activation.shape)}."
        )
    time = axes.index("T" if "T" in axes else "S")
    over = (batch, batch + time)
    if valid is None:
        return Patch(activation.mean(over, keepdims=True))
    weight = jnp.expand_dims(valid, [i for i in range(len(axes)) if i not in (0, time)])
    if not is_traced(valid) and not np.asarray(valid).any():
        raise ValueError("valid: expected at least one step to average over.")
    summed = jnp.where(weight, activation, 0).sum(over, keepdims=True)
    return Patch(summed / jnp.asarray(valid).sum().astype(summed.dtype))


def _place(keys: object) -> Place:
    where = place(keys, "keys")
    if where is None:
        raise ValueError("keys: expected an index, several, a range or a slice, got None.")
    return where


def _visible(at: At) -> Bool[Array, "B 1 T S"]:
    """Keys that a query may see; a slot of the cache that is still empty has a position later than every query."""
    queries, keys = at.positions[:, None, :, None], at.keys[:, None, None, :]
    return (
        (keys <= queries) & (keys >= 0)
        if at.site.startswith("decoder.attn.")
        else (keys >= 0) | (queries < 0)
    )


def _check_site(spec: SiteSpec, wanted: str, name: str) -> None:
    if not spec.site.endswith(f".{wanted}"):
        there = ", ".join(site for site in SITES if site.endswith(wanted))
        raise ValueError(
            f"{name}: expected a site of `{wanted}`, got {spec.site!r}. There are: {there}."
        )
