"""Reads the rows that probes are fitted on: activations from a store, labels and baselines."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from experiments.analyses.probe_question import FRAME_CLASSES, FRAME_VALUES, ProbeQuestion
from experiments.analyses.probe_steps import find_steps, read_embedding
from experiments.data.corpora import Corpus, Utterance
from experiments.data.frame_labels import frame_labels
from experiments.store import Store
from jaxasr import Recogniser
from jaxasr.audio import log_mel

ReadColumn = Callable[[str], np.ndarray]  # returns the value of every row, given a column's name


@dataclasses.dataclass(frozen=True)
class ProbeRows:
    """Rows that probes are fitted on.

    Attributes:
        X: activations of every layer.
        y: labels.
        groups: group of each row, or None. All rows of a group are in one fold.
        types: type of each row, or None. In the control task, each type has a random label.
        baselines: other features of the same rows, by name, to compare with the activations.
        left_out: number of rows that were left out, by reason.
    """

    X: Float[np.ndarray, "L N D"]
    y: np.ndarray
    groups: np.ndarray | None
    types: np.ndarray | None
    baselines: dict[str, Float[np.ndarray, "N F"]]
    left_out: dict[str, int]


def read_rows(
    store: Store, corpus: Corpus, question: ProbeQuestion, asr: Recogniser | None = None
) -> ProbeRows:
    """Reads the rows of a question.

    Args:
        store: activations of the recordings of `corpus`. It may hold further recordings.
        corpus: recordings with their labels.
        question: the experiment.
        asr: the recogniser. Only needed if rows are frames, to compute their mel features.

    Raises:
        ValueError: no row has the label, or a label is not a number although the target is "value".

    Example:
        ```python
        rows = read_rows(activations, corpus, ProbeQuestion("gender", group="speaker"))
        ```
    """
    utterances = {utterance.id: utterance for utterance in corpus.utterances}
    stored = [name for name in store.ids if name in utterances]
    if not question.frames:
        return _read_recordings(store, [utterances[name] for name in stored], question)
    assert asr is not None
    return _read_frames(store, [utterances[name] for name in stored], question, asr)


def _read_recordings(
    store: Store, utterances: Sequence[Utterance], question: ProbeQuestion
) -> ProbeRows:
    def column(name: str) -> np.ndarray:
        return label_column(utterances, name)

    ids = [utterance.id for utterance in utterances]
    keep, left_out = select_rows(column, question)
    # `utterances` has the order of the store, so the positions of its ids are ascending.
    rows = np.flatnonzero(np.isin(store.ids, ids))[keep]
    baselines = {
        "mel": store.mel()[rows],
        "embed": store.activations(question.embedding_site, question.pool, rows)[0],
    }
    X = store.activations(question.site, question.pool, rows)
    return _make_rows(X, column, keep, baselines, left_out, question)


def _read_frames(
    store: Store, utterances: Sequence[Utterance], question: ProbeQuestion, asr: Recogniser
) -> ProbeRows:
    ids = [utterance.id for utterance in utterances]
    steps = find_steps(store, question.site, ids, asr.config)
    of_utterance = [steps.of(i) for i in range(len(ids))]

    def column(name: str) -> np.ndarray:
        if name in (*FRAME_CLASSES, *FRAME_VALUES):
            labels = [
                frame_labels(utterance, name, n)[steps.middle[indices]]
                for utterance, (indices, n) in zip(utterances, of_utterance)
            ]
            return np.concatenate(labels).astype(object)
        return label_column(utterances, name)[steps.utterance]

    keep, left_out = select_rows(column, question)
    # `keep` selects frames while they are read, because all frames may not fit into memory.
    X = store.frames(question.site, ids, steps.rows[keep])[0]
    mels = [
        _mel_of_frames(utterance, n, asr)[steps.frames[indices]].mean(1)
        for utterance, (indices, n) in zip(utterances, of_utterance)
    ]
    baselines = {
        "mel": np.concatenate(mels)[keep],
        "embed": read_embedding(store, question.embedding_site, ids, steps, keep),
    }
    return _make_rows(X, column, keep, baselines, left_out, question)


def _make_rows(
    X: np.ndarray,
    column: ReadColumn,
    keep: np.ndarray,
    baselines: Mapping[str, np.ndarray],
    left_out: dict[str, int],
    question: ProbeQuestion,
) -> ProbeRows:
    groups, types = (
        None if name is None else column(name)[keep].astype(str)
        for name in (question.group, question.types)
    )
    y = convert_labels(column(question.label)[keep], question.target)
    return ProbeRows(X, y, groups, types, dict(baselines), left_out)


def _mel_of_frames(utterance: Utterance, n: int, asr: Recogniser) -> Float[np.ndarray, "N M"]:
    """Returns log-mel features of n encoder frames. Each is the mean of two mel frames."""
    config, samples = asr.config, utterance.samples()
    # From [M, 2 n] to [n, M].
    mel = np.asarray(log_mel(samples, config.n_mels, config.n_mel_frames))[:, : 2 * n]
    return mel.reshape(len(mel), -1, 2).mean(-1).T


def label_column(utterances: Sequence[Utterance], name: str) -> np.ndarray:
    """Returns the value of a column for each recording, with None for unknown values."""
    return np.array([utterance.label(name) for utterance in utterances], dtype=object)


def select_rows(column: ReadColumn, question: ProbeQuestion) -> tuple[np.ndarray, dict[str, int]]:
    """Selects the rows that have a label and a group, without rows of rare classes.

    Args:
        column: returns the values of all rows, given the name of a column.
        question: the experiment. If there are more than `max_rows` frames, a sample is selected.

    Returns:
        Indices of the selected rows.
        Number of rows that are left out, by reason.

    Raises:
        ValueError: no row has a label and a group.
    """
    labels = column(question.label)
    has_label = ~_are_missing(labels)
    if not has_label.any():
        raise ValueError(f"--label: no recording has a value in the column {question.label!r}.")
    has_group = np.ones(len(labels), bool)
    if question.group is not None:
        has_group = ~_are_missing(column(question.group))
    if not (has_label & has_group).any():
        raise ValueError(
            f"--group: no recording has a value in both columns, {question.label!r} and "
            f"{question.group!r}."
        )
    left_out = {
        f"no {question.label}": int((~has_label).sum()),
        f"no {question.group}": int((has_label & ~has_group).sum()),
    }
    keep = np.flatnonzero(has_label & has_group)
    if question.target == "class" and question.min_count:
        values, inverse, counts = np.unique(
            labels[keep].astype(str), return_inverse=True, return_counts=True
        )
        rare = counts < question.min_count  # for each class
        for value, n in zip(values[rare], counts[rare]):
            left_out[f"{question.label} {value}"] = int(n)
        keep = keep[~rare[inverse]]
    if question.frames and len(keep) > question.max_rows:
        left_out["not sampled"] = len(keep) - question.max_rows
        sample = np.random.default_rng(0).choice(keep, question.max_rows, replace=False)
        keep = np.sort(sample)
    return keep, {reason: n for reason, n in left_out.items() if n}


def _are_missing(values: np.ndarray) -> np.ndarray:
    return np.array([_is_missing(value) for value in values], bool)


def _is_missing(value: Any) -> bool:
    return value is None or value == "" or (isinstance(value, float) and np.isnan(value))


def convert_labels(values: np.ndarray, target: str) -> np.ndarray:
    """Converts labels to numbers for the target "value", else to texts.

    Raises:
        ValueError: a label is not a number.

    Example:
        >>> convert_labels(np.array(["3", 4.5], dtype=object), "value").tolist()
        [3.0, 4.5]
    """
    try:
        return values.astype(float if target == "value" else str)
    except ValueError as error:
        raise ValueError(
            f"--label: expected numbers for --target value, got {values[0]!r} ({error})."
        ) from None
