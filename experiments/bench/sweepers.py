"""The same cells of a patching sweep by this library and by what a PyTorch user has, each a worker.

A cell patches one place of the target (recording 0) with what the source (recording 1) has there; its value is the logit
difference after the last token. `run(kind, cells)` gives the values and the seconds; a cell is (layer, head, position) of
`decoder.cross_attn.z`, or (layer, window) of `encoder.resid_post`.
"""

import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from experiments.bench import models
from experiments.bench.worker import peak_rss

FRAMES = 50  # encoder frames a window: one second


class Ours:
    """`interventions.sweep`; everything that a call does is timed."""

    def __init__(self, job: dict[str, Any]):
        from experiments.bench.compiling import listen
        from interventions import Run, logit_diff

        self.compiling, self.model = listen(), models.ours(job)
        mels, tokens = np.load(job["mels"]), np.array([job["tokens"]], np.int32)
        self.target, self.source = (
            Run(mel=mels[row : row + 1], tokens=tokens).encode(self.model) for row in (0, 1)
        )
        self.metric, self.frames = logit_diff(job["answer"], job["foil"]), job["frames"]

    def run(self, kind: str, reuse: bool = True) -> dict[str, Any]:
        from interventions import sweep

        start = time.perf_counter()
        values = sweep(
            self.model,
            self.target,
            self.source,
            reuse=reuse,
            metric=self.metric,
            **self._grid(kind),
        )
        return {
            "seconds": time.perf_counter() - start,
            "values": values.values.tolist(),
            "programs": self.compiling.programs,
        }

    def plan(self, kind: str) -> dict[str, Any]:
        from interventions import plan_sweep
        from interventions.patching import cost

        plan = plan_sweep(
            self.model, self.target, self.source, metric=self.metric, **self._grid(kind)
        )
        return {"text": str(plan), "flops": cost.flops(plan.work)}

    def peak(self) -> int:
        return peak_rss()

    def _grid(self, kind: str) -> dict[str, Any]:
        if kind == "decoder":
            return {"site": "decoder.cross_attn.z", "over": ("layer", "head", "position")}
        return {
            "site": "encoder.resid_post",
            "over": ("layer", "time"),
            "window_s": FRAMES / 50,
            "n_frames": self.frames,
        }


