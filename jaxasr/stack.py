"""Runs the layers of the encoder or the decoder, as a scan or as a loop."""

import operator
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from jaxasr.taps import Edits, Readout, Tap, is_traced

# Runs one layer: (block, layer_input, x, tap) -> (x, output). See `run_stack`.
RunBlock = Callable[[Any, Any, Any, Tap], tuple[Any, Any]]

# Largest number of layers to run in a loop instead of a scan. A scan copies the weights of a layer
# at each step, and a loop does not. With more layers, compiling the loop and unstacking the weights
# cost more time than the loop saves (decision 7).
MAX_UNROLLED_LAYERS = 12


def n_layers(blocks: Any) -> int:
    """Returns the number of layers of stacked or unstacked `blocks`."""
    return len(blocks) if isinstance(blocks, tuple) else jax.tree.leaves(blocks)[0].shape[0]


def unstack(stacked: Any) -> tuple[Any, ...]:
    """Splits a pytree with a leading [layers] axis into a tuple with one pytree per layer.

    A loop over tokens that uses the tuple slices the weights once, not at every token.
    """
    return tuple(
        jax.tree.map(operator.itemgetter(layer), stacked) for layer in range(n_layers(stacked))
    )


# Maps the owner of stacked layers to their arrays and to the unstacked layers. The arrays show
# whether the cached layers are still current.
_UNSTACKED: weakref.WeakKeyDictionary[Any, tuple[list[Any], tuple[Any, ...]]] = (
    weakref.WeakKeyDictionary()
)


def unstack_once(owner: Any, stacked: Any) -> tuple[Any, ...]:
    """Returns `unstack(stacked)`, cached while `owner` exists and has the same arrays."""
    arrays = jax.tree.leaves(stacked)
    if is_traced(arrays):
        return unstack(stacked)
    cached_arrays, unstacked = _UNSTACKED.get(owner, ([], ()))
    if len(cached_arrays) != len(arrays) or any(map(operator.is_not, cached_arrays, arrays)):
        # Even if the caller is being traced, these arrays are concrete, so unstack them now.
        with jax.ensure_compile_time_eval():
            unstacked = unstack(stacked)
        _UNSTACKED[owner] = arrays, unstacked
    return unstacked


def run_stack(
    blocks: Any,
    x: Any,
    run_block: RunBlock,
    *,
    stack: str,
    positions: Int[Array, "B T"],
    edits: Edits,
    readout: Readout,
    layer_inputs: Any = (),
    unroll: int = 1,
    frames: Int[Array, "B T"] | None = None,
    key_frames: Int[Array, "B S"] | None = None,
) -> tuple[Any, Any, dict[str, Any]]:
    """Carries the residual stream `x` through the layers.

    The readout acts inside the loop, so activations that it drops are never stacked.

    Args:
        blocks: layers. A pytree with a leading [layers] axis is scanned. A tuple with one pytree
            per layer, as from `unstack`, is looped over.
        x: residual stream [B, T, D].
        run_block: runs one layer: `run_block(block, layer_input, x, tap)` returns the new `x` and
            an output of any type.
        stack: "encoder" or "decoder".
        positions: int32 [B, T], absolute positions of `x`.
        edits: edits of the sites of this stack.
        readout: what to return of each layer's activations.
        layer_inputs: one more input per layer, in the layout of `blocks`.
        unroll: layers per step of the scan.
        frames: audio token at each position; see `jaxasr.At`.
        key_frames: audio token of each key; see `jaxasr.At`.

    Returns:
        `x` after the last layer; the outputs of `run_block`, in the layout of `blocks`; and what
        `readout` keeps, stacked.
    """

    # The scan does not slice the edits by layer. Each edit is called at every layer, and decides by
    # `at.layer` whether to act (decision 3).
    def body(x: Any, layer: Any) -> tuple[Any, tuple[Any, dict[str, Any]]]:
        index, block, layer_input = layer
        tap = Tap(f"{stack}.", edits, readout, index, positions, frames, key_frames)
        x, out = run_block(block, layer_input, x, tap)
        return x, (out, readout(tap.acts))

    index = jnp.arange(n_layers(blocks), dtype=jnp.int32)
    if isinstance(blocks, tuple):
        inputs = layer_inputs or [()] * len(blocks)
        return _run_in_loop(body, x, list(zip(index, blocks, inputs, strict=True)))
    x, (outs, acts) = jax.lax.scan(body, x, (index, blocks, layer_inputs), unroll=unroll)
    return x, outs, acts


def _run_in_loop(body: Callable, x: Any, layers: Sequence[Any]) -> tuple[Any, Any, dict[str, Any]]:
    """Computes what `jax.lax.scan` computes, with a Python loop over `layers`."""
    results = []
    for layer in layers:
        x, result = body(x, layer)
        results.append(result)
    outs, acts = zip(*results, strict=True)
    return x, outs, jax.tree.map(lambda *per_layer: jnp.stack(per_layer), *acts)
