"""Streaming a corpus through a model into a store: batch after batch, each either wholly there or not at all."""

import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments.data.corpora import Corpus, Utterance
from experiments.runtime import weights
from experiments.store import layout, pools
from experiments.store.passes import Job, Passes
from experiments.store.reading import Store, open as open_store
from experiments.store.writing import Writer
from interventions.storage.atomic import only_writer
from interventions.storage.provenance import provenance
from jaxasr.audio import header_seconds
from jaxasr.config import N_SAMPLES, SAMPLE_RATE

Progress = Callable[[float, float], None]
_UNREADABLE = (ValueError, OSError, EOFError)


def extract(
    asr: Any,
    corpus: Corpus,
    out: Path,
    *,
    sites: Sequence[str] = ("encoder.resid_post",),
    pool: str | int | Sequence[str | int] = ("speech", "all"),
    dtype: str = "float32",
    batch: int = 8,
    text: str = "greedy",
    language: str = "en",
    max_new_tokens: int = 224,
    progress: Progress | None = None,
) -> Store:
    """Writes the activations of every utterance of `corpus` at `sites` into a store at `out`, and gives it opened.

    Called again after any interruption it goes on where it was, and the result is the same to the bit. A recording that cannot be
    read, is longer than 30 s, or gives activations that are not finite is left out: see `Store.problems`.

    Args:
        asr: a recogniser (`jaxasr.load`).
        corpus: see `experiments.data.corpora.open_corpus`.
        out: a new folder, or one where the same extraction was begun.
        sites: of either stack, those with one time axis.
        pool: "speech", "all", "last", positions, "frames", or several: see `experiments.store.pools.parse`.
        dtype: what is stored, one of float32, float16, bfloat16, float64.
        batch: recordings in a pass. Part of the settings: another batch rounds differently.
        text: what decoder sites are read over: "greedy", the model's own transcript, or "transcript", the corpus's.
        language: of the decoder's prompt.
        max_new_tokens: of a greedy transcript.
        progress: called with utterances done and utterances in all.

    Raises:
        StoreError: `out` holds another model's, corpus's or setting's store, or one half-written by other versions.
        ValueError: an unknown site, pool, dtype or text; values that `dtype` cannot hold; a corpus of which nothing can be read.
        BlockingIOError: another process is writing into `out`.
    """
    names, frames = pools.parse(pool)
    pools.check_sites(sites)
    _check_one_of("dtype", dtype, layout.DTYPES)
    _check_one_of("text", text, ("greedy", "transcript"))
    said = any(site.startswith("decoder.") for site in sites)
    job = Job(
        tuple(dict.fromkeys(sites)), names, frames, text if said else None, language, max_new_tokens
    )
    with only_writer(out):
        group = _begun(asr, corpus, Path(out), job, dtype, batch)
        if not group.attrs["complete"]:
            _fill(
                Writer(group, job, dtype),
                Passes(asr, job),
                corpus,
                batch,
                progress or (lambda done, total: None),
            )
    return open_store(out)


def covers(
    path: Path,
    asr: Any,
    corpus: Corpus,
    sites: Sequence[str],
    pool: Sequence[str | int],
    text: str = "greedy",
) -> bool:
    """Whether a finished store at `path` has all that an extraction with these settings would write; other settings of it may differ."""
    names, frames = pools.parse(pool)
    if not (Path(path) / "zarr.json").is_file():
        return False
    there = open_store(path).attrs
    settings = there["settings"]
    said = any(site.startswith("decoder.") for site in sites)
    wants = (
        set(sites) <= set(settings["sites"])
        and set(names) <= set(settings["pools"])
        and (settings["frames"] or not frames)
    )
    same = (
        there["model"]["sha256"] == weights(asr)["sha256"]
        and there["model"]["dtype"] == weights(asr)["dtype"]
    )
    transcripts = settings["text"] == "transcript"
    same = (
        same
        and there["corpus"]["sha256"] == corpus.sha256(transcripts=transcripts)
        and (not said or settings["text"] == text)
    )
    return bool(there["complete"] and wants and same)


