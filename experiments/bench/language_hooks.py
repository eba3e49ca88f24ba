"""Patches the language model of `transformers` by hooks, cell by cell or in stacks of cells."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

ANSWER, FOIL = 3, 5  # ids of the tokens whose logits are compared


class LanguageCell(NamedTuple):
    """One cell: the edited positions of all features, or of one head, in one layer."""

    layer: int
    head: int | None
    start: int
    stop: int


class HookLoop:
    """Patches the language model of `transformers`, which starts from a cached prefix.

    Cells that edit the same positions can be stacked along the batch, each row with its own patch.

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

    def run(
        self, cells: Sequence[LanguageCell], prefix: int | None = None, batch: int = 1
    ) -> list[float]:
        """Returns the logit difference of each cell.

        Args:
            cells: cells to compute.
            prefix: positions to take from the cache. None: all before the edited ones.
            batch: most cells to compute together.
        """
        values = [0.0] * len(cells)
        with self.torch.inference_mode():
            for stack in stacks_of(cells, batch):
                n_cached = cells[stack[0]].start if prefix is None else prefix
                for index, value in zip(stack, self._run([cells[i] for i in stack], n_cached)):
                    values[index] = value
        return values

    def _run(self, cells: Sequence[LanguageCell], n_cached: int) -> list[float]:
        """Computes cells of the same positions, one row of the batch for each."""
        from transformers import DynamicCache

        from experiments.bench.torch_whisper import cache_argument

        handles = [self._patch(cells, layer, n_cached) for layer in {cell.layer for cell in cells}]
        past = DynamicCache(
            [tuple(x[:, :, :n_cached].expand(len(cells), -1, -1, -1) for x in p) for p in self.past]
        )
        x = self.language(
            inputs_embeds=self.embeddings[:, n_cached:].expand(len(cells), -1, -1),
            use_cache=True,
            **cache_argument(self.language, past),
        )[0][:, -1]
        for handle in handles:
            handle.remove()
        weight = self.whole.lm_head.weight
        return (x @ (weight[ANSWER] - weight[FOIL])).tolist()

    def _patch(self, cells: Sequence[LanguageCell], layer: int, n_cached: int) -> Any:
        """Adds a hook that patches the rows of the cells that edit `layer`."""
        block, width = self.language.layers[layer], self.language.layers[layer].self_attn.head_dim
        patches = [(row, cell) for row, cell in enumerate(cells) if cell.layer == layer]

        def patch(output: Any, kept: str) -> Any:
            x = _first(output).clone()
            for row, cell in patches:
                columns = slice(None)
                if cell.head is not None:
                    columns = slice(cell.head * width, (cell.head + 1) * width)
                value = self.source[kept][layer][0, cell.start : cell.stop, columns]
                x[row, cell.start - n_cached : cell.stop - n_cached, columns] = value
            return (x, *output[1:]) if isinstance(output, tuple) else x

        if patches[0][1].head is None:
            return block.register_forward_hook(lambda _, args, out: patch(out, "resid_post"))
        return block.self_attn.o_proj.register_forward_pre_hook(
            lambda _, args: (patch(args[0], "z"),)
        )


def stacks_of(cells: Sequence[LanguageCell], batch: int) -> list[list[int]]:
    """Returns the indices of cells that edit the same positions, at most `batch` together.

    Example:
        >>> from experiments.bench.language_hooks import LanguageCell, stacks_of
        >>> cells = [LanguageCell(layer, None, start, 9) for start in (3, 4) for layer in range(3)]
        >>> stacks_of(cells, 2)
        [[0, 1], [2], [3, 4], [5]]
    """
    places: dict[tuple[int, int], list[int]] = {}
    for index, cell in enumerate(cells):
        places.setdefault((cell.start, cell.stop), []).append(index)
    return [
        indices[first : first + batch]
        for indices in places.values()
        for first in range(0, len(indices), batch)
    ]


def _first(output: Any) -> Any:
    return output[0] if isinstance(output, tuple) else output
