"""Extracts the activations of a corpus into a store, one complete batch after the other."""

import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments.data.corpora import Corpus, Utterance
from experiments.runtime import weights
from experiments.store import integrity, layout, pools
from experiments.store.passes import Activations, Job, Passes
from experiments.store.reading import Store, open as open_store
from experiments.store.writing import Writer
from interventions.storage.atomic import only_writer
from interventions.storage.provenance import provenance
from jaxasr.audio import header_seconds
from jaxasr.config import N_SAMPLES, SAMPLE_RATE
from jaxasr.recogniser import Recogniser

Progress = Callable[[float, float], None]
Samples = tuple[np.ndarray | None, str]  # samples, or None and the reason why there are none
_UNREADABLE = (ValueError, OSError, EOFError)


def extract(
    asr: Recogniser,
    corpus: Corpus,
    out: Path,
    *,
    sites: Sequence[str] = ("encoder.resid_post",),
    pool: pools.Pool | Sequence[pools.Pool] = ("speech", "all"),
    dtype: str = "float32",
    batch: int = 8,
    text: str = "greedy",
    language: str = "en",
    max_new_tokens: int = 224,
    progress: Progress | None = None,
) -> Store:
    """Extracts the activations of every utterance of a corpus into a store.

    After an interruption, the same call continues, and the result is the same to the bit. A
    recording is left out if it cannot be read, is longer than 30 s, or gives activations that are
    not finite: see `Store.problems`.

    Args:
        asr: a recogniser, from `jaxasr.load`.
        corpus: a corpus, from `experiments.data.corpora.open_corpus`.
        out: a new folder, or one where the same extraction was started.
        sites: sites of either stack, with one time axis.
        pool: "speech", "all", "last", positions, "frames", or several of them: see
            `experiments.store.pools.parse`.
        dtype: the stored number format, one of float32, float16, bfloat16, float64.
        batch: recordings per pass. It is one of the settings, because another batch size rounds
            differently.
        text: the text over which decoder sites are read: "greedy", the model's own, or
            "transcript", the corpus's.
        language: the language of the decoder's prompt.
        max_new_tokens: the most tokens of a greedy text.
        progress: called with the number of finished utterances and of all.

    Returns:
        The opened store.

    Raises:
        StoreError: `out` holds a store of another model, corpus or setting, or one that other
            versions left half-written.
        ValueError: an unknown site, pool, dtype or text; values that `dtype` cannot hold; a corpus
            in which no recording can be read.
        BlockingIOError: another process is writing into `out`.

    Example:
        ```python
        speech = store.extract(asr, corpus, "activations", pool="speech")
        X = speech.activations("encoder.resid_post")  # [L, N, D]
        ```
    """
    names, frames = pools.parse(pool)
    pools.check_sites(sites)
    _check_option("dtype", dtype, layout.DTYPES)
    _check_option("text", text, ("greedy", "transcript"))
    decoder_text = text if _reads_decoder(sites) else None
    job = Job(tuple(dict.fromkeys(sites)), names, frames, decoder_text, language, max_new_tokens)
    with only_writer(out):
        group = _open_or_create(asr, corpus, Path(out), job, dtype, batch)
        if not group.attrs["complete"]:
            report = progress or (lambda done, total: None)
            _fill(Writer(group, job, dtype), Passes(asr, job), corpus, batch, report)
    return open_store(out)


def covers(
    path: Path,
    asr: Recogniser,
    corpus: Corpus,
    sites: Sequence[str],
    pool: pools.Pool | Sequence[pools.Pool],
    text: str = "greedy",
) -> bool:
    """Returns whether a finished store at `path` has everything that such an extraction writes.

    The store's other settings, such as `batch`, may differ. See `extract` for the arguments.
    """
    names, frames = pools.parse(pool)
    if not (Path(path) / "zarr.json").is_file():
        return False
    attrs, source = open_store(path).attrs, weights(asr)
    settings, model = attrs["settings"], attrs["model"]
    digest = corpus.sha256(transcripts=settings["text"] == "transcript")
    return bool(
        attrs["complete"]
        and set(sites) <= set(settings["sites"])
        and set(names) <= set(settings["pools"])
        and (settings["frames"] or not frames)
        and all(model[key] == source[key] for key in ("sha256", "dtype"))
        and attrs["corpus"]["sha256"] == digest
        and (settings["text"] == text or not _reads_decoder(sites))
    )


def _reads_decoder(sites: Sequence[str]) -> bool:
    return any(site.startswith("decoder.") for site in sites)


def _check_option(name: str, value: str, options: Sequence[str]) -> None:
    if value not in options:
        raise ValueError(f"{name}: expected one of {', '.join(options)}, got {value!r}.")


