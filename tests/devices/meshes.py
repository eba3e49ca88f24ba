"""Computes sweeps and other methods on meshes of 1, 2, 4 and 8 devices. Compares them bit by bit.

Run it in a process of its own, because the number of devices is fixed when JAX starts:
`python -m tests.devices.meshes`.
"""

import sys
from collections.abc import Callable, Iterable
from typing import Any

import jax
import numpy as np
import xarray as xr

import interventions as iv
import jaxasr
from interventions.edits import AtCell
from interventions.generation import generate_cells, generate_encoder_cells
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


def metric() -> iv.metrics.Metric:
    """Returns another metric for each of five rows."""
    return iv.logit_diff(np.array([3, 4, 5, 6, 7]), 9)


def differing_sweeps(model: jaxasr.Whisper, sites: Iterable[str]) -> list[str]:
    """Returns the sites and meshes whose sweep differs from that of one device in any bit."""
    target, source = make_run(model.config, 1), make_run(model.config, 2)
    differing = []
    for site in sites:
        options = dict(site=site, over=SITES[site], metric=metric(), window_s=0.08)
        options |= {"alphas": (0.5, 1.0)} if "alpha" in SITES[site] else {}
        options |= {"n_frames": 11} if "time" in SITES[site] else {}
        expected = iv.sweep(model, target, source, recordings=1, **options)
        for n_devices, cells in MESHES:
            mesh = make_mesh(n_devices, cells=cells)
            result = iv.sweep(model, target, source, mesh=mesh, **options)
            if not result.identical(expected):
                differing.append(f"{site} on {n_devices} devices, cells {cells}")
    return differing


def generate_options(model: jaxasr.Whisper) -> dict[str, Any]:
    """Returns the options of generating from a random model, and the prompts."""
    prompt = make_run(model.config, 1, n_tokens=3).tokens
    return {"prompt": prompt, "max_new_tokens": 5, "eot": 100, "no_speech": (0, 17)}


def decoder_cells(model: jaxasr.Whisper, **division: Any) -> Any:
    """Generates under the edits of decoder cells, whose values have one row per recording."""
    memory, run = model.encode(make_run(model.config, 1).mel)[0], make_run(model.config, 2)
    value = run.decode(model, readout=jaxasr.select("decoder.mlp_out"))[1]["decoder.mlp_out"]
    edits_of = AtCell(iv.Patch(value, partial=True), "decoder.mlp_out")
    cells = {"layer": np.array([0, 1], np.int32)}
    options = {"edits_of": edits_of, "batch": 1, **generate_options(model)}
    return generate_cells(model, memory, cells=cells, **division, **options)


def encoder_cells(model: jaxasr.Whisper, **division: Any) -> Any:
    """Generates under the edits of encoder cells, whose values have one row per recording."""
    target, site = make_run(model.config, 1), "encoder.attn.z"
    value = model.encode(make_run(model.config, 2).mel, readout=jaxasr.select(site))[1][site]
    layers, heads = (x.ravel().astype(np.int32) for x in np.mgrid[:3, :3])
    cells, edits_of = {"layer": layers, "head": heads}, AtCell(iv.Patch(4 * value), site)
    options = {"edits_of": edits_of, "batch": 2, **generate_options(model)}
    return generate_encoder_cells(model, target.mel, cells=cells, **division, **options)


def generate(model: jaxasr.Whisper, mesh: Any, recordings: int | None = None) -> Any:
    """Generates under an edit; greedily, and by sampling."""
    memory = model.encode(make_run(model.config, 1).mel)[0]
    options = {"edits": {"decoder.mlp_out": iv.Scale(-2.0)}, **generate_options(model)}
    options |= {"mesh": mesh or make_mesh(1), "recordings": recordings}
    greedy = jaxasr.generate(model, memory, **options)
    return greedy, jaxasr.generate(model, memory, temperature=1.5, **options)


def attribution(model: jaxasr.Whisper, **division: Any) -> Any:
    """Estimates effects at sites of both stacks."""
    runs = make_run(model.config, 1), make_run(model.config, 2)
    sites = ["decoder.cross_attn.z", "decoder.attn.k", "encoder.attn.q", "encoder.mlp_out"]
    over = ("layer", "head", "position", "time")
    options = {"metric": metric(), "window_s": 0.08, **division}
    return iv.attribution(model, *runs, site=sites, over=over, **options)


def paths(model: jaxasr.Whisper, **division: Any) -> Any:
    """Patches paths within each stack, and from the encoder to the decoder."""
    runs = make_run(model.config, 1), make_run(model.config, 2)
    senders = [iv.Node("decoder.attn.z", 0, head) for head in range(5)]
    senders += [iv.Node("encoder.mlp_out", layer) for layer in range(2)]
    receivers = [iv.Node("decoder.mlp.pre", 1), iv.Node("decoder.cross_attn.v", 1)]
    receivers += [iv.Node("decoder.logits"), iv.Node("encoder.mlp.pre", 2)]
    options = {"senders": senders, "receivers": receivers, "metric": metric(), **division}
    return iv.path_patch(model, *runs, **options)


def direct_logits(model: jaxasr.Whisper, **division: Any) -> Any:
    """Splits the logits of recordings."""
    answers = np.array([3, 4, 5, 6, 7])
    return iv.direct_logit_attribution(model, make_run(model.config, 1), answers, **division)


FUNCTIONS: dict[str, Callable[..., Any]] = {
    fn.__name__: fn
    for fn in (decoder_cells, encoder_cells, generate, attribution, paths, direct_logits)
}


def arrays_of(result: Any) -> dict[str, np.ndarray]:
    """Returns all arrays of a result by name."""
    if isinstance(result, dict):
        parts = [arrays_of(array) for array in result.values()]
        return {f"{i} {name}": x for i, part in enumerate(parts) for name, x in part.items()}
    if isinstance(result, xr.DataArray | xr.Dataset):
        dataset = result.to_dataset(name="value") if isinstance(result, xr.DataArray) else result
        return {str(name): values.values for name, values in dataset.variables.items()}
    return {str(i): np.asarray(leaf) for i, leaf in enumerate(jax.tree.leaves(result))}


def differing_functions(model: jaxasr.Whisper, names: Iterable[str]) -> list[str]:
    """Returns the functions and meshes whose result differs from that of one device in any bit."""
    differing = []
    for name in names:
        expected = arrays_of(FUNCTIONS[name](model, mesh=None, recordings=1))
        for n_devices, cells in MESHES:
            mesh = make_mesh(n_devices, cells=cells)
            result = arrays_of(FUNCTIONS[name](model, mesh=mesh))
            for key, values in expected.items():
                if not np.array_equal(result[key], values):
                    differing.append(f"{name}[{key}] on {n_devices} devices, cells {cells}")
    return differing


def main() -> None:
    jax.config.update("jax_num_cpu_devices", N_DEVICES)
    model = tiny.tiny_model("80 mels")
    names = sys.argv[1:] or [*SITES, *FUNCTIONS]
    differing = differing_sweeps(model, [name for name in names if name in SITES])
    differing += differing_functions(model, [name for name in names if name in FUNCTIONS])
    print("\n".join(differing) or "all equal")
    sys.exit(bool(differing))


if __name__ == "__main__":
    main()
