"""Compares our fits of probes with those of scikit-learn: `python -m experiments.bench probes`.

Both libraries fit the same rows in the same folds.
"""

import functools
import json
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer
import zarr
from rich.console import Console
from rich.table import Table

from experiments.bench import activations, device_probes, machine, options, sklearn_probes
from experiments.bench.activations import Activations
from experiments.bench.device_probes import timed
from experiments.bench.models import Job
from experiments.bench.worker import Worker, peak_rss, reset_peak_rss
from interventions.storage.provenance import commit

if TYPE_CHECKING:
    from interventions import Bank

PENALTIES, FOLDS, CLASSES = (0.1, 1.0, 10.0, 100.0), 5, 4
# Sizes of problems: layers, rows, features, seeds.
FULL, QUICK = (8, 1200, 384, 3), (2, 200, 48, 1)
SCALING = ((8, 1200, 384, 3), (12, 2500, 768, 1), (33, 1200, 1280, 1), (33, 5000, 1280, 1))
# Dtypes and tolerances of scikit-learn. The first pair is common. The second has the smallest
# tolerance that float32 allows. The fits of the third are as close to the optimum as ours.
COMMON_SETTING = (("float32", 1e-5),)
SKLEARN_SETTINGS = (*COMMON_SETTING, ("float32", 1e-7), ("float64", 1e-7))


