"""Compares aligned word times with hand-set ones: `python -m experiments.bench alignment`.

Every aligner gets the same TIMIT recordings, transcripts and weights. Results are added to those in
the file of --out, so that aligners can run one at a time.
"""

import importlib.metadata
import json
import tempfile
from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
import typer
from rich.table import Table

from experiments.bench import aligners, machine, options
from experiments.data import real_speech
from jaxasr.config import SAMPLE_RATE

# Kinds of word bounds. A bound is the start or end of a word, and its kind is what is next to it.
BOUND_KINDS = (
    "first start",
    "start after a pause",
    "end at a word",
    "start at a word",
    "end before a pause",
    "last end",
)
_PAUSE_S = 0.02  # seconds, one frame; only a longer gap between words is a pause
Times = Sequence[tuple[str, float, float]]  # words with start and end in seconds


def normalise_word(word: str) -> str:
    """Normalises a word to lower-case letters and digits, as in hand-set alignments.

    Example:
        >>> normalise_word("Don't!")
        'dont'
    """
    return "".join(char for char in word.casefold() if char.isalnum())


def errors(times: Times, reference: Times) -> dict[str, list[float]] | None:
    """Computes the errors of word bounds.

    Args:
        times: aligned words. Words without letters and digits are ignored.
        reference: words with hand-set times.

    Returns:
        Errors in seconds by kind of bound, positive if the aligned bound is late. None if the words
        differ from the reference.

    Example:
        >>> reference = [("she", 0.1, 0.3), ("had", 0.3, 0.5)]
        >>> errors([("She", 0.1, 0.3), ("had.", 0.3, 0.5)], reference)["first start"]
        [0.0]
    """
    times = [word for word in times if normalise_word(word[0])]
    texts, true_texts = ([normalise_word(word[0]) for word in row] for row in (times, reference))
    if texts != true_texts:
        return None
    differences: dict[str, list[float]] = {kind: [] for kind in BOUND_KINDS}
    for i, ((_, start, end), (_, true_start, true_end)) in enumerate(zip(times, reference)):
        differences[_find_start_kind(i, reference)].append(start - true_start)
        differences[_find_end_kind(i, reference)].append(end - true_end)
    return differences


def _find_start_kind(i: int, words: Times) -> str:
    if i == 0:
        return "first start"
    return "start after a pause" if words[i][1] - words[i - 1][2] > _PAUSE_S else "start at a word"


def _find_end_kind(i: int, words: Times) -> str:
    if i == len(words) - 1:
        return "last end"
    return "end before a pause" if words[i + 1][1] - words[i][2] > _PAUSE_S else "end at a word"


def summary(clips: Sequence[dict[str, list[float]] | None]) -> dict[str, Any]:
    """Summarises the errors of several recordings.

    Args:
        clips: result of `errors` for each recording. None counts as left out.

    Returns:
        `n_clips`, `left_out` and `n_words`, and statistics in ms for the bounds "start", "end",
        "both", and each of `BOUND_KINDS`.
    """
    matched = [clip for clip in clips if clip is not None]
    pooled = {kind: [error for clip in matched for error in clip[kind]] for kind in BOUND_KINDS}
    starts = [error for kind in BOUND_KINDS if "start" in kind for error in pooled[kind]]
    ends = [error for kind in BOUND_KINDS if "end" in kind for error in pooled[kind]]
    groups = {"start": starts, "end": ends, "both": starts + ends, **pooled}
    return {
        "n_clips": len(matched),
        "left_out": len(clips) - len(matched),
        "n_words": len(starts),
        **{name: _compute_statistics(values) for name, values in groups.items() if values},
    }


def _compute_statistics(values: Sequence[float]) -> dict[str, float]:
    errors_ms = 1000 * np.array(values)
    sizes = np.abs(errors_ms)
    return {
        "n": len(values),
        "median_ms": float(np.median(sizes)),
        "p90_ms": float(np.percentile(sizes, 90)),
        "bias_ms": float(np.median(errors_ms)),
        "within_50_ms": float((sizes <= 50).mean()),
        "within_100_ms": float((sizes <= 100).mean()),
    }


