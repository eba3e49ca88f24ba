"""Word times of a given text against hand-set ones: `python -m experiments.bench alignment --model tiny.en --model base`.

Every aligner reads the same TIMIT recordings, the same transcripts and the same weights. Results of other models and
aligners that --out holds already are kept, so that the aligners may be run one at a time.
"""

import importlib.metadata
import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from experiments.bench import aligners, machine
from experiments.data import real_speech
from jaxasr.config import SAMPLE_RATE

# A word bound, by what lies before a start and after an end.
PLACES = (
    "first start",
    "start after a pause",
    "end at a word",
    "start at a word",
    "end before a pause",
    "last end",
)
_PAUSE_S = 0.02
Times = Sequence[tuple[str, float, float]]  # words with start and end in seconds


def spelled(word: str) -> str:
    """Letters and digits only: transcripts have capitals and punctuation, hand alignments have not."""
    return "".join(char for char in word.casefold() if char.isalnum())


def errors(found: Times, reference: Times) -> dict[str, list[float]] | None:
    """Returns found less reference bounds in seconds by place; None when the words are not the same ones."""
    found = [word for word in found if spelled(word[0])]
    if [spelled(word[0]) for word in found] != [spelled(word[0]) for word in reference]:
        return None
    differences: dict[str, list[float]] = {place: [] for place in PLACES}
    for i, ((_, start, end), (_, true_start, true_end)) in enumerate(zip(found, reference)):
        differences[_start_place(i, reference)].append(start - true_start)
        differences[_end_place(i, reference)].append(end - true_end)
    return differences


def _start_place(i: int, words: Times) -> str:
    if i == 0:
        return "first start"
    return "start after a pause" if words[i][1] - words[i - 1][2] > _PAUSE_S else "start at a word"


def _end_place(i: int, words: Times) -> str:
    if i == len(words) - 1:
        return "last end"
    return "end before a pause" if words[i + 1][1] - words[i][2] > _PAUSE_S else "end at a word"


def summary(clips: Sequence[dict[str, list[float]] | None]) -> dict[str, Any]:
    """Median, 90th percentile and bias in ms, of starts, ends, both, and each place; clips with other words are left out."""
    read = [clip for clip in clips if clip is not None]
    pooled = {place: [error for clip in read for error in clip[place]] for place in PLACES}
    starts = [error for place in PLACES if "start" in place for error in pooled[place]]
    ends = [error for place in PLACES if "end" in place for error in pooled[place]]
    groups = {"start": starts, "end": ends, "both": starts + ends, **pooled}
    return {
        "n_clips": len(read),
        "left_out": len(clips) - len(read),
        "n_words": len(starts),
        **{name: _numbers(values) for name, values in groups.items() if values},
    }


def _numbers(values: Sequence[float]) -> dict[str, float]:
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


def clips(n: int | None) -> list[dict[str, Any]]:
    """TIMIT recordings with transcript and hand-set word bounds: path, text, words."""
    aligned = {row["path"]: row["words"] for row in real_speech.rows("timit_align")}
    known = [
        one
        for one in real_speech.recordings(("timit",), labelled=True)
        if one.labels["path"] in aligned
    ]
    if not known:
        raise typer.BadParameter("expected a data folder with timit_align.jsonl, see --data.")
    chosen = known if n is None else real_speech.spread(known, n, lambda one: one.labels["speaker"])
    return [
        {
            "path": str(one.path),
            "text": one.transcript,
            "words": [
                (word, start / SAMPLE_RATE, end / SAMPLE_RATE)
                for start, end, word in aligned[one.labels["path"]]
            ],
        }
        for one in chosen
    ]


def measure(
    model: str, rows: list[dict[str, Any]], choose_on: int, aligner: str
) -> dict[str, dict[str, Any]]:
    """The results of an aligner; ours has several, by its heads."""
    others = [
        str(one.path)
        for one in real_speech.spread(real_speech.recordings(("libri_train100",)), choose_on)
    ] or [str(real_speech.DEMO)]
    with tempfile.TemporaryDirectory() as scratch:
        job = {"model": model, "folder": scratch, "choose_on": others}
        found = aligners.run(
            aligner, job, [{"path": row["path"], "text": row["text"]} for row in rows]
        )
    return {
        name: {
            "heads": one["heads"],
            **summary([errors(times, row["words"]) for times, row in zip(one["times"], rows)]),
        }
        for name, one in found.items()
    }


def table(model: str, found: dict[str, dict[str, Any]]) -> Table:
    shown = Table(
        "aligner",
        "heads",
        "words",
        "start",
        "end",
        "both",
        "90 %",
        "bias",
        "≤ 50 ms",
        title=model,
        box=None,
        pad_edge=False,
    )
    for name, row in found.items():
        both, heads = row["both"], row["heads"]
        shown.add_row(
            name,
            " ".join(f"{layer}.{head}" for layer, head in heads)
            if len(heads) < 20
            else str(len(heads)),
            str(row["n_words"]),
            *(f"{row[part]['median_ms']:.0f}" for part in ("start", "end", "both")),
            f"{both['p90_ms']:.0f}",
            f"{both['bias_ms']:+.0f}",
            f"{100 * both['within_50_ms']:.0f} %",
        )
    return shown


def main(
    model: Annotated[
        list[str] | None, typer.Option(help="tiny.en or base; repeatable. Default: both.")
    ] = None,
    clips_: Annotated[
        int | None, typer.Option("--clips", help="TIMIT recordings. Default: all.")
    ] = None,
    choose_on: Annotated[
        int, typer.Option(help="LibriSpeech recordings, other speakers, to choose heads on.")
    ] = 24,
    only: Annotated[
        list[str] | None,
        typer.Option(
            help=f"Of {', '.join(aligners.ALIGNERS)}; repeatable. Default: all installed."
        ),
    ] = None,
    data_: Annotated[
        Path | None,
        typer.Option("--data", help="A folder with manifest.jsonl and timit_align.jsonl."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="A file for the numbers, JSON.")] = None,
) -> None:
    """Errors of word bounds on TIMIT, in ms: medians of starts, ends and both, 90th percentile and bias of both."""
    if data_:
        os.environ["JAXASR_DATA"] = str(data_)
    if unknown := set(only or ()) - aligners.ALIGNERS.keys():
        raise typer.BadParameter(
            f"--only {min(unknown)}: expected one of {', '.join(aligners.ALIGNERS)}."
        )
    rows, console = clips(clips_), Console(width=None if Console().is_terminal else 140)
    head = machine.report(machine.described(), config={"clips": len(rows), "choose_on": choose_on})
    head["versions"] |= {name: importlib.metadata.version(name) for name in aligners.installed()}
    kept = json.loads(out.read_text())["alignment"] if out and out.exists() else {}
    for name in model or ["tiny.en", "base"]:
        for aligner in only or aligners.installed():
            found = measure(name, rows, choose_on, aligner)
            kept[name] = {
                **kept.get(name, {}),
                **{key: {**one, **run(head)} for key, one in found.items()},
            }
            if out:
                out.write_text(json.dumps({**head, "alignment": kept}, indent=1))
        console.print(table(name, kept[name]))


def run(head: dict[str, Any]) -> dict[str, Any]:
    """What made a result, as it may lie beside results of other runs."""
    return {"made": {key: head.get(key) for key in ("command", "time", "commit")}}
