"""Lists the names of all sites, so that the option `--site` can be checked without loading JAX.

`jaxasr.sites` has the shapes of the sites. A test checks that both files have the same names.
"""

import difflib

# Names within one layer.
_ATTENTION = ("q", "k", "v", "scores", "pattern", "z")
_SELF_ATTENTION = (*(f"attn.{name}" for name in _ATTENTION), "attn_out")
_CROSS_ATTENTION = (*(f"cross_attn.{name}" for name in _ATTENTION), "cross_attn_out")
_MLP = ("mlp.pre", "mlp.post", "mlp_out")
_ROTATED = ("attn.q_rot", "attn.k_rot")  # of language models, as `mlp.up`
_ENCODER = ("resid_pre", *_SELF_ATTENTION, "resid_mid", *_MLP, "resid_post")
_DECODER = (
    "resid_pre",
    *_SELF_ATTENTION,
    "resid_mid",
    *_CROSS_ATTENTION,
    "resid_mid_cross",
    *_ROTATED,
    "mlp.up",
    *_MLP,
    "resid_post",
)
_AROUND_ENCODER = ("conv1", "conv2", "embed", "ln_post", "pool", "project")
# All names. The last ones of each stack are outside of the layers.
SITE_NAMES = (
    *(f"encoder.{name}" for name in (*_ENCODER, *_AROUND_ENCODER)),
    *(f"decoder.{name}" for name in (*_DECODER, "embed", "ln", "logits")),
)


def check_site(site: str) -> None:
    """Checks that a site exists.

    Raises:
        ValueError: the site does not exist. The message names the most similar site.

    Example:
        >>> check_site("decoder.resid_post")
    """
    if site in SITE_NAMES:
        return
    similar = difflib.get_close_matches(site, SITE_NAMES, n=1)
    hint = f" Did you mean {similar[0]!r}?" if similar else ""
    raise ValueError(f"--site: {site!r} is not a site.{hint} `jaxasr info` lists all sites.")
