"""Generates the text of each recording under the patch of each cell."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import xarray as xr
from jaxtyping import Array, Float, Int

import interventions as iv
import jaxasr
from experiments.analyses.patch_question import PatchAnswer, PatchQuestion
from experiments.analyses.patch_recordings import (
    Samples,
    count_longest_frames,
    generate_ids,
    stack_mels,
)
from experiments.progress import Progress
from interventions.edits import AtCell, mean_ablation
from interventions.edits.base import PatchValue
from interventions.patching.grid import Grid
from interventions.patching.sources import activation, resampled
from interventions.storage.fingerprints import fingerprint
from interventions.storage.results import load_or_compute
from interventions.storage.text_files import only_writer
from jaxasr import Memory, Recogniser, sites
from jaxasr.audio import n_frames
from jaxasr.config import FRAMES_PER_S
from jaxasr.taps import Edit

Mels = Float[Array, "B M F"]  # log-mel features of several recordings


@dataclasses.dataclass(frozen=True)
class _Targets:
    """Recordings that are patched.

    Attributes:
        mel: log-mel features.
        memory: the encoded recordings.
        prompt: token ids before the text.
        ids: token ids of the unpatched text, without the prompt.
        n_frames: encoder frames of each recording, without padding.
    """

    mel: Mels
    memory: Memory
    prompt: Int[np.ndarray, "B T0"]
    ids: list[list[int]]
    n_frames: Int[np.ndarray, "B"]


@dataclasses.dataclass(frozen=True)
class _Patching:
    """An edit, and the batch of recordings that it needs.

    Attributes:
        edit: replaces activations of the targets.
        mel: log-mel features of the targets. They are followed by those of the sources, if the edit
            reads activations of the sources in the same pass.
        leader: for each row, the row that it takes its tokens from. None if all rows are targets.
    """

    edit: Edit
    mel: Mels
    leader: Int[np.ndarray, "R"] | None = None


def patch_texts(
    asr: Recogniser,
    audio: Sequence[Samples],
    sources: Sequence[Samples] | None,
    question: PatchQuestion,
    steps: Progress,
    open_store: Callable[[], Path],
) -> PatchAnswer:
    """Generates the text of every recording under the patch of every cell.

    `experiments.analyses.patch.patch` explains the arguments.
    """
    with steps("encode and plan"):
        mel = stack_mels(asr, audio)
        memory = asr.model.encode(mel)[0]
        prompt_ids = np.asarray(asr.tokenizer.prompt(question.language), np.int32)
        prompt, ids = np.tile(prompt_ids, (len(audio), 1)), generate_ids(asr, memory, question)
        frames = np.array([n_frames(len(sound)) for sound in audio])
        targets = _Targets(mel, memory, prompt, ids, frames)
        patching = _make_patching(asr, targets, sources, question)
        grid = _make_grid(asr, targets, question, count_longest_frames(asr, audio))
        plan = _describe_plan(grid, question, len(audio))
        baseline = "the reference" if question.text else "the unpatched text"
        scored = f"{question.metric} against {baseline}"
    steps.note(plan, scored)
    with steps.bar("sweep") as progress:
        result = _sweep(asr, targets, patching, grid, question, open_store(), progress)
    texts = [asr.tokenizer.decode(row).strip() for row in ids]
    return PatchAnswer(result, plan, scored, texts, sources[0] if sources else None)


def _make_grid(
    asr: Recogniser,
    targets: _Targets,
    question: PatchQuestion,
    n_frames: int,
    layers: list[int] | None = None,
) -> Grid:
    n_rows, n_prompt = targets.prompt.shape
    spec = sites.spec(asr.config, question.site, n_rows, n_prompt + question.new_tokens)
    return Grid.of(
        spec,
        question.dims,
        window_s=question.window_s,
        n_frames=n_frames,
        alphas=question.alphas or (1.0,),
        selected={"layer": layers},
    )


def _describe_plan(grid: Grid, question: PatchQuestion, n_recordings: int) -> str:
    shape = " × ".join(f"{dim} {n}" for dim, n in zip(grid.dims, grid.shape))
    n_texts = int(np.prod(grid.shape)) * n_recordings
    return f"{question.site} over {shape}: {n_texts} texts of at most {question.new_tokens} tokens"


def _sweep(
    asr: Recogniser,
    targets: _Targets,
    patching: _Patching,
    grid: Grid,
    question: PatchQuestion,
    store: Path,
    progress: Callable[[float, float], None],
) -> xr.Dataset:
    """Sweeps layer by layer, and saves each finished layer in the folder `store`."""
    digest = fingerprint(
        question=question,
        model=(asr.checkpoint.sha256, asr.config),
        mel=targets.mel,
        rows=patching.mel,
        leader=patching.leader,
        edit=patching.edit,
    )
    on_encoder = sites.stack_of(question.site) == "encoder"
    options: dict[str, Any] = {
        "memory": patching.mel if on_encoder else asr.model.encode(patching.mel)[0],
        # `resize` repeats the prompts for the rows of the sources.
        "prompt": np.resize(targets.prompt, (len(patching.mel), targets.prompt.shape[1])),
        "edits_of": AtCell(patching.edit, question.site, grid.window, grid.n_frames),
        "references": [question.text] * len(targets.mel) if question.text else None,
        "max_new_tokens": question.new_tokens,
        "leader": patching.leader,
    }

    def sweep_layer(layers: list[int]) -> xr.Dataset:
        layer_grid = _make_grid(asr, targets, question, grid.n_frames, layers or None)
        return iv.sequence_sweep(
            asr, cells=layer_grid.cell_coords(), coords=layer_grid.labels(), **options
        )

    # One group per layer, or a single group if "layer" is not a dimension of the grid.
    groups = [[int(layer)] for layer in grid.coords.get("layer", ())] or [[]]
    parts = []
    with only_writer(store):
        for i, layers in enumerate(groups):
            path = store / f"texts-{digest[:12]}-{i}.zarr"
            key = f"{digest} {layers}"
            parts.append(load_or_compute(path, key, lambda layers=layers: sweep_layer(layers)))
            progress(i + 1, len(groups))
    window = {"window_s": grid.window / FRAMES_PER_S} if "time" in grid.coords else {}
    return _concatenate_layers(parts).assign_attrs({"site": question.site, **window})


def _concatenate_layers(parts: list[xr.Dataset]) -> xr.Dataset:
    if len(parts) == 1:
        return parts[0]
    # Variables without the dimension "layer", such as the baseline, are equal in all parts.
    cells = [name for name, values in parts[0].items() if "layer" in values.dims]
    return xr.concat(parts, "layer", data_vars=cells, coords="minimal", compat="override")


def _make_patching(
    asr: Recogniser, targets: _Targets, sources: Sequence[Samples] | None, question: PatchQuestion
) -> _Patching:
    """Makes the edit of the question's source, and the batch of recordings that the edit needs."""
    if question.source == "zero":
        return _Patching(_make_edit(jnp.zeros(()), question), targets.mel)
    if question.source == "mean":
        return _Patching(
            _make_edit(_mean_activation(asr, targets, question), question), targets.mel
        )
    n = len(targets.mel)
    if question.resamples:
        source_mel = targets.mel[_resampled_rows(n, question.source)]
    else:
        assert sources is not None
        source_mel = stack_mels(asr, sources)
    if sites.stack_of(question.site) == "encoder":
        readout = jaxasr.select(question.site)
        value = asr.model.encode(source_mel, readout=readout)[1][question.site]
        return _Patching(_make_edit(value, question), targets.mel)
    # Row n + b of the batch is the source of target b. Rows b and n + b read the activation of row
    # n + b, so row n + b is unchanged. They decode the tokens of row b, so that they are always at
    # the same position.
    source_rows = np.tile(np.arange(n, 2 * n), 2)
    leader = np.tile(np.arange(n), 2)
    edit = _make_edit(iv.FromRow(jnp.asarray(source_rows)), question)
    return _Patching(edit, jnp.concatenate([targets.mel, source_mel]), leader)


