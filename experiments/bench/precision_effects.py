"""Computes what the precision benchmark compares: effects of sweeps, tokens and texts."""

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import xarray as xr

    from jaxasr import Recogniser

WINDOW_S = 1.0  # seconds per window of the sweep of the encoder
MAX_NEW_TOKENS = 60
N_TEXT_TOKENS = 6  # tokens of the text in every sweep, so that all recordings share one shape

# Sweeps by name: the site, and the dimensions of the cells.
SWEEPS: dict[str, tuple[str, tuple[str, ...]]] = {
    "cross-attention heads": ("decoder.cross_attn.z", ("layer", "head")),
    "decoder residual stream": ("decoder.resid_post", ("layer", "position")),
    "decoder MLPs": ("decoder.mlp_out", ("layer", "position")),
    "encoder residual stream": ("encoder.resid_post", ("layer", "time")),
}


@dataclasses.dataclass(frozen=True)
class Task:
    """The inputs that all policies share.

    Attributes:
        mels: log-mel features [n, M, F].
        tokens: prompt and beginning of the text [n, T], from the float32 model.
        answer: the token that the float32 model predicts next [n].
        foil: the second likeliest token [n].
        n_frames: encoder frames of the shortest recording.
    """

    mels: np.ndarray
    tokens: np.ndarray
    answer: np.ndarray
    foil: np.ndarray
    n_frames: int


def generate(asr: "Recogniser", mels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Transcribes windows greedily.

    Returns:
        Tokens [n, T] and their numbers [n].
    """
    memory, _ = asr.model.encode(mels, unstacked=True)
    out = asr.generate(memory, asr.tokenizer.prompt("en"), max_new_tokens=MAX_NEW_TOKENS).generation
    return np.asarray(out.tokens), np.asarray(out.lengths)


def make_task(asr: "Recogniser", mels: np.ndarray, generated: np.ndarray, n_frames: int) -> Task:
    """Makes the task from the float32 model and the text that it generated."""
    prompt = np.broadcast_to(
        asr.tokenizer.prompt("en"), (len(mels), len(asr.tokenizer.prompt("en")))
    )
    tokens = np.concatenate([prompt, generated[:, :N_TEXT_TOKENS]], axis=1).astype(np.int32)
    memory, _ = asr.model.encode(mels)
    logits = np.asarray(asr.model.decode(tokens, memory)[0])[:, -1]
    best = np.argsort(logits, axis=-1)
    return Task(mels, tokens, best[:, -1], best[:, -2], n_frames)


def effects(asr: "Recogniser", task: Task, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Computes the change of the metric by every cell of all sweeps.

    The target of recording i is patched from recording i + 1, with the tokens of recording i. The
    metric is logit(answer) - logit(foil).

    Args:
        asr: the recogniser.
        task: the recordings, tokens and metric.
        names: sweeps of `SWEEPS`.

    Returns:
        Changes [n, cells] by sweep.
    """
    import jax.numpy as jnp

    import interventions as iv

    mels, tokens = jnp.asarray(task.mels), jnp.asarray(task.tokens)
    target = iv.Run(mel=mels, tokens=tokens).encode(asr.model)
    next_rows = np.roll(np.arange(target.batch), -1)
    source = dataclasses.replace(target.rows(next_rows), tokens=tokens)
    metric = iv.logit_diff(task.answer, task.foil)
    results = {}
    for name in names:
        site, over = SWEEPS[name]
        options: dict[str, Any] = (
            {"window_s": WINDOW_S, "n_frames": task.n_frames} if "time" in over else {}
        )
        cells = iv.sweep(asr.model, target, source, site=site, over=over, metric=metric, **options)
        results[name] = _select_cells(cells - cells.baseline, task.tokens.shape[1])
    return results


def _select_cells(changes: "xr.DataArray", n_tokens: int) -> np.ndarray:
    """Flattens the cells, without those that cannot change the scored position."""
    values = changes.values
    if "position" in changes.dims:
        keep = np.ones(values.shape[1:], bool)
        keep[-1, : n_tokens - 1] = False  # no later layer attends to these positions
        return values[:, keep]
    return values.reshape(len(values), -1)


def rank_correlations(reference: np.ndarray, values: np.ndarray) -> list[float]:
    """Returns the rank correlation of the cells of each recording.

    Example:
        >>> rank_correlations(np.array([[1.0, 2.0, 3.0]]), np.array([[1.0, 2.5, 9.0]]))
        [1.0]
    """
    import scipy.stats

    return [
        float(scipy.stats.spearmanr(*pair).statistic)  # pyright: ignore
        for pair in zip(reference, values, strict=True)
    ]


def equal_share(
    reference: tuple[np.ndarray, np.ndarray], generated: tuple[np.ndarray, np.ndarray]
) -> float:
    """Returns the share of equal tokens at equal places, the end-of-text included.

    Args:
        reference: tokens [n, T] and numbers of tokens [n].
        generated: the same of another policy.

    Example:
        >>> tokens = np.array([[5, 6, 0]])
        >>> equal_share((tokens, np.array([2])), (tokens, np.array([2])))
        1.0
    """
    equal, total = 0, 0
    for a, n_a, b, n_b in zip(*reference, *generated, strict=True):
        n = min(max(n_a, n_b) + 1, len(a))
        equal += int((a[:n] == b[:n]).sum())
        total += n
    return float(equal / total)


def word_error_rate(texts: Sequence[str], references: Sequence[str]) -> float:
    """Returns the errors of all texts, divided by the words of all references.

    Example:
        >>> word_error_rate(["the cat"], ["the cat sat"])  # one of three words is missing
        0.3333333333333333
    """
    from interventions.generation import transcripts

    rows = [transcripts.errors(*pair) for pair in zip(texts, references, strict=True)]
    kinds = "insertions", "deletions", "substitutions"
    n_errors = sum(row[kind] for row in rows for kind in kinds)
    return n_errors / sum(row["reference_words"] for row in rows)
