"""The one loop over layers."""
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxasr.blocks import Block
from jaxasr.taps import Edits, Readout, Tap


def n_layers(blocks: Any) -> int:
    return jax.tree.leaves(blocks)[0].shape[0]


def run_stack(
    blocks: Block, carry: Any, step: Callable[[Block, Any, Any, Tap], Any], *, stack: str, positions: Any, edits: Edits, readout: Readout, extra: Any = (), unroll: int = 1
) -> tuple[Any, dict[str, Any]]:
    """Carries `carry` through stacked `blocks`: `carry = step(block, extra of the layer, carry, tap)`, and stacks what `readout` keeps.

    `extra` is a pytree with a leading [layers] axis. The readout acts in the body: what it drops is never stacked.
    """

    def body(carry: Any, layer: Any) -> tuple[Any, dict[str, Any]]:
        index, block, extra = layer
        tap = Tap(f"{stack}.", edits, readout, index, positions)
        carry = step(block, extra, carry, tap)
        return carry, readout(tap.acts)

    return jax.lax.scan(body, carry, (jnp.arange(n_layers(blocks), dtype=jnp.int32), blocks, extra), unroll=unroll)