def synthetic_layer(layer: int, n: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns random features [N, D] with overlapping classes, and class numbers [N].

    As in real activations, the features are correlated: their variances along orthogonal directions
    decrease as 1/rank².

    Args:
        layer: number of the layer, the seed of the features.
        n: number of rows.
        width: number of features.

    Example:
        >>> x, y = synthetic_layer(0, n=10, width=4)
        >>> x.shape, y.shape
        ((10, 4), (10,))
    """
    y = np.random.default_rng(0).integers(0, CLASSES, n)
    rng = np.random.default_rng(1 + layer)
    rotation = np.linalg.qr(rng.normal(size=(width, width)))[0]  # a random orthogonal matrix
    centres = 4 / np.sqrt(width) * rng.normal(size=(CLASSES, width))
    x = (rng.normal(size=(n, width)) + centres[y]) / (1 + np.arange(width)) @ rotation
    return x.astype(np.float32), y


class BankFitter:
    """A worker that fits a bank to activations on disk, and measures time and memory.

    Args:
        job: has `shape` (layers, rows, features, seeds) and `folder` for the activations.
    """

    def __init__(self, job: Job):
        *shape, self.n_seeds = job["shape"]
        self.X = zarr.create_array(
            store=Path(job["folder"]) / "x",
            shape=shape,
            chunks=(1, *shape[1:]),  # one layer
            dtype="float32",
            compressors=(),
        )
        for layer in range(shape[0]):
            self.X[layer], self.y = synthetic_layer(layer, *shape[1:])

    def fit(self) -> dict[str, Any]:
        """Fits one layer, which compiles, and then all layers. Returns time and memory.

        `peak_bytes` is the peak memory during the fit minus the memory before it.
        """
        first_s, _ = timed(_fit, self.X[:1], self.y, self.n_seeds)
        bytes_before = reset_peak_rss()
        seconds, bank = timed(_fit, self.X, self.y, self.n_seeds)
        return {
            "shape": [*self.X.shape, self.n_seeds],
            "fits": bank.objective.size,
            "first_s": first_s,
            "seconds": seconds,
            "fits_per_s": bank.objective.size / seconds,
            "x_bytes": self.X.nbytes,
            "layer_bytes": self.X.nbytes // self.X.shape[0],
            "bank_bytes": bank.data.nbytes,
            "peak_bytes": peak_rss() - bytes_before,
            "peak_rss": peak_rss(),
            "largest_gap": float(bank.optimality_gap.max()),
            "iterations": float(bank.n_iter.mean()),
        }


def _fit(X: Any, y: np.ndarray, n_seeds: int, groups: np.ndarray | None = None) -> "Bank":
    import interventions

    return interventions.fit_probes(
        X, y, groups, penalties=PENALTIES, folds=FOLDS, seeds=range(n_seeds)
    )


def compare_fits(
    data: Activations, n_seeds: int, settings: Sequence[tuple[str, float]], rounds: int
) -> dict[str, Any]:
    """Fits the same probes with both libraries.

    Args:
        data: activations, classes and groups.
        n_seeds: number of random assignments to folds.
        settings: dtypes and tolerances of scikit-learn.
        rounds: number of our fits before and after each fit of scikit-learn.

    Returns:
        Times, and the numbers of `sklearn_probes.compare` for each library and setting.
    """
    arguments = data.X, data.y, n_seeds, data.groups
    first_s, bank = timed(_fit, *arguments)
    test = bank.test.transpose("seed", "fold", "row").values
    # Our fits come before and after each fit of scikit-learn, so that a change of the machine's
    # speed affects both.
    our_seconds, their_seconds, fits = [], {}, {}
    for dtype, tol in settings:
        our_seconds += [timed(_fit, *arguments)[0] for _ in range(rounds)]
        name = f"{dtype}, {tol:g}"
        their_seconds[name], fits[name] = timed(
            sklearn_probes.fit_all, data.X.astype(dtype), data.y, test, PENALTIES, tol
        )
    our_seconds += [timed(_fit, *arguments)[0] for _ in range(rounds)]
    median, n_fits = statistics.median(our_seconds), bank.objective.size
    comparison = sklearn_probes.compare(data.X, data.y, bank, fits)
    ours = {
        "seconds": our_seconds,
        "fits_per_s": n_fits / median,
        "first_s": first_s,
        "iterations": float(bank.n_iter.mean()),
    }
    rows = {
        name: {
            "seconds": seconds,
            "fits_per_s": n_fits / seconds,
            "ratio": seconds / median,
            **comparison[name],
        }
        for name, seconds in their_seconds.items()
    }
    return {
        "shape": [*data.X.shape, n_seeds],
        "fits": n_fits,
        "largest_gap": float(bank.optimality_gap.max()),
        "ours": ours | comparison["ours"],
        "sklearn_jobs": sklearn_probes.N_PROCESSES,
        "sklearn": rows,
    }


def table(case: str, result: dict[str, Any]) -> Table:
    """Returns the table of one case, with a row per library and setting."""
    columns = ("", "", "fits/s", "first s", "ours is × faster", "largest excess", "median excess")
    lines = Table(*columns, "equal predictions", "accuracy gap", box=None)
    others = {f"scikit-learn, {name}": row for name, row in result["sklearn"].items()}
    for name, row in {"ours": result["ours"], **others}.items():
        lines.add_row(
            case,
            name,
            f"{row['fits_per_s']:.1f}",
            f"{row['first_s']:.1f}" if "first_s" in row else "",
            f"{row['ratio']:.1f}" if "ratio" in row else "",
            f"{row['excess_max']:.1e}",
            f"{row['excess_median']:.1e}",
            f"{100 * row['predictions_equal']:.2f} %",
            f"{100 * row['accuracy_gap']:.2f} pt",
        )
    return lines


def scaling_table(rows: list[dict[str, Any]]) -> Table:
    """Returns the table of the scaling measurement, with a row per shape and memory in GB."""
    columns = ("L × N × D × seeds", "fits", "first s", "s", "fits/s")
    memory = ("X GB", "one layer GB", "bank GB", "growth GB", "peak GB")
    lines = Table(*columns, *memory, "gap", box=None)
    for row in rows:
        names = ("x_bytes", "layer_bytes", "bank_bytes", "peak_bytes", "peak_rss")
        lines.add_row(
            " × ".join(map(str, row["shape"])),
            str(row["fits"]),
            f"{row['first_s']:.1f}",
            f"{row['seconds']:.1f}",
            f"{row['fits_per_s']:.1f}",
            *(f"{row[name] / 1e9:.3f}" for name in names),
            f"{row['largest_gap']:.0e}",
        )
    return lines


def main(
    quick: Annotated[bool, typer.Option(help="Measure only small problems, in seconds.")] = False,
    real: Annotated[
        bool, typer.Option(help="Measure activations of real recordings, which need a data folder.")
    ] = True,
    synthetic: Annotated[
        bool, typer.Option(help="Measure random features instead of activations.")
    ] = True,
    scaling: Annotated[
        bool, typer.Option(help="Measure sizes up to 33 layers, 5,000 rows and 1,280 features.")
    ] = True,
    on_device: Annotated[
        bool, typer.Option(help="Measure the path of an accelerator too, also on a CPU.")
    ] = False,
    model: options.Model = "tiny.en",
    recordings: Annotated[
        int, typer.Option(help="Recordings. Each is used clean and with three levels of noise.")
    ] = 300,
    store: Annotated[Path, typer.Option(help="Folder for the activations of recordings.")] = Path(
        "out/bench-probes"
    ),
    data: options.Data = None,
    rounds: Annotated[
        int, typer.Option(help="Number of our fits before and after each fit of scikit-learn.")
    ] = 2,
    out: options.Out = None,
) -> None:
    """Measures fits per second, the excess of objectives over the optimum, and memory.

    Results are added to those in the file of --out.
    """
    options.set_data_folder(data)
    console, shape = Console(width=160), QUICK if quick else FULL
    with Worker("experiments.bench.machine:Machine", {}) as machine_worker:
        description, peak = machine_worker.ask("describe"), machine_worker.ask("matmul_rate")
    console.print(machine.title(description))
    results: dict[str, dict[str, Any]] = {}
    for name, case in _extract_cases(
        synthetic, real and not quick, shape, model, recordings, store
    ):
        numbers = compare_fits(
            case, shape[3], COMMON_SETTING if quick else SKLEARN_SETTINGS, rounds
        )
        results[name] = {"load": machine.load_average(), **numbers}
        console.print(table(name, results[name]))
        if on_device:
            numbers = device_probes.measure(
                functools.partial(_fit, case.X, case.y, shape[3], case.groups), rounds
            )
            results[name]["device_path"] = numbers
            console.print("path of an accelerator:", numbers)
    if scaling:
        points = [_measure_scaling(point) for point in ((QUICK,) if quick else SCALING)]
        results["scaling"] = {"points": points}
        console.print(scaling_table(points))
    if out:
        config = {
            "quick": quick,
            "recordings": recordings,
            "rounds": rounds,
            "penalties": PENALTIES,
            "folds": FOLDS,
        }
        # Each result has its own provenance, because the file may contain results of other runs.
        origin = {"gemm_flops": peak, **machine.report(description, config=config, seed=0)}
        earlier = json.loads(out.read_text()) if out.is_file() else {}
        current = {name: {**numbers, **origin} for name, numbers in results.items()}
        options.save(out, earlier | current)
        console.print(f"{out}, commit {commit()}")


def _extract_cases(
    synthetic: bool, real: bool, shape: tuple[int, ...], model: str, recordings: int, store: Path
) -> Iterator[tuple[str, Activations]]:
    if synthetic:
        layers, y = zip(*(synthetic_layer(layer, *shape[1:3]) for layer in range(shape[0])))
        yield "synthetic", Activations(np.stack(layers), y[0], None)
    if real:
        yield (
            f"{model}, {recordings} recordings",
            activations.extract_activations(model, recordings, store),
        )


def _measure_scaling(shape: tuple[int, ...]) -> dict[str, Any]:
    with (
        tempfile.TemporaryDirectory() as folder,
        Worker("experiments.bench.probes:BankFitter", {"shape": shape, "folder": folder}) as worker,
    ):
        return worker.ask("fit")
