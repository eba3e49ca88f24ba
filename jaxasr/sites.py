"""Lists all sites, which are the places where an activation can be read and edited.

A site is named `<stack>.<site>`, where the stack is `encoder` or `decoder`. The layer is an axis of
the activation, not part of the name. Axis letters: L layers, B batch, T query time, S key time, H
heads, Dh width of a head, D width of the model, E 4·D, V vocabulary.
"""

import dataclasses
import difflib
from collections.abc import Iterable

from jaxasr.config import Config

# Axes of the sites of an attention, and of an MLP.
_ATTENTION = {
    "q": "B T H Dh",
    "k": "B S H Dh",
    "v": "B S H Dh",
    "scores": "B H T S",
    "pattern": "B H T S",
    "z": "B T H Dh",
}
_MLP = {"mlp.pre": "B T E", "mlp.post": "B T E", "mlp_out": "B T D"}


def _name_attention_sites(name: str) -> dict[str, str]:
    """Returns the axes of each site of an attention block, such as "attn", and of its output."""
    return {f"{name}.{site}": axes for site, axes in _ATTENTION.items()} | {f"{name}_out": "B T D"}


# Axes of the sites of one layer, in the order of the forward pass.
_ENCODER_LAYER = {
    "resid_pre": "B T D",
    **_name_attention_sites("attn"),
    "resid_mid": "B T D",
    **_MLP,
    "resid_post": "B T D",
}
_DECODER_LAYER = {
    "resid_pre": "B T D",
    **_name_attention_sites("attn"),
    "resid_mid": "B T D",
    **_name_attention_sites("cross_attn"),
    "resid_mid_cross": "B T D",
    **_MLP,
    "resid_post": "B T D",
}
# Axes of sites with a layer axis. The layer axis comes first and is not listed.
LAYERED: dict[str, str] = {f"encoder.{site}": axes for site, axes in _ENCODER_LAYER.items()} | {
    f"decoder.{site}": axes for site, axes in _DECODER_LAYER.items()
}
# Axes of sites without a layer axis.
UNLAYERED: dict[str, str] = {
    "encoder.conv1": "B T D",
    "encoder.conv2": "B T D",
    "encoder.embed": "B T D",
    "encoder.ln_post": "B T D",
    "decoder.embed": "B T D",
    "decoder.ln": "B T D",
    "decoder.logits": "B T V",
}
# Names of the axes of every site, without the layer axis.
SITES: dict[str, tuple[str, ...]] = {
    site: tuple(axes.split()) for site, axes in (LAYERED | UNLAYERED).items()
}


def stack_of(site: str) -> str:
    """Returns the stack of a site: `"encoder"` or `"decoder"`.

    Example:
        >>> jaxasr.sites.stack_of("encoder.attn.z")
        'encoder'
    """
    return site.split(".", 1)[0]


def sites_of(stack: str) -> list[str]:
    """Returns every site of `"encoder"` or `"decoder"`.

    The sites of a layer come first, then those without a layer axis. Both parts are in the order of
    the forward pass.

    Example:
        >>> jaxasr.sites.sites_of("decoder")[0]
        'decoder.resid_pre'
    """
    return [site for site in SITES if stack_of(site) == stack]


def check_known(sites: Iterable[str], among: Iterable[str] = SITES, kind: str = "site") -> None:
    """Checks that sites exist.

    Args:
        sites: names to check.
        among: names that exist.
        kind: the noun for a name in the error message, such as "sender".

    Raises:
        ValueError: an unknown name. The message gives the nearest name and all names that exist.

    Example:
        >>> jaxasr.sites.check_known(["decoder.logits"])
    """
    among = list(among)
    for site in sites:
        if site not in among:
            near = difflib.get_close_matches(site, among, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"Unknown {kind} {site!r}.{hint} Expected one of: {', '.join(among)}.")


@dataclasses.dataclass(frozen=True)
class SiteSpec:
    """The shape of an activation in one pass.

    Attributes:
        site: full name.
        axes: names of the axes of one layer's activation.
        shape: sizes of these axes.
        n_layer: layers of the stack; 0 at sites without a layer axis.

    Example:
        >>> config = jaxasr.SIZES["tiny.en"]
        >>> jaxasr.sites.spec(config, "encoder.attn.pattern", batch=1, n_tokens=0).size("H")
        6
    """

    site: str
    axes: tuple[str, ...]
    shape: tuple[int, ...]
    n_layer: int

    def size(self, axis: str) -> int:
        """Returns the size of an axis, such as `"H"`."""
        return self.shape[self.axes.index(axis)]


def spec(
    config: Config, site: str, batch: int, n_tokens: int, n_keys: int | None = None
) -> SiteSpec:
    """Returns the shape that `site` has in a pass.

    Args:
        config: dimensions of the model.
        site: full name.
        batch: number of rows.
        n_tokens: decoder tokens of the pass.
        n_keys: tokens that decoder self-attention attends to, with those in the cache. None:
            `n_tokens`.

    Raises:
        ValueError: an unknown site.

    Example:
        >>> config = jaxasr.SIZES["tiny.en"]
        >>> jaxasr.sites.spec(config, "decoder.attn.z", batch=1, n_tokens=5).shape
        (1, 5, 6, 64)
    """
    check_known([site])
    if stack_of(site) == "encoder":
        width, n_heads, n_layer = config.n_audio_state, config.n_audio_head, config.n_audio_layer
        # The first convolution has stride 1, the second one 2.
        n_steps = 2 * config.n_audio_ctx if site == "encoder.conv1" else config.n_audio_ctx
        n_keys = config.n_audio_ctx
    else:
        width, n_heads, n_layer = config.n_text_state, config.n_text_head, config.n_text_layer
        n_steps = n_tokens
        n_keys = config.n_audio_ctx if ".cross_attn." in site else (n_keys or n_tokens)
    sizes = {
        "B": batch,
        "T": n_steps,
        "S": n_keys,
        "H": n_heads,
        "Dh": width // n_heads,
        "D": width,
        "E": 4 * width,
        "V": config.n_vocab,
    }
    axes = SITES[site]
    shape = tuple(sizes[axis] for axis in axes)
    return SiteSpec(site, axes, shape, n_layer if site in LAYERED else 0)
