"""Fits probes on meshes of 1, 2, 4 and 8 devices, and compares the banks bit by bit.

Run it in a process of its own, because the number of devices is fixed when JAX starts:
`python -m tests.probe_meshes`.
"""

import contextlib
import sys
from collections.abc import Iterator

import jax
import numpy as np

import interventions as iv
from interventions.probes import device_path
from jaxasr.meshes import make_mesh
from tests.meshes import MESHES, N_DEVICES

N_LAYERS, N_ROWS, N_FEATURES = 5, 90, 20


def make_data() -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """Makes activations of two sites, classes and values."""
    rng = np.random.default_rng(0)
    classes = rng.integers(0, 3, N_ROWS)
    noise = rng.normal(size=(2, N_LAYERS, N_ROWS, N_FEATURES))
    X = (noise + rng.normal(size=(3, N_FEATURES))[classes]).astype(np.float32)
    return {"a": X[0], "b": X[1]}, classes, X[0, 1] @ np.arange(N_FEATURES)


def differing_banks() -> Iterator[str]:
    """Yields the fits and meshes whose bank differs from that of one device in any bit."""
    X, classes, values = make_data()
    cases = {"class": classes, "value": values}
    for target, y in cases.items():
        for path, choose in (("cpu", contextlib.nullcontext), ("accelerator", device_path.force)):
            options = dict(y=y, target=target, penalties=(0.1, 10.0), folds=3)
            with choose():
                # The default number of layers per device on a mesh.
                expected = iv.fit_probes(X, **options, chunk=2 if path == "accelerator" else 1)
                for n_devices, cells in MESHES:
                    mesh = make_mesh(n_devices, cells=cells)
                    bank = iv.fit_probes(X, **options, mesh=mesh)
                    if not bank.data.identical(expected.data):
                        yield f"{target}, path of {path}, {n_devices} devices, cells {cells}"


def main() -> None:
    jax.config.update("jax_num_cpu_devices", N_DEVICES)
    print("\n".join(differing_banks()) or "all equal")


if __name__ == "__main__":
    sys.exit(main())
