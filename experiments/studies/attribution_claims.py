"""Defines the sites and the claims of B2, and judges the claims by one number per recording."""

import functools

import numpy as np
import xarray as xr

from experiments.studies.claims import SECONDARY, Claim, Finding

# Type of each site, and the dimensions that the site is swept over.
SWEPT_SITES = {
    "decoder.cross_attn.z": ("heads", ("layer", "head", "position")),
    "decoder.attn.z": ("heads", ("layer", "head", "position")),
    "encoder.attn.z": ("heads", ("layer", "head")),
    "decoder.cross_attn.q": ("queries and keys", ("layer", "head", "position")),
    "decoder.cross_attn.k": ("queries and keys", ("layer", "head", "time")),
    "decoder.attn.q": ("queries and keys", ("layer", "head", "position")),
    "decoder.attn.k": ("queries and keys", ("layer", "head", "position")),
    "decoder.resid_post": ("decoder stream and MLP", ("layer", "position")),
    "decoder.mlp_out": ("decoder stream and MLP", ("layer", "position")),
    "encoder.resid_post": ("encoder stream and MLP", ("layer", "time")),
    "encoder.mlp_out": ("encoder stream and MLP", ("layer", "time")),
}
SITE_TYPES = tuple(dict.fromkeys(site_type for site_type, _ in SWEPT_SITES.values()))
SMALL_TYPES = SITE_TYPES[:2]  # heads, queries and keys; the other types are large patches
GOOD_RANK = 0.8  # smallest rank correlation at which estimates rank cells as exact patching does
# Corruptions of the recordings that cells are restored in. Speech has the rhythm and the words of
# another sentence, which noise has not.
WHITE_NOISE, OTHER_SPEAKER = "white noise", "another speaker"
_claim = functools.partial(Claim, units="speakers", family=SECONDARY)
CLAIMS = {
    site: _claim(
        f"First-order estimates rank the cells of {site} as exact patching does",
        "not asked; not published",
        "per recording, rank correlation over cells between estimated and exact changes, averaged "
        "over the corruptions; at least 0.8",
        null=GOOD_RANK,
        least=GOOD_RANK,
    )
    for site in SWEPT_SITES
} | {
    "small_before_large": _claim(
        "Small patches (heads, queries, keys) are ranked better than large ones (streams, MLP)",
        "AtP (arXiv 2403.00745): estimates fail if a patch is large or saturates attention",
        "per recording, mean rank correlation of the small patches, minus that of the large ones",
        least=0.05,
    ),
    "any_corruption": _claim(
        "Estimates rank cells as well with another speaker as the corruption as with white noise",
        "not asked",
        "per recording, mean rank correlation over sites with another speaker, minus that with "
        "white noise; at most 0.05 lower",
        null=-0.05,
        least=-0.05,
    ),
}


def judge_claims(arrays: xr.Dataset, seed: int) -> dict[str, Finding]:
    """Judges `CLAIMS`, with speakers as units.

    Args:
        arrays: `spearman` [example, corruption, site], and the coordinates `speaker` and `type`.
        seed: seed of the bootstrap.

    Returns:
        The finding of each claim.
    """
    rank = arrays.spearman.mean("corruption")
    is_small = np.isin(arrays.type.values, SMALL_TYPES)
    # Types have different numbers of sites. Each type counts once.
    by_type = rank.groupby("type").mean("site")
    values = {str(site): rank.sel(site=site).values for site in arrays.site.values}
    if is_small.any() and not is_small.all():
        is_small_type = np.isin(by_type.type.values, SMALL_TYPES)
        small, large = (
            by_type.isel(type=np.flatnonzero(mask)).mean("type").values
            for mask in (is_small_type, ~is_small_type)
        )
        values["small_before_large"] = small - large
    if {WHITE_NOISE, OTHER_SPEAKER} <= set(arrays.corruption.values):
        by_corruption = arrays.spearman.mean("site")
        first, second = (
            by_corruption.sel(corruption=name).values for name in (WHITE_NOISE, OTHER_SPEAKER)
        )
        values["any_corruption"] = second - first
    return {
        key: _judge(claim, values.get(key), arrays.speaker.values, seed)
        for key, claim in CLAIMS.items()
    }


def _judge(claim: Claim, values: np.ndarray | None, speakers: np.ndarray, seed: int) -> Finding:
    if values is None:
        return claim.judge(None, "these settings leave out its sites or its corruption")
    bounds = (-1.0, 1.0) if claim.null == GOOD_RANK else (-2.0, 2.0)
    return claim.judge_mean(values, seed, clusters=speakers, bounds=bounds)
