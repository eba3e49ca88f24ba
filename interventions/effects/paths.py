"""Path patching: what one component tells another, rather than what it tells everybody (Wang et al. 2022; Goldowsky-Dill et al. 2023).

Every component reads the residual stream. On the path from a sender to a receiver, the receiver reads the stream with the sender's
source output in place of its target one, and every other component reads the stream as it is; what the receiver then writes runs on.
With all later components and the logits as receivers, everybody reads the patched stream: that is patching the sender itself, exactly.

It is done with edits alone. The batch is doubled: the first half is the run; the second, its shadow, is kept at the run's stream plus
the sender's difference. So norms and projections of the altered stream are the model's own, and a receiver reads from the shadow.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jaxtyping import Array, Bool, Float, Int

from interventions import forward
from interventions.metrics import Metric
from interventions.run import Run
from interventions.scoring import check_metric, scored_position, unembed_scored
from jaxasr import compiled, pytrees, sites
from jaxasr.cache import Memory
from jaxasr.config import Config
from jaxasr.model import Whisper, full_precision
from jaxasr.taps import NOTHING, At, Edits

# What a component is within its layer: senders by what they write, readers of the stream by where they stand.
_WRITERS = {
    "encoder": (
        {"attn.z": 0, "attn_out": 0, "mlp_out": 1},
        {"resid_pre": 0, "resid_mid": 1, "resid_post": 2},
    ),
    "decoder": (
        {"attn.z": 0, "attn_out": 0, "cross_attn.z": 1, "cross_attn_out": 1, "mlp_out": 2},
        {"resid_pre": 0, "resid_mid": 1, "resid_mid_cross": 2, "resid_post": 3},
    ),
}
SENDERS = tuple(
    f"{stack}.{site}" for stack, (writers, _) in _WRITERS.items() for site in ("embed", *writers)
)
RECEIVERS = (
    *(f"encoder.{site}" for site in ("attn.q", "attn.k", "attn.v", "mlp.pre")),
    *(
        f"decoder.{site}"
        for site in (
            "attn.q",
            "attn.k",
            "attn.v",
            "cross_attn.q",
            "cross_attn.k",
            "cross_attn.v",
            "mlp.pre",
            "logits",
        )
    ),
)


@dataclasses.dataclass(frozen=True)
class Node:
    """A component: `Node("decoder.cross_attn.z", 2, 5)`. None stands for every layer (of a receiver) or every head."""

    site: str
    layer: int | None = None
    head: int | None = None

    def __str__(self) -> str:
        place = ".".join(str(i) for i in (self.layer, self.head) if i is not None)
        return f"{self.site} {place}".strip()


Receiver = Node | Sequence[Node]


def nodes(config: Config, *names: str) -> list[Node]:
    """Every component of these sites: one a head where there are heads, else one a layer."""
    found = []
    for name in names:
        spec = sites.spec(config, name, 1, 1)
        heads = range(spec.size("H")) if "H" in spec.axes else [None]
        found += [
            Node(name, layer, head)
            for layer in (range(spec.n_layer) if spec.n_layer else [None])
            for head in heads
        ]
    return found


def all_receivers(config: Config) -> tuple[Node, ...]:
    """All receivers there are, as one: the path through them is the whole effect of a sender."""
    return tuple(nodes(config, *RECEIVERS))


def path_patch(
    model: Whisper,
    target: Run,
    source: Run,
    *,
    senders: Sequence[Node],
    receivers: Sequence[Receiver],
    metric: Metric,
    positions: Sequence[int] | None = None,
) -> xr.DataArray:
    """The metric after patching every path from a sender to a receiver.

    Args:
        target, source: runs of the same tokens.
        senders: of `SENDERS`: heads (`z`), whole attentions, MLPs, embeddings, of either stack.
        receivers: of `RECEIVERS`: a head's query, key or value, an MLP, the logits; several in a sequence act together.
            From the encoder, the decoder is reached through `decoder.cross_attn.k` and `.v` only.
        positions: where the sender's difference is sent, tokens or, in the encoder, frames; default everywhere.

    Returns:
        A DataArray [sender, receiver], after "example" when there are several, with the unpatched metric as coordinate
        `baseline`. A receiver that does not come after its sender leaves it there.

    Raises ValueError for components that the model does not have, or that cannot send or receive; for runs that do not line up,
    and for tokens of the metric outside of the vocabulary.
    """
    _check(model.config, target, source, senders, receivers)
    check_metric(metric, model.config.n_vocab, target.batch)
    groups = [tuple(r) if not isinstance(r, Node) else (r,) for r in receivers]
    values = np.zeros((target.batch, len(senders), len(groups)))
    baseline = np.asarray(compiled.call(_unpatched, model, target, metric))
    for site in dict.fromkeys(node.site for node in senders):
        rows = [i for i, node in enumerate(senders) if node.site == site]
        for columns in _alike(site, groups):
            used = tuple(sorted({node.site for c in columns for node in groups[c]}))
            masks = {
                name: jnp.asarray(np.stack([_mask(model.config, name, groups[c]) for c in columns]))
                for name in used
            }
            chosen = jnp.asarray([_index(senders[i]) for i in rows], jnp.int32)
            where = None if positions is None else jnp.asarray(positions, jnp.int32)
            found = compiled.call(
                _paths, model, target, source, chosen, masks, where, metric, site=site
            )
            values[:, np.ix_(rows, columns)[0], np.ix_(rows, columns)[1]] = np.moveaxis(
                np.asarray(found), 2, 0
            )
    return _labelled(values, baseline, senders, groups, metric)


def _alike(site: str, groups: list[tuple[Node, ...]]) -> list[list[int]]:
    """Receivers computed together: those within the encoder apart, as they need it to run again."""
    inside = [
        i
        for i, group in enumerate(groups)
        if site.startswith("encoder.") and any(n.site.startswith("encoder.") for n in group)
    ]
    return [
        columns
        for columns in (inside, [i for i in range(len(groups)) if i not in inside])
        if columns
    ]


def _mask(config: Config, site: str, group: Sequence[Node]) -> Bool[np.ndarray, "..."]:
    """Which layers and heads of `site` are among the receivers: [L, H], [L], or [] without layers."""
    spec = sites.spec(config, site, 1, 1)
    layers, heads = (
        ([spec.n_layer] if spec.n_layer else []),
        ([spec.size("H")] if "H" in spec.axes else []),
    )
    mask = np.zeros(layers + heads, bool)
    for node in group:
        if node.site == site:
            mask[
                tuple(slice(None) if i is None else i for i in (node.layer, node.head))[: mask.ndim]
            ] = True
    return mask


def _index(node: Node) -> tuple[int, int]:
    return (-1 if node.layer is None else node.layer), (-1 if node.head is None else node.head)


def _check(
    config: Config, target: Run, source: Run, senders: Sequence[Node], receivers: Sequence[Receiver]
) -> None:
    if jnp.shape(source.tokens) != jnp.shape(target.tokens):
        shapes = [list(jnp.shape(run.tokens)) for run in (source, target)]
        raise ValueError(
            f"source: tokens {shapes[0]} do not line up with the target's {shapes[1]}. Feed both runs the same tokens."
        )
    flat = [node for r in receivers for node in ([r] if isinstance(r, Node) else r)]
    if not senders or not flat:
        raise ValueError("senders, receivers: expected at least one of each.")
    sites.check_known((node.site for node in senders), SENDERS, "sender")
    sites.check_known((node.site for node in flat), RECEIVERS, "receiver")
    for node, spec in ((node, sites.spec(config, node.site, 1, 1)) for node in (*senders, *flat)):
        heads = spec.size("H") if "H" in spec.axes else 0
        if not (node.layer is None or 0 <= node.layer < spec.n_layer) or not (
            node.head is None or 0 <= node.head < heads
        ):
            raise ValueError(
                f"{node}: expected a layer below {spec.n_layer} and a head below {heads} at {node.site!r}."
            )
    if lacking := [node for node in senders if node.layer is None and node.site in sites.LAYERED]:
        raise ValueError(f"senders: {lacking[0]} sends from no layer; name one.")


@pytrees.dataclass
class _Shadow:
    """Keeps the second half of the batch at the first half plus `delta`, in the stream behind stage `after`."""

    delta: Float[Array, "B T D"]
    after: Int[Array, ""]
    stages: int = pytrees.field(pytree_node=False)  # a layer
    stage: int = pytrees.field(pytree_node=False)

    def __call__(self, x: Array, at: At) -> Array:
        run = x[: len(x) // 2]
        return jnp.concatenate(
            [
                run,
                run
                + jnp.where(self.after < self.stages * at.layer + self.stage, self.delta, 0).astype(
                    x.dtype
                ),
            ]
        )


@pytrees.dataclass
class _Receive:
    """Lets the run read from its shadow where `mask` [L, H], [L] or [] holds."""

    mask: Bool[Array, "..."]

    def __call__(self, x: Array, at: At) -> Array:
        run, shadow = jnp.split(x, 2)
        mask = self.mask[at.layer] if self.mask.ndim else self.mask
        return jnp.concatenate(
            [jnp.where(mask[:, None] if mask.ndim else mask, shadow, run), shadow]
        )


def _edits(stack: str, delta: Array, after: Array, masks: dict[str, Array]) -> Edits:
    """The shadow along `stack`'s stream and the receivers in it; `decoder.logits` receives behind the final norm."""
    writers, stream = _WRITERS[stack]
    stages = 1 + max(writers.values())
    edits = {
        f"{stack}.{site}": _Shadow(delta, after, stages, stage) for site, stage in stream.items()
    }
    received = {site: mask for site, mask in masks.items() if sites.stack_of(site) == stack}
    return edits | {
        site.replace("decoder.logits", "decoder.ln"): _Receive(mask)
        for site, mask in received.items()
    }


