"""Questions put to every layer by probes, row by row: what a fold that had not seen the row said of it, and what that is worth."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr
from jaxtyping import Float, Shaped

import interventions
from experiments.studies.study import Claim, Evidence, Finding, Settings, band, choice, mean_of
from interventions.figures import plots
from interventions.stats.categories import categories
from interventions.stats.roc import auroc

Text = Shaped[np.ndarray, "N"]


@dataclasses.dataclass(frozen=True)
class Probing(Settings):
    """Settings of every study that fits probes."""

    penalty: float = choice(
        10.0,
        "λ/2 ‖W‖² of standardised features; set beforehand, nothing is tuned on what is tested",
    )
    folds: int = choice(
        5, "instead of one split 70/30: every row is tested once, and nobody is on both sides"
    )
    splits: int = choice(3, "ways to make the folds; the answers are averaged")


class Untestable(ValueError):
    """A question that the recordings at hand do not allow; its text says why."""


def ask(
    question: str,
    layers: Float[np.ndarray, "L+1 N D"],
    labels: Text,
    groups: Text,
    config: Probing,
    baselines: Mapping[str, Float[np.ndarray, "N F"]] | None = None,
    examples: Sequence[str] | None = None,
    blocks: Text | None = None,
) -> xr.Dataset:
    """Probes of every layer, the embedding below them first, and of `baselines`: other features of the same rows.

    Per example and layer: `right`, the share of splits in which it was told right by a fold that had not seen its group; `p`, the mean
    probability of the last class; `shuffled`, as `right` when the labels were permuted over rows, or within `blocks` of them. `layer`
    names layers and floors, `depth` is 0 to 1, NaN for a floor. Raises Unasked for one class, and for a class with fewer than two groups.
    """
    labels, groups = (
        categories(x, len(labels), name).astype(str)
        for x, name in ((labels, "labels"), (groups, "groups"))
    )
    baselines = baselines or {}
    folds = _folds(question, labels, groups, config)
    X = _together(baselines, layers)
    shared = {
        "penalties": (config.penalty,),
        "folds": folds,
        "seeds": [config.seed + n for n in range(config.splits)],
    }
    permuted = np.stack([_permuted(labels, blocks, seed) for seed in shared["seeds"]])
    try:
        bank, chance = (
            interventions.fit_probes(X, labels, groups, **shared),
            interventions.fit_probes(X, permuted, groups, **shared),
        )
    except ValueError as error:
        raise Untestable(f"{question}: {error}") from error
    found = {"right": _right(bank), "shuffled": _right(chance), "p": _chances(bank, X)}
    n = len(layers) - 1
    return xr.Dataset(
        {name: (("example", "layer"), values) for name, values in found.items()},
        {
            "example": [
                f"{question} {name}"
                for name in (examples if examples is not None else range(len(labels)))
            ],
            "layer": [*baselines, "embedding", *(str(i) for i in range(n))],
            "depth": ("layer", [*[np.nan] * len(baselines), 0.0, *((i + 1) / n for i in range(n))]),
            "question": ("example", [question] * len(labels)),
            "label": ("example", labels),
            "group": ("example", groups),
        },
    )


def _permuted(labels: Text, blocks: Text | None, seed: int) -> Text:
    rng, found = np.random.default_rng(seed), labels.copy()
    for block in np.unique(blocks) if blocks is not None else [None]:
        rows = np.flatnonzero(blocks == block) if blocks is not None else np.arange(len(labels))
        found[rows] = rng.permutation(labels[rows])
    return found


def _folds(question: str, labels: Text, groups: Text, config: Probing) -> int:
    kinds = {str(kind): len(set(groups[labels == kind])) for kind in dict.fromkeys(labels)}
    if len(kinds) < 2:
        raise Untestable(f"{question}: recordings of one kind only ({', '.join(kinds) or 'none'})")
    if min(kinds.values()) < 2:
        raise Untestable(
            f"{question}: too few speakers (or recordings, or words) of a kind: {kinds}"
        )
    return min(config.folds, *kinds.values())


def _together(baselines: Mapping[str, np.ndarray], layers: np.ndarray) -> np.ndarray:
    """One array, so that one program fits all: narrower features are filled up with zeros, which no probe can use."""
    every = [np.asarray(one, np.float32) for one in (*baselines.values(), *layers)]
    width = max(one.shape[1] for one in every)
    return np.stack([np.pad(one, ((0, 0), (0, width - one.shape[1]))) for one in every])


def _right(bank: Any) -> np.ndarray:
    return (
        (bank.out_of_fold == bank.y).isel(penalty=0).mean("seed").transpose("row", "layer").values
    )


def _chances(bank: Any, X: np.ndarray) -> np.ndarray:
    last = bank.out_of_fold_proba(X).isel({"penalty": 0, "class": -1}).mean("seed")
    return last.transpose("row", "layer").values


def concatenate(asked: Mapping[str, Callable[[], xr.Dataset]]) -> xr.Dataset:
    """The answers to all questions that can be asked, one below the other; why the others cannot, in `attrs["unasked"]`."""
    found, why = [], {}
    for name, question in asked.items():
        try:
            found.append(question())
        except Untestable as reason:
            why[name] = str(reason)
    together = (
        xr.concat(found, "example", coords="minimal", compat="override", join="override")
        if found
        else xr.Dataset()
    )
    return together.assign_attrs(unasked=why)


def questions(arrays: xr.Dataset) -> list[str]:
    """Those that were asked."""
    return (
        list(dict.fromkeys(map(str, arrays.question.values))) if "question" in arrays.coords else []
    )


def answers(arrays: xr.Dataset, question: str) -> xr.Dataset | None:
    """The rows of one question; None where it could not be asked."""
    return (
        arrays.isel(example=np.flatnonzero(arrays.question.values == question))
        if question in questions(arrays)
        else None
    )


def verdict(
    claim: Claim,
    arrays: xr.Dataset,
    question: str,
    of: Callable[[xr.Dataset], np.ndarray | Evidence],
    config: Probing,
) -> Finding:
    """The verdict on `of` the rows of a question: one number a group, or evidence; not testable where it could not be asked."""
    one = answers(arrays, question)
    if one is None:
        return claim.judge(None, why_not(arrays, question))
    found = of(one)
    return claim.judge(found) if isinstance(found, Evidence) else over(claim, found, config)


def over(claim: Claim, values: Float[np.ndarray, "G"], config: Probing) -> Finding:
    """The verdict on the mean of one number a group, as sure of it as answers of folds can be (`inflate_variance`)."""
    found = mean_of(inflate_variance(values), null=claim.null, seed=config.seed)
    return claim.judge(
        dataclasses.replace(found, low=max(found.low, -1.0), high=min(found.high, 1.0))
    )


def inflate_variance(values: Float[np.ndarray, "G ..."]) -> Float[np.ndarray, "G ..."]:
    """`values` √2 times as far from their mean: what its error is, when they are answers of folds.

    Where nothing is to be learned, a row is told right by its likeness to the rows of its class in other folds, and these are told
    right by the same likeness: every pair of rows counts twice, and the mean has twice the variance that rows seem to give it. No
    estimate is free of bias (Bengio and Grandvalet 2004); where there is something to be learned this one errs on the safe side.
    """
    centre = np.mean(values, 0)
    return centre + np.sqrt(2) * (values - centre)


def why_not(arrays: xr.Dataset, question: str) -> str:
    return str(arrays.attrs.get("unasked", {}).get(question, "not asked of these recordings"))


def layers_between(one: xr.Dataset, low: float, high: float) -> list[str]:
    """Names of the layers at these relative depths (`experiments.studies.study.band`), floors and the embedding left out."""
    real = one.layer.values[one.depth.values > 0]
    return [str(name) for name in real[band(one.depth.values[one.depth.values > 0], low, high)]]


def accuracy(
    one: xr.Dataset, layers: str | Iterable[str], of: str = "right"
) -> Float[np.ndarray, "G"]:
    """One number a group whose mean is the balanced accuracy, the mean over classes of the share that was told right.

    So that whole groups can be resampled: the ratio of sums, made linear.
    """
    wanted = [layers] if isinstance(layers, str) else list(layers)
    return by_group(
        one[of].sel(layer=wanted).mean("layer").values * _weights(one.label.values),
        one.group.values,
    )


def _weights(labels: Text) -> np.ndarray:
    """Every class counts the same; their mean is 1."""
    kinds, which, counts = np.unique(labels, return_inverse=True, return_counts=True)
    return len(labels) / (len(kinds) * counts[which])


def by_group(values: Float[np.ndarray, "N"], groups: Text) -> Float[np.ndarray, "G"]:
    """One number a group; their mean is the mean over rows."""
    which, counts = np.unique(groups, return_inverse=True, return_counts=True)[1:]
    away = np.bincount(which, values) - values.mean() * counts
    return values.mean() + away * len(counts) / len(values)


def ranking(
    one: xr.Dataset, layers: list[str], seed: int, against: np.ndarray | None = None
) -> Evidence:
    """Area under the ROC curve of the last class's probability, meaned over `layers`; or what it has over the scores `against`.

    Its interval is widened, for the reason of `inflate_variance`.
    """
    found = ranked(one, one.p.sel(layer=layers).mean("layer").values, seed, against)
    low, high = (found.value + np.sqrt(2) * (end - found.value) for end in (found.low, found.high))
    return dataclasses.replace(found, low=float(max(low, -1.0)), high=float(min(high, 1.0)))


def ranked(
    one: xr.Dataset, scores: Float[np.ndarray, "N"], seed: int, against: np.ndarray | None = None
) -> Evidence:
    """As `ranking`, of scores that are not fitted; the last class by name should have the larger ones."""
    return Evidence(
        *auroc(
            scores,
            one.label.values == max(one.label.values),
            one.group.values,
            against=against,
            seed=seed,
        )
    )


def numbers(arrays: xr.Dataset) -> dict[str, Any]:
    """Balanced accuracy by layer for each question, its control, how many rows and groups; and what could not be asked."""
    found: dict[str, Any] = {"layers": arrays.layer.values.tolist()} if questions(arrays) else {}
    for name in questions(arrays):
        one = answers(arrays, name)
        curves = {
            kind: [
                round(float(accuracy(one, layer, of).mean()), 4) for layer in arrays.layer.values
            ]
            for kind, of in _CURVES.items()
        }
        kinds, counts = np.unique(one.label.values, return_counts=True)
        found[name] = {
            "rows": dict(zip(map(str, kinds), counts.tolist())),
            "groups": len(set(one.group.values)),
            **curves,
        }
    return found | ({"unasked": arrays.attrs["unasked"]} if arrays.attrs.get("unasked") else {})


_CURVES = {"accuracy": "right", "shuffled": "shuffled"}


def draw(arrays: xr.Dataset, titles: Mapping[str, str]) -> dict[str, Any]:
    """A panel for each question (title by name): balanced accuracy by depth with its interval, its control, and the floors."""
    there = {name: title for name, title in titles.items() if name in questions(arrays)}
    if not there:
        return {}
    rows = -(-len(there) // 4)
    figure, axes = plots.panels(rows, -(-len(there) // rows), sharey=True, sharex=True)
    for one, (name, title) in zip(axes, there.items()):
        panel(one, answers(arrays, name), title)
        one.tick_params(labelbottom=True)  # there may be nothing below it
    for spare in axes[len(there) :]:
        spare.set_visible(False)
    axes[0].set_ylabel("balanced accuracy")
    figure.legend(
        *axes[0].get_legend_handles_labels(), loc="outside right center", frameon=False, fontsize=8
    )
    return {"accuracy_by_layer": figure}


def panel(axes: Any, one: xr.Dataset, title: str) -> None:
    """Balanced accuracy by depth, labels shuffled as control, floors as lines."""
    depth = one.depth.values
    layered, baselines = one.layer.values[np.isfinite(depth)], one.layer.values[np.isnan(depth)]
    x = depth[np.isfinite(depth)]
    for of, label, colour, style in (
        ("right", "probe", plots.BLUE, "-"),
        ("shuffled", "shuffled labels", plots.GREY, ":"),
    ):
        plots.curve(
            axes,
            x,
            inflate_variance(np.stack([accuracy(one, str(layer), of) for layer in layered], 1)),
            label,
            colour,
            linestyle=style,
        )
    for floor, colour in zip(baselines, (plots.TEAL, plots.ACCENT, *plots.COLOURS[3:])):
        axes.axhline(
            accuracy(one, str(floor)).mean(),
            color=colour,
            linestyle="--",
            linewidth=1,
            label=str(floor),
        )
    n_rows, n_groups = one.sizes["example"], len(set(one.group.values))
    axes.set_title(f"{title}\n{n_rows} rows, {n_groups} groups", fontsize=9)
    axes.set_xlabel("depth (0: embedding)")
