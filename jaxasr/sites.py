"""The closed vocabulary of places where an activation can be read and edited.

A site is named `<stack>.<site>`; the layer is an axis of its activation, not part of the name.
Axis letters: L layers, B batch, T query time, S key time, H heads, Dh width of a head, D width of
the model, E 4·D, V vocabulary.
"""

import dataclasses
import difflib
from collections.abc import Iterable

from jaxasr.config import Config

_ATTENTION = {
    "q": "B T H Dh",
    "k": "B S H Dh",
    "v": "B S H Dh",
    "scores": "B H T S",
    "pattern": "B H T S",
    "z": "B T H Dh",
}
_MLP = {"mlp.pre": "B T E", "mlp.post": "B T E", "mlp_out": "B T D"}


def _attention(name: str) -> dict[str, str]:
    return {f"{name}.{site}": axes for site, axes in _ATTENTION.items()} | {f"{name}_out": "B T D"}


# Sites of a layer, in the order of the forward pass.
_ENCODER_LAYER = {
    "resid_pre": "B T D",
    **_attention("attn"),
    "resid_mid": "B T D",
    **_MLP,
    "resid_post": "B T D",
}
_DECODER_LAYER = {
    "resid_pre": "B T D",
    **_attention("attn"),
    "resid_mid": "B T D",
    **_attention("cross_attn"),
    "resid_mid_cross": "B T D",
    **_MLP,
    "resid_post": "B T D",
}
LAYERED: dict[str, str] = {f"encoder.{s}": a for s, a in _ENCODER_LAYER.items()} | {
    f"decoder.{s}": a for s, a in _DECODER_LAYER.items()
}
# Sites without a layer axis.
UNLAYERED: dict[str, str] = {
    "encoder.conv1": "B T D",
    "encoder.conv2": "B T D",
    "encoder.embed": "B T D",
    "encoder.ln_post": "B T D",
    "decoder.embed": "B T D",
    "decoder.ln": "B T D",
    "decoder.logits": "B T V",
}
SITES: dict[str, tuple[str, ...]] = {
    site: tuple(axes.split()) for site, axes in (LAYERED | UNLAYERED).items()
}


def stack_of(site: str) -> str:
    """Returns the stack of a site: `"encoder"` or `"decoder"`.

    Example:
        >>> stack_of("encoder.attn.z")
        'encoder'
    """
    return site.split(".", 1)[0]


def sites_of(stack: str) -> list[str]:
    """Returns every site of `"encoder"` or `"decoder"`, in the order of the forward pass.

    Example:
        >>> sites_of("decoder")[0]
        'decoder.resid_pre'
    """
    return [site for site in SITES if stack_of(site) == stack]


def check_known(sites: Iterable[str], among: Iterable[str] = SITES, what: str = "site") -> None:
    """Checks that sites exist.

    Args:
        sites: names to check.
        among: names that exist.
        what: what the names are, for the message.

    Raises:
        ValueError: an unknown name; the message lists those that exist and the nearest one.
    """
    among = list(among)
    for site in sites:
        if site not in among:
            near = difflib.get_close_matches(site, among, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"Unknown {what} {site!r}.{hint} Expected one of: {', '.join(among)}.")


@dataclasses.dataclass(frozen=True)
class SiteSpec:
    """The shape of an activation in one pass.

    Attributes:
        site: full name.
        axes: names of the axes of one layer's activation.
        shape: their sizes.
        n_layer: layers of the stack; 0 at sites without a layer axis.
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
        batch: rows.
        n_tokens: decoder tokens of the pass.
        n_keys: tokens that decoder self-attention sees, cached ones included; None: `n_tokens`.

    Raises:
        ValueError: an unknown site.

    Example:
        >>> from jaxasr import SIZES
        >>> spec(SIZES["tiny.en"], "decoder.attn.z", batch=1, n_tokens=5).shape
        (1, 5, 6, 64)
    """
    check_known([site])
    encoder = stack_of(site) == "encoder"
    state = config.n_audio_state if encoder else config.n_text_state
    head = config.n_audio_head if encoder else config.n_text_head
    time = (
        {"encoder.conv1": 2 * config.n_audio_ctx}.get(site, config.n_audio_ctx)
        if encoder
        else n_tokens
    )
    keys = config.n_audio_ctx if encoder or ".cross_attn." in site else (n_keys or n_tokens)
    sizes = {
        "B": batch,
        "T": time,
        "S": keys,
        "H": head,
        "Dh": state // head,
        "D": state,
        "E": 4 * state,
        "V": config.n_vocab,
    }
    layers = (config.n_audio_layer if encoder else config.n_text_layer) if site in LAYERED else 0
    axes = SITES[site]
    return SiteSpec(site, axes, tuple(sizes[a] for a in axes), layers)