def read_recordings(n: int | None) -> list[dict[str, Any]]:
    """Returns the TIMIT recordings of the data folder.

    Args:
        n: number of recordings, spread over the speakers. None: all.

    Returns:
        A dictionary per recording: `path`, `text`, and `words` with their hand-set start and end in
        seconds.
    """
    aligned = {row["path"]: row["words"] for row in real_speech.rows("timit_align")}
    recordings = [
        recording
        for recording in real_speech.recordings(("timit",), labelled=True)
        if recording.labels["path"] in aligned
    ]
    if not recordings:
        raise typer.BadParameter(
            "expected a data folder with timit_align.jsonl. Name one with --data or JAXASR_DATA."
        )
    if n is not None:
        recordings = real_speech.select_evenly(
            recordings, n, lambda recording: recording.labels["speaker"]
        )
    return [
        {
            "path": str(recording.path),
            "text": recording.transcript,
            "words": [
                (word, start / SAMPLE_RATE, end / SAMPLE_RATE)
                for start, end, word in aligned[recording.labels["path"]]
            ],
        }
        for recording in recordings
    ]


def measure(
    model: str, rows: list[dict[str, Any]], choose_on: int, aligner: str
) -> dict[str, dict[str, Any]]:
    """Measures the errors of an aligner.

    Args:
        model: name of the model.
        rows: the recordings, from `read_recordings`.
        choose_on: number of LibriSpeech recordings on which heads are chosen.
        aligner: a key of `experiments.bench.aligners.ALIGNERS`.

    Returns:
        By name of the aligner, its heads and the result of `summary`. jaxasr has one name per set
        of heads.
    """
    libri = real_speech.recordings(("libri_train100",))
    head_choice_paths = [str(clip.path) for clip in real_speech.select_evenly(libri, choose_on)]
    if not head_choice_paths:
        print("Chooses heads on the demo recording: the data folder has no libri_train100.")
    with tempfile.TemporaryDirectory() as scratch:
        job = {
            "model": model,
            "folder": scratch,
            "choose_on": head_choice_paths or [str(real_speech.DEMO)],
        }
        texts = [{"path": row["path"], "text": row["text"]} for row in rows]
        results = aligners.run(aligner, job, texts)
    return {
        name: {
            "heads": result["heads"],
            **summary([errors(times, row["words"]) for times, row in zip(result["times"], rows)]),
        }
        for name, result in results.items()
    }


def table(model: str, results: dict[str, dict[str, Any]]) -> Table:
    """Returns the table of one model, with a row per aligner and times in ms."""
    columns = ("aligner", "heads", "words", "start", "end", "both", "90 %", "bias", "≤ 50 ms")
    rows = Table(*columns, title=model, box=None, pad_edge=False)
    for name, result in results.items():
        both, heads = result["both"], result["heads"]
        head_names = " ".join(f"{layer}.{head}" for layer, head in heads)
        rows.add_row(
            name,
            head_names if len(heads) < 20 else str(len(heads)),
            str(result["n_words"]),
            *(f"{result[part]['median_ms']:.0f}" for part in ("start", "end", "both")),
            f"{both['p90_ms']:.0f}",
            f"{both['bias_ms']:+.0f}",
            f"{100 * both['within_50_ms']:.0f} %",
        )
    return rows


def main(
    model: Annotated[
        list[str] | None, typer.Option(help="tiny.en or base; may be repeated. Default: both.")
    ] = None,
    n_clips: Annotated[
        int | None, typer.Option("--clips", help="TIMIT recordings. Default: all.")
    ] = None,
    choose_on: Annotated[
        int, typer.Option(help="LibriSpeech recordings on which heads are chosen.")
    ] = 24,
    only: Annotated[
        list[str] | None,
        typer.Option(
            help=f"One of {', '.join(aligners.ALIGNERS)}; may be repeated. Default: all "
            "that are installed."
        ),
    ] = None,
    data: options.Data = None,
    out: options.Out = None,
) -> None:
    """Measures how far aligned word times are from the hand-set times of TIMIT."""
    options.set_data_folder(data)
    console = options.make_console(140)
    if unknown := set(only or ()) - aligners.ALIGNERS.keys():
        raise typer.BadParameter(
            f"--only {min(unknown)}: expected one of {', '.join(aligners.ALIGNERS)}."
        )
    rows = read_recordings(n_clips)
    report = machine.report(
        machine.describe_machine(), config={"clips": len(rows), "choose_on": choose_on}
    )
    report["versions"] |= {name: importlib.metadata.version(name) for name in aligners.installed()}
    # Each result records its command, time and commit, because the file may contain results of
    # other runs.
    origin = {"made": {key: report.get(key) for key in ("command", "time", "commit")}}
    results = json.loads(out.read_text())["alignment"] if out and out.exists() else {}
    for name in model or ["tiny.en", "base"]:
        for aligner in only or aligners.installed():
            measured = measure(name, rows, choose_on, aligner)
            model_results = results.setdefault(name, {})
            model_results |= {key: {**result, **origin} for key, result in measured.items()}
            options.save(out, {**report, "alignment": results})
        console.print(table(name, results[name]))
