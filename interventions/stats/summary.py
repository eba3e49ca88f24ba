"""Summarises a grid of cells: changes, recovery, intervals and p-values in one labelled Dataset."""

from typing import cast

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
    """Computes the change of every cell, with intervals and p-values over examples.

    Intervals and p-values need at least two examples. With one, they are NaN and
    `attrs["intervals"]` gives the reason.

    Args:
        result: the result of `sweep`, `attribution` or `sequence_sweep`.
        variable: the variable of a `sequence_sweep` to summarise: "wer", "resolved", ...
        tokenizer: adds the text `token` to the positions.
        level: the coverage of the bootstrap intervals.
        n: the number of resamples, and of random sign patterns or shuffles.
        seed: the seed of all of them.
        null: the null hypothesis of the p-values. "signs": a cell's changes are as likely to have
            the other sign. "cells": an example's changes may stand in any cell (see
            `interventions.stats.any_of_alike`); `p` and `q` are then absent.

    Returns:
        Over examples and cells:
            `value`, the metric after the patch; `change`, value - baseline; if the source was
            scored, `recovery` = (patched - target) / (source - target), which is 0 for the
            unpatched target and 1 for the source, NaN where these two agree.

        Over examples:
            `baseline` and, if known, `source`.

        Over cells:
            the `mean` change and its bootstrap interval (BCa) `low`, `high`; `p` (sign flips); `q`
            (p adjusted over the grid, Benjamini & Hochberg 1995); `p_any` (against the best of all
            cells); `mean_recovery`, the mean change over the mean distance from target to source.

        Examples without a value in some cell are excluded from everything over cells;
        `attrs["left_out"]` counts them.

    Raises:
        ValueError: a Dataset without `variable`, or an unknown null.

    Example:
        >>> import numpy as np, xarray as xr
        >>> heads = np.random.default_rng(0).normal([0.0, 2.0], size=(20, 2))
        >>> changes = summarize(xr.DataArray(heads, dims=("example", "head")))
        >>> changes.p_any.values < 0.05
        array([False,  True])
    """
    if null not in _NULLS:
        raise ValueError(f"null: expected one of {', '.join(_NULLS)}, got {null!r}.")
    parts = _parts(result, variable)
    change = parts["change"]
    whole = change.notnull().all([dim for dim in change.dims if dim != "example"])
    complete = np.flatnonzero(whole.values)
    counted = change.isel(example=complete)
    variables = parts | {"mean": counted.mean("example")} | _claims(counted, level, n, seed, null)
    if "source" in parts:
        distance = (parts["source"] - parts["baseline"]).isel(example=complete).mean("example")
        variables["mean_recovery"] = (variables["mean"] / distance).where(distance != 0)
    attrs = {
        "level": level,
        "seed": seed,
        "null": null,
        "n_examples": counted.sizes["example"],
        "left_out": int((~whole).sum()),
    }
    if attrs["n_examples"] < 2:
        attrs["intervals"] = (
            f"NaN: {attrs['n_examples']} example(s); intervals and p-values need at least 2."
        )
    summary = xr.Dataset(variables, attrs=dict(parts["value"].attrs) | attrs)
    return _with_window_ends(summary if tokenizer is None else with_text(summary, tokenizer))


def with_text(result: xr.Dataset, tokenizer: Tokenizer) -> xr.Dataset:
    """Adds the text of every token as the coordinate `token`, if `result` has positions.

    Args:
        result: a labelled result; `token_id` is its coordinate along the positions.
        tokenizer: the model's tokenizer.

    Returns:
        `result` with the coordinate `token`, or `result` itself without a `token_id`.

    Example:
        ```python
        summary = interventions.stats.with_text(summary, asr.tokenizer)
        ```
    """
    if "token_id" not in result.coords:
        return result
    ids = result.coords["token_id"]
    texts = np.array([*tokenizer.token_texts(ids.values.ravel().tolist())], dtype=str)
    return result.assign_coords(token=(ids.dims, texts.reshape(ids.shape)))


def _claims(
    change: xr.DataArray, level: float, n: int, seed: int, null: str
) -> dict[str, xr.DataArray]:
    """Intervals and p-values over cells; NaN for fewer than two examples."""
    if change.sizes["example"] < 2:
        unknown = xr.full_like(change.mean("example"), np.nan)
        names = ("low", "high", "p_any", *(("p", "q") if null == "signs" else ()))
        return dict.fromkeys(names, unknown)
    interval = intervals.bootstrap(change, level=level, n=n, seed=seed)
    claims = {
        "low": interval.low,
        "high": interval.high,
        "p_any": _NULLS[null](change, n=n, seed=seed),
    }
    if null == "signs":
        claims["p"] = intervals.sign_flip(change, n=n, seed=seed)
        claims["q"] = intervals.fdr(claims["p"])
    return claims


def _parts(result: xr.DataArray | xr.Dataset, variable: str | None) -> dict[str, xr.DataArray]:
    """Value, change and baseline, and recovery and source if there is a source; examples first."""
    value, references = (
        _of_dataset(result, variable) if isinstance(result, xr.Dataset) else _of_array(result)
    )
    references = {name: _with_examples(reference) for name, reference in references.items()}
    value = _with_examples(value).transpose("example", ...)
    if value.attrs.get("estimate") == "first order":  # `attribution` returns changes
        value = (value + references["baseline"]).assign_attrs(value.attrs)
    change = value - references["baseline"]
    if "source" in references:
        distance = references["source"] - references["baseline"]
        references["recovery"] = (change / distance).where(distance != 0)
    return {"value": value, "change": change, **references}


def _of_array(result: xr.DataArray) -> tuple[xr.DataArray, dict[str, xr.DataArray]]:
    """The values of a sweep, and its baseline and source."""
    references = {
        name: result.coords[name].reset_coords(drop=True)
        for name in ("baseline", "source")
        if name in result.coords
    }
    value = result.drop_vars(list(references))
    return value, {"baseline": _zero_baseline(value)} | references


def _of_dataset(
    result: xr.Dataset, variable: str | None
) -> tuple[xr.DataArray, dict[str, xr.DataArray]]:
    """The values of one variable of a sweep of generated texts, and their baseline."""
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
    name = f"baseline_{variable}"
    baseline = result[name].astype(float) if name in result else _zero_baseline(value)
    return value, {"baseline": baseline}


def _zero_baseline(value: xr.DataArray) -> xr.DataArray:
    """A baseline of 0 for every example."""
    cells = {dim: 0 for dim in value.dims if dim != "example"}
    zeros = xr.zeros_like(value.isel(cells, drop=True), dtype=float)
    return cast(xr.DataArray, zeros.reset_coords(drop=True))


def _with_examples(values: xr.DataArray) -> xr.DataArray:
    return values if "example" in values.dims else values.expand_dims(example=[0])


def _with_window_ends(result: xr.Dataset) -> xr.Dataset:
    """Adds `time_end`, the end of every window in seconds, next to its start `time`."""
    if "time" not in result.coords or "window_s" not in result.attrs:
        return result
    return result.assign_coords(
        time_end=("time", result.coords["time"].values + result.attrs["window_s"])
    )
