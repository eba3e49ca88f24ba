"""Defines sweepers: workers that compute patching sweeps with jaxasr, torch hooks or nnsight.

A cell is (layer, head, position) of `decoder.cross_attn.z`, or (layer, window) of
`encoder.resid_post`. In a cell, the activation of the source (recording 1) replaces that of the
target (recording 0). The value of the cell is the logit difference after the last token. The method
`run(kind, ...)` of a sweeper returns the values of cells and the seconds.
"""

import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from experiments.bench import models
from experiments.bench.models import Job
from experiments.bench.worker import peak_rss

FRAMES = 50  # encoder frames per window: one second
Cell = list[int]


class JaxasrSweeper:
    """A worker that calls `interventions.sweep`.

    Args:
        job: from `experiments.bench.recordings`, with the `tokens` that the decoder reads, the ids
            `answer` and `foil`, and the number of encoder `frames` of the target.
    """

    def __init__(self, job: Job):
        import jax.numpy as jnp

        from experiments.compiling import count_compilations
        from interventions import Run, logit_diff

        self.compiling, self.model = count_compilations(), models.jax_model(job)
        mels, tokens = np.load(job["mels"]), jnp.array([job["tokens"]], jnp.int32)
        self.target, self.source = (
            Run(mel=mels[row : row + 1], tokens=tokens).encode(self.model) for row in (0, 1)
        )
        self.metric, self.frames = logit_diff(job["answer"], job["foil"]), job["frames"]

    def run(self, kind: str, reuse: bool = True) -> dict[str, Any]:
        """Computes all cells. Returns values, seconds, and the number of programs compiled so far.

        Args:
            kind: "decoder" or "encoder".
            reuse: whether cells resume from shared results (see `interventions.sweep`).
        """
        from interventions import sweep

        start = time.perf_counter()
        values = sweep(
            self.model,
            self.target,
            self.source,
            reuse=reuse,
            metric=self.metric,
            **self._choose_grid(kind),
        )
        return {
            "seconds": time.perf_counter() - start,
            "values": values.values.tolist(),
            "programs": self.compiling.programs,
        }

    def plan(self, kind: str) -> dict[str, Any]:
        """Returns the plan of a sweep as text, and its FLOPs."""
        from interventions import plan_sweep
        from interventions.patching import cost

        plan = plan_sweep(
            self.model, self.target, self.source, metric=self.metric, **self._choose_grid(kind)
        )
        return {"text": str(plan), "flops": cost.flops(plan.work)}

    def peak(self) -> int:
        """Returns the peak memory so far in bytes."""
        return peak_rss()

    def _choose_grid(self, kind: str) -> dict[str, Any]:
        if kind == "decoder":
            return {"site": "decoder.cross_attn.z", "over": ("layer", "head", "position")}
        return {
            "site": "encoder.resid_post",
            "over": ("layer", "time"),
            "window_s": FRAMES / 50,  # the encoder has 50 frames per second
            "n_frames": self.frames,
        }