def _open_or_create(
    asr: Recogniser, corpus: Corpus, out: Path, job: Job, dtype: str, batch: int
) -> layout.Group:
    """The store, new or as an interruption left it."""
    expected = _identity(asr, corpus, job, dtype, batch)
    group = integrity.open_existing(out)
    if group is not None and "status" in group:
        integrity.check_same(group, expected)
        if not group.attrs["complete"]:
            integrity.check_layout(group, job, asr.config, dtype, batch)
        integrity.remove_partial_files(out)
        return group
    record = provenance(model=weights(asr), data=corpus.name, config=expected["settings"])
    order = _order(Passes(asr, job), corpus.utterances)
    names = [corpus.utterances[i].id for i in order]
    attributes = {**expected, "provenance": record}
    return layout.create(out, attributes, job, asr.config, names, dtype, batch)


def _identity(asr: Recogniser, corpus: Corpus, job: Job, dtype: str, batch: int) -> dict[str, Any]:
    """Everything that decides the store's bits."""
    settings = {
        **dataclasses.asdict(job),
        "sites": list(job.sites),
        "pools": list(job.pools),
        "dtype": dtype,
        "batch": batch,
    }
    if job.text is None:  # no text is generated, so its options do not matter
        del settings["language"], settings["max_new_tokens"]
    digest = corpus.sha256(transcripts=job.text == "transcript")
    return integrity.identity(
        weights(asr) | {"backend": jax.default_backend()},
        {"name": corpus.name, "n": len(corpus), "sha256": digest},
        settings,
    )


def _order(passes: Passes, utterances: Sequence[Utterance]) -> list[int]:
    """The corpus's own order; sorted by length where a batch costs as much as its longest row."""
    job = passes.job
    if job.text == "transcript":
        lengths = [len(passes.encode_transcript(utterance.transcript)) for utterance in utterances]
    elif job.text == "greedy" or job.frames:
        lengths = [_seconds(utterance) for utterance in utterances]
    else:
        lengths = [0] * len(utterances)
    return sorted(range(len(utterances)), key=lengths.__getitem__)


def _seconds(utterance: Utterance) -> float:
    if utterance.start_s is not None and utterance.end_s is not None:
        return utterance.end_s - utterance.start_s
    return header_seconds(utterance.path)


def _fill(writer: Writer, passes: Passes, corpus: Corpus, batch: int, progress: Progress) -> None:
    """Computes and writes the batches that are missing, then completes the store."""
    by_id = {utterance.id: utterance for utterance in corpus.utterances}
    utterances = [by_id[name] for name in writer.names]
    n = len(utterances)
    batches = [range(i, min(i + batch, n)) for i in range(0, n, batch)]
    missing = [rows for rows in batches if not writer.is_done(rows)]
    done = done_before = n - sum(map(len, missing))
    start = time.perf_counter()
    progress(done, n)
    for rows, samples in _read_ahead(missing, utterances, passes.job):
        transcripts = [utterances[i].transcript for i in rows]
        writer.write(rows, *_compute(passes, transcripts, samples, batch))
        done += len(rows)
        progress(done, n)
    seconds = round(time.perf_counter() - start, 3)
    writer.finish({"utterances": done - done_before, "seconds": seconds})


def _read_ahead(
    batches: Sequence[range], utterances: Sequence[Utterance], job: Job
) -> Iterator[tuple[range, list[Samples]]]:
    """Yields each batch with its samples, which are read while the batch before is computed."""

    def read(rows: range) -> list[Samples]:
        return [_read_samples(utterances[i], job) for i in rows]

    with ThreadPoolExecutor(1) as reader:
        pending: Future[list[Samples]] | None = None
        for rows, following in zip(batches, [*batches[1:], None]):
            current = pending or reader.submit(read, rows)
            samples = current.result()
            pending = reader.submit(read, following) if following is not None else None
            yield rows, samples


def _read_samples(utterance: Utterance, job: Job) -> Samples:
    try:
        audio = utterance.samples()
    except _UNREADABLE as error:
        return None, f"{type(error).__name__}: {error}"
    if len(audio) > N_SAMPLES:
        seconds, limit = len(audio) / SAMPLE_RATE, N_SAMPLES / SAMPLE_RATE
        return (
            None,
            f"longer than {limit:g} s: {seconds:.1f} s. Give `start` and `end` in a manifest.",
        )
    if job.text == "transcript" and not utterance.transcript:
        return None, "no transcript, and text='transcript' was asked for"
    return audio, ""


def _compute(
    passes: Passes, transcripts: list[str], samples: list[Samples], batch: int
) -> tuple[Activations, dict[str, list[int]], list[str]]:
    """Activations of one batch, true lengths, and the reason per row why it is left out.

    Unusable rows and padding rows are replaced by a usable one, so that shapes stay fixed.
    """
    rows = [(audio, text) for (audio, _), text in zip(samples, transcripts)]
    usable = ((audio, text) for audio, text in rows if audio is not None)
    filler = next(usable, (np.zeros(1, np.float32), ""))
    filled = [filler if audio is None else (audio, text) for audio, text in rows]
    filled += [filler] * (batch - len(rows))
    acts, lengths = passes.run([audio for audio, _ in filled], [text for _, text in filled])
    problems = [
        problem or passes.explain_missing(lengths, row) for row, (_, problem) in enumerate(samples)
    ]
    return acts, lengths, problems
