"""One cell of a sweep, computing only what its edit can change. Everything here is traced; `sweeps` compiles it.

A decoder edit at layer l, position t cannot change any residual before layer l, nor any position before t; and only one
position is scored. So a cell starts from the stored residual of layer l at t, attends to stored keys and values of what came
before, and in the last layer asks only the scored position. An encoder edit starts from the stored residual of its layer.
"""
import dataclasses
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from interventions.metrics import Metric, unembed_scored
from jaxasr.attention import tap_keys_values
from jaxasr.blocks import Block
from jaxasr.cache import Cache, Masked, Memory, Past
from jaxasr.decoder import causal_mask
from jaxasr.model import Whisper
from jaxasr.taps import NOTHING, At, Edits, Tap


@flax.struct.dataclass
class Trace:
    """What the unedited target left behind, for one example. Slots after the scored position are never seen.

    pre, post: [L, 1, T + W, D], residuals before and after each layer; k, v: [L, 1, H, T + W, Dh].
    """

    pre: Float[Array, "L 1 N D"]
    post: Float[Array, "L 1 N D"]
    k: Float[Array, "L 1 H N Dh"]
    v: Float[Array, "L 1 H N Dh"]

    @property
    def slots(self) -> Int[Array, "1 N"]:
        return jnp.arange(self.k.shape[3], dtype=jnp.int32)[None]

    def window(self, x: Float[Array, "1 N D"], start: Int[Array, ""], width: int) -> Float[Array, "1 W D"]:
        return jax.lax.dynamic_slice_in_dim(x, start, width, 1)


@flax.struct.dataclass
class Resumed:
    """The decoder of one cell, from layer `first` and position `start` on, `width` positions wide, scored at `scored`."""

    model: Whisper
    memory: Memory
    trace: Trace
    edits: Edits
    first: Int[Array, ""]
    start: Int[Array, ""]
    width: int = flax.struct.field(pytree_node=False)
    scored: int = flax.struct.field(pytree_node=False)

    def residual(self, own_position: bool) -> Float[Array, "1 D"]:
        """The edited residual after the last layer at the scored position.

        `own_position` says that the edit changes, in its own layer, nothing but its own position: then that layer is run on
        one token, and the others take up the stored outputs of that layer.
        """
        last = self.model.config.n_text_layer - 1
        if not own_position:
            x = self.trace.window(self.trace.pre[self.first], self.start, self.width)
            return self._to_the_end(x, self.first)
        token = self._layer(self.first, self.trace.window(self.trace.pre[self.first], self.start, 1))
        x = jax.lax.dynamic_update_slice_in_dim(self.trace.window(self.trace.post[self.first], self.start, self.width), token, 0, 1)
        here = lambda: self._scored(x, self.trace.post[last])[:, 0]  # noqa: E731
        return jax.lax.cond(self.first == last, here, lambda: self._to_the_end(x, self.first + 1))

    def _to_the_end(self, x: Float[Array, "1 W D"], first: Int[Array, ""]) -> Float[Array, "1 D"]:
        last = self.model.config.n_text_layer - 1
        x = jax.lax.fori_loop(first, last, self._layer, x)
        return self._last(x, last)

    def _layer(
        self, layer: Int[Array, ""] | int, x: Float[Array, "1 W D"], past: Past | None = None, start: Any = None
    ) -> Float[Array, "1 W D"]:
        start = self.start if start is None else start
        block, cross, stored = self._at(layer)
        positions = start + jnp.arange(x.shape[1], dtype=jnp.int32)[None]
        cache = Cache(None, self.trace.slots, start)
        tap = Tap("decoder.", self.edits, NOTHING, jnp.int32(layer), positions)
        return block(x, tap, causal_mask(positions, cache.positions), past or stored, cache, cross)[0]

    def _last(self, x: Float[Array, "1 W D"], layer: int) -> Float[Array, "1 D"]:
        """The last layer: keys and values of every changed position, everything else of the scored one alone."""
        block, _, stored = self._at(layer)
        positions = self.start + jnp.arange(x.shape[1], dtype=jnp.int32)[None]
        tap = Tap("decoder.", self.edits, NOTHING, jnp.int32(layer), positions)
        k, v = block.attn.keys_values(block.attn_ln(tap("resid_pre", x)))
        past = stored.append(self.start, *tap_keys_values(tap.within("attn"), k, v, positions))
        return self._layer(layer, self._scored(x, self.trace.pre[layer]), past, jnp.int32(self.scored))[:, 0]

    def _scored(self, x: Float[Array, "1 W D"], stored: Float[Array, "1 N D"]) -> Float[Array, "1 1 D"]:
        """The scored position of `x`, or what is stored for it where it lies outside of the window."""
        column = self.scored - self.start
        inside = (column >= 0) & (column < self.width)
        return jnp.where(inside, self.trace.window(x, jnp.clip(column, 0, self.width - 1), 1), stored[:, self.scored, None])

    def _at(self, layer: Any) -> tuple[Block, tuple[Array, Array], Past]:
        blocks, k, v, tk, tv = jax.tree.map(
            lambda a: jax.lax.dynamic_index_in_dim(a, layer, keepdims=False),
            (self.model.decoder.blocks, self.memory.k, self.memory.v, self.trace.k, self.trace.v),
        )
        return blocks, (k, v), Masked(tk, tv)


