"""Free generation under every cell's edit: what happens to the text, not to one token.

Cells are a batch axis of one loop; they share the memory, so that cross-attention keys and values are read once for all of them.
"""
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jaxtyping import Array, Float, Int

from interventions import transcripts
from interventions.edits import Zero, only
from jaxasr import compiled, sites
from jaxasr.audio import log_mel
from jaxasr.cache import Memory
from jaxasr.generate import Generation, generate
from jaxasr.model import Whisper
from jaxasr.recogniser import Recogniser
from jaxasr.rules import rules_for
from jaxasr.steps import Rules
from jaxasr.taps import Edit, Edits

EditsOf = Callable[[Any], Edits]
Ids = Int[Array, "B T0"] | Int[np.ndarray, "B T0"]
Leaders = Int[Array, "B"] | Int[np.ndarray, "B"]


@flax.struct.dataclass
class Placed:
    """The edits of one cell of a grid: `edit` at the cell's layer, head and position."""

    edit: Edit
    site: str = flax.struct.field(pytree_node=False)

    def __call__(self, cell: Mapping[str, Int[Array, ""]]) -> Edits:
        return {self.site: only(self.edit, **{_PLACES[dim]: index for dim, index in cell.items()})}


_PLACES = {"layer": "layers", "head": "heads", "position": "positions"}


def generate_cells(
    model: Whisper,
    memory: Memory,
    prompt: Ids,
    cells: Any,
    *,
    edits_of: EditsOf | None = None,
    max_new_tokens: int = 224,
    rules: Rules | None = None,
    eot: int | None = None,
    no_speech: tuple[int, int] | None = None,
    follow: Leaders | None = None,
    batch: int = 64,
) -> Generation:
    """Greedy generation under the edits of every cell: a `Generation` with a leading [K] axis, on the host.

    `cells` is a pytree whose every array has a leading [K] axis: edits themselves, `{site: edit}`, or whatever `edits_of(cell)`
    makes edits of for one cell (a pytree or a module-level function; its own arrays are shared by all cells). `batch` cells run
    in one loop, the last chunk filled up, so that there is one executable. The rest as in `jaxasr.generate`.

    Raises ValueError for cells of unequal number and for what `generate` refuses.
    """
    arrays, static = compiled.split(cells)
    n_cells = _number(arrays)
    taps, options = (_Cells(static), edits_of, rules), {"max_new_tokens": max_new_tokens, "eot": eot, "no_speech": no_speech}
    shared, chunks = (model, memory, jnp.asarray(prompt, jnp.int32), follow), []
    for start in range(0, n_cells, batch):
        index = np.minimum(np.arange(start, start + min(batch, n_cells)), n_cells - 1)
        chunk = [jnp.asarray(array)[index] for array in arrays]
        chunks.append(jax.device_get(compiled.call(_generate, *shared, chunk, taps=taps, **options)))
    return jax.tree.map(lambda *parts: np.concatenate(parts)[:n_cells], *chunks)


@flax.struct.dataclass
class _Cells:
    """The structure of a cell; `at` puts one cell's arrays into it."""

    static: Any = flax.struct.field(pytree_node=False)

    def at(self, arrays: list[Array]) -> Any:
        return compiled.join(arrays, self.static)


def _number(arrays: Sequence[Any]) -> int:
    numbers = {np.shape(array)[:1] for array in arrays}
    if len(numbers) != 1 or () in numbers or (0,) in numbers:
        raise ValueError(f"cells: expected arrays with the same leading axis of cells, got shapes {[np.shape(array) for array in arrays]}.")
    return numbers.pop()[0]


def _generate(model: Whisper, memory: Memory, prompt: Array, follow: Any, cells: list[Array], taps: Any, **options: Any) -> Generation:
    structure, edits_of, rules = taps

    def one(arrays: list[Array]) -> Generation:
        cell = structure.at(arrays)
        edits = cell if edits_of is None else edits_of(cell)
        return generate(model, memory, prompt, edits=edits, rules=rules, follow=follow, together="cells", **options)

    return jax.vmap(one, axis_name="cells")(cells)


