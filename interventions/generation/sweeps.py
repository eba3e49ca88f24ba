"""Sweeps of whole texts: what every cell's edit changes in the generated text."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jaxtyping import Array, Float

from interventions.edits.cells import AtCell
from interventions.edits.values import Zero
from interventions.generation.cells import (
    CELLS_PER_LOOP,
    CellEdits,
    EditsOf,
    Ids,
    Leaders,
    generate_cells,
)
from interventions.generation.encoder_cells import generate_encoder_cells
from interventions.generation.text_metrics import decoded_texts, labelled_dataset, text_metrics
from interventions.patching.grid import Grid
from jaxasr import sites
from jaxasr.audio import log_mel, n_frames
from jaxasr.cache import Memory
from jaxasr.config import FRAMES_PER_S
from jaxasr.decoding import LogitFilter
from jaxasr.generate import Generation, generate
from jaxasr.recogniser import Recogniser
from jaxasr.rules import rules_for
from jaxasr.taps import Edit

Samples = Float[np.ndarray, "n_samples"] | Float[Array, "n_samples"]
Mel = Float[Array, "B M F"] | Float[np.ndarray, "B M F"]


def sequence_sweep(
    asr: Recogniser,
    memory: Memory | Mel,
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
    """Generates the text of every example under the edits of every cell, and scores it.

    `generation_sweep` does this for recordings and a grid; here cells and prompt are your own.

    Args:
        asr: the recogniser.
        memory: encoded audio, when cells edit the decoder; the log-mel [B, M, 3000], when they edit
            the encoder.
        prompt: int [B, T0].
        cells: as in `generate_cells`.
        coords: the dimensions that the cells were unrolled from, in order. Default: one, "cell".
        edits_of: as in `generate_cells`.
        references: text per example that errors are counted against. Default: the unedited text.
        language: of the texts.
        max_new_tokens: most tokens to generate.
        rules: constraints on the logits. Default: those of transcription without timestamps.
        leader: int [B], the row whose tokens each row is fed (lock-step decoding). A row that is
            fed the tokens of another row is not an example.
        batch: as in `generate_cells`.
        budget: bytes for encoder cells that are computed together; None asks the device.

    Returns:
        A Dataset over (*coords, "example"): `text`, `length` in tokens, `avg_logprob`,
        `no_speech_prob`, the numbers of `transcripts.repetition` and `transcripts.errors`, changes
        `d_wer` and `d_cer`, and `resolved` (the unedited text loops, and this one neither loops nor
        is empty). `baseline_...` over "example" are the same numbers without an edit.

    Raises:
        ValueError: coordinates that do not multiply to the number of cells; logits that are not
            finite under the edit of a cell; and as `generate_cells`.

    Example:
        ```python
        from interventions.edits import AtCell, Zero

        memory, _ = asr.model.encode(jaxasr.log_mel(audio, asr.config.n_mels)[None])
        result = iv.sequence_sweep(
            asr,
            memory,
            np.array([asr.tokenizer.prompt()]),
            {"layer": np.arange(4, dtype=np.int32)},
            coords={"layer": range(4)},
            edits_of=AtCell(Zero(), "decoder.cross_attn_out"),
            max_new_tokens=20,
        )
        result.d_wer  # [layer, example]
        ```
    """
    n_cells = len(CellEdits.of(cells, edits_of))
    coords = {"cell": range(n_cells)} if coords is None else coords
    if (n := np.prod([len(values) for values in coords.values()])) != n_cells:
        raise ValueError(
            f"coords: expected dimensions that multiply to {n_cells} cells, got {n:g}."
        )
    special = asr.tokenizer.special
    options: dict[str, Any] = {
        "max_new_tokens": max_new_tokens,
        "rules": rules_for(asr.tokenizer) if rules is None else rules,
        "eot": special.eot,
        "no_speech": (np.asarray(prompt)[0].tolist().index(special.sot), special.no_speech),
    }
    model, rows, ids = asr.model, np.arange(len(prompt)), jnp.asarray(prompt, jnp.int32)
    examples = rows if leader is None else np.flatnonzero(np.asarray(leader) == rows)
    if isinstance(memory, Memory):
        options["leader"] = None if leader is None else jnp.asarray(leader)
        unedited = generate(model, memory, ids, **options)
        out = generate_cells(
            model, memory, prompt, cells, edits_of=edits_of, batch=batch, **options
        )
    elif leader is not None:
        raise ValueError(
            "leader: not defined for edits of the encoder, whose recordings are encoded first. "
            "Leave it out, or edit the decoder."
        )
    else:
        unedited = generate(model, model.encode(jnp.asarray(memory))[0], ids, **options)
        out = generate_encoder_cells(
            model, memory, prompt, cells, edits_of=edits_of, budget=budget, batch=batch, **options
        )
    unedited = jax.tree.map(lambda x: np.asarray(x)[None, examples], unedited)
    out: Generation = jax.tree.map(lambda x: x[:, examples], out).check_finite()
    references = decoded_texts(asr.tokenizer, unedited)[0] if references is None else references
    return labelled_dataset(
        text_metrics(asr.tokenizer, out, references, language),
        text_metrics(asr.tokenizer, unedited, references, language),
        coords,
    )


def generation_sweep(
    asr: Recogniser,
    audio: Samples | Sequence[Samples],
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
    """Generates the text of recordings under an edit at every place of a grid, and scores it.

    With the default edit it is an ablation sweep: which heads change the text, and how.

    Args:
        asr: the recogniser.
        audio: 16 kHz samples of one recording or several; the first 30 s count.
        site: any site of either stack.
        edit: the edit. Default: `Zero()`. The value of a `Patch` or `Mix` may have one row per
            recording.
        over: dimensions of the grid, as in `sweep`.
        window_s: seconds per window of "time".
        seconds: where windows end. Default: the longest recording.
        alphas: strengths of "alpha", for edits with a strength.
        language: of the recordings, for multilingual models.
        options: those of `sequence_sweep`.

    Returns:
        The Dataset of `sequence_sweep` over (*over, "example"), such as `.resolved`
        [layer, head, example].

    Raises:
        ValueError: dimensions that the site does not have, and as `sequence_sweep`.

    Example:
        ```python
        layers = iv.generation_sweep(
            asr, audio, site="decoder.cross_attn_out", over=("layer",), max_new_tokens=20
        )
        layers.d_wer  # [layer, example]
        ```
    """
    recordings = [audio] if isinstance(audio, np.ndarray | jax.Array) else list(audio)
    prompt = np.tile(np.asarray(asr.tokenizer.prompt(language), np.int32), (len(recordings), 1))
    n_tokens = prompt.shape[1] + options.setdefault("max_new_tokens", 224)
    longest = max(n_frames(len(samples)) for samples in recordings)
    n_swept = longest if seconds is None else round(seconds * FRAMES_PER_S)
    grid = Grid.of(
        sites.spec(asr.config, site, batch=len(recordings), n_tokens=n_tokens),
        over,
        window_s=window_s,
        n_frames=min(n_swept, asr.config.n_audio_ctx),
        alphas=alphas,
        selected={},
    )
    mel = np.stack(
        [log_mel(samples, asr.config.n_mels, asr.config.n_mel_frames) for samples in recordings]
    )
    if "time" in grid.coords:
        # As many cells per loop for recordings of every length, so that they share a program.
        options.setdefault("batch", min(CELLS_PER_LOOP, grid.n_cells("layer")))
    result = sequence_sweep(
        asr,
        asr.model.encode(jnp.asarray(mel))[0] if sites.stack_of(site) == "decoder" else mel,
        prompt,
        grid.flat(),
        coords=grid.labels(),
        edits_of=AtCell(Zero() if edit is None else edit, site, *grid.frames),
        language=language or "en",
        **options,
    )
    window = {"window_s": grid.window / FRAMES_PER_S} if "time" in grid.coords else {}
    return result.assign_attrs({"site": site, **window})
