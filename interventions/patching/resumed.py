"""Cells of a sweep, computing only what their edits can change. Everything here is traced; `sweeps` compiles it.

A decoder edit at layer l, position t cannot change any residual before layer l, nor any position before t; and only one
position is scored. So cells start from the stored residual of layer l at t, attend to stored keys and values of what came
before, and in the last layer ask only the scored position. An encoder edit starts from the stored residual of its layer.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from interventions.metrics import Metric, needed, unembed_scored
from interventions.patching.packing import Rows
from jaxasr import pytrees
from jaxasr.attention import cross_attention
from jaxasr.blocks import Block
from jaxasr.cache import Cache, Memory, Past
from jaxasr.decoder import causal_mask
from jaxasr.model import Whisper
from jaxasr.taps import NOTHING, Acts, At, Edits, Tap


@pytrees.dataclass
class Trace:
    """What the unedited target left behind, for one example.

    pre, post: [L, 1, N, D], residuals before and after each layer; k, v: [L, 1, H, N, Dh].
    """

    pre: Float[Array, "L 1 N D"]
    post: Float[Array, "L 1 N D"]
    k: Float[Array, "L 1 H N Dh"]
    v: Float[Array, "L 1 H N Dh"]

    SITES = ("decoder.resid_pre", "decoder.resid_post", "decoder.attn.k", "decoder.attn.v")

    @classmethod
    def of(cls, acts: Acts) -> "Trace":
        pre, post, k, v = (acts[site] for site in cls.SITES)
        return cls(pre, post, jnp.swapaxes(k, 2, 3), jnp.swapaxes(v, 2, 3))


class Whole(Past):
    """Stored keys and values that hold the tokens under way already."""

    def append(self, start: Any, k: Array, v: Array) -> Past:
        del start, k, v
        return self


class Beside(Past):
    """Stored keys and values, and behind them those of the rows under way."""

    def append(self, start: Any, k: Float[Array, "B H R Dh"], v: Float[Array, "B H R Dh"]) -> Past:
        del start
        stored = lambda x, like: jnp.broadcast_to(x, (len(like), *x.shape[1:]))  # noqa: E731
        return Past(
            *(
                jnp.concatenate([stored(old, new), new], 2)
                for old, new in ((self.k, k), (self.v, v))
            )
        )


@pytrees.dataclass
class Resumed:
    """The decoder of K cells a column, from layer `first` on.

    blocks, heard: the decoder's layers and their keys and values of the audio, apart; None where the stacked ones are sliced.
    own: the edit changes, in its own layer, nothing but its own position: then that layer is run on one token a column, and the
    others take up its stored outputs. above: 0 when the edited layer is the last, 1 for the one before it, 2 for any other.
    """

    model: Whisper
    blocks: tuple[Block, ...] | None
    heard: tuple[tuple[Array, Array], ...] | None
    memory: Memory
    trace: Trace
    rows: Rows
    first: Int[Array, ""]
    own: bool = pytrees.field(pytree_node=False)
    above: int = pytrees.field(pytree_node=False)

    def residuals(self, edits_of: Callable[[Any], Edits], cells: Any) -> Float[Array, "K P D"]:
        """The residuals after the last layer at the scored position: of `cells` (a leading axis of K), in every column."""
        x = self._edited(edits_of, cells)
        if not self.above:
            return x if self.own else x[:, self.rows.ends]
        if self.own:
            stored = self.trace.post[self.first][:, self.rows.position]
            x = jnp.repeat(stored, len(x), 0).at[:, self.rows.begins].set(x, mode="drop")
        x = self._between(x) if self.above > 1 else x
        return self._layer(self.model.config.n_text_layer - 1, x, self.rows.ends)

    def _edited(self, edits_of: Callable[[Any], Edits], cells: Any) -> Float[Array, "K R D"]:
        """What the edited layer makes of all rows, or of the first of every column. What no edit touches is computed once for all K."""
        rows, slots = self.rows, jnp.arange(self.trace.k.shape[3], dtype=jnp.int32)[None]
        block, k, v, *stored = self._at(self.first, unstacked=False)
        positions = jnp.asarray(rows.start if self.own else rows.position)[None]
        past, keys = (
            (Whole(*stored), slots)
            if self.own
            else (self._beside(*stored), jnp.asarray(rows.keys)[None])
        )
        mask = causal_mask(positions, slots) if self.own else jnp.asarray(rows.mask)[None, None]
        x = self.trace.pre[self.first][:, positions[0]]

        def one(cell: Any) -> Float[Array, "R D"]:
            tap = Tap("decoder.", edits_of(cell), NOTHING, self.first, positions)
            return block(x, tap, mask, past, Cache(None, keys, jnp.int32(0)), (k, v))[0][0]

        return jax.vmap(one)(cells)

    def _between(self, x: Float[Array, "K R D"]) -> Float[Array, "K R D"]:
        """The layers above the edited one, without the last."""
        last = self.model.config.n_text_layer - 1
        if self.blocks is None:
            return jax.lax.fori_loop(self.first + 1, last, self._layer, x)
        for layer in range(
            1, last
        ):  # each with weights of its own: a slice of stacked ones is a copy on every call
            x = jax.lax.cond(
                layer > self.first, lambda x, layer=layer: self._layer(layer, x), lambda x: x, x
            )
        return x

    def _layer(
        self, layer: Int[Array, ""] | int, x: Float[Array, "K R D"], wanted: Any = None
    ) -> Float[Array, "K P D"]:
        """A layer without edits: keys and values of all rows, everything else of those that are `wanted`. All of them hear the same."""
        block, k, v, *stored = self._at(layer, unstacked=self.blocks is not None)
        tap = Tap("decoder.", {}, NOTHING, jnp.int32(-1), jnp.zeros((1, 1), jnp.int32))
        normed, mask = block.attn_ln(x), jnp.asarray(self.rows.mask)
        past = self._beside(*stored).append(None, *block.attn.keys_values(normed))
        if wanted is not None:
            x, normed, mask = x[:, wanted], normed[:, wanted], mask[wanted]
        mask, keys = (
            jnp.broadcast_to(mask, (len(x), 1, *mask.shape)),
            jnp.broadcast_to(self.rows.keys, (len(x), mask.shape[1])),
        )
        x = x + block.attn(normed, past.k, past.v, mask, keys, tap.within("attn"))
        flat = x.reshape(1, -1, x.shape[-1])
        flat = flat + cross_attention(
            block.cross_attn, block.cross_attn_ln(flat), k, v, tap.within("cross_attn")
        )
        return (flat + block.mlp(block.mlp_ln(flat), tap.within("mlp"))).reshape(x.shape)

    def _beside(self, k: Float[Array, "1 H N Dh"], v: Float[Array, "1 H N Dh"]) -> Beside:
        """Those stored slots that the rows may see. Where there are none, none is shown: an edit of a pattern knows of no mask."""
        return Beside(k[:, :, : self.rows.n_slots], v[:, :, : self.rows.n_slots])

    def _at(
        self, layer: Int[Array, ""] | int, unstacked: bool
    ) -> tuple[Block, Array, Array, Array, Array]:
        """A layer's block, keys and values of the audio, stored keys and values."""
        of = lambda a: jax.lax.dynamic_index_in_dim(a, layer, keepdims=False)  # noqa: E731
        if unstacked:
            return self.blocks[layer], *self.heard[layer], of(self.trace.k), of(self.trace.v)
        return jax.tree.map(
            of,
            (self.model.decoder.blocks, self.memory.k, self.memory.v, self.trace.k, self.trace.v),
        )


