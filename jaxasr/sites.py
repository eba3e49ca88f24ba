"""Lists all sites, which are the places where an activation can be read and edited.

A site is named `<stack>.<site>`, where the stack is `encoder` or `decoder`. The layer is an axis of
the activation, not part of the name. Axis letters: L layers, B batch, T query time, S key time, H
heads, Dh width of a head, D width of the stream, E width of the MLP, V vocabulary.

The vocabulary is closed. A model shows a part of it, which `of` returns: a language model has no
cross-attention, and only a language model rotates its queries and keys.
"""

import dataclasses
import difflib
from collections.abc import Iterable

from jaxasr.config import Config
from jaxasr.families import WHISPER

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
    "attn.q": "B T H Dh",
    "attn.k": "B S H Dh",
    "attn.q_rot": "B T H Dh",
    "attn.k_rot": "B S H Dh",
    **_name_attention_sites("attn"),
    "resid_mid": "B T D",
    **_name_attention_sites("cross_attn"),
    "resid_mid_cross": "B T D",
    "mlp.pre": "B T E",
    "mlp.up": "B T E",
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
    "encoder.pool": "B T D",
    "encoder.project": "B T D",
    "decoder.embed": "B T D",
    "decoder.ln": "B T D",
    "decoder.logits": "B T V",
}
# Names of the axes of every site, without the layer axis.
SITES: dict[str, tuple[str, ...]] = {
    site: tuple(axes.split()) for site, axes in (LAYERED | UNLAYERED).items()
}
# Sites of audio language models only, and sites that they do not have.
_ONLY_AUDIO_LANGUAGE = (
    "decoder.attn.q_rot",
    "decoder.attn.k_rot",
    "decoder.mlp.up",
    "encoder.pool",
    "encoder.project",
)
_ONLY_WHISPER = tuple(site for site in SITES if "cross" in site)


def of(config: Config) -> list[str]:
    """Returns the sites of a model, those of the encoder first.

    Example:
        >>> "encoder.project" in jaxasr.sites.of(jaxasr.SIZES["tiny.en"])
        False
    """
    return [site for stack in ("encoder", "decoder") for site in sites_of(stack, config.family)]


def stack_of(site: str) -> str:
    """Returns the stack of a site: `"encoder"` or `"decoder"`.

    Example:
        >>> jaxasr.sites.stack_of("encoder.attn.z")
        'encoder'
    """
    return site.split(".", 1)[0]


def sites_of(stack: str, family: str = WHISPER) -> list[str]:
    """Returns the sites of `"encoder"` or `"decoder"` in a family of models.

    The sites of a layer come first, then those without a layer axis. Both parts are in the order of
    the forward pass.

    Example:
        >>> jaxasr.sites.sites_of("decoder")[0]
        'decoder.resid_pre'
    """
    absent = _ONLY_AUDIO_LANGUAGE if family == WHISPER else _ONLY_WHISPER
    return [site for site in SITES if stack_of(site) == stack and site not in absent]


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
        n_audio_tokens: most audio tokens among the decoder tokens of a pass; 0 in encoders and in
            Whisper.
        frames_per_step: encoder frames of 20 ms that one step of encoded audio covers.

    Example:
        >>> config = jaxasr.SIZES["tiny.en"]
        >>> jaxasr.sites.spec(config, "encoder.attn.pattern", batch=1, n_tokens=0).size("H")
        6
    """

    site: str
    axes: tuple[str, ...]
    shape: tuple[int, ...]
    n_layer: int
    n_audio_tokens: int = 0
    frames_per_step: int = 1

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
    stack = stack_of(site)
    check_known([site], of(config), f"site of a model of the family {config.family!r}:")
    shape = config.stack(stack)
    if stack == "encoder":
        n_steps, n_keys = _count_encoder_steps(config, site), config.n_audio_ctx
    else:
        n_steps = n_tokens
        n_keys = config.n_audio_ctx if ".cross_attn." in site else (n_keys or n_tokens)
    has_keys = site.endswith(("attn.k", "attn.v", "attn.k_rot"))
    sizes = {
        "B": batch,
        "T": n_steps,
        "S": n_keys,
        "H": shape.n_kv_head if has_keys else shape.n_head,
        "Dh": shape.d_head,
        "D": _width(config, site),
        "E": shape.n_mlp,
        "V": config.n_vocab,
    }
    axes = SITES[site]
    shape_of_site = tuple(sizes[axis] for axis in axes)
    family, has_audio_tokens = config.audio_language, _has_audio_tokens(config, site)
    return SiteSpec(
        site,
        axes,
        shape_of_site,
        shape.n_layer if site in LAYERED else 0,
        config.n_audio_tokens if has_audio_tokens and stack == "decoder" else 0,
        family.frames_per_token if family is not None and has_audio_tokens else 1,
    )


def _has_audio_tokens(config: Config, site: str) -> bool:
    """Returns whether time steps of a site are audio tokens, at least some of them."""
    family = config.audio_language
    if family is None:
        return False
    if site == "encoder.ln_post":
        return not family.norm_is_first
    return stack_of(site) == "decoder" or site in ("encoder.pool", "encoder.project")


def _count_encoder_steps(config: Config, site: str) -> int:
    """Returns the time steps of an encoder site."""
    if site == "encoder.conv1":
        return config.n_mel_frames  # the second convolution has stride 2, this one 1
    return config.n_audio_tokens if _has_audio_tokens(config, site) else config.n_audio_ctx


def _width(config: Config, site: str) -> int:
    """Returns the size of the axis D at a site."""
    family = config.audio_language
    if site == "encoder.project":
        return config.n_text_state
    if site == "encoder.pool" and family is not None and family.pool == "stack":
        return config.n_audio_state * family.frames_per_token
    return config.stack(stack_of(site)).width