class Torch:
    """Whisper of `transformers`, fused attention, inference mode, only the last position unembedded."""

    def __init__(self, job: dict[str, Any]):
        import torch

        self.torch, self.job, self.whole = torch, job, models.of_torch(job)
        self.model, self.config = self.whole.model, self.whole.config
        self.mels = torch.from_numpy(np.load(job["mels"])).to(models.device(), self.whole.dtype)
        self.tokens = torch.tensor([job["tokens"]], device=models.device())
        with torch.inference_mode():
            self._read()

    def _read(self) -> None:
        """What every cell may share: the encoder output, the target's cross-attention keys and values, the source's activations."""
        self.heads_in, self.frames_in = [], []
        handles = [
            layer.encoder_attn.out_proj.register_forward_pre_hook(self._keep_heads)
            for layer in self.model.decoder.layers
        ]
        handles += [
            layer.register_forward_hook(self._keep_frames) for layer in self.model.encoder.layers
        ]
        self.model(input_features=self.mels[1:], decoder_input_ids=self.tokens, use_cache=False)
        for handle in handles:
            handle.remove()
        self.outputs = self.model.encoder(self.mels[:1])
        self.crossed = self.model.decoder(
            self.tokens, encoder_hidden_states=self.outputs[0], use_cache=True
        ).past_key_values

    def run(self, kind: str, way: str, cells: list[list[int]], batch: int = 1) -> dict[str, Any]:
        """`way`: "whole", "reused" (the encoder output), "kept" (also cross-attention keys and values), "nnsight", "nnsight whole"."""
        start = time.perf_counter()
        with self.torch.inference_mode():
            groups = list(_groups(cells, batch))
            values = [value for group in groups for value in self._group(kind, way, group)]
            models.wait_for_torch()
        return {"seconds": time.perf_counter() - start, "values": values}

    def peak(self) -> int:
        return peak_rss()

    def _group(self, kind: str, way: str, cells: list[list[int]]) -> list[float]:
        if way.startswith("nnsight"):
            return self._nnsight(way, cells[0])
        layer = cells[0][0]
        handle = (
            self._patch_frames(layer, cells)
            if kind == "encoder"
            else self._patch_heads(layer, cells)
        )
        last = self._forward(way, len(cells))[:, -1]
        handle.remove()
        return self._difference(last)

    def _forward(self, way: str, n: int) -> Any:
        from experiments.bench.torch_whisper import cached

        tokens = self.tokens.expand(n, -1)
        if way == "whole":
            return self.model(
                input_features=self.mels[:1].expand(n, -1, -1),
                decoder_input_ids=tokens,
                use_cache=False,
            )[0]
        heard = self.outputs[0].expand(n, -1, -1)
        if way == "reused":
            return self.model(encoder_outputs=(heard,), decoder_input_ids=tokens, use_cache=False)[
                0
            ]
        kept = cached(self.model.decoder, self._kept(n))
        return self.model.decoder(tokens, encoder_hidden_states=heard, use_cache=True, **kept)[0]

    def _kept(self, n: int) -> Any:
        from transformers import DynamicCache, EncoderDecoderCache

        layers = self.crossed.cross_attention_cache.layers
        pairs = [
            tuple(x.expand(n, -1, -1, -1) for x in (layer.keys, layer.values)) for layer in layers
        ]
        return EncoderDecoderCache(DynamicCache(), DynamicCache(pairs))

    def _difference(self, last: Any) -> list[float]:
        logits = self.whole.proj_out(last)
        return (logits[:, self.job["answer"]] - logits[:, self.job["foil"]]).float().tolist()

    def _out(self, layer: int) -> Any:
        return self.model.decoder.layers[layer].encoder_attn.out_proj

    def _keep_heads(self, _: Any, args: tuple) -> None:
        self.heads_in.append(args[0])

    def _keep_frames(self, _: Any, args: tuple, out: Any) -> None:
        self.frames_in.append(out[0] if isinstance(out, tuple) else out)

    def _part(self, head: int) -> slice:
        width = self.config.d_model // self.config.decoder_attention_heads
        return slice(head * width, (head + 1) * width)

    def _patch_heads(self, layer: int, cells: list[list[int]]) -> Any:
        def hook(_: Any, args: tuple) -> tuple:
            z = args[0].clone()
            for row, (_layer, head, position) in enumerate(cells):
                z[row, position, self._part(head)] = self.heads_in[layer][
                    0, position, self._part(head)
                ]
            return (z,)

        return self._out(layer).register_forward_pre_hook(hook)

    def _patch_frames(self, layer: int, cells: list[list[int]]) -> Any:
        def hook(_: Any, args: tuple, out: Any) -> Any:
            x = (out[0] if isinstance(out, tuple) else out).clone()
            for row, (_layer, window) in enumerate(cells):
                here = slice(window * FRAMES, min((window + 1) * FRAMES, self.job["frames"]))
                x[row, here] = self.frames_in[layer][0, here]
            return (x, *out[1:]) if isinstance(out, tuple) else x

        return self.model.encoder.layers[layer].register_forward_hook(hook)

    def _nnsight(self, way: str, cell: list[int]) -> list[float]:
        from nnsight import NNsight

        if not hasattr(self, "opened"):
            self.opened = NNsight(self.model)
        layer, head, position = cell
        part, value = self._part(head), self.heads_in[layer][0, position, self._part(head)]
        heard = (
            {"input_features": self.mels[:1]}
            if way == "nnsight whole"
            else {"encoder_outputs": (self.outputs[0],)}
        )
        with self.opened.trace(**heard, decoder_input_ids=self.tokens, use_cache=False):
            z = self.opened.decoder.layers[layer].encoder_attn.out_proj.input.clone()
            z[0, position, part] = value
            self.opened.decoder.layers[layer].encoder_attn.out_proj.input = z
            last = self.opened.decoder.layer_norm.output.save()
        return self._difference(last[:, -1])


def _groups(cells: list[list[int]], batch: int) -> Iterator[list[list[int]]]:
    """Cells of one layer, `batch` at a time."""
    for layer in sorted({cell[0] for cell in cells}):
        of_layer = [cell for cell in cells if cell[0] == layer]
        yield from (of_layer[i : i + batch] for i in range(0, len(of_layer), batch))