def score(model: Whisper, x: Float[Array, "1 D"], metric: Metric) -> Float[Array, ""]:
    """The metric of the last layer's residual at the scored position."""
    return metric(unembed_scored(model.decoder.unembedding, model.decoder.ln(x), metric))[0]


def encoder_output(
    model: Whisper, pre: Float[Array, "1 S D"], edits: Edits, first: Int[Array, ""]
) -> Memory:
    """The memory that follows from the encoder's residual `pre` before layer `first`; `first` may be the number of layers."""
    positions = jnp.arange(pre.shape[1], dtype=jnp.int32)[None]

    def layer(i: Int[Array, ""], x: Float[Array, "1 S D"]) -> Float[Array, "1 S D"]:
        block = jax.tree.map(
            lambda a: jax.lax.dynamic_index_in_dim(a, i, keepdims=False), model.encoder.blocks
        )
        return block(x, Tap("encoder.", edits, NOTHING, i, positions))[0]

    x = jax.lax.fori_loop(first, model.config.n_audio_layer, layer, pre)
    x = Tap("encoder.", edits, NOTHING, jnp.int32(-1), positions)(
        "ln_post", model.encoder.ln_post(x)
    )
    return model.decoder.memory(x, unstacked=True).stacked()


def resumed_memory(
    model: Whisper,
    site: str,
    stored: tuple[Float[Array, "L 1 S D"], Float[Array, "L 1 S D"]],
    edits: Edits,
    first: Int[Array, ""],
) -> Memory:
    """What is heard under an edit of `site` at layer `first`; `stored` are the residuals before and after every layer."""
    if site == "encoder.resid_post":  # the next layer's beginning: this layer need not run at all
        return encoder_output(model, edited(edits, site, stored[1][first], first), {}, first + 1)
    return encoder_output(model, stored[0][first], edits, first)


def edited(
    edits: Edits, site: str, x: Float[Array, "1 S D"], layer: Int[Array, ""]
) -> Float[Array, "1 S D"]:
    """`x`, the residual at `site`, as the edit there leaves it."""
    at = At(layer, jnp.arange(x.shape[1], dtype=jnp.int32)[None], None, site)
    return edits[site](x, at).astype(x.dtype)


def scored_residual(
    model: Whisper, tokens: Int[Array, "1 T"], memory: Memory, edits: Edits, scored: int
) -> Float[Array, "1 D"]:
    """A whole pass of the decoder with nothing reused, up to the scored position."""
    return _residual(model, tokens, memory, edits, scored)[0]


def plain_score(
    model: Whisper,
    tokens: Int[Array, "1 T"],
    memory: Memory,
    edits: Edits,
    scored: int,
    metric: Metric,
) -> Float[Array, ""]:
    """The same with every logit: for edits of the decoder's end, which `score` does not pass."""
    x, tap = _residual(model, tokens, memory, edits, scored)
    here = dataclasses.replace(tap, positions=tap.positions[:, scored:], acts={})
    logits = model.decoder.head(x[:, None], here)[:, 0]
    return metric(needed(logits, metric))[0]


def _residual(
    model: Whisper, tokens: Int[Array, "1 T"], memory: Memory, edits: Edits, scored: int
) -> tuple[Float[Array, "1 D"], Tap]:
    tokens = tokens[:, : scored + 1]
    positions = jnp.arange(scored + 1, dtype=jnp.int32)[None]
    x, _, tap, _ = model.decoder.residual(tokens, positions, memory, edits, NOTHING)
    return x[:, scored], tap