def _resampled_rows(n: int, source: str) -> Int[np.ndarray, "n"]:
    """Draws another row for each row, as `sweep` does for the source "resample"."""
    # Each recording stands for its row number, so that the resampled recordings are row numbers.
    numbers = jnp.arange(n, dtype=jnp.float32)[:, None, None]
    run = iv.Run(mel=numbers, tokens=jnp.zeros((n, 1), jnp.int32))
    return np.asarray(resampled(run, source).mel).astype(int).ravel()


def _mean_activation(asr: Recogniser, targets: _Targets, question: PatchQuestion) -> PatchValue:
    """Computes the mean of the activations over recordings and time, without padding.

    At a decoder site, the decoder reads the prompt and the unpatched text.
    """
    site = question.site
    if sites.stack_of(site) == "encoder":
        acts = asr.model.encode(targets.mel, readout=jaxasr.select(site))[1]
        spec = sites.spec(asr.config, site, batch=1, n_tokens=1)
        # The time axis is T, or S at the sites of keys and values.
        n_steps = spec.size("T" if "T" in sites.SITES[site] else "S")
        per_frame = n_steps // asr.config.n_audio_ctx  # 2 at the first convolution
        is_speech = np.arange(n_steps) < per_frame * targets.n_frames[:, None]
        return mean_ablation(acts[site], site, jnp.asarray(is_speech)).value
    # Pad the texts to one length. `is_text` excludes the padding from the mean.
    lengths = np.array([len(row) for row in targets.ids])
    ids = np.full((len(lengths), lengths.max()), asr.tokenizer.special.eot, np.int32)
    for row, row_ids in zip(ids, targets.ids):
        row[: len(row_ids)] = row_ids
    tokens = np.concatenate([targets.prompt, ids], 1)
    is_text = np.arange(tokens.shape[1]) < targets.prompt.shape[1] + lengths[:, None]
    run = iv.Run(memory=targets.memory, tokens=jnp.asarray(tokens))
    return mean_ablation(activation(asr.model, run, site), site, is_text).value


def _make_edit(value: Any, question: PatchQuestion) -> Edit:
    """Makes an edit that patches `value`. With --alpha, the grid sets the strength of the edit."""
    return iv.Mix(jnp.float32(1), value) if question.alphas else iv.Patch(value)
