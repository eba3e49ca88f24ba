"""Finds the axis of recordings of every array, for `vmap` and for the division over devices."""

from collections.abc import Iterable

import jax

from interventions.run import Run
from jaxasr import sites
from jaxasr.meshes import axes_of_memory


def axes_of_acts(names: Iterable[str]) -> dict[str, int]:
    """Returns the axis of recordings of the activations at the sites `names`."""
    return {name: int(name in sites.LAYERED) for name in names}


def axes_of_run(run: Run) -> Run:
    """Returns the axis of recordings of every array of a run."""
    axes = jax.tree.map(lambda _: 0, run)
    return axes if run.memory is None else axes.replace(memory=axes_of_memory(run.memory))
