"""Pools activations over time inside the compiled pass.

A pool is a mean over a span of time, one position, or all frames without padding. A step is a frame
of the encoder or a token of the decoder.

Axis letters: B batch, T time, P pools, D features (the axes after time, flattened).
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxasr import pytrees
from jaxasr.config import Config
from jaxasr.sites import SITES, check_known, spec as site_spec, stack_of
from jaxasr.taps import Acts, Readout

MEAN_POOLS = ("speech", "audio", "all")  # pools that average over more than one position
# Kinds of time steps: frames of the encoder, audio tokens, and tokens of the decoder.
CLOCKS = ("encoder", "audio", "decoder")
FRAMES_POOL = "frames"  # pool that keeps all frames
Pool = str | int  # a name or a position


def parse(pool: Pool | Sequence[Pool]) -> tuple[tuple[str, ...], bool]:
    """Checks the pools that a user asks for, and returns their names.

    Args:
        pool: one or several of

            - "speech": mean over the frames of the recording (decoder: over the tokens of the text)
            - "audio": the same for the encoder; mean over the audio tokens for the decoder of an
              audio language model
            - "all": mean over all 1,500 frames, including padding (decoder: over prompt, text and
              end of text)
            - "last": the last frame of the recording (decoder: the end of text)
            - a number: the frame or token at this position, from the end if negative
            - "frames": every frame of the recording (decoder: every token)

    Returns:
        The names of the pools without "frames", and whether "frames" is one of the pools.

    Raises:
        ValueError: a pool is unknown or repeated.

    Example:
        >>> parse(["speech", -1, "frames"])
        (('speech', '-1'), True)
    """
    items = [pool] if isinstance(pool, str | int) else list(pool)
    names = [str(item) for item in items]
    unknown = [
        name
        for name in names
        if name not in (*MEAN_POOLS, "last", FRAMES_POOL) and not name.removeprefix("-").isdigit()
    ]
    if unknown or not names or len(set(names)) < len(names):
        raise ValueError(
            "pool: expected 'speech', 'audio', 'all', 'last', 'frames' or positions, each once, "
            f"got {pool!r}."
        )
    return tuple(name for name in names if name != FRAMES_POOL), FRAMES_POOL in names


def check_sites(sites: Sequence[str]) -> None:
    """Checks that the activations of sites can be pooled over time.

    Raises:
        ValueError: a site is unknown or has two time axes.

    Example:
        >>> check_sites(["encoder.resid_post"])
    """
    check_known(sites)
    # T is query time and S is key time. Attention scores and patterns have both.
    poolable = [site for site, axes in SITES.items() if axes[:2] in (("B", "T"), ("B", "S"))]
    if unusable := [site for site in sites if site not in poolable]:
        raise ValueError(
            f"sites: expected sites with one time axis, got {unusable[0]!r}, which has two. "
            f"Expected one of: {', '.join(poolable)}."
        )


def clock_of(config: Config, site: str) -> str:
    """Returns what the time steps of a site are, one of `CLOCKS`.

    Example:
        >>> import jaxasr
        >>> clock_of(jaxasr.language.sizes.RELEASED["qwen2-audio-7b"], "encoder.project")
        'audio'
    """
    has_tokens = site_spec(config, site, 1, 1).frames_per_step > 1
    return "audio" if stack_of(site) == "encoder" and has_tokens else stack_of(site)


def n_features(config: Config, site: str) -> int:
    """Returns the number of features D of a site."""
    return int(np.prod(site_spec(config, site, 1, 1).shape[2:]))


def has_position(pool: str, length: int) -> bool:
    """Returns whether a row of `length` steps has the position that `pool` names.

    Example:
        >>> has_position("-3", 2)
        False
    """
    return pool in (*MEAN_POOLS, "last") or -length <= int(pool) < length


def spans(
    pools: Sequence[str],
    first: Sequence[int],
    end: Sequence[int],
    length: Sequence[int],
    whole: int | None,
    audio: Sequence[tuple[int, int]] | None = None,
) -> Int[np.ndarray, "B P 2"]:
    """Returns the span of steps that each pool averages in every row.

    A span is a pair: its first step, and the step after its last one.

    Args:
        pools: names of pools, see `parse`.
        first: first step of the speech or text, per row.
        end: step after the speech or text, per row.
        length: number of steps without padding, per row.
        whole: number of steps that the pool "all" averages. None: `length`.
        audio: span of the audio, per row. None: that of the speech or text.

    Example:
        >>> spans(["speech", "last"], first=[3], end=[7], length=[8], whole=None).tolist()
        [[[3, 7], [7, 8]]]
    """
    audio = list(zip(first, end)) if audio is None else audio
    rows = [
        [of_audio if pool == "audio" else _span(pool, start, stop, n, whole or n) for pool in pools]
        for start, stop, n, of_audio in zip(first, end, length, audio)
    ]
    return np.array(rows, np.int32).reshape(len(rows), len(pools), 2)


def _span(pool: str, first: int, end: int, length: int, whole: int) -> tuple[int, int]:
    if pool == "speech":
        return first, max(end, first + 1)  # an empty text counts as one step, where it would start
    if pool == "all":
        return 0, whole
    position = -1 if pool == "last" else int(pool)
    index = position + length if position < 0 else position
    return index, index + 1


@pytrees.dataclass
class PoolingReadout:
    """Pools activations over time, in float32 or wider. It is the function of a `Readout`.

    Steps outside of a span do not affect its mean, even if they are NaN.

    Attributes:
        spans: span of each row and pool, see `spans`.
        sites: the sites to read.
        width: number of steps to keep as frames, from the first one on. 0: no frames.
    """

    spans: Int[Array, "B P 2"]
    sites: tuple[str, ...] = pytrees.field(pytree_node=False)
    width: int = pytrees.field(pytree_node=False, default=0)

    def __call__(self, acts: Acts) -> Acts:
        """Returns `{site: [B, P, D]}`, and if `width` is not 0 `{site/frames: [B, width, D]}`."""
        pooled: Acts = {}
        for site in self.sites:
            if site in acts:
                pooled |= self._pool(site, acts[site])
        return pooled

    def _pool(self, site: str, x: Array) -> Acts:
        # The barrier makes the compiler pool the numbers that the model computes with. Otherwise it
        # may compute them again, rounded differently on one device than on several.
        x = jax.lax.optimization_barrier(x.reshape(*x.shape[:2], -1))
        # The site encoder.conv1 has two frames per encoder frame.
        scale = 2 if site == "encoder.conv1" else 1
        wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        pooled = {site: span_means(wide, self.spans * scale)} if self.spans.shape[1] else {}
        frames = {f"{site}/{FRAMES_POOL}": wide[:, : self.width * scale]} if self.width else {}
        return pooled | frames


def span_means(x: Float[Array, "B T D"], spans: Int[Array, "B P 2"]) -> Float[Array, "B P D"]:
    """Returns the mean over each span. If a span has one step, the result is exactly that step.

    Example:
        >>> span_means(jnp.array([[[1.0], [3.0], [8.0]]]), jnp.array([[[0, 2]]])).tolist()
        [[[2.0]]]
    """
    time = jnp.arange(x.shape[1], dtype=jnp.int32)[:, None]
    pooled = []
    for p in range(spans.shape[1]):
        first, end = spans[:, p, 0, None, None], spans[:, p, 1, None, None]
        # `where` instead of a product with 0, because 0 times NaN is NaN.
        total = sum_in_order(jnp.where((time >= first) & (time < end), x, 0))
        pooled.append(total / (end - first)[:, 0].astype(x.dtype))
    return jnp.stack(pooled, axis=1)


def sum_in_order(x: Float[Array, "B T D"]) -> Float[Array, "B D"]:
    """Sums over time in an order that the compiler cannot change.

    It halves the steps again and again. `sum` adds in another order on several devices than on one,
    so that the last bits would depend on the number of devices.

    Example:
        >>> sum_in_order(jnp.array([[[1.0], [3.0], [8.0]]])).tolist()
        [[12.0]]
    """
    while (n := x.shape[1]) > 1:
        half = -(-n // 2)
        second = jnp.pad(x[:, half:], ((0, 0), (0, 2 * half - n), (0, 0)))
        # Without the barrier, the additions of all halvings may become one large program.
        x = jax.lax.optimization_barrier(x[:, :half] + second)
    return x[:, 0]


def readout(spans: Int[np.ndarray, "B P 2"], sites: Sequence[str], width: int = 0) -> Readout:
    """Returns a readout of `sites` that pools over `spans` and keeps `width` frames."""
    return Readout(PoolingReadout(jnp.asarray(spans), tuple(sites), width), tuple(sites))
