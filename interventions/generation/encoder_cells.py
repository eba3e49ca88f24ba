"""Free generation under edits of the encoder: every cell hears something else, so memories are batched, not shared.

A cell that edits one layer starts from the stored residual of that layer, as in a sweep (`cells`).
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from interventions.edits import AtCell, Mix, Patch
from interventions.memory import budget as memory_budget
from interventions.patching import planning, resumed as _cells
from jaxasr import compiled, sites
from jaxasr.cache import Memory
from jaxasr.config import Config
from jaxasr.generate import Generation, generate
from jaxasr.model import Whisper, full_precision
from jaxasr.taps import select

_TOGETHER = (
    1 << 30
)  # bytes of memories that a CPU decodes together: reading the weights once for many pays for leaving the cache


def generate_encoder_cells(
    model: Whisper, mel: Float[Array, "B M F"], prompt: Any, cells: Any, *, edits_of: Any = None, budget: int | None = None,
    batch: int | None = None, **options: Any,
) -> Generation:  # fmt: skip
    """Greedy generation from what the encoder gives under the edits of every cell: a `Generation` [K, B, ...], on the host.

    `cells`, `edits_of` as in `sequence.generate_cells`, with edits of the encoder. They act on one example at a time; the values of a
    `Patch` or `Mix` in a `AtCell` may have a row for each. `budget`: bytes of the cells that go together (None asks the device).
    `batch`: how many do, where they fit (default all), the last filled up. `options`: those of `jaxasr.generate`.
    """
    rows = []
    for b in range(len(mel)):
        example = _Example(
            model, jnp.asarray(mel)[b : b + 1], _of_example(edits_of, b, len(mel)), cells
        )
        rows.append(
            _generated(example, jnp.asarray(prompt, jnp.int32)[b : b + 1], budget, batch, options)
        )
    return jax.tree.map(lambda *parts: np.concatenate(parts, axis=1), *rows)


class _Example:
    """One recording, and the cells that edit how it is heard."""

    def __init__(self, model: Whisper, mel: Float[Array, "1 M F"], edits_of: Any, cells: Any):
        self.model, self.mel, self.edits_of = model, mel, edits_of
        self.arrays, self.structure = compiled.split(cells)
        self.n = len(self.arrays[0])
        site = getattr(edits_of, "site", None)
        self.site = (
            site if site in sites.LAYERED and isinstance(cells, dict) and "layer" in cells else None
        )
        self.layers = np.asarray(cells["layer"]) if self.site else np.zeros(self.n, int)

    @functools.cached_property
    def stored(self) -> tuple[Array, Array] | None:
        """Residuals before and after each layer, [L, 1, S, D], when cells start from them."""
        if self.site is None:
            return None
        names = ("encoder.resid_pre", "encoder.resid_post")
        acts = self.model.encode(self.mel, readout=select(*names))[1]
        return acts[names[0]], acts[names[1]]

    def jobs(self, size: int) -> list[np.ndarray]:
        """Indices of the cells that are heard together: those of one layer, at most `size`."""
        groups = [np.flatnonzero(self.layers == layer) for layer in np.unique(self.layers)]
        return [group[i : i + size] for group in groups for i in range(0, len(group), size)]

    def encode(self, index: np.ndarray) -> Memory:
        first, chosen = (
            jnp.int32(self.layers[index[0]]),
            [jnp.asarray(array)[index] for array in self.arrays],
        )
        taps = self.structure, self.edits_of
        return compiled.call(
            _encode_cells, self.model, first, self.mel, self.stored, chosen, taps, site=self.site
        )


def _encode_cells(
    model: Whisper,
    first: Array,
    mel: Array,
    stored: tuple[Array, Array] | None,
    cells: list[Array],
    taps: Any,
    *,
    site: str | None,
) -> Memory:
    structure, edits_of = taps

    def one(arrays: list[Array]) -> Memory:
        cell = structure.join(arrays)
        edits = cell if edits_of is None else edits_of(cell)
        if site is None:
            return model.encode(mel, edits)[0]
        return _cells.resumed_memory(model, site, stored, edits, first)

    with full_precision(model):
        return jax.vmap(one)(cells)


def _generated(
    example: _Example, prompt: Array, budget: int | None, batch: int | None, options: dict[str, Any]
) -> Generation:
    c = example.model.config
    most = max(1, memory_budget(budget) // planning.hearing_bytes(c))
    jobs = example.jobs(min(most, batch or most))
    width = min(most, batch) if batch else max(map(len, jobs))
    room = memory_bytes(c, prompt.shape[1] + options["max_new_tokens"])
    together = min(
        batch // width if batch else len(jobs),
        max(1, memory_budget(budget, _TOGETHER) // room // width),
    )
    parts = []
    for i in range(0, len(jobs), together):
        chunk = [
            jobs[min(j, len(jobs) - 1)] for j in range(i, i + together)
        ]  # filled up, so one executable serves all
        out = _together(example, chunk, width, prompt, options)
        parts += [out(j, len(job)) for j, job in enumerate(chunk[: len(jobs) - i])]
    order = np.argsort(np.concatenate(jobs))
    return jax.tree.map(lambda *x: np.concatenate(x)[order], *parts)


def _together(
    example: _Example, jobs: list[np.ndarray], width: int, prompt: Array, options: dict[str, Any]
) -> Any:
    """What the cells of `jobs`, each filled up to `width`, say: a function of the job and its number of cells."""
    memories = [example.encode(np.resize(job, width)) for job in jobs]
    memory = jax.tree.map(lambda *x: jnp.concatenate(x), *memories)
    static = {name: value for name, value in options.items() if name != "rules"}
    out = jax.device_get(
        compiled.call(_generate_row, example.model, memory, prompt, options.get("rules"), **static)
    )
    return lambda j, n: jax.tree.map(lambda x: x[j * width : j * width + n], out)


def _generate_row(
    model: Whisper, memory: Memory, prompt: Array, rules: Any, **options: Any
) -> Generation:
    one = functools.partial(
        generate, model, prompt=prompt, rules=rules, axis_name="cells", **options
    )
    return jax.vmap(lambda heard: one(heard), axis_name="cells")(memory)


def memory_bytes(c: Config, n_tokens: int) -> int:
    """What decoding keeps of one cell: memory, own keys and values, and one step's logits thrice."""
    return 4 * (
        (2 * c.n_text_layer + 1) * c.n_audio_ctx * c.n_text_state
        + 2 * c.n_text_layer * n_tokens * c.n_text_state
        + 3 * c.n_vocab
    )


def _of_example(edits_of: Any, b: int, batch: int) -> Any:
    """`edits_of` with the values of row `b`, where it has a row for every example."""
    edit = getattr(edits_of, "edit", None)
    if (
        not isinstance(edits_of, AtCell)
        or not isinstance(edit, Patch | Mix)
        or not hasattr(edit.value, "ndim")
    ):
        return edits_of
    axis = int(edits_of.site in sites.LAYERED)
    rows = (
        edit.value.ndim == len(sites.SITES[edits_of.site]) + axis
        and edit.value.shape[axis] == batch
    )
    return (
        edits_of.replace(edit=edit.replace(value=jnp.take(edit.value, jnp.array([b]), axis)))
        if rows
        else edits_of
    )