def _check_one_of(name: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        raise ValueError(f"{name}: expected one of {', '.join(known)}, got {value!r}.")


def _begun(asr: Any, corpus: Corpus, out: Path, job: Job, dtype: str, batch: int) -> layout.Group:
    """The store, new or as an interruption left it."""
    settings = {
        **dataclasses.asdict(job),
        "sites": list(job.sites),
        "pools": list(job.pools),
        "dtype": dtype,
        "batch": batch,
    }
    if job.text is None:  # nothing is written, however it would be
        settings = {
            key: value
            for key, value in settings.items()
            if key not in ("language", "max_new_tokens")
        }
    model = weights(asr) | {"backend": jax.default_backend()}
    of = {
        "name": corpus.name,
        "n": len(corpus),
        "sha256": corpus.sha256(transcripts=job.text == "transcript"),
    }
    wanted = layout.identity(model, of, settings)
    group = layout.existing(out)
    if group is not None and "status" in group:
        layout.check_same(group, wanted)
        if not group.attrs["complete"]:
            layout.check_layout(group, job, asr.config, dtype, batch)
        layout.sweep_up(out)
        return group
    order = _order(Passes(asr, job), corpus.utterances)
    known = {"provenance": provenance(model=weights(asr), data=corpus.name, config=settings)}
    return layout.create(
        out,
        {**wanted, **known},
        job,
        asr.config,
        [corpus.utterances[i].id for i in order],
        dtype,
        batch,
    )


def _order(passes: Passes, utterances: Sequence[Utterance]) -> list[int]:
    """The corpus's own order; by length where the length of a batch decides what it costs."""
    job = passes.job
    if job.text == "transcript":
        lengths = [len(passes.encode(one.transcript)) for one in utterances]
    elif job.text == "greedy" or job.frames:
        lengths = [_seconds(one) for one in utterances]
    else:
        lengths = [0] * len(utterances)
    return sorted(range(len(utterances)), key=lengths.__getitem__)


def _seconds(one: Utterance) -> float:
    if one.start_s is not None and one.end_s is not None:
        return one.end_s - one.start_s
    return header_seconds(one.path)


def _fill(writer: Writer, passes: Passes, corpus: Corpus, batch: int, progress: Progress) -> None:
    by_id = {one.id: one for one in corpus.utterances}
    rows = [by_id[name] for name in writer.names]
    spans = [range(i, min(i + batch, len(rows))) for i in range(0, len(rows), batch)]
    todo = [span for span in spans if not writer.is_done(span)]
    done = before = len(rows) - sum(map(len, todo))
    start = time.perf_counter()
    progress(done, len(rows))

    def read(span: range) -> Sounds:
        return [_sound(rows[i], passes) for i in span]

    for span, sounds in _ahead(todo, read):
        writer.write(span, *_activations(passes, [rows[i].transcript for i in span], sounds, batch))
        done += len(span)
        progress(done, len(rows))
    writer.finish({"utterances": done - before, "seconds": round(time.perf_counter() - start, 3)})


Sounds = list[tuple[np.ndarray | None, str]]


def _ahead(
    todo: Sequence[range], read: Callable[[range], Sounds]
) -> Iterator[tuple[range, Sounds]]:
    """The sounds of each batch, read while the batch before it is computed."""
    with ThreadPoolExecutor(1) as reader:
        coming = None
        for span in [*todo, None]:
            now, coming = coming, span and (span, reader.submit(read, span))
            if now:
                yield now[0], now[1].result()


def _sound(one: Utterance, passes: Passes) -> tuple[np.ndarray | None, str]:
    """Samples, or None and why there are none."""
    try:
        audio = one.samples()
    except _UNREADABLE as error:
        return None, f"{type(error).__name__}: {error}"
    if len(audio) > N_SAMPLES:
        limit = f"{N_SAMPLES / SAMPLE_RATE:g} s"
        return (
            None,
            f"longer than {limit}: {len(audio) / SAMPLE_RATE:.1f} s. Give `start` and `end` in a manifest.",
        )
    if passes.job.text == "transcript" and not one.transcript:
        return None, "no transcript, and text='transcript' was asked for"
    return audio, ""


def _activations(
    passes: Passes, transcripts: list[str], sounds: Sounds, batch: int
) -> tuple[Any, Any, list[str]]:
    """Of a batch. Another row sounds in place of one that cannot be used, and in those that fill up the last batch."""
    usable = next(
        ((audio, text) for (audio, _), text in zip(sounds, transcripts) if audio is not None), None
    )
    filler = usable or (np.zeros(1, np.float32), "")
    rows = [
        filler if audio is None else (audio, text) for (audio, _), text in zip(sounds, transcripts)
    ]
    rows += [filler] * (batch - len(rows))
    acts, lengths = passes.run(*zip(*rows))
    problems = [problem or passes.missing(lengths, row) for row, (_, problem) in enumerate(sounds)]
    return acts, lengths, problems
