"""Sweeps cells of edits, and generates and scores a whole text per cell."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jax.sharding import Mesh

from interventions.edits.cells import AtCell
from interventions.edits.values import Zero
from interventions.generation.cell_edits import CellEdits, MakeEdits
from interventions.generation.cells import Leaders, generate_cells
from interventions.generation.decoding_bytes import cells_per_loop
from interventions.generation.encoder_cells import generate_encoder_cells
from interventions.generation.prompts import (
    AnyRecogniser,
    Ids,
    Samples,
    generation_options,
    make_prompts,
)
from interventions.generation.text_metrics import decoded_texts, labelled_dataset, text_metrics
from interventions.generation.unedited import Lengths, Mel, encode_recordings, generate_unedited
from interventions.patching.grid import Grid
from jaxasr import sites
from jaxasr.audio import n_frames
from jaxasr.cache import EncodedAudio, Memory, Prefix
from jaxasr.config import FRAMES_PER_S
from jaxasr.decoding import LogitFilter
from jaxasr.generate import Generation
from jaxasr.meshes import resolve_mesh
from jaxasr.taps import Edit


def sequence_sweep(
    asr: AnyRecogniser,
    memory: EncodedAudio | Mel,
    prompt: Ids,
    cells: Any,
    *,
    coords: Mapping[str, Sequence[Any]] | None = None,
    edits_of: MakeEdits | None = None,
    references: Sequence[str] | None = None,
    language: str = "en",
    max_new_tokens: int = 224,
    rules: LogitFilter | None = None,
    leader: Leaders | None = None,
    batch: int | None = None,
    budget: int | None = None,
    mesh: Mesh | None = None,
    recordings: int | None = None,
    positions: Ids | None = None,
    lengths: Lengths | None = None,
) -> xr.Dataset:
    """Generates and scores the text of every example under the edits of every cell.

    Accepts any cells and any prompt. `generation_sweep` is shorter for recordings and a regular
    grid of cells.

    Args:
        asr: a Whisper or an audio language model.
        memory: the encoded audio if cells edit the decoder, or the log-mel [B, M, 3000] if they
            edit the encoder.
        prompt: token ids [B, T0] before the generated texts.
        cells: K cells as a pytree whose arrays have a leading [K] axis. It is `{site: edit}`, or
            the argument of `edits_of`.
        coords: the dimensions of the result in order, with the values along each dimension. The
            product of their sizes is the number of cells. Default: one dimension, "cell".
        edits_of: makes the edits of one cell, such as `AtCell`. Default: a cell is `{site: edit}`.
        references: the correct text of each example. Default: the unedited text.
        language: language of the texts.
        max_new_tokens: most tokens to generate per text.
        rules: constraints on the logits. Default: those of transcription without timestamps, and
            none for an audio language model.
        leader: int [B]. Row b reads the tokens that row `leader[b]` generates. The result has only
            the rows with `leader[b] = b`. Not for edits of the encoder.
        batch: number of cells that are computed together.
        budget: bytes of the encoder cells that are computed together. Default: a size chosen for
            the device.
        mesh: devices that divide the recordings and the cells, as in `sweep`.
        recordings: recordings that a device computes together, as in `sweep`.
        positions: int [B, T0], positions of the prompt; negative at padding on the left. Default: 0
            to T0 - 1.
        lengths: int [B], mel frames of each recording before its padding, if `memory` is the
            log-mel and the model an audio language model. Default: no recording has padding.

    Returns:
        A Dataset over (*coords, "example"). It holds `text`, `length` in tokens, `avg_logprob`,
        `no_speech_prob` and the results of `transcripts.repetition` and `transcripts.errors`.
        `d_wer` and `d_cer` are the edited minus the unedited error rates. `resolved` is 1 if the
        unedited text loops, and the edited text is not empty and does not loop. The variables
        `baseline_...` over "example" describe the unedited text.

    Raises:
        ValueError: the product of the sizes of `coords` is not the number of cells; an edit makes
            logits infinite or NaN; `leader` comes with edits of the encoder. Other errors are those
            of `generate_cells`.

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
            f"coords: expected dimensions with {n_cells} cells in all, got {n:g} cells."
        )
    options = generation_options(asr, prompt, max_new_tokens, rules)
    model, rows, mesh = asr.model, np.arange(len(prompt)), resolve_mesh(mesh)
    # Only rows that read their own tokens have a text of their own.
    examples = rows if leader is None else np.flatnonzero(np.asarray(leader) == rows)
    division: dict[str, Any] = {"mesh": mesh, "recordings": recordings, "positions": positions}
    common = {"edits_of": edits_of, "batch": batch, **division, **options}
    if isinstance(memory, Memory | Prefix):
        leaders = None if leader is None else jnp.asarray(leader)
        out = generate_cells(model, memory, prompt, cells, leader=leaders, **common)
        unedited = generate_unedited(model, memory, prompt, leader=leaders, **division, **options)
    elif leader is not None:
        raise ValueError(
            "leader: not defined for edits of the encoder, which runs before any token is "
            "generated. Leave it out, or edit the decoder."
        )
    else:
        common["lengths"] = division["lengths"] = lengths
        out = generate_encoder_cells(model, memory, prompt, cells, budget=budget, **common)
        unedited = generate_unedited(model, memory, prompt, **division, **options)
    # The unedited texts get an axis of one cell, as `text_metrics` expects.
    unedited = jax.tree.map(lambda x: x[None, examples], unedited)
    out: Generation = jax.tree.map(lambda x: x[:, examples], out).check_finite()
    references = decoded_texts(asr.tokenizer, unedited)[0] if references is None else references
    return labelled_dataset(
        text_metrics(asr.tokenizer, out, references, language),
        text_metrics(asr.tokenizer, unedited, references, language),
        coords,
    )


