"""Writes the files of a patching experiment: arrays, numbers, figure and page."""

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
    plain,
    printable,
    staging,
    to_json,
    write_json,
    write_text,
)
from jaxasr import Recogniser
from jaxasr.config import HOP

MAX_CELLS = 100  # in the page and in result.json
TERMINAL_CELLS = 12
METRIC_NAMES = {
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

Sound = Float[np.ndarray, "n"]


@dataclasses.dataclass(frozen=True)
class PatchPage:
    """Content of the page of an experiment, without its result.

    Attributes:
        model: name of the model.
        targets: names of the patched recordings.
        source_name: the source, as `--source`.
        site: site that was patched.
        metric: name of the metric, a key of `METRIC_NAMES`.
        plan: what was computed, in words.
        scored: what was measured, in words.
        texts: words before the scored token, or the unpatched text of each recording.
        target_sound: first patched recording, 16 kHz.
        source_sound: first recording that patches were taken from, if the source is sound.
        words: word, start and end in seconds, for maps over time.
        provenance: how the result was made.
    """

    model: str
    targets: tuple[str, ...]
    source_name: str
    site: str
    metric: str
    plan: str
    scored: str
    texts: Sequence[str]
    target_sound: Sound
    source_sound: Sound | None
    words: Sequence[maps.Word]
    provenance: dict[str, Any]

    @property
    def facts(self) -> dict[str, Any]:
        """Plain values of the page, without sound."""
        sounds = {"target_sound", "source_sound", "words"}
        names = [field.name for field in dataclasses.fields(self) if field.name not in sounds]
        return {name: getattr(self, name) for name in names}

    @property
    def sounds(self) -> dict[str, Sound]:
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
    """Writes result.zarr, figure.png, figure.svg, result.json and index.html into `out`.

    Args:
        page: content of the page.
        result: metric of each cell, from `sweep` or `sequence_sweep`.
        out: folder of the files; they replace earlier ones together.
        record: writes what made the files into the folder that will replace them.
        asr: the recogniser, for its tokenizer and its mel bins.

    Returns:
        The content of result.json.
    """
    of_texts = isinstance(result, xr.Dataset)
    variable = page.metric if of_texts else None
    summary = summarize(result, variable, tokenizer=asr.tokenizer)
    texts = result[["text", "baseline_text"]] if isinstance(result, xr.Dataset) else xr.Dataset()
    figure = maps.plot(
        summary,
        mel=_mel(asr, page.target_sound) if "time" in summary.dims else None,
        words=page.words,
        label=f"change of {METRIC_NAMES[page.metric]}",
    )
    numbers = _numbers(page, summary, texts)
    with only_writer(out), staging(out) as new:
        labelled = summary.merge(texts, combine_attrs="override")
        save_result(labelled, new / "result.zarr", provenance=page.provenance)
        png, _ = (files.save(figure, new / f"figure.{kind}") for kind in ("png", "svg"))
        write_json(new / "result.json", numbers)
        write_text(new / "index.html", render(numbers, png.read_bytes(), page.sounds))
        record(new)
    return numbers


def _mel(asr: Recogniser, sound: Sound) -> Float[np.ndarray, "M F"]:
    n_frames = -(-len(sound) // HOP)
    return np.asarray(jaxasr.log_mel(sound, asr.config.n_mels))[:, :n_frames]


def _numbers(page: PatchPage, summary: xr.Dataset, texts: xr.Dataset) -> dict[str, Any]:
    """Returns the content of result.json."""
    dims = list(summary["mean"].dims)
    coords = [*dims, *(("token",) if "token" in summary.coords else ())]
    per_example = [name for name in ("baseline", "source") if name in summary]
    return plain(
        page.facts
        | {
            "cells": largest(summary, texts),
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


def largest(summary: xr.Dataset, texts: xr.Dataset, n: int = MAX_CELLS) -> list[dict[str, Any]]:
    """Ranks cells by the size of their mean change.

    Args:
        summary: what `summarize` returned.
        texts: "text" of each cell and example, or empty.
        n: most cells to return.

    Returns:
        Per cell: its `place` in words, `mean` and further numbers, and the first `text`.
    """
    change = summary["mean"]
    rows = []
    for flat_index in _ranking(change)[:n]:
        places = np.unravel_index(flat_index, change.shape)
        index = {str(dim): int(i) for dim, i in zip(change.dims, places)}
        numbers = {
            name: float(summary[name].isel(index))
            for name in ("mean", "low", "high", "p_any", "mean_recovery")
            if name in summary
        }
        text = str(texts["text"].isel(index).values.ravel()[0]) if texts else ""
        rows.append({"place": _place(summary, index), **numbers, "text": text})
    return rows


def count_tied(summary: xr.Dataset) -> int:
    """Counts the cells that share the first place of the ranking."""
    sizes = np.abs(summary["mean"].values)
    return int(np.isclose(sizes, np.nanmax(sizes), atol=1e-9).sum()) if sizes.size else 0


def _ranking(change: xr.DataArray) -> np.ndarray:
    sizes = np.abs(change.values.ravel())
    return np.argsort(-sizes, kind="stable")  # NaN comes last


def _place(summary: xr.Dataset, index: dict[str, int]) -> str:
    """Describes a cell, such as `layer 2, head 3, 1.5 to 2 s`."""
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


def render(numbers: dict[str, Any], png: bytes, sounds: dict[str, Sound]) -> str:
    """Renders the page. It opens from disk, loads nothing and runs no script; texts are escaped."""
    style = "".join(map(template, ("lens.css", "study.css", "patch.css")))
    return (
        environment()
        .get_template("patch.html")
        .render(
            numbers=numbers,
            metric_name=METRIC_NAMES[numbers["metric"]],
            n_left_out=_n_left_out(numbers),
            figure=png_uri(png),
            sounds={name: audio_uri(sound) for name, sound in sounds.items()},
            policy=policy(media=True),
            style=style,
            provenance=flat(numbers["provenance"]),
            has_text=any(cell["text"] for cell in numbers["cells"]),
        )
    )


def _n_left_out(numbers: dict[str, Any]) -> int:
    return np.size(numbers["summary"]["mean"]) - len(numbers["cells"])


def print_result(numbers: dict[str, Any], out: Path, json: bool) -> None:
    """Prints the ranked cells and the path of the page, or everything as JSON.

    On a terminal only the first cells are printed, and how many follow.
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
        numbers: what `write` returned.
        out: folder of result.zarr, named if cells are left out.
        shorten: whether only the first `TERMINAL_CELLS` cells are listed.
    """
    n_all = int(np.size(numbers["summary"]["mean"]))
    cells = numbers["cells"][: TERMINAL_CELLS if shorten else None]
    lines = [
        printable(numbers["scored"]),
        f"Change of the {METRIC_NAMES[numbers['metric']]}, largest first "
        f"({len(cells)} of {n_all} cells):",
    ]
    lines += [_cell_line(cell, numbers["n_examples"]) for cell in cells]
    if n_all > len(cells):
        rest = f"  … {n_all - len(cells)} more cells, all in {printable(out / 'result.zarr')}"
        lines.append(rest)
    if numbers["n_tied"] > 1:
        lines.append(
            f"  The first {numbers['n_tied']} cells are tied: their order carries no meaning."
        )
    return lines


def _cell_line(cell: dict[str, Any], n_examples: int) -> str:
    if cell["mean"] is None:
        return printable(f"       none  {cell['place']}")
    interval = f"  [{cell['low']:+.3f}, {cell['high']:+.3f}]" if n_examples > 1 else ""
    text = f"  {cell['text'][:60]}" if cell["text"] else ""
    return printable(f"  {cell['mean']:+9.3f}{interval}  {cell['place']}{text}")
