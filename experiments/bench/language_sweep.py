"""Compares sweeps of a random audio language model with hook loops that reuse cached prefixes.

Run it with `python -m experiments.bench language_sweep`.

The sweep over heads edits every layer, head and text token after the audio. The sweep over time
edits every layer and window of audio tokens. All methods use the same weights and are measured in
turn, in one process. Hook loops compute only a sample of the cells.
"""

import functools
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Annotated, Any, NamedTuple

import numpy as np
import typer
from rich.table import Table

from experiments.bench import options
from jaxasr.config import Config

N_BEFORE, N_AFTER, ANSWER, FOIL = 4, 11, 3, 5  # text tokens before and after the audio; ids
WINDOW = 25  # audio tokens per window: one second


class LanguageCell(NamedTuple):
    """One cell: the edited positions of all features, or of one head, in one layer."""

    layer: int
    head: int | None
    start: int
    stop: int


def make_config(width: int, n_layer: int, n_audio_ctx: int) -> Config:
    """Returns a Qwen2-Audio of equal width and depth in both stacks, with a small vocabulary.

    Example:
        >>> make_config(512, 8, 500).n_audio_tokens
        250
    """
    n_head = width // 64
    return Config(
        n_mels=80,
        n_audio_ctx=n_audio_ctx,
        n_audio_state=width,
        n_audio_head=n_head,
        n_audio_layer=n_layer,
        n_vocab=1000,
        n_text_ctx=2048,
        n_text_state=width,
        n_text_head=n_head,
        n_text_layer=n_layer,
        n_text_mlp=11 * width // 4,
        tied=False,
        family="qwen2_audio",
        audio_token=999,
        eos=(998,),
    )


class HookLoop:
    """Patches the language model of `transformers`, which starts from a cached prefix.

    Args:
        folder: weights in the format of `transformers`.
        mels: log-mel spectrograms [2, M, F] of target and source.
        tokens: ids [T].
    """

    def __init__(self, folder: str, mels: np.ndarray, tokens: np.ndarray):
        import torch
        from transformers import Qwen2AudioForConditionalGeneration

        self.torch = torch
        self.whole = Qwen2AudioForConditionalGeneration.from_pretrained(folder).eval()
        self.language = self.whole.model.language_model
        with torch.inference_mode():
            self.source = self._record(mels[1:], tokens)[0]
            _, self.embeddings, cache = self._record(mels[:1], tokens)
        self.past = [(layer.keys, layer.values) for layer in cache.layers]

    def _record(self, mel: np.ndarray, tokens: np.ndarray) -> tuple[dict[str, list], Any, Any]:
        """Returns what a cell can reuse: activations to patch in, embeddings, and the cache."""
        acts: dict[str, list] = {"z": [], "resid_post": []}
        embeddings: list[Any] = []
        first = self.language.layers[0]
        handles = [
            first.register_forward_pre_hook(
                lambda _, args, kw: embeddings.append(args[0] if args else kw["hidden_states"]),
                with_kwargs=True,
            )
        ]
        for layer in self.language.layers:
            handles += [
                layer.self_attn.o_proj.register_forward_pre_hook(
                    lambda _, args: acts["z"].append(args[0])
                ),
                layer.register_forward_hook(
                    lambda _, args, out: acts["resid_post"].append(_first(out))
                ),
            ]
        result = self.whole(
            input_ids=self.torch.tensor(tokens[None]).long(),
            input_features=self.torch.tensor(mel),
            feature_attention_mask=self.torch.ones(1, mel.shape[-1]).long(),
            use_cache=True,
        )
        for handle in handles:
            handle.remove()
        return acts, embeddings[0], result.past_key_values

    def run(self, cells: list[LanguageCell], prefix: int | None = None) -> list[float]:
        """Returns the logit difference of each cell.

        Args:
            cells: cells to compute.
            prefix: positions to take from the cache. None: all before the edited ones.
        """
        with self.torch.inference_mode():
            return [
                self._run_cell(cell, cell.start if prefix is None else prefix) for cell in cells
            ]

    def _run_cell(self, cell: LanguageCell, n_cached: int) -> float:
        from transformers import DynamicCache

        from experiments.bench.torch_whisper import cache_argument

        layer = self.language.layers[cell.layer]
        rows = slice(cell.start - n_cached, cell.stop - n_cached)
        if cell.head is None:
            value = self.source["resid_post"][cell.layer][:, cell.start : cell.stop]
            handle = layer.register_forward_hook(
                lambda _, args, out: _patch(out, rows, slice(None), value)
            )
        else:
            width = layer.self_attn.head_dim
            columns = slice(cell.head * width, (cell.head + 1) * width)
            value = self.source["z"][cell.layer][:, cell.start : cell.stop, columns]
            handle = layer.self_attn.o_proj.register_forward_pre_hook(
                lambda _, args: (_patch(args[0], rows, columns, value),)
            )
        past = DynamicCache([tuple(x[:, :, :n_cached] for x in pair) for pair in self.past])
        x = self.language(
            inputs_embeds=self.embeddings[:, n_cached:],
            use_cache=True,
            **cache_argument(self.language, past),
        )[0][0, -1]
        handle.remove()
        weight = self.whole.lm_head.weight
        return float(x @ (weight[ANSWER] - weight[FOIL]))