def generation_sweep(
    asr: AnyRecogniser,
    audio: Samples | Sequence[Samples],
    *,
    site: str | None = None,
    edit: Edit | None = None,
    over: Sequence[str] = ("layer", "head"),
    window_s: float = 0.5,
    seconds: float | None = None,
    alphas: Sequence[float] = (1.0,),
    language: str | None = None,
    question: str | None = None,
    mesh: Mesh | None = None,
    **options: Any,
) -> xr.Dataset:
    """Generates and scores the texts of recordings under an edit at every cell of a grid.

    By default, each cell ablates one cross-attention head, or one head of an audio language model.

    Args:
        asr: a Whisper or an audio language model.
        audio: 16 kHz samples of one recording or several. Only the first window (30 s) is used.
        site: a site of the encoder or the decoder. Default: "decoder.cross_attn.z", or
            "decoder.attn.z" in an audio language model.
        edit: the edit. Default: `Zero()`. The value of a `Patch` or `Mix` may have one row per
            recording.
        over: dimensions of the grid, as in `sweep`.
        window_s: seconds per cell along "time".
        seconds: end of the last window of "time". Default: the length of the longest recording.
        alphas: strengths of the edit along "alpha".
        language: language of the recordings, for multilingual models.
        question: question that an audio language model answers in a chat. Default: it transcribes.
        mesh: devices that divide the recordings and the cells, as in `sweep`.
        options: options of `sequence_sweep`.

    Returns:
        The Dataset of `sequence_sweep` over (*over, "example").

    Raises:
        ValueError: the site lacks a dimension of `over`, or a Whisper gets a question. Other errors
            are those of `sequence_sweep`.

    Example:
        ```python
        layers = iv.generation_sweep(
            asr, audio, site="decoder.cross_attn_out", over=("layer",), max_new_tokens=20
        )
        layers.d_wer  # [layer, example]
        ```
    """
    recordings, mesh = _as_list(audio), resolve_mesh(mesh)
    site = site or ("decoder." + ("attn.z" if asr.config.audio_language else "cross_attn.z"))
    prompts = make_prompts(asr, recordings, language, question)
    n_tokens = prompts.tokens.shape[1] + options.setdefault("max_new_tokens", 224)
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
    if "time" in grid.coords:
        # The number of cells along "time" depends on the recording. A fixed number of cells per
        # loop lets all recordings share one compiled program.
        options.setdefault(
            "batch", min(cells_per_loop(asr.config, n_tokens), grid.nominal_n_cells("layer"))
        )
    result = sequence_sweep(
        asr,
        encode_recordings(asr.model, prompts.mel, mesh, prompts.lengths)
        if sites.stack_of(site) == "decoder"
        else prompts.mel,
        prompts.tokens,
        grid.cell_coords(),
        coords=grid.labels(),
        edits_of=AtCell(Zero() if edit is None else edit, site, *grid.frames),
        language=language or "en",
        mesh=mesh,
        positions=prompts.positions,
        lengths=prompts.lengths if sites.stack_of(site) == "encoder" else None,
        **options,
    )
    window = {"window_s": grid.seconds(grid.window)} if "time" in grid.coords else {}
    return result.assign_attrs({"site": site, **window})


def _as_list(audio: Samples | Sequence[Samples]) -> list[Samples]:
    return [audio] if isinstance(audio, np.ndarray | jax.Array) else list(audio)
