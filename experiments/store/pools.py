"""Pools activations over time inside the compiled pass: means, positions, or all true frames.

Axis letters: B batch, T time, P pools, D features (heads and their widths flattened).
"""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxasr import pytrees, sites as _sites
from jaxasr.config import Config
from jaxasr.taps import Acts, Readout

MEANS = ("speech", "all")
FRAMES = "frames"
Pool = str | int


def parse(pool: Pool | Sequence[Pool]) -> tuple[tuple[str, ...], bool]:
    """Reads the pools that a user asks for.

    Args:
        pool: one or several of

            - "speech": the mean over the frames of the recording (decoder: the tokens of the text);
            - "all": the mean over all 1,500 frames, padding included (decoder: prompt, text and end
              of text);
            - "last": the last frame (decoder: the end of text);
            - a number: that frame or token, from the end if negative;
            - "frames": every true frame (token), of different number per recording.

    Returns:
        The names of the pools in the given order, and whether true frames are kept as well.

    Raises:
        ValueError: an unknown or repeated pool.

    Example:
        >>> parse(["speech", -1, "frames"])
        (('speech', '-1'), True)
    """
    items = [pool] if isinstance(pool, str | int) else list(pool)
    names = [str(item) for item in items]
    unknown = [
        name
        for name in names
        if name not in (*MEANS, "last", FRAMES) and not name.removeprefix("-").isdigit()
    ]
    if unknown or not names or len(set(names)) < len(names):
        raise ValueError(
            "pool: expected 'speech', 'all', 'last', 'frames' or positions, each once, "
            f"got {pool!r}."
        )
    return tuple(name for name in names if name != FRAMES), FRAMES in names


def check_sites(sites: Sequence[str]) -> None:
    """Raises ValueError for an unknown site and for one that is not [B, T, ...]."""
    _sites.check_known(sites)
    poolable = [site for site, axes in _sites.SITES.items() if axes[:2] in (("B", "T"), ("B", "S"))]
    _sites.check_known(sites, poolable, "site to pool over time; a pattern has two times. Not")


def n_features(config: Config, site: str) -> int:
    """Returns the width D of a site."""
    return int(np.prod(_sites.spec(config, site, 1, 1).shape[2:]))


def has(pool: str, length: int) -> bool:
    """Returns whether a row of `length` steps has the position that `pool` names."""
    return pool in (*MEANS, "last") or -length <= int(pool) < length


def spans(
    pools: Sequence[str],
    first: Sequence[int],
    end: Sequence[int],
    length: Sequence[int],
    whole: int | None,
) -> Int[np.ndarray, "B P 2"]:
    """Returns the span [from, to) of time that each pool averages, for every row.

    Args:
        pools: names of pools, see `parse`.
        first: where speech (or text) starts, per row.
        end: where speech (or text) ends, per row.
        length: the number of steps, per row.
        whole: the number of steps that "all" averages; None for `length`.
    """
    rows = [
        [_span(pool, a, b, n, n if whole is None else whole) for pool in pools]
        for a, b, n in zip(first, end, length)
    ]
    return np.array(rows, np.int32).reshape(len(rows), len(pools), 2)


def _span(pool: str, first: int, end: int, length: int, whole: int) -> tuple[int, int]:
    if pool == "speech":
        return first, max(end, first + 1)  # an empty text has the position where it would start
    if pool == "all":
        return 0, whole
    position = -1 if pool == "last" else int(pool)
    index = position + length if position < 0 else position
    return index, index + 1


@pytrees.dataclass
class Pooled:
    """A readout's function that pools activations over time, in float32 or wider.

    Steps outside of a span are never added, so they may hold anything, NaN included.

    Attributes:
        spans: the span of each row and pool.
        sites: the sites to read.
        width: how many of the first steps to keep as frames; 0 for none.
    """

    spans: Int[Array, "B P 2"]
    sites: tuple[str, ...] = pytrees.field(pytree_node=False)
    width: int = pytrees.field(pytree_node=False, default=0)

    def __call__(self, acts: Acts) -> Acts:
        """Returns `{site: [B, P, D]}` and, with a width, `{site/frames: [B, width, D]}`."""
        pooled: Acts = {}
        for site in self.sites:
            if site in acts:
                pooled |= self._pool(site, acts[site])
        return pooled

    def _pool(self, site: str, x: Array) -> Acts:
        x = x.reshape(*x.shape[:2], -1)
        # There are two mel frames per encoder frame.
        scale = 2 if site == "encoder.conv1" else 1
        wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        pooled = {site: means(wide, self.spans * scale)} if self.spans.shape[1] else {}
        frames = {f"{site}/{FRAMES}": wide[:, : self.width * scale]} if self.width else {}
        return pooled | frames


def means(x: Float[Array, "B T D"], spans: Int[Array, "B P 2"]) -> Float[Array, "B P D"]:
    """Returns the mean over each span of time; of a span of one step, exactly that step."""
    time = jnp.arange(x.shape[1], dtype=jnp.int32)[:, None]
    pooled = []
    for p in range(spans.shape[1]):
        first, last = spans[:, p, 0, None, None], spans[:, p, 1, None, None]
        total = jnp.where((time >= first) & (time < last), x, 0).sum(1)
        pooled.append(total / (last - first)[:, 0].astype(x.dtype))
    return jnp.stack(pooled, axis=1)


def readout(spans: Int[np.ndarray, "B P 2"], sites: Sequence[str], width: int = 0) -> Readout:
    """Returns a readout of `sites` that pools over `spans`, see `Pooled`."""
    return Readout(Pooled(jnp.asarray(spans), tuple(sites), width), tuple(sites))
