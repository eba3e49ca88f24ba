"""Summarises a sweep: its mean changes over examples, with intervals and p-values."""

from typing import cast

import numpy as np
import xarray as xr

from interventions.stats import intervals
from jaxasr.tokenizer import Tokenizer

# The test that corrects for the number of cells, by the name of its null hypothesis.
_TESTS_BY_NULL = {"signs": intervals.max_sign_flip, "cells": intervals.max_permutation}


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

    Intervals and p-values need at least two examples. With fewer, they are NaN and
    `attrs["intervals"]` gives the reason.

    Args:
        result: the result of `sweep`, `attribution`, `sequence_sweep` or `generation_sweep`.
        variable: for `sequence_sweep` and `generation_sweep`, the score to summarise, such as "wer"
            or "resolved" (1 if the edit ends a repetition loop, 0 otherwise).
        tokenizer: the model's tokenizer. With it, each position is labelled with the text of its
            token, as the coordinate `token`.
        level: the coverage of the bootstrap intervals.
        n: the number of bootstrap resamples, and of random sign patterns or permutations.
        seed: the seed of the random numbers.
        null: the null hypothesis of the p-values. With "signs", each change of a cell has either
            sign with equal probability. With "cells", the changes of an example are exchangeable
            between cells (see `interventions.stats.max_permutation`).

    Returns:
        A Dataset with these variables per example and cell:

        - `value`: the metric after the patch.
        - `change`: `value - baseline`.
        - `recovery`: `change / (source - baseline)`, if the metric of the source is known. 0 means
          that the patch changes nothing, and 1 that the patched metric equals that of the source.
          NaN where source and baseline agree.

        Per example:

        - `baseline`: the metric of the unpatched target.
        - `source`: the metric of the source, if it is known.

        Per cell, over the examples that have a value in every cell:

        - `mean`: the mean change.
        - `low`, `high`: the bootstrap interval (BCa) of `mean`.
        - `p`: the p-value of `mean` under sign flips; absent with `null="cells"`.
        - `q`: `p` adjusted over all cells (Benjamini & Hochberg 1995); absent with `null="cells"`.
        - `p_any`: the p-value of `mean`, corrected for the number of cells. The test compares the
          cell with the largest effect of any cell under the null hypothesis.
        - `mean_recovery`: `mean` divided by the mean of `source - baseline`, if `source` is known.

        `attrs["left_out"]` is the number of examples without a value in some cell.

    Raises:
        ValueError: `result` is a Dataset without a numeric `variable`, or `null` is unknown.

    Example:
        >>> import numpy as np, xarray as xr
        >>> heads = np.random.default_rng(0).normal([0.0, 2.0], size=(20, 2))
        >>> changes = summarize(xr.DataArray(heads, dims=("example", "head")))
        >>> changes.p_any.values < 0.05
        array([False,  True])
    """
    if null not in _TESTS_BY_NULL:
        raise ValueError(f"null: expected one of {', '.join(_TESTS_BY_NULL)}, got {null!r}.")
    per_example = _values_per_example(result, variable)
    change = per_example["change"]
    is_complete = change.notnull().all([dim for dim in change.dims if dim != "example"])
    # All cells use the same examples, so that their means can be compared.
    complete = np.flatnonzero(is_complete.values)
    complete_change = change.isel(example=complete)
    variables = per_example | {"mean": complete_change.mean("example")}
    variables |= _inferences(complete_change, level, n, seed, null)
    if "source" in per_example:
        # A ratio of means, because single examples may have a distance close to 0.
        distance = per_example["source"] - per_example["baseline"]
        distance = distance.isel(example=complete).mean("example")
        variables["mean_recovery"] = (variables["mean"] / distance).where(distance != 0)
    attrs = {
        "level": level,
        "seed": seed,
        "null": null,
        "n_examples": complete_change.sizes["example"],
        "left_out": int((~is_complete).sum()),
    }
    if attrs["n_examples"] < 2:
        attrs["intervals"] = (
            f"NaN: {attrs['n_examples']} example(s); intervals and p-values need at least 2."
        )
    summary = xr.Dataset(variables, attrs=dict(per_example["value"].attrs) | attrs)
    return _with_window_ends(summary if tokenizer is None else with_text(summary, tokenizer))


def with_text(result: xr.Dataset, tokenizer: Tokenizer) -> xr.Dataset:
    """Adds the text of every token as the coordinate `token`.

    Args:
        result: a labelled result, with the coordinate `token_id` if it has positions.
        tokenizer: the model's tokenizer.

    Returns:
        `result` with the coordinate `token`; unchanged if `result` has no `token_id`.

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


def _inferences(
    change: xr.DataArray, level: float, n: int, seed: int, null: str
) -> dict[str, xr.DataArray]:
    """Returns the intervals and p-values of cells. With fewer than two examples they are NaN."""
    if change.sizes["example"] < 2:
        unknown = xr.full_like(change.mean("example"), np.nan)
        names = ("low", "high", "p_any", *(("p", "q") if null == "signs" else ()))
        return dict.fromkeys(names, unknown)
    interval = intervals.bootstrap(change, level=level, n=n, seed=seed)
    inferences = {
        "low": interval.low,
        "high": interval.high,
        "p_any": _TESTS_BY_NULL[null](change, n=n, seed=seed),
    }
    if null == "signs":
        inferences["p"] = intervals.sign_flip(change, n=n, seed=seed)
        inferences["q"] = intervals.fdr(inferences["p"])
    return inferences


def _values_per_example(
    result: xr.DataArray | xr.Dataset, variable: str | None
) -> dict[str, xr.DataArray]:
    """Returns the variables of a summary that have the dimension "example", which comes first."""
    value, references = (
        _split_dataset(result, variable) if isinstance(result, xr.Dataset) else _split_array(result)
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


def _split_array(result: xr.DataArray) -> tuple[xr.DataArray, dict[str, xr.DataArray]]:
    """Separates the values of a sweep from its baseline and source."""
    references = {
        name: result.coords[name].reset_coords(drop=True)
        for name in ("baseline", "source")
        if name in result.coords
    }
    value = result.drop_vars(list(references))
    return value, {"baseline": _zero_baseline(value)} | references


def _split_dataset(
    result: xr.Dataset, variable: str | None
) -> tuple[xr.DataArray, dict[str, xr.DataArray]]:
    """Returns one score of a sweep of generated texts, and the baseline of this score."""
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
    """Returns a baseline of 0 for every example."""
    # Indexing the other dimensions with 0 leaves one value per example.
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
