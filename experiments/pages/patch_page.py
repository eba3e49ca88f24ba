"""What a patching experiment found, as files: labelled arrays, numbers, a figure and a page; and as a few lines for a terminal."""

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from experiments.pages.data_uris import audio_uri, png_uri
from experiments.pages.lens_page import environment, flat, template
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

POLICY = "default-src 'none'; img-src data:; media-src data:; style-src 'unsafe-inline'"
SHOWN = 12  # cells in the table


def write(
    result: xr.DataArray | xr.Dataset, out: Path, record: Callable[[Path], None], *, metric: str, tokenizer: Any, facts: dict[str, Any],
    sounds: dict[str, np.ndarray], mel: np.ndarray, words: Sequence[maps.Word], provenance: dict[str, Any],
) -> dict[str, Any]:  # fmt: skip
    """Writes result.zarr, figure.png, figure.svg, result.json and index.html into `out`; returns what result.json holds.

    record: writes what made the files into the folder that will replace them.
    facts: rows of the page's table; sounds: recordings that it plays, by name, 16 kHz; mel: of the first, for maps over time.
    """
    summary = (
        summarize(result, metric, tokenizer=tokenizer)
        if isinstance(result, xr.Dataset)
        else summarize(result, tokenizer=tokenizer)
    )
    texts = result[["text", "baseline_text"]] if isinstance(result, xr.Dataset) else xr.Dataset()
    drawn = maps.plot(
        summary,
        mel=mel if "time" in summary.dims else None,
        words=words,
        label=f"change of {metric}",
    )
    found = facts | {"metric": metric, "cells": largest(summary, texts), "provenance": provenance}
    found["n_examples"] = summary.attrs["n_examples"]
    found |= {name: summary[name].values for name in ("baseline", "source") if name in summary}
    found = plain(found | {"summary": _values(summary)})
    with only_writer(out), staging(out) as new:
        save_result(
            summary.merge(texts, combine_attrs="override"),
            new / "result.zarr",
            provenance=provenance,
        )
        png, _ = (files.save(drawn, new / f"figure.{kind}") for kind in ("png", "svg"))
        write_json(new / "result.json", found)
        write_text(new / "index.html", render(found, png.read_bytes(), sounds))
        record(new)
    return found


def largest(summary: xr.Dataset, texts: xr.Dataset, n: int = SHOWN) -> list[dict[str, Any]]:
    """The cells with the largest mean change, each with its place in words, its numbers, and the first text written there."""
    change = summary["mean"]
    order = np.argsort(-np.abs(change.values.ravel()), kind="stable")[:n]
    rows = []
    for flat_index in order:
        at = dict(zip(change.dims, map(int, np.unravel_index(flat_index, change.shape))))
        numbers = {
            name: float(summary[name].isel(at))
            for name in ("mean", "low", "high", "p_any", "mean_recovery")
            if name in summary
        }
        text = str(texts["text"].isel(at).values.ravel()[0]) if texts else ""
        rows.append({"place": _place(summary, at), **numbers, "text": text})
    return rows


def _place(summary: xr.Dataset, at: dict[str, int]) -> str:
    """`layer 2, head 3, 1.5 to 2 s`."""
    parts = []
    for dim, i in at.items():
        value = summary[dim].values[i]
        if dim == "time":
            parts.append(f"{value:g} to {value + summary.attrs['window_s']:g} s")
        elif (
            dim == "position" and "token" in summary.coords and summary.token.dims == ("position",)
        ):
            parts.append(f"position {value} ({str(summary.token.values[i])!r})")
        else:
            parts.append(f"{'α' if dim == 'alpha' else dim} {value:g}")
    return ", ".join(parts)


def _values(summary: xr.Dataset) -> dict[str, Any]:
    dims = list(summary["mean"].dims)
    named = itertools.chain(dims, ("token",) if "token" in summary.coords else ())
    return {
        "dims": dims,
        "coords": {name: summary[name].values for name in named},
        "mean": summary["mean"].values,
    }


def render(found: dict[str, Any], png: bytes, sounds: dict[str, np.ndarray]) -> str:
    """The page: it opens from disk, loads nothing and runs no script. All text is escaped."""
    return (
        environment()
        .get_template("patch.html")
        .render(
            found=found,
            figure=png_uri(png),
            sounds={name: audio_uri(sound) for name, sound in sounds.items()},
            policy=POLICY,
            style=template("lens.css") + template("study.css"),
            provenance=flat(found["provenance"]),
            has_text=any(cell["text"] for cell in found["cells"]),
        )
    )


def show(found: dict[str, Any], out: Path, json: bool) -> None:
    """The numbers as JSON, or the largest cells and where the page is."""
    if json:
        print(to_json(found | {"page": str(out / "index.html")}))
        return
    print(printable(found["scored"]))
    for cell in (cell for cell in found["cells"] if cell["mean"] is not None):
        interval = f"  [{cell['low']:+.3f}, {cell['high']:+.3f}]" if found["n_examples"] > 1 else ""
        text = f"  {cell['text'][:60]}" if cell["text"] else ""
        print(printable(f"  {cell['mean']:+9.3f}{interval}  {cell['place']}{text}"))
    if more := np.size(found["summary"]["mean"]) - len(found["cells"]):
        print(f"  {more} more cells in {printable(out / 'result.json')}")
    print(f"\n{printable(out / 'index.html')}")
