"""Defines edits and readouts, and applies them at the sites of the model."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jaxtyping import Array, Int

from jaxasr import pytrees, sites as _sites

Acts = dict[str, Array]  # activations by full site name


@pytrees.dataclass
class At:
    """The place where an edit acts: layer, positions and site.

    Attributes:
        layer: int32 scalar; -1 at sites without a layer axis.
        positions: int32 [B, T], absolute token or frame index of every time step of `x`. At `k` and
            `v` the time steps are those of the keys. Padding has negative positions.
        keys: int32 [B, S], absolute token or frame index of every key of `scores` and `pattern`;
            None at other sites.
        site: full name of the site.
        frames: int32 [B, T], the audio token that each time step of `x` holds, -1 for text. None
            in encoders and in Whisper.
        key_frames: int32 [B, S], the same for the keys of `scores` and `pattern`.

    Example:
        ```python
        def silence_layer_2(x, at):
            return jnp.where(at.layer == 2, 0, x)

        logits, _ = asr.model.decode(tokens, memory, {"decoder.mlp_out": silence_layer_2})
        ```
    """

    layer: Int[Array, ""]
    positions: Int[Array, "B T"]
    keys: Int[Array, "B S"] | None = None
    site: str = pytrees.field(pytree_node=False, default="")
    frames: Int[Array, "B T"] | None = None
    key_frames: Int[Array, "B S"] | None = None

    @property
    def axes(self) -> tuple[str, ...]:
        """Names of the axes of `x`, such as `("B", "T", "D")`."""
        return _sites.SITES[self.site]


@runtime_checkable
class Edit(Protocol):
    """A function of an activation and its place that returns the edited activation.

    Any callable `(x, at) -> x` is an edit. If the callable is a pytree, its arrays are data, so new
    values run the same program. An edit may have a method `check(spec)`. Each pass calls the method
    first, with the `jaxasr.sites.SiteSpec` of the edited site.

    Example:
        ```python
        def double(x, at):
            return 2 * x

        logits, _ = asr.model.decode(tokens, memory, {"decoder.mlp_out": double})
        ```
    """

    def __call__(self, x: Array, at: At, /) -> Array:
        """Returns `x`, edited, in the same shape."""
        ...


Edits = Mapping[str, Edit]
"""Edits by site name, such as `{"decoder.cross_attn.z": edit}`."""


@pytrees.dataclass
class Readout:
    """Decides inside the layer loop which activations a pass returns.

    A pass calls `fn(acts)` once per layer with the activations of this layer, `{site: array}`, and
    once with the activations without a layer axis. `fn` returns a flat dict of arrays, without
    entries for sites that are missing from `acts`. `jaxasr.select`, `reduce` and `merge` make the
    usual readouts.

    Attributes:
        fn: function of the activations. If `fn` is a pytree, new values of its arrays run the same
            program.
        sites: sites that `fn` reads. Attention scores and patterns that are not named here are
            missing from `acts`.

    Example:
        ```python
        def norms(acts):
            x = acts.get("decoder.resid_post")
            return {} if x is None else {"norm": jnp.linalg.norm(x, axis=-1)}

        readout = jaxasr.Readout(norms, ("decoder.resid_post",))
        ```
    """

    fn: Callable[[Acts], dict[str, Any]]
    sites: tuple[str, ...] = pytrees.field(pytree_node=False)

    def __call__(self, acts: Acts) -> dict[str, Any]:
        return self.fn(acts)


# The functions of the usual readouts. They are pytrees, so that arrays in them are inputs of a
# program.
@pytrees.dataclass
class _Select:
    sites: tuple[str, ...] = pytrees.field(pytree_node=False)

    def __call__(self, acts: Acts) -> Acts:
        return {site: acts[site] for site in self.sites if site in acts}


@pytrees.dataclass
class _Reduce:
    fn: Callable[[Array], Any]
    name: str = pytrees.field(pytree_node=False)
    site: str = pytrees.field(pytree_node=False)

    def __call__(self, acts: Acts) -> dict[str, Any]:
        return {self.name: self.fn(acts[self.site])} if self.site in acts else {}


@pytrees.dataclass
class _Merge:
    readouts: tuple[Readout, ...]

    def __call__(self, acts: Acts) -> dict[str, Any]:
        return {name: value for readout in self.readouts for name, value in readout(acts).items()}


def select(*sites: str) -> Readout:
    """Returns a readout that keeps whole activations.

    Args:
        sites: names from `jaxasr.sites.SITES`.

    Raises:
        ValueError: an unknown site; the message lists the known ones.

    Example:
        ```python
        readout = jaxasr.select("encoder.resid_post")
        _, acts = asr.model.encode(mel[None], readout=readout)
        acts["encoder.resid_post"].shape  # layers, batch, frames, width
        ```
    """
    _sites.check_known(sites)
    return Readout(_Select(tuple(sites)), tuple(sites))


def reduce(name: str, site: str, fn: Callable[[Array], Any]) -> Readout:
    """Returns a readout that keeps a function of each layer's activation.

    The function runs inside the layer loop, so the activations are never stacked. For example, the
    entropies of all encoder patterns need an array [L, B, H, T] instead of [L, B, H, T, S].

    Args:
        name: key of the result.
        site: site to read.
        fn: function of one layer's activation, without its layer axis.

    Raises:
        ValueError: an unknown site.

    Example:
        ```python
        peak = jaxasr.reduce("peak", "decoder.cross_attn.pattern", lambda p: p.max(-1))
        _, acts = asr.model.decode(tokens, memory, readout=peak)
        ```
    """
    _sites.check_known([site])
    return Readout(_Reduce(fn, name, site), (site,))


def merge(*readouts: Readout) -> Readout:
    """Returns a readout that combines several readouts in one pass.

    Example:
        ```python
        peak = jaxasr.reduce("peak", "decoder.cross_attn.pattern", lambda p: p.max(-1))
        readout = jaxasr.merge(peak, jaxasr.select("decoder.logits"))
        ```
    """
    return Readout(_Merge(readouts), tuple(site for readout in readouts for site in readout.sites))


NOTHING = select()  # the readout that keeps no activation


@dataclasses.dataclass
class Tap:
    """Applies edits and records activations, in one layer or outside the layers of a stack.

    `tap("resid_mid", x)` edits, records and returns `x`. Each call of a layer has its own tap.

    Attributes:
        prefix: start of the full site names, such as "decoder.cross_attn.".
        edits: edits by full site name.
        readout: readout of the pass.
        layer: int32 scalar; -1 outside the layers.
        positions: int32 [B, T], absolute positions of the residual stream.
        frames: int32 [B, T], audio token at each position; see `At`.
        key_frames: int32 [B, S], audio token of each key; see `At`.
        acts: activations recorded so far, by full site name.
    """

    prefix: str
    edits: Edits
    readout: Readout
    layer: Any
    positions: Int[Array, "B T"]
    frames: Int[Array, "B T"] | None = None
    key_frames: Int[Array, "B S"] | None = None
    acts: Acts = dataclasses.field(default_factory=dict)

    def within(self, name: str) -> "Tap":
        """Returns a tap for one part of the layer, such as `attn`, that shares `acts`."""
        return dataclasses.replace(self, prefix=f"{self.prefix}{name}.")

    def __call__(
        self, site: str, x: Array, positions: Array | None = None, keys: Array | None = None
    ) -> Array:
        site = self.prefix + site
        if site in self.edits:
            positions = self.positions if positions is None else positions
            key_frames = None if keys is None else self.key_frames
            at = At(self.layer, positions, keys, site, self.frames, key_frames)
            x = _check_edited(self.edits[site](x, at), x, site)
        # Recording everything costs nothing, because XLA removes what no readout keeps.
        self.acts[site] = x
        return x

    def touches(self, *sites: str) -> bool:
        """Returns whether one of these sites is edited or read."""
        names = {self.prefix + site for site in sites}
        return not names.isdisjoint(self.edits) or not names.isdisjoint(self.readout.sites)


def _check_edited(edited: Any, x: Array, site: str) -> Array:
    """Checks `edited`, the result of an edit of `x`, and returns it in the dtype of `x`."""
    expected = (
        f"expected real numbers of shape {x.shape}, axes {' '.join(_sites.SITES[site])}. "
        "An edit returns an array like its input."
    )
    try:
        y = jnp.asarray(edited)
    except (TypeError, ValueError) as error:
        type_name = type(edited).__name__
        raise ValueError(f"The edit at {site!r} returned {type_name}; {expected}") from error
    if y.shape != x.shape:
        raise ValueError(f"The edit at {site!r} returned shape {y.shape}; {expected}")
    if jnp.issubdtype(y.dtype, jnp.complexfloating):
        raise ValueError(f"The edit at {site!r} returned {y.dtype}; {expected}")
    return y.astype(x.dtype)


def is_traced(*values: Any) -> bool:
    """Returns whether any value is a tracer, whose numbers cannot be checked."""
    return any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(values))