def _unpatched(model: Whisper, target: Run, metric: Metric) -> Float[Array, "B"]:
    with full_precision(model):
        return forward.decode_and_score(model, target, _memory(model, target), {}, NOTHING, metric)[
            0
        ]


def _memory(model: Whisper, run: Run) -> Memory:
    return forward.encode(model, run.mel, {}, NOTHING)[0] if run.memory is None else run.memory


def _paths(
    model: Whisper,
    target: Run,
    source: Run,
    senders: Int[Array, "n two"],
    masks: dict[str, Array],
    where: Any,
    metric: Metric,
    *,
    site: str,
) -> Float[Array, "n R B"]:
    """The metric of every sender of `site` with every receiver of `masks` [R, ...]."""
    stack, n_receivers = sites.stack_of(site), len(next(iter(masks.values())))
    with full_precision(model):
        difference = (
            forward.activations(model, source, [site])[site]
            - forward.activations(model, target, [site])[site]
        )
        heard = _Heard.of(model, target, stack, any(name.startswith("encoder.") for name in masks))

        def cell(pair: tuple[Array, Array]) -> Array:
            sender, mask = senders[pair[0]], {name: m[pair[1]] for name, m in masks.items()}
            delta, after = _sent(model, site, difference, sender, where)
            memory = (
                heard.memory(model, delta, after, mask) if stack == "encoder" else heard.double()
            )
            none = jnp.zeros((*jnp.shape(target.tokens), model.config.n_text_state), delta.dtype)
            return _said(
                model,
                target,
                memory,
                _edits("decoder", delta if stack == "decoder" else none, after, mask),
                metric,
            )

        pairs = jnp.meshgrid(jnp.arange(len(senders)), jnp.arange(n_receivers), indexing="ij")
        values = jax.lax.map(
            cell,
            tuple(p.ravel() for p in pairs),
            batch_size=min(pairs[0].size, heard.together(stack)),
        )
    return values.reshape(len(senders), n_receivers, -1)


