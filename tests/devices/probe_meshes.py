"""Fits probes on meshes of 1, 2, 4 and 8 devices, and compares the banks bit by bit.

Run it in a process of its own, because the number of devices is fixed when JAX starts:
`python -m tests.devices.probe_meshes`. Arguments name cases, such as `class-cpu`.
"""

import contextlib
import sys
from collections.abc import Iterable, Iterator

import jax
import numpy as np

import interventions as iv
from interventions.probes import device_path
from jaxasr.meshes import make_mesh
from tests.devices.meshes import N_DEVICES

N_LAYERS, N_ROWS, N_FEATURES = 5, 90, 20
MESHES = ((1, 1), (2, 1), (4, 2), (8, 1))  # (devices, devices along "cells")
CASES = (("class", "accelerator"), ("class", "cpu"), ("value", "accelerator"))


def make_data() -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """Makes activations of two sites, classes and values."""
    rng = np.random.default_rng(0)
    classes = rng.integers(0, 3, N_ROWS)
    noise = rng.normal(size=(2, N_LAYERS, N_ROWS, N_FEATURES))
    X = (noise + rng.normal(size=(3, N_FEATURES))[classes]).astype(np.float32)
    return {"a": X[0], "b": X[1]}, classes, X[0, 1] @ np.arange(N_FEATURES)


def differing_banks(cases: Iterable[tuple[str, str]]) -> Iterator[str]:
    """Yields the cases and meshes whose bank differs from that of one device in any bit.

    Args:
        cases: targets ("class" or "value") and paths ("cpu" or "accelerator").
    """
    X, classes, values = make_data()
    for target, path in cases:
        y = classes if target == "class" else values
        with device_path.force() if path == "accelerator" else contextlib.nullcontext():
            options = dict(y=y, target=target, penalties=(0.1, 10.0), folds=3)
            # On a mesh, a device takes at most an eighth of the 10 layers, which is 2.
            expected = iv.fit_probes(X, **options, chunk=2 if path == "accelerator" else 1)
            for n_devices, cells in MESHES:
                bank = iv.fit_probes(X, **options, mesh=make_mesh(n_devices, cells=cells))
                if not bank.data.identical(expected.data):
                    yield f"{target}, path of {path}, {n_devices} devices, cells {cells}"


def main() -> None:
    jax.config.update("jax_num_cpu_devices", N_DEVICES)
    cases = [tuple(case.split("-")) for case in sys.argv[1:]] or CASES
    differing = list(differing_banks(cases))
    print("\n".join(differing) or "all equal")
    sys.exit(bool(differing))


if __name__ == "__main__":
    main()
