"""Decodes and scores the texts of a generation sweep, and labels the result."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from interventions.generation import transcripts
from jaxasr.generate import Generation
from jaxasr.language.tokenizer import LanguageTokenizer
from jaxasr.tokenizer import Tokenizer

AnyTokenizer = Tokenizer | LanguageTokenizer


def decoded_texts(tokenizer: AnyTokenizer, out: Generation) -> list[list[str]]:
    """Decodes the texts of K cells and B examples, without surrounding spaces.

    Args:
        tokenizer: the tokenizer of the model.
        out: generated tokens [K, B, N] with their lengths [K, B].

    Returns:
        `texts[k][b]`.

    Example:
        ```python
        from interventions.generation.text_metrics import decoded_texts

        out = jaxasr.generate(asr.model, memory, prompt, max_new_tokens=4)
        decoded_texts(asr.tokenizer, jax.tree.map(lambda x: x[None], out))  # [["..."]]
        ```
    """
    return [
        [tokenizer.decode(ids[:n]).strip() for ids, n in zip(tokens, lengths)]
        for tokens, lengths in zip(np.asarray(out.tokens), np.asarray(out.lengths))
    ]


def text_metrics(
    tokenizer: AnyTokenizer, out: Generation, references: Sequence[str], language: str
) -> dict[str, np.ndarray]:
    """Scores the texts of K cells and B examples.

    Args:
        tokenizer: the tokenizer of the model.
        out: generated tokens [K, B, N] with their lengths [K, B].
        references: the correct text of each example.
        language: language of the texts.

    Returns:
        Arrays [K, B]: `text`, `length` in tokens, `avg_logprob` and `no_speech_prob`. The results
        of `transcripts.repetition`, such as `loop`, which is 1 if the text loops. The results of
        `transcripts.errors`, such as the error rates `wer` and `cer`.

    Example:
        ```python
        from interventions.generation.text_metrics import text_metrics

        out = asr.generate(memory, max_new_tokens=8).generation
        out = jax.tree.map(lambda x: np.asarray(x)[None], out)  # one cell
        text_metrics(asr.tokenizer, out, ["The captain"], "en")["wer"].shape  # (1, 1)
        ```
    """
    texts = decoded_texts(tokenizer, out)
    tokens, lengths = np.asarray(out.tokens), np.asarray(out.lengths)
    # One dictionary per cell and example, cell by cell.
    rows = [
        transcripts.repetition(ids[:n], text) | transcripts.errors(text, reference, language)
        for cell in zip(tokens, lengths, texts)
        for ids, n, text, reference in zip(*cell, references)
    ]
    numbers = {name: np.array([row[name] for row in rows], float) for name in rows[0]}
    return {
        "text": np.array(texts),
        "length": lengths,
        "avg_logprob": np.asarray(out.avg_logprob),
        "no_speech_prob": np.asarray(out.no_speech_prob),
        **{name: values.reshape(lengths.shape) for name, values in numbers.items()},
    }


def labelled_dataset(
    cells: dict[str, np.ndarray],
    baseline: dict[str, np.ndarray],
    coords: Mapping[str, Sequence[Any]],
) -> xr.Dataset:
    """Labels the metrics of edited and unedited texts.

    Adds `d_wer` and `d_cer`, the edited minus the unedited error rates. Adds `resolved`, which is 1
    if the unedited text loops, and the edited text is not empty and does not loop.

    Args:
        cells: metrics [K, B] of the edited texts, from `text_metrics`.
        baseline: metrics [1, B] of the unedited texts, under the same names.
        coords: dimensions of the cells, with the values along each dimension.

    Returns:
        A Dataset over (*coords, "example"). The metrics of the unedited texts, over "example", have
        names with the prefix `baseline_`.

    Example:
        ```python
        from interventions.generation.text_metrics import labelled_dataset

        metrics = {name: np.ones((1, 1)) for name in ("wer", "cer", "loop", "length")}
        labelled_dataset(metrics, metrics, {"layer": [3]}).d_wer.item()  # 0.0
        ```
    """
    shape, dims = [len(values) for values in coords.values()], (*coords, "example")
    changes = {f"d_{rate}": cells[rate] - baseline[rate] for rate in ("wer", "cer")}
    resolved = (baseline["loop"] == 1) & (cells["loop"] == 0) & (cells["length"] > 0)
    cells = cells | changes | {"resolved": resolved.astype(float)}
    # The axis of cells is split into the dimensions of `coords`.
    variables = {name: (dims, values.reshape(*shape, -1)) for name, values in cells.items()}
    unedited = {f"baseline_{name}": ("example", values[0]) for name, values in baseline.items()}
    return xr.Dataset(
        variables | unedited, {dim: np.asarray(values) for dim, values in coords.items()}
    )
