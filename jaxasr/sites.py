"""The closed vocabulary of places where an activation can be read and edited.

A site is named `<stack>.<site>`; the layer is an axis of what is read there, not part of the name.
Axis letters: L layers, B batch, T query time, S key time, H heads, D model, E 4·D, C channels, Dh head, V vocabulary.
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


# In the order of the forward pass. Sites of a layer; then those without a layer axis.
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
    return site.split(".", 1)[0]


def sites_of(stack: str) -> list[str]:
    """Every site of `"encoder"` or `"decoder"`."""
    return [site for site in SITES if stack_of(site) == stack]


def check_known(sites: Iterable[str], among: Iterable[str] = SITES, what: str = "site") -> None:
    """Raises `ValueError` listing what exists when a name of `sites` is not in `among`."""
    among = list(among)
    for site in sites:
        if site not in among:
            near = difflib.get_close_matches(site, among, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"Unknown {what} {site!r}.{hint} There are: {', '.join(among)}.")


@dataclasses.dataclass(frozen=True)
class SiteSpec:
    """What one pass of known size will show at a site: `shape` follows `axes`, the layer axis apart; `n_layer` is 0 without one."""

    site: str
    axes: tuple[str, ...]
    shape: tuple[int, ...]
    n_layer: int

    def size(self, axis: str) -> int:
        return self.shape[self.axes.index(axis)]


def spec(
    config: Config, site: str, batch: int, n_tokens: int, n_keys: int | None = None
) -> SiteSpec:
    """The shape of `site` for `batch` rows and `n_tokens` decoder tokens (`n_keys` of them visible, default all)."""
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
