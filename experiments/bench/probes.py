"""Probe banks against scikit-learn on the same folds: `python -m experiments.bench probes`."""
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from experiments import files, provenance
from experiments.bench import machine, reference
from experiments.bench.worker import Worker, peak_rss, reset_peak_rss, threads

PENALTIES, FOLDS, CLASSES = (0.1, 1.0, 10.0, 100.0), 5, 4
FULL, QUICK = (8, 1200, 384, 3), (2, 200, 48, 1)  # layers, rows, features, seeds
SCALING = ((8, 1200, 384, 3), (12, 2500, 768, 1), (33, 1200, 1280, 1), (33, 5000, 1280, 1))


def synthetic(layers: int, n: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Correlated features as activations have: variances fall as 1/rank² along random directions; classes overlap. [L, N, D], [N]."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, CLASSES, n)
    X = np.empty((layers, n, width), np.float32)
    for layer in range(layers):
        rotation = np.linalg.qr(rng.normal(size=(width, width)))[0]
        centres = 4 / np.sqrt(width) * rng.normal(size=(CLASSES, width))
        X[layer] = (rng.normal(size=(n, width)) + centres[y]) / (1 + np.arange(width)) @ rotation
    return X, y


class Ours:
    """A worker: the bank alone in its process, so that its memory is its own."""

    def __init__(self, job: dict[str, Any]):
        *shape, self.n_seeds = job["shape"]
        self.X, self.y = synthetic(*shape)

    def fit(self) -> dict[str, Any]:
        """Seconds of the first and the second fit, and bytes at most beyond the data."""
        held = reset_peak_rss()
        first, _ = timed(lambda: _bank(self.X, self.y, self.n_seeds))
        seconds, bank = timed(lambda: _bank(self.X, self.y, self.n_seeds))
        n_fits = bank.objective.size
        return {
            "shape": [*self.X.shape, self.n_seeds],
            "fits": n_fits,
            "seconds": seconds,
            "fits_per_s": n_fits / seconds,
            "compile_s": first - seconds,
            "x_bytes": self.X.nbytes,
            "peak_bytes_beyond_x": peak_rss() - held,
            "largest_gap": float(bank.gap.max()),
            "iterations": float(bank.n_iter.mean()),
        }


def _bank(X: np.ndarray, y: np.ndarray, n_seeds: int) -> Any:
    import interventions

    return interventions.fit_probes(X, y, penalties=PENALTIES, folds=FOLDS, seeds=range(n_seeds))


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    value = call()
    return time.perf_counter() - start, value


def compared(X: np.ndarray, y: np.ndarray, n_seeds: int, tol: float, rounds: int) -> dict[str, Any]:
    """Both on every fit: times, objectives recomputed in float64, predictions and accuracy of the test rows."""
    first, bank = timed(lambda: _bank(X, y, n_seeds))
    before = timed(lambda: _bank(X, y, n_seeds))[0]
    theirs_s, theirs = timed(lambda: reference.fit_all(X, y, bank.test.transpose("seed", "fold", "row").values, PENALTIES, tol))
    ours_s = [before, *(timed(lambda: _bank(X, y, n_seeds))[0] for _ in range(rounds - 1))]  # on both sides of theirs
    seconds, n_fits = statistics.median(ours_s), bank.objective.size
    judged = reference.judge(X, y, bank, theirs)
    return {
        "shape": [*X.shape, n_seeds],
        "fits": n_fits,
        "ours_s": ours_s,
        "sklearn_s": theirs_s,
        "ours_fits_per_s": n_fits / seconds,
        "sklearn_fits_per_s": n_fits / theirs_s,
        "ratio": theirs_s / seconds,
        "compile_s": first - seconds,
        "sklearn_tol": tol,
        "sklearn_jobs": reference.JOBS,
        "iterations": float(bank.n_iter.mean()),
        **judged,
    }


def table(rows: dict[str, dict[str, Any]]) -> Table:
    shown = Table("", "fits", "ours/s", "sklearn/s", "×", "compile s", "ours worse by", "sklearn worse by", "agree", "accuracy", box=None)
    for name, r in rows.items():
        gaps = (f"{r['objective_excess_max']:.1e}", f"{r['sklearn_excess_max']:.1e}")
        rates = (f"{r['ours_fits_per_s']:.0f}", f"{r['sklearn_fits_per_s']:.1f}", f"{r['ratio']:.1f}", f"{r['compile_s']:.1f}")
        shown.add_row(name, str(r["fits"]), *rates, *gaps, f"{100 * r['predictions_equal']:.2f} %", f"{100 * r['accuracy_gap']:.2f} pt")
    return shown


def scaling_table(rows: list[dict[str, Any]]) -> Table:
    shown = Table("L × N × D × seeds", "fits", "s", "fits/s", "X GB", "beyond X GB", "gap", box=None)
    for r in rows:
        shape = " × ".join(map(str, r["shape"]))
        memory = (f"{r['x_bytes'] / 1e9:.2f}", f"{r['peak_bytes_beyond_x'] / 1e9:.2f}")
        shown.add_row(shape, str(r["fits"]), f"{r['seconds']:.1f}", f"{r['fits_per_s']:.1f}", *memory, f"{r['largest_gap']:.0e}")
    return shown


def main(
    quick: Annotated[bool, typer.Option(help="Small shapes, seconds.")] = False,
    real: Annotated[Path | None, typer.Option(help="An .npz with X [L, N, D] and y [N]: activations to compare on as well.")] = None,
    scaling: Annotated[bool, typer.Option(help="Up to 33 x 5,000 x 1,280, in processes of their own.")] = True,
    tol: Annotated[float, typer.Option(help="scikit-learn's tolerance.")] = 1e-5,
    rounds: Annotated[int, typer.Option(help="Times that ours is measured.")] = 3,
    out: Annotated[Path | None, typer.Option(help="A file for the numbers, JSON.")] = None,
) -> None:
    """Fits per second of both, how far the objectives are apart, and how ours scales."""
    console, shape = Console(width=140), QUICK if quick else FULL
    found: dict[str, Any] = {"threads": threads(), "penalties": PENALTIES, "folds": FOLDS}
    cases = {"synthetic": synthetic(*shape[:3])}
    if real:
        with np.load(real, allow_pickle=False) as arrays:
            cases["real"] = arrays["X"], arrays["y"]
    with Worker("experiments.bench.machine:Machine", {}) as gemm:
        described, found["gemm_flops"] = gemm.ask("describe"), gemm.ask("gemm")
    console.print(machine.title(described))
    found["against_sklearn"] = {name: compared(X, y, shape[3], tol, rounds) for name, (X, y) in cases.items()}
    console.print(table(found["against_sklearn"]))
    found["scaling"] = []
    for point in () if not scaling else (QUICK,) if quick else SCALING:
        with Worker("experiments.bench.probes:Ours", {"shape": point}) as worker:
            found["scaling"].append(worker.ask("fit"))
            console.print(scaling_table(found["scaling"][-1:]))
    if out:
        found |= machine.report(described, config={"quick": quick, "tol": tol, "rounds": rounds}, seed=0)
        files.write_text(out, json.dumps(files.plain(found), indent=1) + "\n")
        console.print(f"{out}, commit {provenance.commit()}")
