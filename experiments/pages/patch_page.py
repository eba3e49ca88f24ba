"""Writes the files of a patching experiment, among them the page index.html."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from jaxtyping import Float

import jaxasr
from experiments.pages.data_uris import audio_uri, png_uri
from experiments.pages.html_templates import environment, flat, policy, template
from interventions.figures import files, maps
from interventions.stats.summary import summarize
from interventions.storage.results import save_result
from interventions.storage.text_files import (
    only_writer,
    printable,
    staging,
    to_json,
    to_json_types,
    write_json,
    write_text,
)
from jaxasr import Recogniser
from jaxasr.config import HOP

MAX_CELLS = 100  # most cells listed on the page and in result.json
TERMINAL_CELLS = 12  # most cells listed in a terminal
_TEXT_CHARS = 60  # most characters of a cell's text in a terminal
METRIC_NAMES = {  # value of --metric: name on the page
    "logit_diff": "logit difference",
    "logprob": "log-probability",
    "kl": "KL divergence",
    "rank": "rank",
    "wer": "word error rate",
    "cer": "character error rate",
    "insertions": "number of inserted words",
    "repeat_span": "number of tokens in the longest repetition",
    "loop": "share of texts that loop",
    "resolved": "share of loops that end",
    "length": "number of tokens",
    "no_speech_prob": "no-speech probability",
    "avg_logprob": "mean log-probability per token",
}

Samples = Float[np.ndarray, "n"]  # samples at 16 kHz


@dataclasses.dataclass(frozen=True)
class PatchPage:
    """Content of the page of an experiment, without the result.

    Attributes:
        model: name of the model.
        targets: names of the patched recordings.
        source_name: the value of `--source`.
        site: site that was patched.
        metric: name of the metric, a key of `METRIC_NAMES`.
        plan: what was computed, in words.
        scored: what was measured, in words.
        texts: words before the scored token, or the unpatched text of each recording.
        target_sound: first patched recording.
        source_sound: first recording that patches were taken from. None if the patches were not
            taken from recordings.
        words: words of the first target, with start and end in seconds. Figures over time show the
            words.
        provenance: model, data, settings and versions that the result was made with.
    """

    model: str
    targets: tuple[str, ...]
    source_name: str
    site: str
    metric: str
    plan: str
    scored: str
    texts: Sequence[str]
    target_sound: Samples
    source_sound: Samples | None
    words: Sequence[maps.Word]
    provenance: dict[str, Any]

    @property
    def facts(self) -> dict[str, Any]:
        """Attributes without the sounds and words, for result.json."""
        omitted = {"target_sound", "source_sound", "words"}
        names = [field.name for field in dataclasses.fields(self) if field.name not in omitted]
        return {name: getattr(self, name) for name in names}

    @property
    def sounds(self) -> dict[str, Samples]:
        """Recordings that the page plays, by name."""
        source = {} if self.source_sound is None else {"source": self.source_sound}
        return {"target": self.target_sound, **source}


def write(
    page: PatchPage,
    result: xr.DataArray | xr.Dataset,
    out: Path,
    record: Callable[[Path], None],
    asr: Recogniser,
) -> dict[str, Any]:
    """Writes all files of an experiment into `out`. The new files replace earlier ones together.

    Args:
        page: content of the page.
        result: metric of each cell, from `sweep` or `sequence_sweep`.
        out: folder of the files.
        record: function that writes the record of the files into a folder (`Output.record`).
        asr: the recogniser. Its tokenizer and its number of mel bins are used.

    Returns:
        The content of result.json.
    """
    has_texts = isinstance(result, xr.Dataset)
    variable = page.metric if has_texts else None
    summary = summarize(result, variable, tokenizer=asr.tokenizer)
    texts = result[["text", "baseline_text"]] if isinstance(result, xr.Dataset) else xr.Dataset()
    figure = maps.plot(
        summary,
        mel=_compute_mel(asr, page.target_sound) if "time" in summary.dims else None,
        words=page.words,
        label=f"change of {METRIC_NAMES[page.metric]}",
    )
    numbers = _collect_numbers(page, summary, texts)
    with only_writer(out), staging(out) as new:
        labelled = summary.merge(texts, combine_attrs="override")
        save_result(labelled, new / "result.zarr", provenance=page.provenance)
        png, _ = (files.save(figure, new / f"figure.{kind}") for kind in ("png", "svg"))
        write_json(new / "result.json", numbers)
        write_text(new / "index.html", render(numbers, png.read_bytes(), page.sounds))
        record(new)
    return numbers


def _compute_mel(asr: Recogniser, sound: Samples) -> Float[np.ndarray, "M F"]:
    """Returns the log-mel features of a recording without padding."""
    n_frames = -(-len(sound) // HOP)
    return np.asarray(jaxasr.log_mel(sound, asr.config.n_mels))[:, :n_frames]


def _collect_numbers(page: PatchPage, summary: xr.Dataset, texts: xr.Dataset) -> dict[str, Any]:
    """Returns the content of result.json."""
    dims = list(summary["mean"].dims)
    coords = [*dims, *(("token",) if "token" in summary.coords else ())]
    per_example = [name for name in ("baseline", "source") if name in summary]
    return to_json_types(
        page.facts
        | {
            "cells": rank_cells(summary, texts),
            "n_tied": count_tied(summary),
            "n_examples": summary.attrs["n_examples"],
            **{name: summary[name].values for name in per_example},
            "summary": {
                "dims": dims,
                "coords": {name: summary[name].values for name in coords},
                "mean": summary["mean"].values,
            },
        }
    )


def rank_cells(summary: xr.Dataset, texts: xr.Dataset, n: int = MAX_CELLS) -> list[dict[str, Any]]:
    """Ranks cells by the size of their mean change.

    Args:
        summary: the result of `summarize`.
        texts: the variable "text" for each cell and example, or an empty dataset.
        n: most cells to return.

    Returns:
        A dictionary per cell. `place` describes the cell in words, `mean` is its mean change, and
        `text` is the text of the first example. Further numbers have the names of the variables of
        `summary`.
    """
    change = summary["mean"]
    rows = []
    for flat_index in _sort_by_size(change)[:n]:
        indices = np.unravel_index(flat_index, change.shape)
        index = {str(dim): int(i) for dim, i in zip(change.dims, indices)}
        numbers = {
            name: float(summary[name].isel(index))
            for name in ("mean", "low", "high", "p_any", "mean_recovery")
            if name in summary
        }
        text = str(texts["text"].isel(index).values.ravel()[0]) if texts else ""
        rows.append({"place": _describe_cell(summary, index), **numbers, "text": text})
    return rows


def count_tied(summary: xr.Dataset) -> int:
    """Counts the cells whose change is as large as the largest change."""
    sizes = np.abs(summary["mean"].values)
    return int(np.isclose(sizes, np.nanmax(sizes), atol=1e-9).sum()) if sizes.size else 0


def _sort_by_size(change: xr.DataArray) -> np.ndarray:
    sizes = np.abs(change.values.ravel())
    return np.argsort(-sizes, kind="stable")  # NaN comes last


def _describe_cell(summary: xr.Dataset, index: dict[str, int]) -> str:
    """Describes a cell in words, such as `layer 2, head 3, 1.5 to 2 s`."""
    parts = []
    for dim, i in index.items():
        value = summary[dim].values[i]
        has_token = "token" in summary.coords and summary.token.dims == ("position",)
        if dim == "time":
            parts.append(f"{value:g} to {value + summary.attrs['window_s']:g} s")
        elif dim == "position" and has_token:
            parts.append(f"position {value} ({str(summary.token.values[i])!r})")
        else:
            parts.append(f"{'α' if dim == 'alpha' else dim} {value:g}")
    return ", ".join(parts)


def render(numbers: dict[str, Any], png: bytes, sounds: dict[str, Samples]) -> str:
    """Renders the page, which loads no other file and runs no script. All texts are escaped.

    Args:
        numbers: content of result.json.
        png: the figure as a PNG file.
        sounds: recordings that the page plays, by name.
    """
    style = "".join(map(template, ("lens.css", "study.css", "patch.css")))
    return (
        environment()
        .get_template("patch.html")
        .render(
            numbers=numbers,
            metric_name=METRIC_NAMES[numbers["metric"]],
            n_left_out=_count_left_out(numbers),
            figure=png_uri(png),
            sounds={name: audio_uri(sound) for name, sound in sounds.items()},
            policy=policy(media=True),
            style=style,
            provenance=flat(numbers["provenance"]),
            has_text=any(cell["text"] for cell in numbers["cells"]),
        )
    )


def _count_left_out(numbers: dict[str, Any]) -> int:
    return np.size(numbers["summary"]["mean"]) - len(numbers["cells"])


def print_result(numbers: dict[str, Any], out: Path, json: bool) -> None:
    """Prints the ranked cells and the path of the page, or with `json` everything as JSON.

    Prints only the first cells in a terminal, but all ranked cells in a file or pipe.
    """
    from experiments.progress import console

    if json:
        print(to_json(numbers | {"page": str(out / "index.html")}))
        return
    for line in ranking_lines(numbers, out, shorten=console().is_terminal):
        print(line)
    print(f"\n{printable(out / 'index.html')}")


def ranking_lines(numbers: dict[str, Any], out: Path, shorten: bool) -> list[str]:
    """Formats the ranked cells, one line per cell.

    Args:
        numbers: the result of `write`.
        out: folder of result.zarr. If cells are left out, a line says that result.zarr has them.
        shorten: whether to list only the first `TERMINAL_CELLS` cells.
    """
    n_cells = int(np.size(numbers["summary"]["mean"]))
    cells = numbers["cells"][: TERMINAL_CELLS if shorten else None]
    lines = [
        printable(numbers["scored"]),
        f"Change of the {METRIC_NAMES[numbers['metric']]}, largest first "
        f"({len(cells)} of {n_cells} cells):",
    ]
    lines += [_format_cell(cell, numbers["n_examples"]) for cell in cells]
    if n_cells > len(cells):
        rest = f"  … {n_cells - len(cells)} more cells, all in {printable(out / 'result.zarr')}"
        lines.append(rest)
    if numbers["n_tied"] > 1:
        lines.append(
            f"  The first {numbers['n_tied']} cells have changes of the same size, "
            "so their order is arbitrary."
        )
    return lines


def _format_cell(cell: dict[str, Any], n_examples: int) -> str:
    if cell["mean"] is None:  # JSON has no NaN
        return printable(f"       none  {cell['place']}")
    interval = f"  [{cell['low']:+.3f}, {cell['high']:+.3f}]" if n_examples > 1 else ""
    text = f"  {cell['text'][:_TEXT_CHARS]}" if cell["text"] else ""
    return printable(f"  {cell['mean']:+9.3f}{interval}  {cell['place']}{text}")