def sequence_sweep(
    asr: Recogniser,
    memory: Memory,
    prompt: Ids,
    cells: Any,
    *,
    coords: Mapping[str, Sequence[Any]] | None = None,
    edits_of: EditsOf | None = None,
    references: Sequence[str] | None = None,
    language: str = "en",
    max_new_tokens: int = 224,
    rules: Rules | None = None,
    follow: Leaders | None = None,
    batch: int = 64,
) -> xr.Dataset:
    """What every cell's edit does to the whole text of every example.

    `cells`, `edits_of`, `batch`: see `generate_cells`. `coords` names the dimensions that the cells were unrolled from, in order
    (default: one, "cell"). `references` (default: the text without an edit) are what errors are counted against. `rules` default to
    those of transcription without timestamps. Rows that `follow` another are no examples.

    Returns variables over (*coords, "example"): `text`, `length` in tokens, `avg_logprob`, `no_speech_prob`, those of
    `transcripts.repetition` and `transcripts.errors`, and each again without edits as `baseline_...` over "example"; `d_wer` and `d_cer`
    against the baseline; `resolved`: the baseline loops, the cell does not, and is not empty.
    Raises ValueError for coordinates that do not multiply to the number of cells, and as `generate_cells`.
    """
    rules = rules_for(asr.tokenizer) if rules is None else rules
    special = asr.tokenizer.special
    quiet = np.asarray(prompt)[0].tolist().index(special.sot), special.no_speech
    options = {"max_new_tokens": max_new_tokens, "rules": rules, "eot": special.eot, "follow": follow, "no_speech": quiet}
    examples = np.arange(len(prompt)) if follow is None else np.flatnonzero(np.asarray(follow) == np.arange(len(prompt)))
    plain = jax.tree.map(lambda x: np.asarray(x)[None, examples], generate(asr.model, memory, prompt, **options))
    out = generate_cells(asr.model, memory, prompt, cells, edits_of=edits_of, batch=batch, **options)
    out = jax.tree.map(lambda x: x[:, examples], out)
    coords = {"cell": range(len(out.tokens))} if coords is None else coords
    if (n := np.prod([len(values) for values in coords.values()])) != len(out.tokens):
        raise ValueError(f"coords: expected dimensions that multiply to {len(out.tokens)} cells, got {n:g}.")
    references = _texts(asr, plain)[0] if references is None else references
    score = functools.partial(_scored, asr, references=references, language=language)
    return _labelled(score(out), score(plain), coords)


def _texts(asr: Recogniser, out: Generation) -> list[list[str]]:
    return [[asr.tokenizer.decode(row[:n]).strip() for row, n in zip(*cell)] for cell in zip(out.tokens, out.lengths)]


def _scored(asr: Recogniser, out: Generation, references: Sequence[str], language: str) -> dict[str, np.ndarray]:
    """Every number [K, B] of a generation with a leading axis of cells."""
    texts = _texts(asr, out)
    rows = [
        transcripts.repetition(ids[:n], text) | transcripts.errors(text, reference, language)
        for cell in zip(out.tokens, out.lengths, texts)
        for ids, n, text, reference in zip(*cell, references)
    ]
    numbers = {name: np.array([row[name] for row in rows], float).reshape(out.lengths.shape) for name in rows[0]}
    own = {"length": out.lengths, "avg_logprob": np.asarray(out.avg_logprob), "no_speech_prob": out.no_speech_prob}
    return {"text": np.array(texts), **own, **numbers}


def _labelled(cells: dict[str, np.ndarray], plain: dict[str, np.ndarray], coords: Mapping[str, Sequence[Any]]) -> xr.Dataset:
    shape, dims = [len(values) for values in coords.values()], (*coords, "example")
    cells = cells | {f"d_{rate}": cells[rate] - plain[rate] for rate in ("wer", "cer")}
    cells["resolved"] = ((plain["loop"] == 1) & (cells["loop"] == 0) & (cells["length"] > 0)).astype(float)
    variables = {name: (dims, values.reshape(*shape, -1)) for name, values in cells.items()}
    baseline = {f"baseline_{name}": ("example", values[0]) for name, values in plain.items()}
    return xr.Dataset(variables | baseline, {dim: np.asarray(values) for dim, values in coords.items()})


def head_map(
    asr: Recogniser,
    audio: Float[np.ndarray, "n_samples"] | Sequence[Float[np.ndarray, "n_samples"]],
    *,
    site: str = "decoder.cross_attn.z",
    edit: Edit | None = None,
    over: Sequence[str] = ("layer", "head"),
    language: str | None = None,
    **options: Any,
) -> xr.Dataset:
    """Which heads (layers, ...) change the text of these recordings, and how: `edit` (default `Zero()`) at every place of a grid.

    `audio`: samples at 16 kHz, one recording or several, of which the first 30 s are heard. `over`: "layer", "head", or either; any
    decoder site that has them. `options`: those of `sequence_sweep`. Result: `sequence_sweep`'s, e.g. `.resolved` [layer, head, example].

    Raises ValueError for an encoder's site, and for dimensions that a site does not have.
    """
    recordings = [audio] if isinstance(audio, np.ndarray | jax.Array) else list(audio)
    spec = sites.spec(asr.config, site, batch=len(recordings), n_tokens=1)
    if sites.stack_of(site) != "decoder":
        raise ValueError(f"site: expected one of the decoder, got {site!r}. For one edit of the encoder: asr.transcribe(audio, edits=...).")
    sizes = {"layer": spec.n_layer, "head": spec.size("H") if "H" in spec.axes else 0}
    if not over or any(not sizes.get(dim) for dim in over):
        raise ValueError(f"over: expected some of {[dim for dim, n in sizes.items() if n]} at {site!r}, got {tuple(over)}.")
    coords = {dim: np.arange(sizes[dim], dtype=np.int32) for dim in over}
    cells = dict(zip(coords, (axis.ravel() for axis in np.meshgrid(*coords.values(), indexing="ij"))))
    memory, _ = asr.model.encode(np.stack([log_mel(samples, asr.config.n_mels) for samples in recordings]))
    prompt = np.tile(np.asarray(asr.tokenizer.prompt(language), np.int32), (len(recordings), 1))
    placed = Placed(Zero() if edit is None else edit, site)
    return sequence_sweep(asr, memory, prompt, cells, coords=coords, edits_of=placed, language=language or "en", **options)
