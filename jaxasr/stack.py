"""The one loop over layers."""

import operator
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from jaxasr.taps import Edits, Readout, Tap, is_traced

RunBlock = Callable[[Any, Any, Any, Tap], tuple[Any, Any]]

# A loop over layers copies no weight at each step, a scan does. Beyond so many layers the loop's
# compile time, and the memory of unstacked weights, cost more than that saves (decision 7).
MAX_UNROLLED_LAYERS = 12


def n_layers(blocks: Any) -> int:
    """Returns the number of layers of stacked or unstacked `blocks`."""
    return len(blocks) if isinstance(blocks, tuple) else jax.tree.leaves(blocks)[0].shape[0]


def unstack(stacked: Any) -> tuple[Any, ...]:
    """Splits a pytree with a leading [layers] axis into a tuple with one pytree per layer.

    A loop over tokens that closes over the tuple slices the weights once, not at every token.
    """
    return tuple(
        jax.tree.map(operator.itemgetter(layer), stacked) for layer in range(n_layers(stacked))
    )


# For each owner: the stacked arrays, by identity, and what they were unstacked to.
_UNSTACKED: weakref.WeakKeyDictionary[Any, tuple[list[Any], tuple[Any, ...]]] = (
    weakref.WeakKeyDictionary()
)


def unstack_once(owner: Any, stacked: Any) -> tuple[Any, ...]:
    """`unstack`, cached while `owner` lives and `stacked` holds the same arrays."""
    arrays = jax.tree.leaves(stacked)
    if is_traced(arrays):
        return unstack(stacked)
    cached_arrays, unstacked = _UNSTACKED.get(owner, ([], ()))
    if len(cached_arrays) != len(arrays) or any(map(operator.is_not, cached_arrays, arrays)):
        # Also under a trace of the caller's, these arrays are concrete: compute them now.
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
    extra: Any = (),
    unroll: int = 1,
) -> tuple[Any, Any, dict[str, Any]]:
    """Carries `x` through the layers: `x, out = run_block(block, extra of the layer, x, tap)`.

    The readout acts inside the loop: what it drops is never stacked.

    Args:
        blocks: layers, either stacked, a pytree with a leading [layers] axis that is scanned, or
            unstacked, a tuple with one pytree per layer that is looped over (`unstack`).
        x: residual stream [B, T, D].
        run_block: runs one layer.
        stack: "encoder" or "decoder".
        positions: int32 [B, T], absolute positions of `x`.
        edits: edits of the sites of this stack.
        readout: what to return of each layer's activations.
        extra: one more input per layer, in the layout of `blocks`.
        unroll: layers per step of the scan.

    Returns:
        The last `x`; every `out`, in the layout of `blocks`; what `readout` keeps, stacked.
    """

    # Edits and readout are closed over instead of scanned, because an edit is called at every layer
    # and compares `at.layer` itself (decision 3).
    def body(x: Any, layer: Any) -> tuple[Any, tuple[Any, dict[str, Any]]]:
        index, block, extra = layer
        tap = Tap(f"{stack}.", edits, readout, index, positions)
        x, out = run_block(block, extra, x, tap)
        return x, (out, readout(tap.acts))

    index = jnp.arange(n_layers(blocks), dtype=jnp.int32)
    if isinstance(blocks, tuple):
        return _loop(body, x, list(zip(index, blocks, extra or [()] * len(blocks), strict=True)))
    x, (outs, acts) = jax.lax.scan(body, x, (index, blocks, extra), unroll=unroll)
    return x, outs, acts


def _loop(body: Callable, x: Any, layers: Sequence[Any]) -> tuple[Any, Any, dict[str, Any]]:
    results = []
    for layer in layers:
        x, result = body(x, layer)
        results.append(result)
    outs, acts = zip(*results, strict=True)
    return x, outs, jax.tree.map(lambda *per_layer: jnp.stack(per_layer), *acts)
