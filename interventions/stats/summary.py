"""What a grid of numbers says: changes, recovery, intervals and p-values of every cell, in one labelled Dataset."""

import numpy as np
import xarray as xr

from interventions.stats import intervals
from jaxasr.tokenizer import Tokenizer

_NULLS = {"signs": intervals.any_of_many, "cells": intervals.any_of_alike}


def summarize(
    result: xr.DataArray | xr.Dataset,
    variable: str | None = None,
    *,
    tokenizer: Tokenizer | None = None,
    level: float = 0.95,
    n: int = 2000,
    seed: int = 0,
    null: str = "signs",
) -> xr.Dataset:
    """Everything that may be said about a grid of cells.

    Args:
        result: what `sweep`, `attribution` or `sequence_sweep` gave; of the last, with its `variable`: "wer", "resolved", ...
        tokenizer: adds the text `token` to the positions.
        level: of the bootstrap intervals; n: resamples, and random sign patterns or shuffles; seed: of all of them.
        null: what the p-values take for granted if there were nothing to see. "signs": a cell's changes are as likely to have the
            other sign. "cells": an example's changes may stand in any cell (see `statistics.any_of_alike`); then there is no `p`, `q`.

    Returns:
        Over examples and cells: `value`, the metric after the patch; `change`, value - baseline; with a source that was scored,
        `recovery` = (patched - target) / (source - target), so 0 is the unpatched target and 1 the source, NaN where these two
        agree. Over examples: `baseline` and, if known, `source`. Over cells: the `mean` change and its bootstrap interval (BCa) `low`,
        `high`; `p` (sign flips), `q` (p adjusted over the grid, Benjamini & Hochberg 1995), `p_any` (against the best of all cells);
        `mean_recovery`, the mean change over the mean distance from target to source. With fewer than two examples intervals
        and p-values are NaN. Examples without a value in some cell are left out of all that is over cells: `attrs["left_out"]`.

    Raises:
        ValueError: a Dataset without a variable of it; an unknown null.
    """
    if null not in _NULLS:
        raise ValueError(f"null: expected one of {', '.join(_NULLS)}, got {null!r}.")
    parts = _parts(result, variable)
    whole = parts["change"].notnull().all([dim for dim in parts["change"].dims if dim != "example"])
    counted = parts["change"].isel(example=np.flatnonzero(whole.values))
    found = parts | {"mean": counted.mean("example")} | _claims(counted, level, n, seed, null)
    if "source" in parts:
        distance = (
            (parts["source"] - parts["baseline"])
            .isel(example=np.flatnonzero(whole.values))
            .mean("example")
        )
        found["mean_recovery"] = (found["mean"] / distance).where(distance != 0)
    attrs = {
        "level": level,
        "seed": seed,
        "null": null,
        "n_examples": counted.sizes["example"],
        "left_out": int((~whole).sum()),
    }
    summary = xr.Dataset(found, attrs=dict(parts["value"].attrs) | attrs)
    return _timed(summary if tokenizer is None else with_text(summary, tokenizer))


def _claims(
    change: xr.DataArray, level: float, n: int, seed: int, null: str
) -> dict[str, xr.DataArray]:
    if change.sizes["example"] < 2:
        unknown = xr.full_like(change.mean("example"), np.nan)
        return dict.fromkeys(
            ("low", "high", "p_any", *(("p", "q") if null == "signs" else ())), unknown
        )
    interval = intervals.bootstrap(change, level=level, n=n, seed=seed)
    found = {
        "low": interval.low,
        "high": interval.high,
        "p_any": _NULLS[null](change, n=n, seed=seed),
    }
    if null == "signs":
        found["p"] = intervals.sign_flip(change, n=n, seed=seed)
        found["q"] = intervals.fdr(found["p"])
    return found


def _parts(result: xr.DataArray | xr.Dataset, variable: str | None) -> dict[str, xr.DataArray]:
    """Value, change, baseline, and recovery and source where there is a source; all with examples, and these in front."""
    value, known = (
        _of_dataset(result, variable) if isinstance(result, xr.Dataset) else _of_array(result)
    )
    known = {name: _with_examples(part) for name, part in known.items()}
    value = _with_examples(value).transpose("example", ...)
    if value.attrs.get("estimate") == "first order":
        value = (value + known["baseline"]).assign_attrs(value.attrs)
    change = value - known["baseline"]
    if "source" in known:
        distance = known["source"] - known["baseline"]
        known["recovery"] = (change / distance).where(distance != 0)
    return {"value": value, "change": change, **known}


def _of_array(result: xr.DataArray) -> tuple[xr.DataArray, dict[str, xr.DataArray]]:
    known = {
        name: result.coords[name].reset_coords(drop=True)
        for name in ("baseline", "source")
        if name in result.coords
    }
    value = result.drop_vars(known)
    return value, {"baseline": _nothing(value)} | known


def _of_dataset(
    result: xr.Dataset, variable: str | None
) -> tuple[xr.DataArray, dict[str, xr.DataArray]]:
    if (
        variable not in result
        or "example" not in result[variable].dims
        or result[variable].dtype.kind not in "fiu"
    ):
        numbers = [
            name
            for name, values in result.items()
            if values.dtype.kind in "fiu" and not str(name).startswith("baseline_")
        ]
        raise ValueError(
            f"variable: expected one of {', '.join(map(str, numbers))}, got {variable!r}."
        )
    value = result[variable].astype(float).assign_attrs({"metric": variable} | result.attrs)
    return value, {
        "baseline": result[f"baseline_{variable}"].astype(float)
        if f"baseline_{variable}" in result
        else _nothing(value)
    }


def _nothing(value: xr.DataArray) -> xr.DataArray:
    """A baseline of 0 for every example."""
    return xr.zeros_like(
        value.isel({dim: 0 for dim in value.dims if dim != "example"}, drop=True), dtype=float
    ).reset_coords(drop=True)


def _with_examples(values: xr.DataArray) -> xr.DataArray:
    return values if "example" in values.dims else values.expand_dims(example=[0])


def with_text(result: xr.Dataset, tokenizer: Tokenizer) -> xr.Dataset:
    """`result` with the text `token` beside the `token_id` of its positions, if it has positions."""
    if "token_id" not in result.coords:
        return result
    ids = result.coords["token_id"]
    texts = np.array([*tokenizer.token_texts(ids.values.ravel().tolist())], dtype=str).reshape(
        ids.shape
    )
    return result.assign_coords(token=(ids.dims, texts))


def _timed(result: xr.Dataset) -> xr.Dataset:
    """With the end of every window, in seconds as its beginning `time`."""
    if "time" not in result.coords or "window_s" not in result.attrs:
        return result
    return result.assign_coords(
        time_end=("time", result.coords["time"].values + result.attrs["window_s"])
    )