def _first(output: Any) -> Any:
    return output[0] if isinstance(output, tuple) else output


def _patch(output: Any, rows: slice, columns: slice, value: Any) -> Any:
    x = _first(output).clone()
    x[:, rows, columns] = value
    return (x, *output[1:]) if isinstance(output, tuple) else x


def main(
    width: Annotated[int, typer.Option(help="Width of both stacks.")] = 512,
    n_layer: Annotated[int, typer.Option("--layers", help="Layers of each stack.")] = 8,
    seconds: Annotated[int, typer.Option(help="Length of the recording in seconds.")] = 10,
    rounds: Annotated[int, typer.Option(help="How often every method is measured.")] = 3,
    sample: Annotated[int, typer.Option(help="Cells of a hook loop per round.")] = 48,
    out: options.Out = None,
) -> None:
    """Measures sweeps of a random audio language model against hook loops over transformers."""
    import jax.numpy as jnp
    from flax import nnx

    import interventions as iv
    import jaxasr
    from jaxasr.weights import save

    config = make_config(width, n_layer, 50 * seconds)
    model = jaxasr.AudioLanguageModel(config, rngs=nnx.Rngs(0))
    rng, n_audio = np.random.default_rng(0), config.n_audio_tokens
    mels = rng.normal(size=(2, 80, config.n_mel_frames)).astype(np.float32)
    text = rng.integers(0, 900, N_BEFORE + N_AFTER)
    tokens = np.array([*text[:N_BEFORE], *[config.audio_token] * n_audio, *text[N_BEFORE:]])
    runs = [iv.Run(mel=mel[None], tokens=jnp.asarray(tokens[None])) for mel in mels]
    target, source = (run.encode(model) for run in runs)
    metric, first = iv.logit_diff(ANSWER, FOIL), N_BEFORE + n_audio
    grids: dict[str, dict[str, Any]] = {
        "heads": {
            "site": "decoder.attn.z",
            "over": ("layer", "head", "position"),
            "positions": range(first, len(tokens)),
        },
        "time": {"site": "decoder.resid_post", "over": ("layer", "time"), "window_s": WINDOW / 25},
    }
    cells = {
        "heads": [
            LanguageCell(layer, head, position, position + 1)
            for layer in range(n_layer)
            for head in range(config.n_text_head)
            for position in range(first, len(tokens))
        ],
        "time": [
            LanguageCell(layer, None, N_BEFORE + start, N_BEFORE + min(start + WINDOW, n_audio))
            for layer in range(n_layer)
            for start in range(0, n_audio, WINDOW)
        ],
    }
    console, results = options.make_console(), []
    with tempfile.TemporaryDirectory() as scratch:
        loop = HookLoop(str(save(model, f"{scratch}/model")), mels, tokens)
    for kind, grid in grids.items():

        def sweep(grid: dict[str, Any] = grid) -> np.ndarray:
            return iv.sweep(model, target, source, metric=metric, **grid).values.ravel()

        plan = iv.plan_sweep(model, target, source, metric=metric, **grid)
        chosen = np.random.default_rng(1).permutation(len(cells[kind]))[:sample]
        some = [cells[kind][i] for i in chosen]
        methods: dict[str, Callable[[], Any]] = {
            "hook loop, cached up to the edit": functools.partial(loop.run, some)
        }
        if kind == "heads":
            methods["hook loop, audio prefix cached"] = functools.partial(loop.run, some, first)
        rows = _measure(sweep, len(cells[kind]), chosen, methods, rounds)
        console.print(f"\n{kind}: {plan}")
        console.print(_table(rows))
        results.append({"kind": kind, "plan": str(plan), "results": rows})
        options.save(out, {"width": width, "layers": n_layer, "sweeps": results})


def _measure(
    sweep: Callable[[], np.ndarray],
    n_cells: int,
    chosen: np.ndarray,
    methods: dict[str, Callable[[], Any]],
    rounds: int,
) -> list[dict[str, Any]]:
    """Measures all methods in turn, after one call of each. The rates are in cells per second."""
    values = sweep()
    rows = [{"way": "jaxasr", "rates": [], "error": 0.0}]
    for name, run in methods.items():
        error = np.abs(np.array(run()) - values[chosen]).max() / max(1.0, np.abs(values).max())
        rows.append({"way": name, "rates": [], "error": float(error)})
    for _ in range(rounds):
        for row, run, n in zip(
            rows, (sweep, *methods.values()), (n_cells, *[len(chosen)] * len(methods))
        ):
            start = time.perf_counter()
            run()
            row["rates"].append(n / (time.perf_counter() - start))
    for row in rows:
        ratios = [ours / theirs for ours, theirs in zip(rows[0]["rates"], row["rates"])]
        row["ratio"] = statistics.median(ratios)
    return rows


def _table(rows: list[dict[str, Any]]) -> Table:
    lines = Table("", "cells/s", "× ours", "error", box=None, pad_edge=False, header_style="dim")
    for row in rows:
        rate = f"{statistics.median(row['rates']):.1f}"
        lines.add_row(row["way"], rate, f"{row['ratio']:.1f}", f"{row['error']:.1e}")
    return lines
