"""Edits of attention scores and patterns, and mean ablation."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from interventions.edits.base import EditBase
from interventions.edits.places import Indices, Place, check_within, place
from interventions.edits.values import Patch
from jaxasr import pytrees
from jaxasr.sites import SITES, SiteSpec
from jaxasr.taps import At, is_traced


@pytrees.dataclass(repr=False)
class AttendOnlyTo(EditBase):
    """Replaces a pattern by uniform attention over `keys`. Made by `attend_only_to`.

    In decoder self-attention only keys that are not in the future count. A query that can see none
    of `keys` keeps its pattern.

    Example:
        >>> from interventions import attend_only_to
        >>> attend_only_to([0, 3])
        AttendOnlyTo(keys=[0, 3])
    """

    keys: Place

    def __call__(self, x: Float[Array, "B H T S"], at: At) -> Float[Array, "B H T S"]:
        chosen = self.keys(_keys(at))[:, None, None, :] & _visible(at)
        n_chosen = chosen.sum(-1, keepdims=True)
        uniform = chosen / jnp.maximum(n_chosen, 1)
        return jnp.where(n_chosen > 0, uniform, x).astype(x.dtype)

    def check(self, spec: SiteSpec) -> None:
        """Raises ValueError at other sites than `pattern`, and for keys outside of the pass."""
        _check_site(spec, "pattern", "AttendOnlyTo")
        check_within(self.keys, spec.size("S"), "keys", spec.site)


@pytrees.dataclass(repr=False)
class Knockout(EditBase):
    """Sets scores at `keys` to -∞, so that their weight goes to the other keys. Made by `knockout`.

    A query for which no key would remain (the first ones in decoder self-attention) keeps its
    scores.

    Example:
        >>> from interventions import knockout
        >>> knockout(range(10))
        Knockout(keys=0:10)
    """

    keys: Place

    def __call__(self, x: Float[Array, "B H T S"], at: At) -> Float[Array, "B H T S"]:
        masked, visible = self.keys(_keys(at))[:, None, None, :], _visible(at)
        remains = (visible & ~masked).any(-1, keepdims=True)
        return jnp.where(masked & remains, -jnp.inf, x).astype(x.dtype)

    def check(self, spec: SiteSpec) -> None:
        """Raises ValueError at other sites than `scores`, and when no key would remain."""
        _check_site(spec, "scores", "Knockout")
        check_within(self.keys, spec.size("S"), "keys", spec.site)
        if not is_traced(self.keys) and np.asarray(self.keys(jnp.arange(spec.size("S")))).all():
            raise ValueError(
                f"keys: expected some of the {spec.size('S')} keys at {spec.site!r}, got "
                f"all {spec.size('S')} keys. Leave at least one to attend to."
            )


def attend_only_to(keys: Indices) -> AttendOnlyTo:
    """Makes every query attend to `keys` alone, uniformly. An edit of `pattern` sites.

    Args:
        keys: an index, several, a `range`, a `slice` or an int array: frames of 20 ms in
            cross-attention and the encoder, positions in decoder self-attention.

    Raises:
        ValueError: `keys` is empty or not of integers.

    Example:
        >>> from interventions import attend_only_to, only
        >>> {"decoder.cross_attn.pattern": only(attend_only_to(slice(50, 100)), heads=2)}
        {'decoder.cross_attn.pattern': Restrict(edit=AttendOnlyTo(keys=50:100), heads=[2])}
    """
    return AttendOnlyTo(_required_place(keys))


def knockout(keys: Indices) -> Knockout:
    """Masks `keys` for every query. An edit of `scores` sites.

    The softmax that follows shares their weight among the other keys. Restrict it to a head with
    `only(..., heads=)`.

    Args:
        keys: an index, several, a `range`, a `slice` or an int array: frames of 20 ms in
            cross-attention and the encoder, positions in decoder self-attention. `slice(50, 100)`
            masks 1.0 s to 2.0 s.

    Raises:
        ValueError: `keys` is empty or not of integers.

    Example:
        >>> from interventions import knockout
        >>> {"decoder.cross_attn.scores": knockout(slice(50, 100))}
        {'decoder.cross_attn.scores': Knockout(keys=50:100)}
    """
    return Knockout(_required_place(keys))


def freeze_pattern(pattern: Float[Array, "*L B H T S"], partial: bool = False) -> Patch:
    """Fixes attention to the pattern of another pass, whatever queries and keys are in this one.

    Args:
        pattern: float [L, B, H, T, S] as a readout returns it, or without the layer axis.
        partial: as in `Patch`.

    Example:
        >>> from interventions import freeze_pattern
        >>> freeze_pattern(jnp.ones((4, 1, 6, 3, 1500)) / 1500)
        Patch(value=float32[4, 1, 6, 3, 1500], partial=False)
    """
    return Patch(pattern, partial)


def mean_ablation(
    activation: Float[Array, "..."], site: str, valid: Bool[Array, "B T"] | None = None
) -> Patch:
    """Replaces an activation by its mean over rows and time (mean ablation).

    Args:
        activation: [L, B, ...] as a readout returns it, or without the layer axis.
        site: the site that `activation` comes from.
        valid: bool [B, T], the steps to average over: queries, or keys at `k` and `v`. Without it
            the padding of short recordings enters the mean.

    Returns:
        An edit of `site`.

    Raises:
        ValueError: `activation` has another number of axes than the site; no step is valid.

    Example:
        >>> from interventions import mean_ablation
        >>> mean_ablation(jnp.ones((4, 2, 7, 384)), "decoder.resid_post")
        Patch(value=float32[4, 1, 1, 384], partial=False)
    """
    axes = SITES[site]
    batch = activation.ndim - len(axes)
    if batch not in (0, 1):
        raise ValueError(
            f"activation: expected [L, {', '.join(axes)}] or without L at {site!r}, "
            f"got shape {list(activation.shape)}."
        )
    time = axes.index("T" if "T" in axes else "S")
    over = (batch, batch + time)
    if valid is None:
        return Patch(activation.mean(over, keepdims=True))
    if not is_traced(valid) and not np.asarray(valid).any():
        raise ValueError("valid: expected at least one step to average over, got none.")
    weight = jnp.expand_dims(valid, [i for i in range(len(axes)) if i not in (0, time)])
    # `where`, not a product: padding may hold NaN.
    total = jnp.where(weight, activation, 0).sum(over, keepdims=True)
    return Patch(total / jnp.asarray(valid).sum().astype(total.dtype))


def _required_place(keys: Indices) -> Place:
    indices = place(keys, "keys")
    if indices is None:
        raise ValueError("keys: expected an index, several, a range or a slice, got None.")
    return indices


def _keys(at: At) -> Array:
    assert at.keys is not None, "scores and pattern have keys"
    return at.keys


def _visible(at: At) -> Bool[Array, "B 1 T S"]:
    """Keys that a query may attend to."""
    queries, keys = at.positions[:, None, :, None], _keys(at)[:, None, None, :]
    if at.site.startswith("decoder.attn."):
        # An empty slot of the cache has a position later than every query.
        return (keys <= queries) & (keys >= 0)
    return (keys >= 0) | (queries < 0)


def _check_site(spec: SiteSpec, leaf: str, name: str) -> None:
    if not spec.site.endswith(f".{leaf}"):
        choices = ", ".join(site for site in SITES if site.endswith(leaf))
        raise ValueError(
            f"{name}: expected a site of `{leaf}`, got {spec.site!r}. Sites of `{leaf}`: {choices}."
        )
