"""Probe banks against scikit-learn on the same folds: `python -m experiments.bench probes`."""

import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
import zarr
from rich.console import Console
from rich.table import Table

from experiments.bench import activations, machine, reference
from experiments.bench.activations import Activations
from experiments.bench.worker import Worker, peak_rss, reset_peak_rss
from interventions.storage import text_files
from interventions.storage.provenance import commit

PENALTIES, FOLDS, CLASSES = (0.1, 1.0, 10.0, 100.0), 5, 4
FULL, QUICK = (8, 1200, 384, 3), (2, 200, 48, 1)  # layers, rows, features, seeds
SCALING = ((8, 1200, 384, 3), (12, 2500, 768, 1), (33, 1200, 1280, 1), (33, 5000, 1280, 1))
# scikit-learn's type and tolerance: as one would use it, as strict as float32 allows, and where it comes as close to the optimum as ours.
USUAL = (("float32", 1e-5),)
THEIRS = (*USUAL, ("float32", 1e-7), ("float64", 1e-7))


def synthetic_layer(layer: int, n: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Correlated features as activations have: variances fall as 1/rank² along random directions; classes overlap. [N, D], [N]."""
    y = np.random.default_rng(0).integers(0, CLASSES, n)
    rng = np.random.default_rng(1 + layer)
    rotation = np.linalg.qr(rng.normal(size=(width, width)))[0]
    centres = 4 / np.sqrt(width) * rng.normal(size=(CLASSES, width))
    x = (rng.normal(size=(n, width)) + centres[y]) / (1 + np.arange(width)) @ rotation
    return x.astype(np.float32), y


class Ours:
    """A worker: the bank alone in its process, so that its memory is its own. X lies on disk, as a store does."""

    def __init__(self, job: dict[str, Any]):
        *shape, self.n_seeds = job["shape"]
        self.X = zarr.create_array(
            store=Path(job["folder"]) / "x",
            shape=shape,
            chunks=(1, *shape[1:]),
            dtype="float32",
            compressors=(),
        )
        for layer in range(shape[0]):
            self.X[layer], self.y = synthetic_layer(layer, *shape[1:])

    def fit(self) -> dict[str, Any]:
        """Seconds of one layer, which compiles, then of all; bytes that all take at most beyond what was held then."""
        first = timed(_bank, self.X[:1], self.y, self.n_seeds)[0]
        held = reset_peak_rss()
        seconds, bank = timed(_bank, self.X, self.y, self.n_seeds)
        return {
            "shape": [*self.X.shape, self.n_seeds],
            "fits": bank.objective.size,
            "first_s": first,
            "seconds": seconds,
            "fits_per_s": bank.objective.size / seconds,
            "x_bytes": self.X.nbytes,
            "layer_bytes": self.X.nbytes // self.X.shape[0],
            "bank_bytes": bank.data.nbytes,
            "peak_bytes": peak_rss() - held,
            "peak_rss": peak_rss(),
            "largest_gap": float(bank.gap.max()),
            "iterations": float(bank.n_iter.mean()),
        }


def _bank(X: Any, y: np.ndarray, n_seeds: int, groups: np.ndarray | None = None) -> Any:
    import interventions

    return interventions.fit_probes(
        X, y, groups, penalties=PENALTIES, folds=FOLDS, seeds=range(n_seeds)
    )


def timed(call: Callable[..., Any], *arguments: Any) -> tuple[float, Any]:
    start = time.perf_counter()
    value = call(*arguments)
    return time.perf_counter() - start, value


def compared(
    of: Activations, n_seeds: int, theirs: Sequence[tuple[str, float]], rounds: int
) -> dict[str, Any]:
    """All on every fit: times, objectives recomputed in float64, predictions and accuracy of the test rows."""
    ours = of.X, of.y, n_seeds, of.groups
    first, bank = timed(_bank, *ours)
    test = bank.test.transpose("seed", "fold", "row").values
    ours_s, theirs_s, found = [], {}, {}
    for dtype, tol in theirs:
        ours_s += [timed(_bank, *ours)[0] for _ in range(rounds)]  # before and after each of theirs
        name = f"{dtype}, {tol:g}"
        theirs_s[name], found[name] = timed(
            reference.fit_all, of.X.astype(dtype), of.y, test, PENALTIES, tol
        )
    ours_s += [timed(_bank, *ours)[0] for _ in range(rounds)]
    seconds, n_fits = statistics.median(ours_s), bank.objective.size
    judged = reference.judge(of.X, of.y, bank, found)
    mine = {
        "seconds": ours_s,
        "fits_per_s": n_fits / seconds,
        "first_s": first,
        "iterations": float(bank.n_iter.mean()),
    }
    rows = {
        name: {"seconds": s, "fits_per_s": n_fits / s, "ratio": s / seconds, **judged[name]}
        for name, s in theirs_s.items()
    }
    return {
        "shape": [*of.X.shape, n_seeds],
        "fits": n_fits,
        "largest_gap": float(bank.gap.max()),
        "ours": mine | judged["ours"],
        "sklearn_jobs": reference.JOBS,
        "sklearn": rows,
    }


def table(found: dict[str, dict[str, Any]]) -> Table:
    shown = Table(
        "",
        "",
        "fits/s",
        "ours is × faster",
        "worst fit above the optimum",
        "median fit",
        "agree",
        "accuracy gap",
        box=None,
    )
    for case, r in found.items():
        for name, row in {
            "ours": r["ours"],
            **{f"scikit-learn, {name}": row for name, row in r["sklearn"].items()},
        }.items():
            gaps = f"{row['excess_max']:.1e}", f"{row['excess_median']:.1e}"
            shares = (
                f"{100 * row['predictions_equal']:.2f} %",
                f"{100 * row['accuracy_gap']:.2f} pt",
            )
            shown.add_row(
                case,
                name,
                f"{row['fits_per_s']:.1f}",
                f"{row['ratio']:.1f}" if "ratio" in row else "",
                *gaps,
                *shares,
            )
    return shown


def scaling_table(rows: list[dict[str, Any]]) -> Table:
    shown = Table(
        "L × N × D × seeds",
        "fits",
        "compile s",
        "s",
        "fits/s",
        "X GB",
        "a layer",
        "the bank",
        "beyond",
        "peak",
        "gap",
        box=None,
    )
    for r in rows:
        shape = " × ".join(map(str, r["shape"]))
        memory = [
            f"{r[name] / 1e9:.3f}"
            for name in ("x_bytes", "layer_bytes", "bank_bytes", "peak_bytes", "peak_rss")
        ]
        seconds = f"{r['first_s']:.1f}", f"{r['seconds']:.1f}"
        shown.add_row(
            shape,
            str(r["fits"]),
            *seconds,
            f"{r['fits_per_s']:.1f}",
            *memory,
            f"{r['largest_gap']:.0e}",
        )
    return shown


def main(
    quick: Annotated[bool, typer.Option(help="Small shapes, seconds.")] = False,
    real: Annotated[
        bool,
        typer.Option(help="Activations of real recordings as well, where there is a data folder."),
    ] = True,
    synthetic: Annotated[bool, typer.Option(help="Activations with a known spectrum.")] = True,
    scaling: Annotated[
        bool, typer.Option(help="Up to 33 x 5,000 x 1,280, in processes of their own.")
    ] = True,
    model: Annotated[
        str, typer.Option(help="Whose activations, as `jaxasr.load` takes it.")
    ] = "tiny.en",
    recordings: Annotated[
        int, typer.Option(help="Recordings; each is heard clean and in noise at three ratios.")
    ] = 300,
    store: Annotated[Path, typer.Option(help="Folder where their activations are kept.")] = Path(
        "out/bench-probes"
    ),
    data: Annotated[
        Path | None,
        typer.Option(help="A folder with manifest.jsonl; default: as for `transcribe`."),
    ] = None,
    rounds: Annotated[
        int,
        typer.Option(help="Times that ours is measured before and after each of scikit-learn's."),
    ] = 2,
    out: Annotated[Path | None, typer.Option(help="A file for the numbers, JSON.")] = None,
) -> None:
    """Fits per second of both, how far the objectives are above the optimum, and how ours scales."""
    if data:
        os.environ["JAXASR_DATA"] = str(data)
    console, shape = Console(width=160), QUICK if quick else FULL
    with Worker("experiments.bench.machine:Machine", {}) as gemm:
        described, peak = gemm.ask("describe"), gemm.ask("gemm")
    console.print(machine.title(described))
    found: dict[str, dict[str, Any]] = {}
    for name, case in _cases(synthetic, real and not quick, shape, model, recordings, store):
        found[name] = {
            "load": machine.load(),
            **compared(case, shape[3], USUAL if quick else THEIRS, rounds),
        }
        console.print(table({name: found[name]}))
    points = () if not scaling else (QUICK,) if quick else SCALING
    for point in points:
        found.setdefault("scaling", {"points": []})["points"].append(_scaled(point))
        console.print(scaling_table(found["scaling"]["points"][-1:]))
    if out:
        config = {
            "quick": quick,
            "recordings": recordings,
            "rounds": rounds,
            "penalties": PENALTIES,
            "folds": FOLDS,
        }
        about = {"gemm_flops": peak, **machine.report(described, config=config, seed=0)}
        _keep(out, {name: {**numbers, **about} for name, numbers in found.items()})
        console.print(f"{out}, commit {commit()}")


def _keep(out: Path, found: dict[str, dict[str, Any]]) -> None:
    """Each part takes minutes and says itself when and on what it was measured: those that are there already stay."""
    there = json.loads(out.read_text()) if out.is_file() else {}
    text_files.write_text(out, json.dumps(text_files.plain(there | found), indent=1) + "\n")


def _cases(
    synthetic: bool, real: bool, shape: tuple[int, ...], model: str, recordings: int, store: Path
) -> Iterator[tuple[str, Activations]]:
    if synthetic:
        layers, y = zip(*(synthetic_layer(layer, *shape[1:3]) for layer in range(shape[0])))
        yield "synthetic", Activations(np.stack(layers), y[0], None)
    if real:
        yield f"{model}, {recordings} recordings", activations.extracted(model, recordings, store)


def _scaled(point: tuple[int, ...]) -> dict[str, Any]:
    with (
        tempfile.TemporaryDirectory() as folder,
        Worker("experiments.bench.probes:Ours", {"shape": point, "folder": folder}) as worker,
    ):
        return worker.ask("fit")