class TorchSweeper:
    """A worker that patches the model of `transformers` with hooks or nnsight.

    Attention is fused, and only the last position is scored.
    """

    def __init__(self, job: Job):
        import torch

        self.torch, self.job, self.whole = torch, job, models.torch_model(job)
        self.model, self.config = self.whole.model, self.whole.config
        device = models.torch_device()
        self.mels = torch.from_numpy(np.load(job["mels"])).to(device, self.whole.dtype)
        self.tokens = torch.tensor([job["tokens"]], device=device)
        with torch.inference_mode():
            self._run_shared_passes()

    def _run_shared_passes(self) -> None:
        """Stores the results that cells can share.

        Stores the activations of the source, and the encoder output and the cross-attention keys
        and values of the target.
        """
        self.source_heads, self.source_frames = [], []
        handles = [
            layer.encoder_attn.out_proj.register_forward_pre_hook(self._store_heads)
            for layer in self.model.decoder.layers
        ]
        handles += [
            layer.register_forward_hook(self._store_frames) for layer in self.model.encoder.layers
        ]
        self.model(input_features=self.mels[1:2], decoder_input_ids=self.tokens, use_cache=False)
        for handle in handles:
            handle.remove()
        self.outputs = self.model.encoder(self.mels[:1])
        self.cross_kv = self.model.decoder(
            self.tokens, encoder_hidden_states=self.outputs[0], use_cache=True
        ).past_key_values

    def _store_heads(self, _: Any, args: tuple) -> None:
        self.source_heads.append(args[0])

    def _store_frames(self, _: Any, args: tuple, out: Any) -> None:
        self.source_frames.append(out[0] if isinstance(out, tuple) else out)

    def run(self, kind: str, mode: str, cells: list[Cell], batch: int = 1) -> dict[str, Any]:
        """Computes cells. Returns their values, and the seconds.

        Args:
            kind: "decoder" or "encoder".
            mode: which results cells share. "whole" and "nnsight whole": none. "reused" and
                "nnsight": the encoder output. "kept": the encoder output, and the cross-attention
                keys and values. The two modes with nnsight compute one cell per pass.
            cells: cells to compute.
            batch: number of cells per pass.
        """
        start = time.perf_counter()
        with self.torch.inference_mode():
            groups = list(_group_by_layer(cells, batch))
            values = [
                value for group in groups for value in self._compute_values(kind, mode, group)
            ]
            models.wait_for_torch()
        return {"seconds": time.perf_counter() - start, "values": values}

    def peak(self) -> int:
        """Returns the peak memory so far in bytes."""
        return peak_rss()

    def _compute_values(self, kind: str, mode: str, cells: list[Cell]) -> list[float]:
        """Computes the values of cells of one layer in one pass."""
        if mode.startswith("nnsight"):
            return self._compute_with_nnsight(mode, cells[0])
        patch = self._patch_frames if kind == "encoder" else self._patch_heads
        handle = patch(cells[0][0], cells)
        last = self._forward(mode, len(cells))[:, -1]  # hidden states at the last position
        handle.remove()
        return self._compute_logit_difference(last)

    def _forward(self, mode: str, n: int) -> Any:
        """Returns the last hidden states of `n` copies of the target."""
        from experiments.bench.torch_whisper import cache_argument

        tokens = self.tokens.expand(n, -1)
        if mode == "whole":
            mels = self.mels[:1].expand(n, -1, -1)
            return self.model(input_features=mels, decoder_input_ids=tokens, use_cache=False)[0]
        xa = self.outputs[0].expand(n, -1, -1)
        if mode == "reused":
            return self.model(encoder_outputs=(xa,), decoder_input_ids=tokens, use_cache=False)[0]
        cache = cache_argument(self.model.decoder, self._make_shared_cache(n))
        return self.model.decoder(tokens, encoder_hidden_states=xa, use_cache=True, **cache)[0]

    def _make_shared_cache(self, n: int) -> Any:
        """Returns a cache with the cross-attention keys and values of `n` copies of the target."""
        from transformers import DynamicCache, EncoderDecoderCache

        layers = self.cross_kv.cross_attention_cache.layers
        pairs = [
            tuple(x.expand(n, -1, -1, -1) for x in (layer.keys, layer.values)) for layer in layers
        ]
        # The first cache, of self-attention, is empty.
        return EncoderDecoderCache(DynamicCache(), DynamicCache(pairs))

    def _compute_logit_difference(self, last: Any) -> list[float]:
        logits = self.whole.proj_out(last)
        return (logits[:, self.job["answer"]] - logits[:, self.job["foil"]]).float().tolist()

    def _find_head_columns(self, head: int) -> slice:
        """Returns the columns of one head in the concatenation of all heads."""
        width = self.config.d_model // self.config.decoder_attention_heads
        return slice(head * width, (head + 1) * width)

    def _patch_heads(self, layer: int, cells: list[Cell]) -> Any:
        """Registers a hook that patches cell i in row i of the batch. Returns its handle."""

        def hook(_: Any, args: tuple) -> tuple:
            z = args[0].clone()  # [cells, positions, heads × width of a head]
            for row, (_layer, head, position) in enumerate(cells):
                columns = self._find_head_columns(head)
                z[row, position, columns] = self.source_heads[layer][0, position, columns]
            return (z,)

        projection = self.model.decoder.layers[layer].encoder_attn.out_proj
        return projection.register_forward_pre_hook(hook)

    def _patch_frames(self, layer: int, cells: list[Cell]) -> Any:
        """Registers a hook that patches cell i in row i of the batch. Returns its handle."""

        def hook(_: Any, args: tuple, out: Any) -> Any:
            x = (out[0] if isinstance(out, tuple) else out).clone()
            for row, (_layer, window) in enumerate(cells):
                frames = slice(window * FRAMES, min((window + 1) * FRAMES, self.job["frames"]))
                x[row, frames] = self.source_frames[layer][0, frames]
            return (x, *out[1:]) if isinstance(out, tuple) else x

        return self.model.encoder.layers[layer].register_forward_hook(hook)

    def _compute_with_nnsight(self, mode: str, cell: Cell) -> list[float]:
        from nnsight import NNsight

        if not hasattr(self, "traced"):
            self.traced = NNsight(self.model)
        layer, head, position = cell
        columns = self._find_head_columns(head)
        value = self.source_heads[layer][0, position, columns]
        inputs = (
            {"input_features": self.mels[:1]}
            if mode == "nnsight whole"
            else {"encoder_outputs": (self.outputs[0],)}
        )
        with self.traced.trace(**inputs, decoder_input_ids=self.tokens, use_cache=False):
            z = self.traced.decoder.layers[layer].encoder_attn.out_proj.input.clone()
            z[0, position, columns] = value
            self.traced.decoder.layers[layer].encoder_attn.out_proj.input = z
            last = self.traced.decoder.layer_norm.output.save()
        return self._compute_logit_difference(last[:, -1])


def _group_by_layer(cells: list[Cell], batch: int) -> Iterator[list[Cell]]:
    """Yields groups of at most `batch` cells of the same layer."""
    for layer in sorted({cell[0] for cell in cells}):
        layer_cells = [cell for cell in cells if cell[0] == layer]
        yield from (layer_cells[i : i + batch] for i in range(0, len(layer_cells), batch))
