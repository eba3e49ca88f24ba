"""Reads the recordings of a corpus in the background, and replaces those that cannot be used."""

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from experiments.data.corpora import Utterance
from experiments.store.passes import Batch, ForwardPasses
from jaxasr.config import SAMPLE_RATE

# The samples of a recording and "", or None and the reason why the recording is left out.
SamplesOrReason = tuple[np.ndarray | None, str]
_READ_ERRORS = (ValueError, OSError, EOFError)


def read_ahead(
    groups: Sequence[Sequence[range]], utterances: Sequence[Utterance], passes: ForwardPasses
) -> Iterator[tuple[Sequence[range], list[list[SamplesOrReason]]]]:
    """Yields groups of batches with their samples. Reads the next group in the background."""

    def read(group: Sequence[range]) -> list[list[SamplesOrReason]]:
        return [[_read_samples(utterances[i], passes) for i in rows] for rows in group]

    # While the caller computes a group, the thread reads the following one.
    with ThreadPoolExecutor(1) as reader:
        pending: Future[list[list[SamplesOrReason]]] | None = None
        for group, following in zip(groups, [*groups[1:], None]):
            current = pending or reader.submit(read, group)
            samples = current.result()
            pending = reader.submit(read, following) if following is not None else None
            yield group, samples


def _read_samples(utterance: Utterance, passes: ForwardPasses) -> SamplesOrReason:
    try:
        audio = utterance.samples()
    except _READ_ERRORS as error:
        return None, f"{type(error).__name__}: {error}"
    least, most = passes.sample_limits
    if len(audio) > most:
        seconds, limit = len(audio) / SAMPLE_RATE, most / SAMPLE_RATE
        return (
            None,
            f"longer than {limit:g} s: {seconds:.1f} s. Give `start` and `end` in a manifest.",
        )
    if len(audio) < least:
        return None, f"shorter than an audio token of {least} samples: {len(audio)} samples"
    if passes.job.text == "transcript" and not utterance.transcript:
        return None, "text='transcript' needs a transcript, found none"
    return audio, ""


def fill(samples: list[SamplesOrReason], transcripts: list[str], batch: int, n_least: int) -> Batch:
    """Fills the places of unusable and missing rows with a usable row.

    Every batch then has the same shape. Without a usable row, `n_least` samples of silence replace
    them.
    """
    rows = [(audio, text) for (audio, _), text in zip(samples, transcripts)]
    usable = ((audio, text) for audio, text in rows if audio is not None)
    filler = next(usable, (np.zeros(n_least, np.float32), ""))
    filled = [filler if audio is None else (audio, text) for audio, text in rows]
    filled += [filler] * (batch - len(rows))
    return [audio for audio, _ in filled], [text for _, text in filled]
