"""What every layer knows of a label: a corpus through a store into a bank of probes, with its controls, a table and a figure."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas
import xarray as xr

import interventions
from experiments.data.corpora import Corpus
from experiments.data.frame_labels import TIERS, frame_labels
from experiments.store import Store, pools
from interventions.figures.plots import ACCENT, BLUE, GREY, TEAL, drawable, panels
from interventions.probes import controls, folds, inputs, scores
from interventions.stats.intervals import bootstrap
from jaxasr.audio import log_mel

FRAME_LABELS = (*TIERS, "energy", "f0")  # known of a frame, not of an utterance
VALUES = ("energy", "f0")


@dataclasses.dataclass(frozen=True)
class Question:
    """What is asked. `frames`: every frame is a row; else every utterance, pooled as `pool` says."""

    label: str
    site: str = "encoder.resid_post"
    pool: str = "speech"
    group: str | None = None
    types: str | None = None
    target: str = "class"
    penalties: Sequence[float] = (1.0,)
    folds: int = 5
    seeds: Sequence[int] = (0,)
    min_count: int = 0
    max_rows: int = 6000

    @property
    def frames(self) -> bool:
        return self.pool == "frames"

    @property
    def floor(self) -> str:
        """The site before all layers."""
        return f"{self.site.split('.')[0]}.embed"


@dataclasses.dataclass(frozen=True)
class Rows:
    """What is fitted: X [L, N, D], y [N], groups and types [N] or None, baselines {name: [N, F]}; how many rows are left out, by why."""

    X: np.ndarray
    y: np.ndarray
    groups: np.ndarray | None
    types: np.ndarray | None
    baselines: dict[str, np.ndarray]
    left_out: dict[str, int]


@dataclasses.dataclass(frozen=True)
class Answer:
    """A bank, its controls (`interventions.probes.controls.fit_controls`), and a table with one row a layer and penalty."""

    bank: Any
    controls: xr.Dataset
    table: pandas.DataFrame


def check(corpus: Corpus, question: Question) -> None:
    """Raises ValueError for a question that the corpus cannot answer, as far as its labels tell: before anything is computed."""
    pools.check_sites([question.site])
    pools.parse(question.pool)
    if question.target not in ("class", "value"):
        raise ValueError(f"--target: expected class or value, got {question.target!r}.")
    _check_columns(corpus, question)
    if not any(one.read is not None or one.path.exists() for one in corpus.utterances):
        raise ValueError(
            f"{corpus.name}: none of its {len(corpus)} recordings is there; the first is {str(corpus.utterances[0].path)!r}."
        )
    if question.frames:
        return
    labels, groups = (_column(corpus.utterances, name) for name in (question.label, question.group))
    keep, _ = _kept(labels, groups, question)
    y = _typed(labels[keep], question.target)
    if question.target == "class":
        numbers, classes = inputs.labels(y, len(y), len(question.seeds))
        grouped = None if groups is None else groups[keep].astype(str)
        folds.masks(numbers, grouped, question.folds, question.seeds, classes)


def _check_columns(corpus: Corpus, question: Question) -> None:
    known = [
        *corpus.label_names(),
        *(
            name
            for name, tier in TIERS.items()
            if any(tier in one.tiers for one in corpus.utterances)
        ),
    ]
    for option, name in (
        ("--label", question.label),
        ("--group", question.group),
        ("--types", question.types),
    ):
        if name is not None and name not in (*known, *VALUES):
            there = ", ".join(known)
            raise ValueError(
                f"{option}: no column {name!r} with a value in any row of {corpus.name}. There are: {there}."
            )


def _column(utterances: Sequence[Any], name: str | None) -> Any:
    return None if name is None else np.array([one.label(name) for one in utterances], dtype=object)


def rows(store: Store, corpus: Corpus, question: Question, asr: Any = None) -> Rows:
    """The rows of a question. Raises ValueError when the corpus has no such label.

    `asr` is needed for frames, whose mel baseline is computed anew.
    """
    by_id = {one.id: one for one in corpus.utterances}
    ids = [name for name in store.ids if name in by_id]
    return (
        _frames(store, by_id, ids, question, asr)
        if question.frames
        else _utterances(store, by_id, ids, question)
    )


def _utterances(store: Store, by_id: dict, ids: list[str], question: Question) -> Rows:
    def column(name: str) -> np.ndarray:
        return np.array([by_id[one].label(name) for one in ids], dtype=object)

    here = np.flatnonzero(np.isin(store.ids, ids))
    keep, left_out = _kept(
        column(question.label), None if question.group is None else column(question.group), question
    )
    X = store.activations(question.site, question.pool, here[keep])
    floor = store.activations(question.floor, question.pool, here[keep])[0]
    groups, types = (
        None if name is None else column(name)[keep].astype(str)
        for name in (question.group, question.types)
    )
    y = _typed(column(question.label)[keep], question.target)
    return Rows(X, y, groups, types, {"mel": store.mel()[here[keep]], "embed": floor}, left_out)


def _frames(store: Store, by_id: dict, ids: list[str], question: Question, asr: Any) -> Rows:
    counts = store.frame_counts(question.site, ids)
    labels = np.concatenate(
        [frame_labels(by_id[name], question.label, n) for name, n in zip(ids, counts)]
    )
    utterance = np.repeat(np.arange(len(ids)), counts)

    def column(name: str) -> np.ndarray:
        if name in FRAME_LABELS:
            return np.concatenate(
                [frame_labels(by_id[one], name, n) for one, n in zip(ids, counts)]
            ).astype(object)
        return np.array([by_id[one].label(name) for one in ids], dtype=object)[utterance]

    keep, left_out = _kept(
        labels.astype(object), None if question.group is None else column(question.group), question
    )
    groups, types = (
        None if name is None else column(name)[keep].astype(str)
        for name in (question.group, question.types)
    )
    X, floor = (store.frames(site, ids, keep)[0] for site in (question.site, question.floor))
    baselines = {"mel": _mel_frames(by_id, ids, counts, asr)[keep], "embed": floor[0]}
    return Rows(X, _typed(labels[keep], question.target), groups, types, baselines, left_out)


def _mel_frames(by_id: dict, ids: list[str], counts: np.ndarray, asr: Any) -> np.ndarray:
    """Log-mel features of every encoder frame: the mean of its two mel frames."""
    mels = [
        np.asarray(log_mel(by_id[name].samples(), asr.config.n_mels))[:, : 2 * n]
        for name, n in zip(ids, counts)
    ]
    return np.concatenate([mel.reshape(len(mel), -1, 2).mean(-1).T for mel in mels])


def _kept(
    labels: np.ndarray, groups: np.ndarray | None, question: Question
) -> tuple[np.ndarray, dict[str, int]]:
    """Indices of the rows that are used, at most `max_rows` of frames, and why others are not."""
    known = np.array([not _missing(value) for value in labels], bool)
    if not known.any():
        raise ValueError(
            f"label: expected values of {question.label!r}, no row of the store has one."
        )
    grouped = (
        np.ones(len(labels), bool)
        if groups is None
        else np.array([not _missing(value) for value in groups], bool)
    )
    if not (known & grouped).any():
        raise ValueError(
            f"group: expected values of {question.group!r}, no row that has {question.label!r} has one."
        )
    left_out = {
        f"no {question.label}": int((~known).sum()),
        f"no {question.group}": int((known & ~grouped).sum()),
    }
    keep = np.flatnonzero(known & grouped)
    if question.target == "class" and question.min_count:
        values, inverse, counts = np.unique(
            labels[keep].astype(str), return_inverse=True, return_counts=True
        )
        rare = counts < question.min_count
        left_out |= {
            f"{question.label} {value}": int(n) for value, n in zip(values[rare], counts[rare])
        }
        keep = keep[~rare[inverse]]
    if question.frames and len(keep) > question.max_rows:
        left_out["drawn lots"] = len(keep) - question.max_rows
        keep = np.sort(np.random.default_rng(0).choice(keep, question.max_rows, replace=False))
    return keep, {why: n for why, n in left_out.items() if n}


def _missing(value: Any) -> bool:
    return value is None or value == "" or (isinstance(value, float) and np.isnan(value))


def _typed(values: np.ndarray, target: str) -> np.ndarray:
    try:
        return values.astype(float if target == "value" else str)
    except ValueError as error:
        raise ValueError(
            f"label: expected numbers for --target value, got {values[0]!r} ({error})."
        ) from None


def answer(found: Rows, question: Question, progress: Any = None) -> Answer:
    """Fits the bank and its controls. Raises ValueError as `interventions.fit_probes`: one class, groups that cannot be split, NaN."""
    shared = {"penalties": question.penalties, "folds": question.folds, "seeds": question.seeds}

    def fit(X: np.ndarray, y: np.ndarray, progress: Any = None) -> Any:
        return interventions.fit_probes(
            X, y, found.groups, **shared, target=question.target, progress=progress
        )

    bank = fit(found.X, found.y, progress)
    if question.target == "value":
        shuffled = fit(found.X, np.random.default_rng(0).permutation(found.y)).r2
        checks = xr.Dataset(
            {"shuffled": shuffled, "baselines": _baselines(found, lambda X: fit(X, found.y).r2)}
        )
        return Answer(bank, checks, _table(bank.r2, _over_folds(bank.r2), checks))
    checks = controls.fit_controls(
        bank, found.X, found.groups, folds=question.folds, types=found.types
    )
    checks = checks.assign(baselines=_baselines(found, lambda X: fit(X, found.y).accuracy))
    table = _table(bank.accuracy, bank.summary(found.groups), checks)
    balanced = scores.balanced_accuracy(bank).mean("seed").to_series()
    table["balanced"] = balanced.reindex(
        pandas.MultiIndex.from_frame(table[["layer", "penalty"]])
    ).values
    return Answer(bank, checks, table)


def _baselines(found: Rows, score: Callable[[np.ndarray], xr.DataArray]) -> xr.DataArray:
    """The score of every baseline alone, (baseline, penalty, fold, seed)."""
    fits = [score(values[None]).isel(layer=0, drop=True) for values in found.baselines.values()]
    return xr.concat(fits, xr.DataArray(list(found.baselines), dims="baseline", name="baseline"))


def _over_folds(score: xr.DataArray) -> xr.Dataset:
    """Mean and interval over folds and seeds."""
    return bootstrap(
        score.stack(example=("fold", "seed")).reset_index("example", drop=True), n=1000
    )


def _table(score: xr.DataArray, interval: xr.Dataset, checks: xr.Dataset) -> pandas.DataFrame:
    """One row a layer and penalty: `score` and its 95 % interval, and the mean of every control."""
    columns = {score.name: interval["mean"], "low": interval.low, "high": interval.high}
    columns |= {"folds_sd": score.std(("fold", "seed"))}
    for name in ("shuffled", "majority", "by_row", "control_task", "selectivity"):
        if name in checks:
            columns[name] = checks[name].mean(("fold", "seed"))
    for name in checks.baseline.values:
        columns[str(name)] = checks.baselines.sel(baseline=name, drop=True).mean(("fold", "seed"))
    full = xr.Dataset(
        {
            name: xr.DataArray(value).broadcast_like(score.mean(("fold", "seed")))
            for name, value in columns.items()
        }
    )
    return full.to_dataframe().reset_index()


_CONTROLS = {
    "majority": (GREY, ":"),
    "shuffled": (GREY, "--"),
    "mel": (TEAL, ":"),
    "embed": (TEAL, "--"),
    "control_task": (GREY, "-."),
}


def figure(tables: dict[str, pandas.DataFrame], title: str) -> Any:
    """Score by layer with its interval, and the controls; one panel for each of `tables`, at the first penalty."""
    drawn, axes = panels(1, len(tables), sharey=True)
    for one, (name, table) in zip(axes, tables.items()):
        here = table[table.penalty == table.penalty.iloc[0]]
        score = "r2" if "r2" in here else "accuracy"
        one.fill_between(here.layer, here.low, here.high, color=BLUE, alpha=0.15, linewidth=0)
        one.plot(
            here.layer,
            here[score],
            color=BLUE,
            marker="o",
            markersize=3,
            linewidth=1.6,
            label="probe, 95 % interval",
        )
        for control, (colour, line) in _CONTROLS.items():
            if control in here:
                one.plot(
                    here.layer,
                    here[control],
                    color=colour,
                    linestyle=line,
                    linewidth=1.2,
                    label=control.replace("_", " "),
                )
        best = here.loc[here[score].idxmax()]
        one.plot(
            [best.layer],
            [best[score]],
            marker="o",
            markersize=6,
            markerfacecolor="none",
            color=ACCENT,
        )
        one.set(title=drawable(name), xlabel="layer", xticks=list(here.layer))
    axes[0].set_ylabel("R²" if score == "r2" else "accuracy")
    axes[-1].legend(fontsize=7, frameon=False)
    drawn.suptitle(drawable(title), fontsize=10)
    return drawn
