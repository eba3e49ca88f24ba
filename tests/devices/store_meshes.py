"""Extracts stores on meshes of 1, 2, 4 and 8 devices, and compares their files bit by bit.

Run it in a process of its own, because the number of devices is fixed when JAX starts:
`python -m tests.devices.store_meshes`.
"""

import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # to import helper modules in tests/

import jax
from attacks.jobs import recogniser
from small_speech import tones
from small_stores import variable_files

from experiments import store
from jaxasr.meshes import make_mesh

N_DEVICES = 8
# The kept frames of these recordings have two widths, 5 s and 10 s. Nine batches do not fill the
# devices evenly.
LENGTHS_S = [0.3 + 0.04 * i for i in range(15)] + [6.2, 5.1]
JOBS = {
    "encoder": {"sites": ("encoder.resid_post", "encoder.conv1"), "pool": ("speech", "frames")},
    "decoder": {
        "sites": ("encoder.attn.z", "decoder.resid_post", "decoder.embed"),
        "pool": ("speech", "last", "frames"),
        "max_new_tokens": 8,
    },
}


def differing_stores(folder: Path, names: Iterable[str]) -> list[str]:
    """Returns the jobs and numbers of devices whose store differs from that of one device."""
    asr, corpus, differing = recogniser(), tones(LENGTHS_S), []
    for name in names:
        options = JOBS[name]
        store.extract(asr, corpus, folder / name, batch=2, **options)
        expected = variable_files(folder / name)
        for n_devices in (1, 2, 4, 8):
            path = folder / f"{name}-{n_devices}"
            mesh = make_mesh(n_devices, cells=1)
            store.extract(asr, corpus, path, batch=2, mesh=mesh, **options)
            if variable_files(path) != expected:
                differing.append(f"{name} on {n_devices} devices")
    return differing


def main() -> None:
    jax.config.update("jax_num_cpu_devices", N_DEVICES)
    with tempfile.TemporaryDirectory() as folder:
        differing = differing_stores(Path(folder), sys.argv[1:] or JOBS)
    print("\n".join(differing) or "all equal")
    sys.exit(bool(differing))


if __name__ == "__main__":
    main()
