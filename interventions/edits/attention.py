"""Edits attention scores and patterns, and replaces activations by their mean."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from interventions.edits.base import EditBase
from interventions.edits.places import Indices, Place, as_place, check_within
from interventions.edits.values import Patch
from jaxasr import pytrees
from jaxasr.sites import SITES, SiteSpec
from jaxasr.taps import At, is_traced


@pytrees.dataclass(repr=False)
class AttendOnlyTo(EditBase):
    """Replaces an attention pattern by uniform attention over `keys`. Made by `attend_only_to`.

    In decoder self-attention, future keys stay masked. In an encoder that masks the padding of
    short recordings, the padding stays masked. A query that may not attend to any of `keys` keeps
    its pattern.

    Example:
        >>> from interventions import attend_only_to
        >>> attend_only_to([0, 3])
        AttendOnlyTo(keys=[0, 3])
    """

    keys: Place

    def __call__(self, x: Float[Array, "B H T S"], at: At) -> Float[Array, "B H T S"]:
        attended = self.keys(_key_positions(at))[:, None, None, :] & _visible_keys(at)
        n_attended = attended.sum(-1, keepdims=True)
        # `maximum` avoids 0 / 0 for queries that attend to none of `keys`.
        uniform = attended / jnp.maximum(n_attended, 1)
        return jnp.where(n_attended > 0, uniform, x).astype(x.dtype)

    def check(self, spec: SiteSpec) -> None:
        """Raises ValueError unless the site is a `pattern` site and has all `keys` in this pass."""
        _check_site(spec, ending="pattern", edit_name="AttendOnlyTo")
        check_within(self.keys, size=spec.size("S"), name="keys", site=spec.site)


@pytrees.dataclass(repr=False)
class Knockout(EditBase):
    """Sets attention scores at `keys` to -∞. Made by `knockout`.

    The softmax then gives the weight of `keys` to the other keys. A query that may attend only to
    `keys` keeps its scores, so that no pattern is NaN. In decoder self-attention, the first query
    may attend only to key 0. In the encoder of Qwen2-Audio, frames may attend only to frames of
    the recording, so a knock-out of all of these leaves the row unchanged.

    Example:
        >>> from interventions import knockout
        >>> knockout(range(10))
        Knockout(keys=0:10)
    """

    keys: Place

    def __call__(self, x: Float[Array, "B H T S"], at: At) -> Float[Array, "B H T S"]:
        return _mask_scores(x, self.keys(_key_positions(at)), at)

    def check(self, spec: SiteSpec) -> None:
        """Raises ValueError unless the site is a `scores` site that has `keys` and others."""
        _check_site(spec, ending="scores", edit_name="Knockout")
        check_within(self.keys, size=spec.size("S"), name="keys", site=spec.site)
        _check_leaves_a_key(self.keys, spec, name="keys")


@pytrees.dataclass(repr=False)
class KnockoutAudio(EditBase):
    """Sets attention scores at the keys of `frames` to -∞. Made by `knockout(frames=...)`.

    In the decoder of an audio language model, these are the keys that hold the audio tokens
    `frames`. At cross-attention and in the encoder, frames are the keys themselves. As with `keys`,
    a query that may attend only to these keys keeps its scores.

    Example:
        >>> from interventions import knockout
        >>> knockout(frames=range(10))
        KnockoutAudio(frames=0:10)
    """

    frames: Place

    def __call__(self, x: Float[Array, "B H T S"], at: At) -> Float[Array, "B H T S"]:
        frames = _key_positions(at) if at.key_frames is None else at.key_frames
        return _mask_scores(x, self.frames(frames), at)

    def check(self, spec: SiteSpec) -> None:
        """Raises ValueError unless the site is a `scores` site whose keys hold `frames`."""
        _check_site(spec, ending="scores", edit_name="KnockoutAudio")
        in_text = spec.site.startswith("decoder.attn.")
        if in_text and not spec.n_audio_tokens:
            raise ValueError(
                f"frames: the keys at {spec.site!r} hold no audio, so the edit would never fire. "
                "Use 'decoder.cross_attn.scores', or keys= for positions."
            )
        size = spec.n_audio_tokens if in_text else spec.size("S")
        check_within(self.frames, size=size, name="frames", site=spec.site)
        if not in_text:  # there, the keys of text remain
            _check_leaves_a_key(self.frames, spec, name="frames")


def attend_only_to(keys: Indices) -> AttendOnlyTo:
    """Makes every query attend to `keys` only, with equal weights. Edits `pattern` sites.

    Args:
        keys: an index, several indices, a `range`, a `slice` or an int array. They count frames
            of 20 ms in cross-attention and the encoder, and positions in decoder self-attention.

    Raises:
        ValueError: `keys` is empty or does not hold integers.

    Example:
        >>> from interventions import attend_only_to, only
        >>> {"decoder.cross_attn.pattern": only(attend_only_to(slice(50, 100)), heads=2)}
        {'decoder.cross_attn.pattern': Restrict(edit=AttendOnlyTo(keys=50:100), heads=[2])}
    """
    return AttendOnlyTo(_required_place(keys))


def knockout(keys: Indices = None, *, frames: Indices = None) -> Knockout | KnockoutAudio:
    """Masks `keys`, or the keys of `frames`, for every query. Edits `scores` sites.

    The softmax then gives their weight to the other keys. `only(knockout(...), heads=1)` restricts
    the edit to one head.

    Args:
        keys: an index, several indices, a `range`, a `slice` or an int array. They count frames
            of 20 ms in cross-attention and the encoder, and positions in decoder self-attention.
            In cross-attention, `slice(50, 100)` masks 1.0 s to 2.0 s.
        frames: audio time instead of `keys`, in the same types. In the decoder of an audio language
            model they count audio tokens, elsewhere frames of 20 ms.

    Raises:
        ValueError: not exactly one of `keys` and `frames` is given, or it is empty or does not hold
            integers.

    Example:
        >>> from interventions import knockout
        >>> {"decoder.cross_attn.scores": knockout(slice(50, 100))}
        {'decoder.cross_attn.scores': Knockout(keys=50:100)}
        >>> {"decoder.attn.scores": knockout(frames=slice(0, 5))}  # of an audio language model
        {'decoder.attn.scores': KnockoutAudio(frames=0:5)}
    """
    if frames is None:
        return Knockout(_required_place(keys))
    if keys is not None:
        raise ValueError(f"keys: expected None with frames, got {keys!r}. Give one of the two.")
    place = as_place(frames, "frames")
    assert place is not None  # only None has no place
    return KnockoutAudio(place)


def freeze_pattern(pattern: Float[Array, "*L B H T S"], partial: bool = False) -> Patch:
    """Replaces the attention pattern by that of another pass.

    Args:
        pattern: float [L, B, H, T, S] as a readout returns it. The layer axis is optional.
        partial: allows a pattern with fewer positions than the pass, as in `Patch`.

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
        activation: [L, B, ...] as a readout returns it. The layer axis is optional.
        site: the site that `activation` comes from.
        valid: bool [B, T], the positions or frames to average over. By default the mean includes
            the padding of short recordings.

    Returns:
        An edit of `site`.

    Raises:
        ValueError: `activation` has another number of axes than the site, or `valid` has another
            shape than [B, T] or is all False.

    Example:
        >>> from interventions import mean_ablation
        >>> mean_ablation(jnp.ones((4, 2, 7, 384)), "decoder.resid_post")
        Patch(value=float32[4, 1, 1, 384], partial=False)
    """
    axes = SITES[site]
    batch_axis = activation.ndim - len(axes)
    if batch_axis not in (0, 1):
        raise ValueError(
            f"activation: expected [L, {', '.join(axes)}] or without L at {site!r}, "
            f"got shape {list(activation.shape)}."
        )
    time_axis = axes.index("T" if "T" in axes else "S")
    averaged_axes = (batch_axis, batch_axis + time_axis)
    if valid is None:
        return Patch(activation.mean(averaged_axes, keepdims=True))
    expected = tuple(activation.shape[axis] for axis in averaged_axes)
    if np.shape(valid) != expected:
        raise ValueError(f"valid: expected bool {list(expected)}, got shape {np.shape(valid)}.")
    if not is_traced(valid) and not np.asarray(valid).any():
        raise ValueError("valid: expected True at one position or frame at least, got none.")
    valid = jnp.asarray(valid, bool)
    is_averaged = jnp.expand_dims(valid, [i for i in range(len(axes)) if i not in (0, time_axis)])
    # `where`, because a product with 0 would keep NaN in the padding.
    sums = jnp.where(is_averaged, activation, 0).sum(averaged_axes, keepdims=True)
    return Patch(sums / valid.sum().astype(sums.dtype))


def _required_place(keys: Indices) -> Place:
    indices = as_place(keys, "keys")
    if indices is None:
        raise ValueError("keys: expected one or more indices, a range or a slice, got None.")
    return indices


def _mask_scores(
    x: Float[Array, "B H T S"], is_masked: Bool[Array, "B S"], at: At
) -> Float[Array, "B H T S"]:
    """Sets scores at masked keys to -∞. A query without any other key keeps its scores."""
    is_masked, is_visible = is_masked[:, None, None, :], _visible_keys(at)
    keeps_a_key = (is_visible & ~is_masked).any(-1, keepdims=True)
    return jnp.where(is_masked & keeps_a_key, -jnp.inf, x).astype(x.dtype)


def _key_positions(at: At) -> Array:
    assert at.keys is not None, "scores and pattern have keys"
    return at.keys


def _visible_keys(at: At) -> Bool[Array, "B 1 #T S"]:
    """Returns True where a query may attend to a key."""
    queries, keys = at.positions[:, None, :, None], _key_positions(at)[:, None, None, :]
    if at.site.startswith("decoder.attn."):
        # Empty slots of the cache have a later position than every query.
        return (keys <= queries) & (keys >= 0)
    # Padding has negative positions, and no query attends to it.
    return keys >= 0


def _check_leaves_a_key(masked: Place, spec: SiteSpec, *, name: str) -> None:
    n_keys = spec.size("S")
    if not is_traced(masked) and np.asarray(masked(jnp.arange(n_keys))).all():
        raise ValueError(
            f"{name}: expected some of the {n_keys} keys at {spec.site!r}, got all {n_keys} keys. "
            "Leave at least one to attend to."
        )


def _check_site(spec: SiteSpec, *, ending: str, edit_name: str) -> None:
    if not spec.site.endswith(f".{ending}"):
        choices = ", ".join(site for site in SITES if site.endswith(ending))
        raise ValueError(
            f"{edit_name}: expected a site of `{ending}`, got {spec.site!r}. "
            f"Sites of `{ending}`: {choices}."
        )