def _sent(
    model: Whisper, site: str, difference: Array, sender: Int[Array, "two"], where: Any
) -> tuple[Float[Array, "B T D"], Array]:
    """What the sender would add to the stream, and the stage after which it does."""
    layer, head = sender
    stack, name = site.split(".", 1)
    delta = difference if name == "embed" else difference[layer]
    if name.endswith(".z"):
        attn = getattr(getattr(model, stack).blocks, name[:-2])
        kernel = (
            attn.out.kernel[...][layer]
            .astype(delta.dtype)
            .reshape(attn.n_head, delta.shape[-1], -1)
        )
        chosen = (jnp.arange(attn.n_head) == head) | (head < 0)
        delta = jnp.einsum("bthe,hed->btd", jnp.where(chosen[:, None], delta, 0), kernel)
    if where is not None:
        delta = jnp.where((jnp.arange(delta.shape[1])[:, None] == where).any(-1)[:, None], delta, 0)
    writers = _WRITERS[stack][0]
    return delta, jnp.int32(-1) if name == "embed" else (
        1 + max(writers.values())
    ) * layer + writers[name]


@pytrees.dataclass
class _Heard:
    """The target's memory and, when the sender is in the encoder, what it takes to hear again with a shadow.

    With no receiver in the encoder its stream stays what it was, and the shadow begins at the last residual.
    """

    target: Memory
    mel: Array | None
    last: Array | None

    @classmethod
    def of(cls, model: Whisper, run: Run, stack: str, again: bool) -> "_Heard":
        if stack == "decoder":
            return cls(_memory(model, run), None, None)
        if again:
            return cls(_memory(model, run), jnp.concatenate([forward.recording(run)] * 2), None)
        return cls(
            _memory(model, run),
            None,
            forward.activations(model, run, ["encoder.resid_post"])["encoder.resid_post"][-1],
        )

    def double(self) -> Memory:
        m = self.target
        return Memory(
            jnp.concatenate([m.xa] * 2),
            jnp.concatenate([m.k] * 2, 1),
            jnp.concatenate([m.v] * 2, 1),
        )

    def memory(self, model: Whisper, delta: Array, after: Array, masks: dict[str, Array]) -> Memory:
        if self.mel is not None:
            return forward.encode(model, self.mel, _edits("encoder", delta, after, masks), NOTHING)[
                0
            ]
        shadow = model.decoder.memory(model.encoder.ln_post(self.last + delta))
        m = self.target
        return Memory(
            jnp.concatenate([m.xa, shadow.xa]),
            jnp.concatenate([m.k, shadow.k], 1),
            jnp.concatenate([m.v, shadow.v], 1),
        )

    def together(self, stack: str) -> int:
        """Cells computed at once."""
        return 16 if stack == "decoder" else 4 if self.mel is None else 1