def score(model: Whisper, x: Float[Array, "1 D"], metric: Metric) -> Float[Array, ""]:
    return metric(unembed_scored(model.decoder.token_embedding[...], model.decoder.ln(x), metric))[0]


def encoder_output(model: Whisper, pre: Float[Array, "1 S D"], edits: Edits, first: Int[Array, ""]) -> Memory:
    """The memory that follows from the encoder's residual `pre` before layer `first`; `first` may be the number of layers."""
    positions = jnp.arange(pre.shape[1], dtype=jnp.int32)[None]

    def layer(i: Int[Array, ""], x: Float[Array, "1 S D"]) -> Float[Array, "1 S D"]:
        block = jax.tree.map(lambda a: jax.lax.dynamic_index_in_dim(a, i, keepdims=False), model.encoder.blocks)
        return block(x, Tap("encoder.", edits, NOTHING, i, positions))[0]

    x = jax.lax.fori_loop(first, model.config.n_audio_layer, layer, pre)
    x = Tap("encoder.", edits, NOTHING, jnp.int32(-1), positions)("ln_post", model.encoder.ln_post(x))
    return model.decoder.memory(x, apart=True).stacked()


def resumed_memory(
    model: Whisper, site: str, stored: tuple[Float[Array, "L 1 S D"], Float[Array, "L 1 S D"]], edits: Edits, first: Int[Array, ""]
) -> Memory:
    """What is heard under an edit of `site` at layer `first`; `stored` are the residuals before and after every layer."""
    if site == "encoder.resid_post":  # the next layer's beginning: this layer need not run at all
        return encoder_output(model, edited(edits, site, stored[1][first], first), {}, first + 1)
    return encoder_output(model, stored[0][first], edits, first)


def edited(edits: Edits, site: str, x: Float[Array, "1 S D"], layer: Int[Array, ""]) -> Float[Array, "1 S D"]:
    """`x`, the residual at `site`, as the edit there leaves it."""
    at = At(layer, jnp.arange(x.shape[1], dtype=jnp.int32)[None], None, site)
    return edits[site](x, at).astype(x.dtype)


def scored_residual(model: Whisper, tokens: Int[Array, "1 T"], memory: Memory, edits: Edits, scored: int) -> Float[Array, "1 D"]:
    """A whole pass of the decoder with nothing reused, up to the scored position."""
    return _residual(model, tokens, memory, edits, scored)[0]


def plain_score(model: Whisper, tokens: Int[Array, "1 T"], memory: Memory, edits: Edits, scored: int, metric: Metric) -> Float[Array, ""]:
    """The same with every logit: for edits of the decoder's end, which `score` does not pass."""
    x, tap = _residual(model, tokens, memory, edits, scored)
    here = dataclasses.replace(tap, positions=tap.positions[:, scored:], acts={})
    logits = model.decoder.head(x[:, None], here)[:, 0]
    return metric(logits if metric.vocab is None else jnp.take(logits, jnp.ravel(metric.vocab), axis=1))[0]


def _residual(model: Whisper, tokens: Int[Array, "1 T"], memory: Memory, edits: Edits, scored: int) -> tuple[Float[Array, "1 D"], Tap]:
    tokens = tokens[:, : scored + 1]
    positions = jnp.arange(scored + 1, dtype=jnp.int32)[None]
    x, _, tap, _ = model.decoder.residual(tokens, positions, memory, edits, NOTHING)
    return x[:, scored], tap
