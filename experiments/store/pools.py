"""What is kept of an activation over time: means, single positions, or every true frame. Decided inside the compiled pass.

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


def parse(pool: str | int | Sequence[Pool]) -> tuple[tuple[str, ...], bool]:
    """Names of the pools, in the order given, and whether every true frame is kept, too.

    "speech": mean over the frames of the recording (decoder: over the tokens of the text). "all": mean over all 1,500 frames, padding
    included (decoder: over prompt, text and end). "last": the last frame (decoder: the end of text). A number: that frame or token,
    from the end when negative. "frames": every true frame (token), ragged. Raises ValueError.
    """
    named = [pool] if isinstance(pool, str | int) else list(pool)
    names = [str(name) for name in named]
    bad = [
        name
        for name in names
        if name not in (*MEANS, "last", FRAMES) and not name.removeprefix("-").isdigit()
    ]
    if bad or not names or len(set(names)) < len(names):
        raise ValueError(
            f"pool: expected 'speech', 'all', 'last', 'frames' or positions, each once, got {pool!r}."
        )
    return tuple(name for name in names if name != FRAMES), FRAMES in names


def check_sites(sites: Sequence[str]) -> None:
    """Raises ValueError for an unknown site and for one that is not [B, T, ...]."""
    _sites.check_known(sites)
    fit = [site for site, axes in _sites.SITES.items() if axes[:2] in (("B", "T"), ("B", "S"))]
    _sites.check_known(sites, fit, "site to pool over time; a pattern has two times. Not")


def n_features(config: Config, site: str) -> int:
    return int(np.prod(_sites.spec(config, site, 1, 1).shape[2:]))


def has(pool: str, length: int) -> bool:
    """Whether a row of this length has the position that `pool` names, if it names one."""
    return pool in (*MEANS, "last") or -length <= int(pool) < length


def spans(
    pools: Sequence[str],
    first: Sequence[int],
    end: Sequence[int],
    length: Sequence[int],
    whole: int | None,
) -> Int[np.ndarray, "B P 2"]:
    """The stretch [from, to) of time that each pool is the mean of, for every row.

    first, end: where speech (text) begins and ends; length: what is there in all; whole: what "all" counts, None: `length`.
    """
    rows = [
        [_span(pool, a, b, n, n if whole is None else whole) for pool in pools]
        for a, b, n in zip(first, end, length)
    ]
    return np.array(rows, np.int32).reshape(len(rows), len(pools), 2)


def _span(pool: str, first: int, end: int, length: int, whole: int) -> tuple[int, int]:
    if pool == "speech":
        return first, max(end, first + 1)  # of an empty text the place where it would begin
    if pool == "all":
        return 0, whole
    at = -1 if pool == "last" else int(pool)
    place = at + length if at < 0 else at
    return place, place + 1


@pytrees.dataclass
class Pooled:
    """A readout's function: `{site: [B, P, D]}`, and `{site/frames: [B, width, D]}` of the first `width` steps when that is not 0.

    Float32 or wider. What lies outside of a pool's stretch is never added, so it may be anything, NaN included.
    """

    spans: Int[Array, "B P 2"]
    sites: tuple[str, ...] = pytrees.field(pytree_node=False)
    width: int = pytrees.field(pytree_node=False, default=0)

    def __call__(self, acts: Acts) -> Acts:
        found = {}
        for site in self.sites:
            if site in acts:
                found |= self._kept(site, acts[site])
        return found

    def _kept(self, site: str, x: Array) -> Acts:
        x = x.reshape(*x.shape[:2], -1)
        # Mel frames come two to an encoder frame.
        scale = 2 if site == "encoder.conv1" else 1
        wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        kept = {site: means(wide, self.spans * scale)} if self.spans.shape[1] else {}
        return kept | ({f"{site}/{FRAMES}": wide[:, : self.width * scale]} if self.width else {})


def means(x: Float[Array, "B T D"], spans: Int[Array, "B P 2"]) -> Float[Array, "B P D"]:
    """Mean over each stretch of time; one step long, it is that step exactly."""
    time = jnp.arange(x.shape[1], dtype=jnp.int32)[:, None]
    pooled = []
    for p in range(spans.shape[1]):
        first, last = spans[:, p, 0, None, None], spans[:, p, 1, None, None]
        total = jnp.where((time >= first) & (time < last), x, 0).sum(1)
        pooled.append(total / (last - first)[:, 0].astype(x.dtype))
    return jnp.stack(pooled, axis=1)


def readout(spans: Int[np.ndarray, "B P 2"], sites: Sequence[str], width: int = 0) -> Readout:
    return Readout(Pooled(jnp.asarray(spans), tuple(sites), width), tuple(sites))