def _said(
    model: Whisper, target: Run, memory: Memory, edits: Edits, metric: Metric
) -> Float[Array, "B"]:
    tokens, positions = (
        jnp.concatenate([x] * 2) for x in (target.tokens, forward.positions_of(target))
    )
    x, _, tap, _ = model.decoder.residual(tokens, positions, memory, edits, NOTHING)
    column = scored_position(metric, tokens.shape[1])
    x = tap("ln", model.decoder.ln(x))[: len(x) // 2, column]
    return metric(unembed_scored(model.decoder.unembedding, x, metric))


def _labelled(
    values: Float[np.ndarray, "B n R"], baseline: Float[np.ndarray, "B"], senders: Sequence[Node], receivers: list[tuple[Node, ...]],
    metric: Metric,
) -> xr.DataArray:  # fmt: skip
    together = [str(r[0]) if len(r) == 1 else f"{r[0]} and {len(r) - 1} more" for r in receivers]
    names = {"sender": [str(s) for s in senders], "receiver": together}
    attrs = {"metric": type(metric).__name__}
    if len(values) == 1:
        return xr.DataArray(
            values[0], names | {"baseline": baseline[0]}, ("sender", "receiver"), "paths", attrs
        )
    coords = names | {"example": np.arange(len(values)), "baseline": ("example", baseline)}
    return xr.DataArray(values, coords, ("example", "sender", "receiver"), "paths", attrs)
