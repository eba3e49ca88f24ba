"""Summarises study E6: shares of resolved loops by kind, part and group of loops, and costs."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr
from jaxtyping import Bool

from experiments.studies.ablation import (
    COMPONENT_SITES,
    HEAD_SITES,
    NOISE,
    PART_NAMES,
    cell_names,
    wer_change,
)
from experiments.studies.evidence import Evidence, mean_evidence, share_evidence
from experiments.studies.loop_outcomes import FULL_KINDS, HEAD, LAYER, RANDOM, UNIT_SITES, Outcomes
from experiments.studies.loop_verdicts import mean_cost

_TOP_HEADS = 5  # heads that are listed per group of loops
Groups = Mapping[str, Bool[np.ndarray, "N"]]  # marks the loops of each group


def loop_numbers(
    outcomes: Outcomes, loops: xr.Dataset, speech: xr.Dataset, groups: Groups, seed: int
) -> dict[str, Any]:
    """Returns the numbers of E6.

    Args:
        outcomes: outcomes of loops.
        loops: results of `ablation.to_dataset` for loops.
        speech: results of `ablation.to_dataset` for clean recordings.
        groups: marks the loops of each group, such as those of one origin.
        seed: seed of the bootstraps and of the permutations.
    """
    kinds = [kind for kind in (*FULL_KINDS, RANDOM) if outcomes.kinds(kind)]
    return {
        "loops": len(outcomes.sources),
        "sources": len(np.unique(outcomes.sources)),
        "loops_with_known_words": int(loops.baseline_cer.notnull().sum()),
        "loops_that_choose": int(outcomes.choosing.sum()),
        "groups": {name: int(rows.sum()) for name, rows in groups.items()},
        "cells_that_cannot_act": {kind: idle_cells(outcomes, kind) for kind in kinds},
        "parts": {kind: _parts(outcomes, kind, seed) for kind in kinds},
        "share_resolved": _by_kind_and_cell(outcomes.resolved.mean("example")),
        "layers": {kind: _layers(outcomes, kind, seed) for kind in kinds},
        "chosen": {
            kind: {unit: _chosen(outcomes, speech, kind, unit, seed) for unit in UNIT_SITES}
            for kind in kinds
            if kind != RANDOM
        },
        "by_group": {
            name: _group(outcomes, rows, seed) for name, rows in groups.items() if rows.any()
        },
        "clean": speech_cost(speech),
    }


def idle_cells(outcomes: Outcomes, kind: str) -> list[str]:
    """Names the cells that were patched, but change no bit of any text or log-probability."""
    was_run = outcomes.resolved.sel(kind=outcomes.kinds(kind)).notnull().any(("example", "kind"))
    acting = outcomes.cells(kind, [*COMPONENT_SITES, *HEAD_SITES])
    names = cell_names(outcomes.resolved)
    return [names[cell] for cell in np.flatnonzero(was_run.values) if cell not in acting]


def _parts(
    outcomes: Outcomes, kind: str, seed: int, rows: np.ndarray | slice = slice(None)
) -> dict[str, Any]:
    """Returns, by part, the share of loops that any cell resolves, and the mean over cells."""
    parts = {}
    for site in (*COMPONENT_SITES, *HEAD_SITES):
        cells = outcomes.cells(kind, (site,))
        if cells:
            any_share = outcomes.any_share(kind, (site,))[rows]
            mean_share = outcomes.mean_share(kind, (site,))[rows]
            sources = outcomes.sources[rows]
            parts[PART_NAMES[site]] = {
                "cells": len(cells),
                "any": share_numbers(any_share, sources, seed),
                "mean": interval_numbers(
                    mean_evidence(mean_share, sources, bounds=(0.0, 1.0), seed=seed)
                ),
            }
    return parts


def _layers(outcomes: Outcomes, kind: str, seed: int) -> dict[str, Any]:
    """Returns the share of loops that each layer of each component resolves."""
    names = cell_names(outcomes.resolved)
    cells = outcomes.cells(kind, COMPONENT_SITES)
    columns = outcomes.values(kind, cells).T
    return {
        names[cell]: share_numbers(column, outcomes.sources, seed)
        for cell, column in zip(cells, columns)
    }


def _chosen(
    outcomes: Outcomes, speech: xr.Dataset, kind: str, unit: str, seed: int
) -> dict[str, Any] | None:
    """Describes the chosen layer or head: its share in both halves, and its cost."""
    from interventions.stats import max_permutation

    chosen = outcomes.choose(kind, unit)
    if chosen is None:
        return None
    values = outcomes.values(kind, [chosen])[:, 0]
    cells = outcomes.cells(kind, COMPONENT_SITES if unit == LAYER else UNIT_SITES[unit])
    resolved = outcomes.resolved.sel(kind=kind).isel(cell=cells)
    p = max_permutation(resolved, n=2000, seed=seed).values[cells.index(chosen)]
    confirming = outcomes.confirming
    return {
        "name": cell_names(outcomes.resolved)[chosen],
        "choosing": share_numbers(
            values[outcomes.choosing], outcomes.sources[outcomes.choosing], seed
        ),
        "confirming": share_numbers(values[confirming], outcomes.sources[confirming], seed),
        # Of all loops: how often the largest share of any cell is as large by chance.
        "p_of_largest": float(p),
        "cost": _cost(speech, kind, chosen, seed),
    }


def _cost(speech: xr.Dataset, kind: str, cell: int, seed: int) -> dict[str, Any] | None:
    """Describes the cost on clean speech: its mean, and the share of recordings that change."""
    if kind not in speech.kind.values or not speech.sizes["example"]:
        return None
    changes = wer_change(speech).sel(kind=kind).isel(cell=cell).values
    changes = changes[np.isfinite(changes)]
    sources = np.arange(len(changes))
    return {
        "word_error_rate": interval_numbers(mean_cost(speech, kind, cell, 0.0, seed)),
        "changed": share_numbers((changes != 0).astype(float), sources, seed),
        "worse": share_numbers((changes > 0).astype(float), sources, seed),
    }


def _group(outcomes: Outcomes, rows: Bool[np.ndarray, "N"], seed: int) -> dict[str, Any]:
    """Returns the shares of one group of loops, and the heads that resolve most of them."""
    kinds = [kind for kind in (*FULL_KINDS, RANDOM) if outcomes.kinds(kind)]
    numbers = {kind: _parts(outcomes, kind, seed, rows) for kind in kinds}
    chosen = outcomes.choose(NOISE, HEAD) if NOISE in kinds else None
    if chosen is None:
        return numbers
    names, cells = cell_names(outcomes.resolved), outcomes.cells(NOISE, HEAD_SITES)
    columns, sources = outcomes.values(NOISE, cells)[rows].T, outcomes.sources[rows]
    best = np.argsort(-columns.mean(1), kind="stable")[:_TOP_HEADS]
    return numbers | {
        "chosen_head": share_numbers(outcomes.values(NOISE, [chosen])[rows, 0], sources, seed),
        "top_heads": {names[cells[i]]: share_numbers(columns[i], sources, seed) for i in best},
    }


def share_numbers(outcomes: np.ndarray, sources: np.ndarray, seed: int) -> dict[str, Any]:
    """Describes a share by its interval, which is exact if no source has two loops.

    The outcomes of random directions may be shares of seeds. Their mean gets a bootstrap interval.

    Example:
        >>> share_numbers(np.ones(4), np.arange(4), seed=0)["counts"]
        (4, 4)
    """
    if np.isin(outcomes, (0.0, 1.0)).all():
        evidence = share_evidence(outcomes, sources, null=0.0)
        return interval_numbers(evidence) | {"counts": evidence.counts}
    return interval_numbers(mean_evidence(outcomes, sources, bounds=(0.0, 1.0), seed=seed))


def interval_numbers(evidence: Evidence) -> dict[str, Any]:
    """Describes an estimate by its rounded value and interval, and the number of units.

    Example:
        >>> interval_numbers(Evidence(0.25, 0.1, 0.5, n=20))
        {'value': 0.25, 'low': 0.1, 'high': 0.5, 'n': 20}
    """
    numbers = {"value": evidence.value, "low": evidence.low, "high": evidence.high}
    return {name: round(float(x), 4) for name, x in numbers.items()} | {"n": evidence.n}


def speech_cost(speech: xr.Dataset) -> dict[str, Any]:
    """Returns the word error rate of clean speech, and its mean change per kind and cell."""
    if not speech.sizes["example"]:
        return {"n": 0}
    return {
        "n": speech.sizes["example"],
        "wer": float(speech.baseline_wer.mean()),
        "change": _by_kind_and_cell(wer_change(speech).mean("example")),
    }


def _by_kind_and_cell(values: xr.DataArray) -> dict[str, Any]:
    """Returns values by kind and by name of the cell, without cells that were not run."""
    names = cell_names(values)
    return {
        str(kind): {
            name: round(float(value), 3)
            for name, value in zip(names, values.sel(kind=kind).values)
            if np.isfinite(value)
        }
        for kind in values.kind.values
    }
