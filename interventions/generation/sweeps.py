"""Free generation under every cell's edit: what happens to the text, not to one token.

Cells are a batch axis of one loop; they share the memory, so that cross-attention keys and values are read once for all of them.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jaxtyping import Array, Float, Int

from interventions.edits.values import Zero
from interventions.generation import transcripts
from interventions.generation.encoder_cells import generate_encoder_cells
from interventions.patching.grid import AtCell, Grid
from interventions.run import Run
from jaxasr import compiled, sites
from jaxasr.audio import log_mel, n_frames
from jaxasr.cache import Memory
from jaxasr.config import FRAMES_PER_S
from jaxasr.decoding import LogitFilter
from jaxasr.generate import Generation, generate
from jaxasr.model import Whisper
from jaxasr.recogniser import Recogniser
from jaxasr.rules import rules_for
from jaxasr.taps import Edit, Edits

EditsOf = Callable[[Any], Edits]
_TOGETHER = 64  # cells
Ids = Int[Array, "B T0"] | Int[np.ndarray, "B T0"]
Leaders = Int[Array, "B"] | Int[np.ndarray, "B"]


def generate_cells(
    model: Whisper,
    memory: Memory,
    prompt: Ids,
    cells: Any,
    *,
    edits_of: EditsOf | None = None,
    max_new_tokens: int = 224,
    rules: LogitFilter | None = None,
    eot: int | None = None,
    no_speech: tuple[int, int] | None = None,
    leader: Leaders | None = None,
    batch: int | None = None,
) -> Generation:
    """Greedy generation under the edits of every cell: a `Generation` with a leading [K] axis, on the host.

    `cells` is a pytree whose every array has a leading [K] axis: edits themselves, `{site: edit}`, or whatever `edits_of(cell)`
    makes edits of for one cell (a pytree or a module-level function; its own arrays are shared by all cells). `batch` cells (default 64,
    or all if there are fewer) run in one loop, the last chunk filled up, so that there is one executable. The rest as in `jaxasr.generate`.

    Raises ValueError for cells of unequal number and for what `generate` refuses.
    """
    arrays, structure = compiled.split(cells)
    n_cells = _number(arrays)
    taps, options = (
        (structure, edits_of, rules),
        {"max_new_tokens": max_new_tokens, "eot": eot, "no_speech": no_speech},
    )
    shared, chunks = (model, memory, jnp.asarray(prompt, jnp.int32), leader), []
    batch = min(_TOGETHER, n_cells) if batch is None else batch
    for start in range(0, n_cells, batch):
        index = np.minimum(np.arange(start, start + batch), n_cells - 1)
        chunk = [jnp.asarray(array)[index] for array in arrays]
        chunks.append(jax.device_get(compiled.call(_generate, *shared, chunk, taps, **options)))
    return jax.tree.map(lambda *parts: np.concatenate(parts)[:n_cells], *chunks)


def _number(arrays: Sequence[Any]) -> int:
    numbers = {np.shape(array)[:1] for array in arrays}
    if len(numbers) != 1 or () in numbers or (0,) in numbers:
        raise ValueError(
            f"cells: expected arrays with the same leading axis of cells, got shapes {[np.shape(array) for array in arrays]}."
        )
    return numbers.pop()[0]


def _generate(
    model: Whisper,
    memory: Memory,
    prompt: Array,
    leader: Any,
    cells: list[Array],
    taps: Any,
    **options: Any,
) -> Generation:
    structure, edits_of, rules = taps

    def one(arrays: list[Array]) -> Generation:
        cell = structure.join(arrays)
        edits = cell if edits_of is None else edits_of(cell)
        return generate(
            model,
            memory,
            prompt,
            edits=edits,
            rules=rules,
            leader=leader,
            axis_name="cells",
            **options,
        )

    return jax.vmap(one, axis_name="cells")(cells)


def text_logprobs(
    model: Whisper,
    run: Run,
    cells: Any,
    *,
    edits_of: EditsOf,
    rules: LogitFilter | None = None,
    prompt_len: int = 0,
) -> Float[np.ndarray, "K B T"]:
    """Computes the log-probability of the token that follows each position of `run`, under the edits of every cell.

    Cells edit the decoder in a teacher-forced pass: the text stays the same, and its probability changes. `cells` and `edits_of` are those
    of `generate_cells`, `rules` and `prompt_len` those that the text was generated with. The last position has no token after it: NaN.

    Raises ValueError for cells of unequal number and for edits that the decoder does not have.
    """
    arrays, structure = compiled.split(cells)
    _number(arrays)
    taps, run = (structure, edits_of, rules), run.encode(model)
    found = compiled.call(
        _score, model, run, [jnp.asarray(array) for array in arrays], np.int32(prompt_len), taps
    )
    return np.asarray(found)


def _score(
    model: Whisper, run: Run, cells: list[Array], prompt_len: Array, taps: Any
) -> Float[Array, "K B T"]:
    structure, edits_of, rules = taps
    after = jnp.roll(run.tokens, -1, axis=1)[..., None]

    def one(arrays: list[Array]) -> Float[Array, "B T"]:
        logits, _ = run.decode(model, edits_of(structure.join(arrays)))
        logits = logits if rules is None else rules.along(logits, run.tokens, prompt_len)
        return jnp.take_along_axis(jax.nn.log_softmax(logits), after, -1)[..., 0]

    return (
        jax.lax.map(one, cells).at[:, :, -1].set(jnp.nan)
    )  # a cell at a time: the logits of all are large


def sequence_sweep(
    asr: Recogniser,
    memory: Memory | Float[Array, "B M F"] | Float[np.ndarray, "B M F"],
    prompt: Ids,
    cells: Any,
    *,
    coords: Mapping[str, Sequence[Any]] | None = None,
    edits_of: EditsOf | None = None,
    references: Sequence[str] | None = None,
    language: str = "en",
    max_new_tokens: int = 224,
    rules: LogitFilter | None = None,
    leader: Leaders | None = None,
    batch: int | None = None,
    budget: int | None = None,
) -> xr.Dataset:
    """What every cell's edit does to the whole text of every example.

    `memory`: the encoded audio when cells edit the decoder; the log-mel when they edit the encoder
    (`generate_encoder_cells`, `budget`).
    `cells`, `edits_of`, `batch`: see `generate_cells`. `coords` names the dimensions that the cells were unrolled from, in order
    (default: one, "cell"). `references` (default: the text without an edit) are what errors are counted against. `rules` default to
    those of transcription without timestamps. Rows that `leader` another are no examples.

    Returns variables over (*coords, "example"): `text`, `length` in tokens, `avg_logprob`, `no_speech_prob`, those of
    `transcripts.repetition` and `transcripts.errors`, and each again without edits as `baseline_...` over "example"; `d_wer` and `d_cer`
    against the baseline; `resolved`: the baseline loops, the cell does not, and is not empty.
    Raises ValueError for coordinates that do not multiply to the number of cells, for logits that are not finite under the
    edit of a cell, and as `generate_cells`.
    """
    n_cells = _number(compiled.split(cells)[0])
    coords = {"cell": range(n_cells)} if coords is None else coords
    if (n := np.prod([len(values) for values in coords.values()])) != n_cells:
        raise ValueError(
            f"coords: expected dimensions that multiply to {n_cells} cells, got {n:g}."
        )
    rules = rules_for(asr.tokenizer) if rules is None else rules
    special = asr.tokenizer.special
    quiet = np.asarray(prompt)[0].tolist().index(special.sot), special.no_speech
    options = {
        "max_new_tokens": max_new_tokens,
        "rules": rules,
        "eot": special.eot,
        "leader": leader,
        "no_speech": quiet,
    }
    examples = (
        np.arange(len(prompt))
        if leader is None
        else np.flatnonzero(np.asarray(leader) == np.arange(len(prompt)))
    )
    heard = memory if isinstance(memory, Memory) else asr.model.encode(memory)[0]
    plain = jax.tree.map(
        lambda x: np.asarray(x)[None, examples], generate(asr.model, heard, prompt, **options)
    )
    if heard is memory:
        out = generate_cells(
            asr.model, memory, prompt, cells, edits_of=edits_of, batch=batch, **options
        )
    elif leader is None:
        options["leader"] = None
        out = generate_encoder_cells(
            asr.model,
            memory,
            prompt,
            cells,
            edits_of=edits_of,
            budget=budget,
            batch=batch,
            **options,
        )
    else:
        raise ValueError(
            "leader: not defined for edits of the encoder, which read from a recording that is heard beforehand."
        )
    out = jax.tree.map(lambda x: x[:, examples], out).check_finite()
    references = _texts(asr, plain)[0] if references is None else references
    score = functools.partial(_scored, asr, references=references, language=language)
    return _labelled(score(out), score(plain), coords)


def _texts(asr: Recogniser, out: Generation) -> list[list[str]]:
    return [
        [asr.tokenizer.decode(row[:n]).strip() for row, n in zip(*cell)]
        for cell in zip(out.tokens, out.lengths)
    ]


def _scored(
    asr: Recogniser, out: Generation, references: Sequence[str], language: str
) -> dict[str, np.ndarray]:
    """Every number [K, B] of a generation with a leading axis of cells."""
    texts = _texts(asr, out)
    rows = [
        transcripts.repetition(ids[:n], text) | transcripts.errors(text, reference, language)
        for cell in zip(out.tokens, out.lengths, texts)
        for ids, n, text, reference in zip(*cell, references)
    ]
    numbers = {
        name: np.array([row[name] for row in rows], float).reshape(out.lengths.shape)
        for name in rows[0]
    }
    own = {
        "length": out.lengths,
        "avg_logprob": np.asarray(out.avg_logprob),
        "no_speech_prob": out.no_speech_prob,
    }
    return {"text": np.array(texts), **own, **numbers}


def _labelled(
    cells: dict[str, np.ndarray], plain: dict[str, np.ndarray], coords: Mapping[str, Sequence[Any]]
) -> xr.Dataset:
    shape, dims = [len(values) for values in coords.values()], (*coords, "example")
    cells = cells | {f"d_{rate}": cells[rate] - plain[rate] for rate in ("wer", "cer")}
    cells["resolved"] = (
        (plain["loop"] == 1) & (cells["loop"] == 0) & (cells["length"] > 0)
    ).astype(float)
    variables = {name: (dims, values.reshape(*shape, -1)) for name, values in cells.items()}
    baseline = {f"baseline_{name}": ("example", values[0]) for name, values in plain.items()}
    return xr.Dataset(
        variables | baseline, {dim: np.asarray(values) for dim, values in coords.items()}
    )


def generation_sweep(
    asr: Recogniser,
    audio: Float[np.ndarray, "n_samples"] | Sequence[Float[np.ndarray, "n_samples"]],
    *,
    site: str = "decoder.cross_attn.z",
    edit: Edit | None = None,
    over: Sequence[str] = ("layer", "head"),
    window_s: float = 0.5,
    seconds: float | None = None,
    alphas: Sequence[float] = (1.0,),
    language: str | None = None,
    **options: Any,
) -> xr.Dataset:
    """Which heads (layers, ...) change the text of these recordings, and how: `edit` (default `Zero()`) at every place of a grid.

    `audio`: samples at 16 kHz, one recording or several, of which the first 30 s are heard. `site`: any of either stack. `over`: what a
    sweep there can have of "layer", "head", "position", "time" (windows of `window_s` seconds, up to `seconds`, default the longest
    recording), "alpha" (`alphas`, for edits with a strength). `options`: those of `sequence_sweep`. Values of a `Patch` or `Mix` may
    have a row for each recording. Result: `sequence_sweep`'s, e.g. `.resolved` [layer, head, example].

    Raises ValueError for dimensions that a site does not have.
    """
    recordings = [audio] if isinstance(audio, np.ndarray | jax.Array) else list(audio)
    prompt = np.tile(np.asarray(asr.tokenizer.prompt(language), np.int32), (len(recordings), 1))
    new = options.setdefault("max_new_tokens", 224)
    grid = _grid(
        asr,
        recordings,
        site,
        over,
        prompt.shape[1] + new,
        window_s=window_s,
        seconds=seconds,
        alphas=alphas,
    )
    mel = np.stack(
        [log_mel(samples, asr.config.n_mels, asr.config.n_mel_frames) for samples in recordings]
    )
    heard = asr.model.encode(mel)[0] if sites.stack_of(site) == "decoder" else mel
    at = AtCell(Zero() if edit is None else edit, site, *grid.frames)
    if "time" in grid.coords:  # as many cells at a time for recordings of every length
        options.setdefault("batch", min(_TOGETHER, grid.alike("layer")))
    swept = sequence_sweep(
        asr,
        heard,
        prompt,
        grid.flat(),
        coords=grid.labels(),
        edits_of=at,
        language=language or "en",
        **options,
    )
    return swept.assign_attrs(
        {"site": site} | ({"window_s": grid.window / FRAMES_PER_S} if "time" in grid.coords else {})
    )


def _grid(
    asr: Recogniser, recordings: Sequence[np.ndarray], site: str, over: Sequence[str], n_tokens: int, *, seconds: float | None,
    window_s: float, alphas: Sequence[float],
) -> Grid:  # fmt: skip
    spec = sites.spec(asr.config, site, batch=len(recordings), n_tokens=n_tokens)
    longest = (
        max(n_frames(len(samples)) for samples in recordings)
        if seconds is None
        else round(seconds * FRAMES_PER_S)
    )
    frames = min(longest, asr.config.n_audio_ctx)
    return Grid.of(spec, over, window_s=window_s, n_frames=frames, alphas=alphas, chosen={})
