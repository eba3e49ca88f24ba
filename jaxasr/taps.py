"""Where edits go in and activations come out."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from jaxasr import pytrees, sites as _sites

Acts = dict[str, Array]
Edit = Callable[[Array, "At"], Array]
Edits = Mapping[str, Edit]


@pytrees.dataclass
class At:
    """Tells an edit where it is.

    layer: int32 scalar; -1 at sites without a layer axis.
    positions: int32 [B, T], the absolute token or frame index of every time step of `x` (of every key, for `k` and `v`);
        a padded step of a ragged batch is negative.
    keys: int32 [B, S], the same for the key axis of `scores` and `pattern`; None elsewhere.
    site: the full site name; `axes` names the axes of `x` there.
    """

    layer: Int[Array, ""]
    positions: Int[Array, "B T"]
    keys: Int[Array, "B S"] | None = None
    site: str = pytrees.field(pytree_node=False, default="")

    @property
    def axes(self) -> tuple[str, ...]:
        return _sites.SITES[self.site]


@pytrees.dataclass
class Readout:
    """Decides inside the layer scan what is kept: `fn(acts)` of `{site: array}` gives a flat dict of arrays.

    It is called once a layer with that layer's sites, and once with the sites that have no layer axis; it must return
    what it finds and leave out what it does not. `sites` are the sites it reads: attention patterns are only ever
    formed when one asks for them. Array fields of `fn`, when `fn` is a pytree, do not retrace.
    """

    fn: Callable[[Acts], dict[str, Any]]
    sites: tuple[str, ...] = pytrees.field(pytree_node=False)

    def __call__(self, acts: Acts) -> dict[str, Any]:
        return self.fn(acts)


@pytrees.dataclass
class _Keep:
    sites: tuple[str, ...] = pytrees.field(pytree_node=False)

    def __call__(self, acts: Acts) -> Acts:
        return {site: acts[site] for site in self.sites if site in acts}


@pytrees.dataclass
class _Reduce:
    reduce: Callable[[Array], Any]
    name: str = pytrees.field(pytree_node=False)
    site: str = pytrees.field(pytree_node=False)

    def __call__(self, acts: Acts) -> dict[str, Any]:
        return {self.name: self.reduce(acts[self.site])} if self.site in acts else {}


def select(*sites: str) -> Readout:
    """A readout that keeps whole `sites`. Raises `ValueError` listing what exists when one is unknown."""
    _sites.check_known(sites)
    return Readout(_Keep(tuple(sites)), tuple(sites))


def reduce(name: str, site: str, fn: Callable[[Array], Any]) -> Readout:
    """A readout that keeps `fn(activation)` under `name`, for one layer's activation without its layer axis.

    The reduction runs inside the scan, so the activation itself is never stacked: the entropy of every encoder pattern
    takes [L, B, H, T] instead of [L, B, H, T, S].
    """
    _sites.check_known([site])
    return Readout(_Reduce(fn, name, site), (site,))


@pytrees.dataclass
class _Merge:
    readouts: tuple[Readout, ...]

    def __call__(self, acts: Acts) -> dict[str, Any]:
        return {name: value for readout in self.readouts for name, value in readout(acts).items()}


def merge(*readouts: Readout) -> Readout:
    """Several readouts in one pass."""
    return Readout(_Merge(readouts), tuple(site for readout in readouts for site in readout.sites))


NOTHING = select()


@dataclasses.dataclass
class Tap:
    """Applies the edits of one layer, or of one stack outside its layers, and collects its activations.

    `tap("resid_mid", x)` edits, records and returns `x`. It lives within one call of one layer.
    """

    prefix: str
    edits: Edits
    readout: Readout
    layer: Any
    positions: Int[Array, "B T"]
    acts: Acts = dataclasses.field(default_factory=dict)

    def within(self, name: str) -> "Tap":
        return dataclasses.replace(self, prefix=f"{self.prefix}{name}.")

    def __call__(
        self, site: str, x: Array, positions: Array | None = None, keys: Array | None = None
    ) -> Array:
        site = self.prefix + site
        if site in self.edits:
            at = At(self.layer, self.positions if positions is None else positions, keys, site)
            x = _same_shape(self.edits[site](x, at), x, site)
        self.acts[site] = x
        return x

    def touches(self, *sites: str) -> bool:
        """Whether one of these sites is edited or read."""
        names = {self.prefix + site for site in sites}
        return not names.isdisjoint(self.edits) or not names.isdisjoint(self.readout.sites)


def _same_shape(y: Any, x: Array, site: str) -> Array:
    """What an edit returned, in the dtype of its input. Raises ValueError naming the site for what is no real array of its shape."""
    expected = f"expected real numbers of shape {x.shape}, axes {' '.join(_sites.SITES[site])}. An edit returns an array like its input."
    try:
        y = jnp.asarray(y)
    except (TypeError, ValueError) as error:
        raise ValueError(f"The edit at {site!r} returned {type(y).__name__}; {expected}") from error
    if y.shape != x.shape:
        raise ValueError(f"The edit at {site!r} returned shape {y.shape}; {expected}")
    if jnp.issubdtype(y.dtype, jnp.complexfloating):
        raise ValueError(f"The edit at {site!r} returned {y.dtype}; {expected}")
    return y.astype(x.dtype)


def check(
    stack: str, edits: Any, readout: Any, specs: Callable[[str], _sites.SiteSpec]
) -> tuple[Edits, Readout]:
    """The edits and readout of one pass through `stack`, or `ValueError` for what could never fire in it.

    An edit may have a method `check(spec)`; it is called with what the pass will show at its site.
    """
    edits, readout = dict(edits or {}), NOTHING if readout is None else readout
    if not isinstance(readout, Readout):
        raise TypeError(
            f"readout: expected jaxasr.select(...), jaxasr.reduce(...) or a jaxasr.Readout, got {type(readout).__name__}."
        )
    here = _sites.sites_of(stack)
    _sites.check_known(edits, here, f"site for an edit of the {stack}, where it would never fire:")
    _sites.check_known(readout.sites, here, f"site for a readout of the {stack}:")
    for site, edit in edits.items():
        if not callable(edit):
            raise TypeError(
                f"edits[{site!r}]: expected a callable (x, at) -> x, got {type(edit).__name__}."
            )
        if hasattr(edit, "check"):
            edit.check(specs(site))
    return edits, readout


def is_traced(*values: Any) -> bool:
    """Whether any value is a tracer, whose numbers cannot be checked."""
    return any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(values))
