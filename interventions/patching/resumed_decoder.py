"""Computes decoder cells, and only the activations that an edit can change.

An edit at layer l and position t cannot change earlier layers or earlier positions. A cell starts
from the stored residual of layer l at position t. The cell attends to stored keys and values of
earlier positions. The last layer computes only the scored position.

A column is the list of positions that a cell computes, and each of its positions is a row; see
`packing`. `resumed_language` does the same for language models. JAX traces every function of this
module.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from interventions.edits.cells import Cell
from interventions.patching.packing import PackedRows
from jaxasr import pytrees
from jaxasr.attention import cross_attention
from jaxasr.cache import Cache, EncodedAudio, Memory, Past
from jaxasr.config import Config
from jaxasr.decoder import causal_mask
from jaxasr.model import SpeechModel
from jaxasr.taps import NOTHING, Acts, Edits, Tap

# Index of a layer. It is an int where layers are unstacked, because it then indexes a tuple.
Layer = Int[Array, ""] | int


@pytrees.dataclass
class UneditedTrace:
    """Activations of one unedited example, from which cells resume.

    Attributes:
        pre: [L, 1, N, D], residual before each layer.
        post: [L, 1, N, D], residual after each layer.
        k: [L, 1, H, N, Dh], keys of self-attention, rotated if the model rotates them.
        v: [L, 1, H, N, Dh], values of self-attention.
    """

    pre: Float[Array, "L 1 N D"]
    post: Float[Array, "L 1 N D"]
    k: Float[Array, "L 1 H N Dh"]
    v: Float[Array, "L 1 H N Dh"]

    @classmethod
    def sites(cls, config: Config) -> tuple[str, ...]:
        """Returns the sites whose activations the trace holds."""
        keys = "decoder.attn.k" if config.audio_language is None else "decoder.attn.k_rot"
        return "decoder.resid_pre", "decoder.resid_post", keys, "decoder.attn.v"

    @classmethod
    def of(cls, config: Config, acts: Acts) -> "UneditedTrace":
        """Makes the trace from activations at `sites`."""
        pre, post, k, v = (acts[site] for site in cls.sites(config))
        return cls(pre, post, jnp.swapaxes(k, 2, 3), jnp.swapaxes(v, 2, 3))


class StoredOnly(Past):
    """Stored keys and values of all positions, including those of this pass."""

    def append(self, start: Any, k: Array, v: Array) -> Past:
        """Ignores the new keys and values, because the edit does not change them."""
        del start, k, v
        return self


class StoredThenRows(Past):
    """Stored keys and values, to which a pass appends those of its rows."""

    def append(self, start: Any, k: Float[Array, "B H R Dh"], v: Float[Array, "B H R Dh"]) -> Past:
        """Appends the keys and values of the rows to the stored ones."""
        del start
        return Past(_concatenated(self.k, k), _concatenated(self.v, v))


def _concatenated(stored: Float[Array, "1 H N Dh"], rows: Float[Array, "B H R Dh"]) -> Array:
    """Concatenates stored keys or values, which all of the batch share, and those of the rows."""
    stored = jnp.broadcast_to(stored, (len(rows), *stored.shape[1:]))
    return jnp.concatenate([stored, rows], 2)


@pytrees.dataclass
class ResumedDecoder:
    """The decoder from the edited layer to the last, for K cells of each of P columns.

    Attributes:
        model: the model.
        blocks: unstacked decoder layers; None to slice the stacked ones.
        audio_kv: unstacked keys and values of the audio, per layer; None if `blocks` is None.
        memory: the encoded audio, with stacked layers.
        tokens: [1, N], the tokens of the target.
        trace: unedited activations of the target.
        rows: the columns that cells compute, packed into R rows.
        edited_layer: index of the edited layer.
        changes_only_edited: whether an edit changes no other position within the edited layer.
            If so, the edited layer computes only the edited positions. Other rows use its stored
            outputs.
        layers_above: 0 if the edited layer is the last, 1 if only the last layer follows it, and 2
            if other layers may lie between.
    """

    model: SpeechModel
    blocks: tuple[Any, ...] | None
    audio_kv: tuple[tuple[Array, Array], ...] | None
    memory: EncodedAudio
    tokens: Int[Array, "1 N"]
    trace: UneditedTrace
    rows: PackedRows
    edited_layer: Int[Array, ""]
    changes_only_edited: bool = pytrees.field(pytree_node=False)
    layers_above: int = pytrees.field(pytree_node=False)

    def scored_residuals(
        self, edits_of: Callable[[Cell], Edits], cells: Any
    ) -> Float[Array, "K P D"]:
        """Computes the last layer's residual at the scored position, per cell and column."""
        x = self._run_edited_layer(edits_of, cells)
        if not self.layers_above:
            # Every column then has one edited position, the scored one.
            return x if self.changes_only_edited else x[:, self.rows.scored_rows]
        if self.changes_only_edited:
            stored = self.trace.post[self.edited_layer][:, self.rows.positions]
            # `edited_rows` is R for padding. R is out of bounds, so "drop" skips it.
            x = jnp.repeat(stored, len(x), 0).at[:, self.rows.edited_rows].set(x, mode="drop")
        x = self._run_layers_between(x) if self.layers_above > 1 else x
        last = self.model.config.n_text_layer - 1
        return self._run_unedited_layer(last, x, self.rows.scored_rows)

    def _run_edited_layer(
        self, edits_of: Callable[[Cell], Edits], cells: Any
    ) -> Float[Array, "K R D"]:
        """Runs the edited layer for all rows, or with `changes_only_edited` for the edited ones.

        Activations that no edit changes are computed once for all K cells.
        """
        rows, stored_positions = self.rows, jnp.arange(self.trace.k.shape[3], dtype=jnp.int32)[None]
        # `edited_layer` is traced, so it cannot index the tuple of unstacked layers.
        block, audio, *stored = self._layer_weights(self.edited_layer, unstacked=False)
        if self.changes_only_edited:
            positions, past = jnp.asarray(rows.edited_positions)[None], StoredOnly(*stored)
            keys, mask = stored_positions, causal_mask(positions, stored_positions)
        else:
            positions, past = jnp.asarray(rows.positions)[None], self._stored_then_rows(*stored)
            keys, mask = jnp.asarray(rows.key_positions)[None], jnp.asarray(rows.mask)[None, None]
        x = self.trace.pre[self.edited_layer][:, positions[0]]

        # Only `tap` depends on the cell. `vmap` therefore batches only what follows the edit.
        def run_cell(cell: Cell) -> Float[Array, "R D"]:
            tap = self._make_tap(edits_of(cell), positions, keys)
            # The cache only carries the positions of the keys. `past` ignores its start, 0.
            cache = Cache((), keys, jnp.int32(0))
            return self._run_block(block, audio, x, tap, mask, past, cache)[0]

        return jax.vmap(run_cell)(cells)

    def _make_tap(self, edits: Edits, positions: Int[Array, "1 R"], keys: Int[Array, "1 S"]) -> Tap:
        """Returns the tap of the edited layer, for rows at `positions` that attend to `keys`."""
        del keys  # attention passes their positions to its tap
        return Tap("decoder.", edits, NOTHING, self.edited_layer, positions)

    def _run_block(
        self, block: Any, audio: Any, x: Array, tap: Tap, mask: Array, past: Past, cache: Cache
    ) -> Float[Array, "1 R D"]:
        """Runs the edited layer. `block` and `audio` are those of `_layer_weights`."""
        return block(x, tap, mask, past, cache, audio)[0]

    def _run_layers_between(self, x: Float[Array, "K R D"]) -> Float[Array, "K R D"]:
        """Runs the layers between the edited one and the last."""
        last = self.model.config.n_text_layer - 1
        if self.blocks is None:
            return jax.lax.fori_loop(self.edited_layer + 1, last, self._run_unedited_layer, x)
        # Unstacked layers avoid the copy that slicing stacked weights makes on every call. Python
        # does not know the traced `edited_layer`, so `cond` skips layers up to it at run time.
        for layer in range(1, last):
            x = jax.lax.cond(
                layer > self.edited_layer,
                lambda x, layer=layer: self._run_unedited_layer(layer, x),
                lambda x: x,
                x,
            )
        return x

    def _run_unedited_layer(
        self, layer: Layer, x: Float[Array, "K R D"], queries: Any = None
    ) -> Float[Array, "K P D"]:
        """Runs an unedited layer.

        Keys and values are computed for every row. Everything else is computed for the rows
        `queries`, by default all.
        """
        block, audio, *stored = self._layer_weights(layer, unstacked=self.blocks is not None)
        # This tap edits and reads nothing, so its layer and positions are never used.
        tap = Tap("decoder.", {}, NOTHING, jnp.int32(-1), jnp.zeros((1, 1), jnp.int32))
        normed, mask = block.attn_ln(x), jnp.asarray(self.rows.mask)
        past = self._stored_then_rows(*stored).append(None, *block.attn.keys_values(normed))
        if queries is not None:
            x, normed, mask = x[:, queries], normed[:, queries], mask[queries]
        mask = jnp.broadcast_to(mask, (len(x), 1, *mask.shape))
        keys = jnp.broadcast_to(self.rows.key_positions, (len(x), mask.shape[-1]))
        x = x + block.attn(normed, past.k, past.v, mask, keys, tap.within("attn"))
        k, v = audio
        # All cells and rows attend to the same audio, so they form one row of the batch.
        flat = x.reshape(1, -1, x.shape[-1])
        flat = flat + cross_attention(
            block.cross_attn, block.cross_attn_ln(flat), k, v, tap.within("cross_attn")
        )
        return (flat + block.mlp(block.mlp_ln(flat), tap.within("mlp"))).reshape(x.shape)

    def _stored_then_rows(
        self, k: Float[Array, "1 H N Dh"], v: Float[Array, "1 H N Dh"]
    ) -> StoredThenRows:
        """Returns the first `n_stored` keys and values; no key if cells edit all positions."""
        return StoredThenRows(k[:, :, : self.rows.n_stored], v[:, :, : self.rows.n_stored])

    def _layer_weights(self, layer: Layer, unstacked: bool) -> tuple[Any, Any, Array, Array]:
        """Returns the block of a layer, what it reads of the audio, and its stored keys and values.

        With `unstacked`, `layer` is an int and the block and the audio are not sliced.
        """

        def take(stacked: Array) -> Array:
            return jax.lax.dynamic_index_in_dim(stacked, layer, keepdims=False)

        if unstacked:
            assert self.blocks is not None
            assert self.audio_kv is not None
            audio = self.audio_kv[layer]
            return self.blocks[layer], audio, take(self.trace.k), take(self.trace.v)
        assert isinstance(self.memory, Memory)
        audio = self.memory.k, self.memory.v
        return jax.tree.map(take, (self.model.decoder.blocks, audio, self.trace.k, self.trace.v))
