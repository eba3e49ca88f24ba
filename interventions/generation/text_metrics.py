"""Decodes and scores the texts of a generation sweep, and labels the result."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from interventions.generation import transcripts
from jaxasr.generate import Generation
from jaxasr.tokenizer import Tokenizer


def decoded_texts(tokenizer: Tokenizer, out: Generation) -> list[list[str]]:
    """Decodes the text of every cell and example of a generation [K, B, ...]."""
    return [
        [tokenizer.decode(ids[:n]).strip() for ids, n in zip(tokens, lengths)]
        for tokens, lengths in zip(np.asarray(out.tokens), np.asarray(out.lengths))
    ]


def text_metrics(
    tokenizer: Tokenizer, out: Generation, references: Sequence[str], language: str
) -> dict[str, np.ndarray]:
    """Scores the texts of a generation [K, B, ...].

    Args:
        tokenizer: the tokenizer of the model.
        out: generated tokens.
        references: the correct text of each example.
        language: language of the texts.

    Returns:
        Arrays [K, B]: `text`, `length`, `avg_logprob`, `no_speech_prob`, the results of
        `transcripts.repetition` (such as `loop`, 1 if the text loops), and those of
        `transcripts.errors` (such as the error rates `wer` and `cer`).
    """
    texts = decoded_texts(tokenizer, out)
    tokens, lengths = np.asarray(out.tokens), np.asarray(out.lengths)
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
    """Labels the metrics of cells [K, B] and of the unedited text [1, B].

    `d_wer` and `d_cer` are changes against the unedited text. `resolved` is 1 if the unedited text
    loops and the text of the cell neither loops nor is empty.
    """
    shape, dims = [len(values) for values in coords.values()], (*coords, "example")
    changes = {f"d_{rate}": cells[rate] - baseline[rate] for rate in ("wer", "cer")}
    resolved = (baseline["loop"] == 1) & (cells["loop"] == 0) & (cells["length"] > 0)
    cells = cells | changes | {"resolved": resolved.astype(float)}
    variables = {name: (dims, values.reshape(*shape, -1)) for name, values in cells.items()}
    unedited = {f"baseline_{name}": ("example", values[0]) for name, values in baseline.items()}
    return xr.Dataset(
        variables | unedited, {dim: np.asarray(values) for dim, values in coords.items()}
    )
