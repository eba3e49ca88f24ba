"""Texts under each cell of a sweep equal those of transformers with a hook, token by token."""

# ruff: noqa: E402 (torch is imported first, because without it this file is skipped)
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from audio_language_reference import _DECODER, _ENCODER, build, model_inputs

from interventions.edits import AtCell, Scale
from interventions.generation import generate_cells, generate_encoder_cells
from tests.audio_language import LENGTHS, tiny_mel, tiny_model, tiny_tokens

N_NEW, FACTOR = 12, -3.0


def generate_with_hook(
    theirs: Any, inputs: dict[str, Any], site: str, layer: int, eos: int
) -> np.ndarray:
    """Generates with one module of one layer scaled, in the prompt and in every step."""
    stack, _, name = site.partition(".")
    is_encoder = stack == "encoder"
    layers = theirs.model.audio_tower.layers if is_encoder else theirs.model.language_model.layers
    submodule, end = (_ENCODER if is_encoder else _DECODER)[name]

    def scale_input(module: Any, args: tuple) -> tuple:
        return (FACTOR * args[0], *args[1:])

    module = layers[layer].get_submodule(submodule)
    if end == "in":
        handle = module.register_forward_pre_hook(scale_input)
    else:
        handle = module.register_forward_hook(lambda module, args, output: FACTOR * output)
    options = {"do_sample": False, "max_new_tokens": N_NEW, "eos_token_id": [eos]}
    with torch.no_grad():
        out = theirs.generate(**inputs, **options, pad_token_id=eos).numpy()
    handle.remove()
    return out[:, inputs["input_ids"].shape[1] :]


@pytest.mark.parametrize(
    ("name", "site"),
    [
        ("qwen2_audio", "decoder.attn.z"),
        ("qwen2_audio", "encoder.attn_out"),
        ("voxtral", "decoder.mlp.up"),
    ],
)
def test_tokens_of_every_layer_equal_a_hook_loop(name, site):
    model = tiny_model(name)
    mel, [eos] = tiny_mel(model.config), model.config.eos
    prefix, _ = model.encode(mel, lengths=LENGTHS)
    prompt, positions = tiny_tokens(model.config, np.asarray(prefix.lengths))
    theirs = build(model)
    inputs = model_inputs(theirs, model.config, mel, LENGTHS, prompt, positions)
    del inputs["position_ids"]  # `generate` computes them from the mask
    layers = np.arange(model.config.stack(site.split(".")[0]).n_layer, dtype=np.int32)
    options = {"edits_of": AtCell(Scale(FACTOR), site), "max_new_tokens": N_NEW}
    options["positions"] = positions
    if site.startswith("decoder."):
        ours = generate_cells(model, prefix, prompt, {"layer": layers}, **options).tokens
    else:
        options["lengths"] = LENGTHS
        ours = generate_encoder_cells(model, mel, prompt, {"layer": layers}, **options).tokens
    for layer in layers:
        expected = generate_with_hook(theirs, inputs, site, int(layer), eos)
        width = expected.shape[1]
        np.testing.assert_array_equal(ours[layer, :, :width], expected)
        assert (ours[layer, :, width:] == eos).all()
    assert len(np.unique(ours.reshape(len(layers), -1), axis=0)) == len(layers)
