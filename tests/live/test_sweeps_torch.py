"""Every cell of a sweep equals a hook loop over the torch model with the same weights, at every kind of site that a hook can patch.

Scores and patterns are no module's output there, and the stream in mid-layer is what a norm reads while the residual goes past it;
`tests/test_interventions/test_sweeps.py` holds such sites against plain passes of this model.
"""

# ruff: noqa: E402 (torch first: without it this file is skipped)
import functools
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from golden.tiny import checkpoint, tiny_inputs, tiny_state
from torch_reference import _places, reference

import interventions as iv
import jaxasr
from experiments.bench.torch_whisper import build
from jaxasr.sites import SITES
from jaxasr.weights import assemble

CONFIG = jaxasr.Config(
    80, 11, 30, 3, 3, 101, 13, 30, 5, 4
)  # deep enough for layers between the edited one and the last
N_TOKENS, WINDOW, ANSWER, FOIL = 7, 4, 3, 5
TOLERANCE = 1e-4  # of the metric's scale
DECODER = ["resid_pre", "attn.q", "attn.k", "attn.v", "attn.z", "attn_out", "cross_attn.q", "cross_attn.z",
           "cross_attn_out", "mlp.pre", "mlp.post", "mlp_out", "resid_post"]  # fmt: skip
ENCODER = [
    "resid_pre",
    "attn.q",
    "attn.v",
    "attn.z",
    "attn_out",
    "mlp.post",
    "mlp_out",
    "resid_post",
]


@functools.cache
def models() -> tuple[Any, Any]:
    state = tiny_state(CONFIG)
    return assemble(checkpoint(CONFIG, state)), build(CONFIG, state)


def put(value: np.ndarray, where: np.ndarray, x: Any) -> Any:
    """`x` [B, T, D] of torch with `value` [B, T, D] at `where`, of the same shape."""
    return torch.where(torch.from_numpy(where), torch.from_numpy(value), x)


def looped(
    site: str, layer: int, value: np.ndarray, where: np.ndarray, mel: np.ndarray, tokens: np.ndarray
) -> np.ndarray:
    """The logit difference after the last token, with the module's input or output patched by a hook."""
    model = models()[1]
    modules, end = _places(model, site)
    if end == "in":
        handle = modules[layer].register_forward_pre_hook(
            lambda _, args, kw: _entered(args, kw, value, where), with_kwargs=True
        )
    else:
        handle = modules[layer].register_forward_hook(lambda _, args, out: _left(out, value, where))
    with torch.no_grad():
        logits = model(
            input_features=torch.from_numpy(mel),
            decoder_input_ids=torch.from_numpy(tokens).long(),
            use_cache=False,
        ).logits
    handle.remove()
    return (logits[:, -1, ANSWER] - logits[:, -1, FOIL]).numpy()


def _entered(args: tuple, kwargs: dict, value: np.ndarray, where: np.ndarray) -> tuple[tuple, dict]:
    if args:
        return (put(value, where, args[0]), *args[1:]), kwargs
    return args, {**kwargs, "hidden_states": put(value, where, kwargs["hidden_states"])}


def _left(out: Any, value: np.ndarray, where: np.ndarray) -> Any:
    return (
        (put(value, where, out[0]), *out[1:]) if isinstance(out, tuple) else put(value, where, out)
    )


def cells(
    site: str, shape: tuple[int, ...]
) -> tuple[tuple[str, ...], list[tuple[dict[str, int], np.ndarray]]]:
    """Dimensions, and every cell with where it patches one layer of `shape` [B, T, (H, Dh or D)], flat over features."""
    heads = SITES[site][-2:] == ("H", "Dh")
    time, n = (
        ("position", shape[1]) if site.startswith("decoder.") else ("time", -(-shape[1] // WINDOW))
    )
    dims, found = (("head", time) if heads else (time,)), []
    for head in range(shape[2]) if heads else [None]:
        for step in range(n):
            where = np.zeros(shape, bool)
            steps = (
                slice(step, step + 1)
                if time == "position"
                else slice(step * WINDOW, (step + 1) * WINDOW)
            )
            where[(slice(None), steps, *([] if head is None else [head]))] = True
            found.append(
                (
                    {time: step} | ({} if head is None else {"head": head}),
                    where.reshape(*shape[:2], -1),
                )
            )
    return dims, found


@pytest.mark.parametrize(
    "site", [f"decoder.{name}" for name in DECODER] + [f"encoder.{name}" for name in ENCODER]
)
def test_every_cell_is_that_of_a_hook_loop(site):
    ours, theirs = models()
    mel, tokens = tiny_inputs(CONFIG, 2, N_TOKENS)
    other = mel[::-1].copy()
    value = reference(theirs, other, tokens, [site])[site]
    dims, grid = cells(site, value.shape[1:])
    target, source = (iv.Run(mel=sound, tokens=tokens) for sound in (mel, other))
    options = {
        "window_s": WINDOW / 50,
        "n_frames": CONFIG.n_audio_ctx,
        "metric": iv.logit_diff(ANSWER, FOIL),
    }
    swept = iv.sweep(ours, target, source, site=site, over=("layer", *dims), **options)
    scale, changed = max(1.0, float(np.abs(swept).max())), 0
    for layer in range(len(value)):
        flat = value[layer].reshape(*value.shape[1:3], -1)
        for cell, where in grid:
            expected = looped(site, layer, flat, where, mel, tokens)
            np.testing.assert_allclose(
                swept.isel(layer=layer, **cell), expected, atol=TOLERANCE * scale, rtol=0
            )
            changed += bool(np.abs(expected - swept.baseline).max() > 1e-3)
    assert changed > len(grid) / 2  # the hooks fired
