"""Every cell of a sweep of an audio language model equals that of a hook loop over transformers.

The sites are those that a hook can patch; see `test_sweeps_torch.py`.
"""

# ruff: noqa: E402 (torch is imported first, because without it this file is skipped)
import functools
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from audio_language_reference import _DECODER, _ENCODER, build, model_inputs, reference

import interventions as iv
from tests.language_runs import LENGTHS, METRIC, N_BEFORE, SCORED_POSITION, model_of, runs_of

WINDOW_S, TOLERANCE = 0.16, 1e-4  # of the metric's scale
DECODER_SITES = (
    *("resid_pre", "attn.q", "attn.k", "attn.v", "attn.z", "attn_out"),
    *("mlp.pre", "mlp.up", "mlp.post", "mlp_out", "resid_post"),
)
ENCODER_SITES = "resid_pre", "attn.v", "attn.z", "mlp.post", "resid_post"


@functools.cache
def torch_model() -> Any:
    return build(model_of())


def arguments(run: iv.Run) -> tuple[np.ndarray, ...]:
    tokens = np.asarray(run.tokens)
    positions = np.broadcast_to(np.arange(tokens.shape[1], dtype=np.int32), tokens.shape)
    return np.asarray(run.mel), LENGTHS, tokens, positions


@functools.cache
def source_activations() -> dict[str, np.ndarray]:
    return reference(torch_model(), model_of().config, *arguments(runs_of()[1]))


def hook_loop_cell(site: str, layer: int, where: np.ndarray) -> np.ndarray:
    """Returns the metric with one module of one layer patched where `where` [B, T, ...] is True."""
    model, config = torch_model(), model_of().config
    stack, _, name = site.partition(".")
    in_encoder = stack == "encoder"
    layers = model.model.audio_tower.layers if in_encoder else model.model.language_model.layers
    submodule, end = (_ENCODER if in_encoder else _DECODER)[name]
    value = source_activations()[site][layer]
    new = torch.tensor(value.reshape(*value.shape[:2], -1))
    mask = torch.tensor(np.broadcast_to(where, value.shape).reshape(*value.shape[:2], -1).copy())
    n_fired = []

    def patch(x: Any) -> Any:
        n_fired.append(1)
        first = x[0] if isinstance(x, tuple) else x
        patched = torch.where(mask, new, first)
        return (patched, *x[1:]) if isinstance(x, tuple) else patched

    def patch_input(module: Any, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        if args:
            return patch(args), kwargs
        return args, {**kwargs, "hidden_states": patch(kwargs["hidden_states"])}

    module = layers[layer].get_submodule(submodule)
    if end == "in":
        handle = module.register_forward_pre_hook(patch_input, with_kwargs=True)
    else:
        handle = module.register_forward_hook(lambda module, args, output: patch(output))
    inputs = model_inputs(model, config, *arguments(runs_of()[0]))
    with torch.no_grad():
        logits = model(**inputs, use_cache=False).logits[:, SCORED_POSITION]
    handle.remove()
    assert n_fired == [1]
    return (logits[:, 3] - logits[:, 5]).numpy()


def check_cells(site: str, dim: str, windows: list[slice], **options: Any) -> None:
    """Compares all layers, heads and windows with the hook loop."""
    value = source_activations()[site]
    heads = value.ndim == 5
    over = ("layer", *(["head"] if heads else []), dim)
    result = iv.sweep(model_of(), *runs_of(), site=site, over=over, metric=METRIC, **options)
    assert result.sizes[dim] == len(windows)
    scale, n_changed = max(1.0, float(np.abs(result).max())), 0
    for layer in range(len(value)):
        for head in range(value.shape[3]) if heads else [None]:
            for step, window in enumerate(windows):
                where = np.zeros(
                    (1, value.shape[2], *([value.shape[3], 1] if heads else [1])), bool
                )
                where[(0, window, *([] if head is None else [head]))] = True
                expected = hook_loop_cell(site, layer, where)
                cell = {"layer": layer, dim: step} | ({} if head is None else {"head": head})
                ours = result.isel(cell).values
                np.testing.assert_allclose(ours, expected, atol=TOLERANCE * scale, rtol=0)
                n_changed += bool(np.abs(expected - result.baseline.values).max() > 1e-4)
    assert n_changed > result[0].size / 2  # the hooks fired


@pytest.mark.parametrize("site", DECODER_SITES)
def test_windows_of_audio_tokens_equal_a_hook_loop(site):
    """Seven audio tokens of 40 ms make windows of four and of three."""
    windows = [slice(N_BEFORE, N_BEFORE + 4), slice(N_BEFORE + 4, N_BEFORE + 7)]
    check_cells(f"decoder.{site}", "time", windows, window_s=WINDOW_S)


@pytest.mark.parametrize("site", ["attn.z", "attn.k", "mlp.up", "resid_post"])
def test_positions_equal_a_hook_loop(site):
    windows = [slice(i, i + 1) for i in (1, 5, 11, 13)]
    check_cells(f"decoder.{site}", "position", windows, positions=(1, 5, 11, 13))


@pytest.mark.parametrize("site", ENCODER_SITES)
def test_windows_of_encoder_frames_equal_a_hook_loop(site):
    windows = [slice(0, 8), slice(8, 15)]
    check_cells(f"encoder.{site}", "time", windows, window_s=WINDOW_S)
