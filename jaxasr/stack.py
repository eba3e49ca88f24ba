"""The one loop over layers."""

import operator
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from jaxasr.taps import Edits, Readout, Tap, is_traced

Step = Callable[[Any, Any, Any, Tap], tuple[Any, Any]]


MAX_UNROLLED_LAYERS = 12  # layers up to which a loop that copies no weight is worth its compile time and a second copy of all (decision 7)


def n_layers(blocks: Any) -> int:
    return len(blocks) if isinstance(blocks, tuple) else jax.tree.leaves(blocks)[0].shape[0]


def unstack(stacked: Any) -> tuple[Any, ...]:
    """A tuple with one pytree a layer. A loop over tokens that closes over it slices the weights once, not at every token."""
    return tuple(
        jax.tree.map(operator.itemgetter(layer), stacked) for layer in range(n_layers(stacked))
    )


_KEPT: weakref.WeakKeyDictionary[Any, tuple[list[Any], tuple[Any, ...]]] = (
    weakref.WeakKeyDictionary()
)


def unstack_once(owner: Any, stacked: Any) -> tuple[Any, ...]:
    """`unstack`, kept as long as `owner` lives and `stacked` still holds the very same arrays."""
    leaves = jax.tree.leaves(stacked)
    if is_traced(leaves):
        return unstack(stacked)
    kept = _KEPT.get(owner)
    if kept is None or any(
        mine is not theirs for mine, theirs in zip(kept[0], leaves, strict=True)
    ):
        with jax.ensure_compile_time_eval():
            kept = _KEPT[owner] = leaves, unstack(stacked)
    return kept[1]


def run_stack(
    blocks: Any,
    x: Any,
    step: Step,
    *,
    stack: str,
    positions: Int[Array, "B T"],
    edits: Edits,
    readout: Readout,
    extra: Any = (),
    unroll: int = 1,
) -> tuple[Any, Any, dict[str, Any]]:
    """Carries `x` through the layers: `x, out = step(block, extra of the layer, x, tap)`.

    Returns the last `x`, every `out`, and what `readout` keeps, both stacked. `blocks` and `extra` are pytrees with a
    leading [layers] axis, scanned; or, both, tuples with one pytree a layer (`unstack`), looped over, and then every
    `out` comes back as a tuple. The readout acts in the body: what it drops is never stacked.
    """

    def body(x: Any, layer: Any) -> tuple[Any, tuple[Any, dict[str, Any]]]:
        index, block, extra = layer
        tap = Tap(f"{stack}.", edits, readout, index, positions)
        x, out = step(block, extra, x, tap)
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
    return x, outs, jax.tree.map(lambda *a: jnp.stack(a), *acts)
