"""Lists the components that can send or receive along a path, and their order in a layer."""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool

from jaxasr import sites
from jaxasr.config import Config


class LayerOrder(NamedTuple):
    """The order in which the components of a layer add to the residual stream.

    Each sublayer adds once. These additions are the stages of the layer, counted from 0.

    Attributes:
        stage_of_sender: the stage at which each component adds its output.
        stages_before: for each site of the residual stream, how many stages of its layer precede
            it.
    """

    stage_of_sender: dict[str, int]
    stages_before: dict[str, int]

    @property
    def n_stages(self) -> int:
        """The number of stages of a layer."""
        return 1 + max(self.stage_of_sender.values())


_WITHOUT_CROSS_ATTENTION = LayerOrder(
    stage_of_sender={"attn.z": 0, "attn_out": 0, "mlp_out": 1},
    stages_before={"resid_pre": 0, "resid_mid": 1, "resid_post": 2},
)
_WITH_CROSS_ATTENTION = LayerOrder(
    stage_of_sender={
        "attn.z": 0,
        "attn_out": 0,
        "cross_attn.z": 1,
        "cross_attn_out": 1,
        "mlp_out": 2,
    },
    stages_before={"resid_pre": 0, "resid_mid": 1, "resid_mid_cross": 2, "resid_post": 3},
)


def layer_order(config: Config, stack: str) -> LayerOrder:
    """Returns the order of the components in each layer of a stack."""
    has_cross_attention = stack == "decoder" and config.audio_language is None
    return _WITH_CROSS_ATTENTION if has_cross_attention else _WITHOUT_CROSS_ATTENTION


# Sites of the components that can send. A model has those that are among its sites.
SENDERS = tuple(
    f"{stack}.{site}"
    for stack, order in (("encoder", _WITHOUT_CROSS_ATTENTION), ("decoder", _WITH_CROSS_ATTENTION))
    for site in ("embed", *order.stage_of_sender)
)
_ENCODER_RECEIVERS = ("attn.q", "attn.k", "attn.v", "mlp.pre")
_CROSS_RECEIVERS = ("cross_attn.q", "cross_attn.k", "cross_attn.v")
# Sites of the components that can receive. A model has those that are among its sites.
RECEIVERS = (
    *(f"encoder.{site}" for site in _ENCODER_RECEIVERS),
    *(f"decoder.{site}" for site in ("attn.q", "attn.k", "attn.v")),
    *(f"decoder.{site}" for site in (*_CROSS_RECEIVERS, "mlp.pre", "mlp.up", "logits")),
)


@dataclasses.dataclass(frozen=True)
class Node:
    """A component of the model, at one end of a path.

    Attributes:
        site: the site of its activation.
        layer: its layer. None means every layer of a receiver, or that the site has no layers.
        head: its head. None means every head, or that the site has no heads.

    Example:
        >>> import interventions
        >>> str(interventions.Node("decoder.cross_attn.z", layer=2, head=5))
        'decoder.cross_attn.z 2.5'
    """

    site: str
    layer: int | None = None
    head: int | None = None

    def __str__(self) -> str:
        indices = ".".join(str(i) for i in (self.layer, self.head) if i is not None)
        return f"{self.site} {indices}".strip()


# A sequence of nodes is one receiver whose nodes are patched together.
Receiver = Node | Sequence[Node]


def nodes(config: Config, *names: str) -> list[Node]:
    """Lists every component at some sites.

    Args:
        config: the model's config.
        names: sites, such as "decoder.cross_attn.z".

    Returns:
        One node per layer and head of each site. Sites without layers or heads have None instead.

    Raises:
        ValueError: a site is unknown.

    Example:
        ```python
        import interventions
        import jaxasr

        heads = interventions.paths.nodes(jaxasr.SIZES["tiny.en"], "decoder.cross_attn.z")
        assert len(heads) == 4 * 6
        ```
    """
    components = []
    for name in names:
        n_layers, n_heads = _sizes(config, name)
        layers = range(n_layers) if n_layers else [None]
        heads = range(n_heads) if n_heads else [None]
        components += [Node(name, layer, head) for layer in layers for head in heads]
    return components


def all_receivers(config: Config) -> tuple[Node, ...]:
    """Lists every receiver of a model.

    As one receiver of `path_patch`, they give the whole effect of a sender. This equals the effect
    of patching the sender itself.

    Args:
        config: the model's config.

    Returns:
        One node per layer and head of every site in `RECEIVERS` that the model has.

    Example:
        ```python
        import interventions
        import jaxasr

        receivers = interventions.paths.all_receivers(jaxasr.SIZES["tiny.en"])
        assert interventions.Node("decoder.logits") in receivers
        ```
    """
    return tuple(nodes(config, *_present(config, RECEIVERS)))


def check_components(
    config: Config, senders: Sequence[Node], receivers: Sequence[Receiver]
) -> None:
    """Raises ValueError if a component does not exist, or cannot send or receive."""
    flat_receivers = [node for receiver in receivers for node in as_group(receiver)]
    if not senders or not flat_receivers:
        raise ValueError("senders, receivers: expected at least one of each.")
    sites.check_known((node.site for node in senders), _present(config, SENDERS), "sender")
    sites.check_known(
        (node.site for node in flat_receivers), _present(config, RECEIVERS), "receiver"
    )
    for node in (*senders, *flat_receivers):
        n_layers, n_heads = _sizes(config, node.site)
        if not _is_below(node.layer, n_layers) or not _is_below(node.head, n_heads):
            raise ValueError(
                f"{node}: expected a layer below {n_layers} and a head below {n_heads} "
                f"at {node.site!r}."
            )
    for node in senders:
        if node.layer is None and node.site in sites.LAYERED:
            raise ValueError(f"senders: expected a layer, got {node} without one.")


def as_group(receiver: Receiver) -> tuple[Node, ...]:
    """Returns the nodes of a receiver, which is one node or several.

    Example:
        >>> as_group(Node("decoder.logits"))
        (Node(site='decoder.logits', layer=None, head=None),)
    """
    return (receiver,) if isinstance(receiver, Node) else tuple(receiver)


def receiver_mask(config: Config, site: str, group: Sequence[Node]) -> Bool[np.ndarray, "..."]:
    """Marks the layers and heads of `site` that `group` contains: bool [L, H], [L] or []."""
    mask = np.zeros([size for size in _sizes(config, site) if size], bool)
    for node in group:
        if node.site == site:
            # None means all. Sites without heads or layers have fewer axes.
            index = [slice(None) if i is None else i for i in (node.layer, node.head)]
            mask[tuple(index[: mask.ndim])] = True
    return mask


def _present(config: Config, names: Sequence[str]) -> list[str]:
    """Returns the sites that the model has, in the order of `names`."""
    present = sites.of(config)
    return [name for name in names if name in present]


def _sizes(config: Config, site: str) -> tuple[int, int]:
    """Returns the number of layers and of heads at a site; 0 where it has none."""
    spec = sites.spec(config, site, 1, 1)
    return spec.n_layer, spec.size("H") if "H" in spec.axes else 0


def _is_below(index: int | None, size: int) -> bool:
    return index is None or 0 <= index < size
