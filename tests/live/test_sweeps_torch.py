"""Every cell of a sweep equals that of a hook loop over the torch model.

The sites are those that a hook can patch. Hooks cannot patch scores and patterns, because these are
not the output of a module, or the stream within a layer, because it bypasses the norm.
`tests/test_interventions/test_sweeps.py` compares these sites with plain passes of this model.
"""

# ruff: noqa: E402 (torch is imported first, because without it this file is skipped)
import functools
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from golden.tiny import checkpoint, tiny_inputs, tiny_state
from torch_reference import modules_of, reference

import interventions as iv
import jaxasr
from experiments.bench.torch_whisper import build
from jaxasr.sites import SITES
from jaxasr.weights import assemble

# Four decoder layers, so that there are layers between the edited one and the last.
CONFIG = jaxasr.Config(
    n_mels=80,
    n_audio_ctx=11,
    n_audio_state=30,
    n_audio_head=3,
    n_audio_layer=3,
    n_vocab=101,
    n_text_ctx=13,
    n_text_state=30,
    n_text_head=5,
    n_text_layer=4,
)
N_TOKENS, WINDOW, ANSWER, FOIL = 7, 4, 3, 5
TOLERANCE = 1e-4  # of the metric's scale
DECODER_SITES = [
    "resid_pre",
    *(f"attn.{part}" for part in ("q", "k", "v", "z")),
    "attn_out",
    "cross_attn.q",
    "cross_attn.z",
    "cross_attn_out",
    "mlp.pre",
    "mlp.post",
    "mlp_out",
    "resid_post",
]
ENCODER_SITES = [
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


def patch(value: np.ndarray, where: np.ndarray, x: Any) -> Any:
    """Returns the tensor `x` [B, T, D] with `value` [B, T, D] where `where` is True."""
    return torch.where(torch.from_numpy(where), torch.from_numpy(value), x)


def hook_loop_cell(
    site: str, layer: int, value: np.ndarray, where: np.ndarray, mel: np.ndarray, tokens: np.ndarray
) -> np.ndarray:
    """Returns the last logit difference, with a module's input or output patched by a hook."""
    model = models()[1]
    modules, end = modules_of(model, site)
    if end == "in":
        handle = modules[layer].register_forward_pre_hook(
            lambda _, args, kw: _patch_input(args, kw, value, where), with_kwargs=True
        )
    else:
        handle = modules[layer].register_forward_hook(
            lambda _, args, out: _patch_output(out, value, where)
        )
    with torch.no_grad():
        logits = model(
            input_features=torch.from_numpy(mel),
            decoder_input_ids=torch.from_numpy(tokens).long(),
            use_cache=False,
        ).logits
    handle.remove()
    return (logits[:, -1, ANSWER] - logits[:, -1, FOIL]).numpy()


def _patch_input(
    args: tuple, kwargs: dict, value: np.ndarray, where: np.ndarray
) -> tuple[tuple, dict]:
    if args:
        return (patch(value, where, args[0]), *args[1:]), kwargs
    return args, {**kwargs, "hidden_states": patch(value, where, kwargs["hidden_states"])}


def _patch_output(out: Any, value: np.ndarray, where: np.ndarray) -> Any:
    return (
        (patch(value, where, out[0]), *out[1:])
        if isinstance(out, tuple)
        else patch(value, where, out)
    )


def cells(
    site: str, shape: tuple[int, ...]
) -> tuple[tuple[str, ...], list[tuple[dict[str, int], np.ndarray]]]:
    """Returns the dimensions, and every cell with its mask [B, T, features] within its layer."""
    heads = SITES[site][-2:] == ("H", "Dh")
    time, n = (
        ("position", shape[1]) if site.startswith("decoder.") else ("time", -(-shape[1] // WINDOW))
    )
    dims, cells_of_layer = (("head", time) if heads else (time,)), []
    for head in range(shape[2]) if heads else [None]:
        for step in range(n):
            where = np.zeros(shape, bool)
            steps = (
                slice(step, step + 1)
                if time == "position"
                else slice(step * WINDOW, (step + 1) * WINDOW)
            )
            where[(slice(None), steps, *([] if head is None else [head]))] = True
            cells_of_layer.append(
                (
                    {time: step} | ({} if head is None else {"head": head}),
                    where.reshape(*shape[:2], -1),
                )
            )
    return dims, cells_of_layer


@pytest.mark.parametrize(
    "site",
    [f"decoder.{name}" for name in DECODER_SITES] + [f"encoder.{name}" for name in ENCODER_SITES],
)
def test_every_cell_equals_that_of_a_hook_loop(site):
    ours, theirs = models()
    mel, tokens = tiny_inputs(CONFIG, 2, N_TOKENS)
    other = mel[::-1].copy()
    value = reference(theirs, other, tokens, [site])[site]
    dims, grid = cells(site, value.shape[1:])
    target, source = (iv.Run(mel=each, tokens=tokens) for each in (mel, other))
    options = {
        "window_s": WINDOW / 50,
        "n_frames": CONFIG.n_audio_ctx,
        "metric": iv.logit_diff(ANSWER, FOIL),
    }
    result = iv.sweep(ours, target, source, site=site, over=("layer", *dims), **options)
    scale, n_changed = max(1.0, float(np.abs(result).max())), 0
    for layer in range(len(value)):
        flat = value[layer].reshape(*value.shape[1:3], -1)
        for cell, where in grid:
            expected = hook_loop_cell(site, layer, flat, where, mel, tokens)
            np.testing.assert_allclose(
                result.isel(layer=layer, **cell), expected, atol=TOLERANCE * scale, rtol=0
            )
            n_changed += bool(np.abs(expected - result.baseline).max() > 1e-3)
    assert n_changed > len(grid) / 2  # the hooks fired
