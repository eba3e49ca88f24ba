"""Computes sweeps on meshes of 1, 2, 4 and 8 devices, and compares them bit by bit.

Run it in a process of its own, because the number of devices is fixed when JAX starts:
`python -m tests.meshes`.
"""

import sys
from collections.abc import Iterable

import jax
import numpy as np

import interventions as iv
import jaxasr
from jaxasr.meshes import make_mesh
from tests.golden import tiny

N_DEVICES = 8
# (devices, devices that share the cells)
MESHES = ((1, 1), (2, 1), (4, 2), (8, 1), (8, 8))
SITES = {
    "decoder.embed": ("position",),
    "decoder.resid_pre": ("layer", "position"),
    "decoder.attn.k": ("layer", "head", "position"),
    "decoder.attn.pattern": ("layer", "head"),
    "decoder.attn.z": ("layer", "head", "position"),
    "decoder.cross_attn.scores": ("layer", "time"),
    "decoder.cross_attn.z": ("layer", "head"),
    "decoder.mlp.post": ("layer",),
    "decoder.resid_post": ("layer", "position", "alpha"),
    "encoder.conv1": ("time",),
    "encoder.attn.z": ("layer", "head"),
    "encoder.resid_pre": ("layer", "time"),
    "encoder.mlp_out": ("layer",),
}


def make_run(config: jaxasr.Config, seed: int, n_rows: int = 5, n_tokens: int = 6) -> iv.Run:
    """Makes a run of random recordings and tokens."""
    rng = np.random.default_rng(seed)
    mel = rng.normal(size=(n_rows, config.n_mels, config.n_mel_frames)).astype(np.float32)
    tokens = np.random.default_rng(100 + seed).integers(config.n_vocab, size=(n_rows, n_tokens))
    return iv.Run(mel=mel, tokens=tokens.astype(np.int32))


def differing_sweeps(model: jaxasr.Whisper, sites: Iterable[str]) -> list[str]:
    """Returns the sites and meshes whose sweep differs from that of one device in any bit."""
    target, source = make_run(model.config, 1), make_run(model.config, 2)
    differing, metric = [], iv.logit_diff(np.array([3, 4, 5, 6, 7]), 9)
    for site in sites:
        options = dict(site=site, over=SITES[site], metric=metric, window_s=0.08)
        options |= {"alphas": (0.5, 1.0)} if "alpha" in SITES[site] else {}
        options |= {"n_frames": 11} if "time" in SITES[site] else {}
        expected = iv.sweep(model, target, source, recordings=1, **options)
        for n_devices, cells in MESHES:
            mesh = make_mesh(n_devices, cells=cells)
            result = iv.sweep(model, target, source, mesh=mesh, **options)
            if not result.identical(expected):
                differing.append(f"{site} on {n_devices} devices, cells {cells}")
    return differing


def main() -> None:
    jax.config.update("jax_num_cpu_devices", N_DEVICES)
    model = tiny.tiny_model("80 mels")
    differing = differing_sweeps(model, sys.argv[1:] or SITES)
    print("\n".join(differing) or "all equal")
    sys.exit(bool(differing))


if __name__ == "__main__":
    main()
