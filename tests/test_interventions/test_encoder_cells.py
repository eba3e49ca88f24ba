"""Generation under many encoder edits equals generation under each edit alone."""

import dataclasses

import jax
import numpy as np
import pytest
from golden.tiny import tiny_inputs

import jaxasr
from interventions import Mix, Patch, Scale, only
from interventions.edits import AtCell
from interventions.generation import encoder_cells, sweeps
from jaxasr import compiled

N_NEW, EOT, S = 6, 100, 11
OPTIONS = {"max_new_tokens": N_NEW, "eot": EOT, "no_speech": (0, 17)}


@pytest.fixture(scope="module")
def inputs(tiny_model):
    mel, prompt = tiny_inputs(tiny_model.config, 2, 3)
    return mel, prompt


def generate_alone(model, mel, prompt, edits):
    return jaxasr.generate(model, model.encode(mel, edits)[0], prompt, **OPTIONS)


def assert_cell(out, k, single):
    np.testing.assert_array_equal(out.tokens[k], single.tokens)
    np.testing.assert_array_equal(out.lengths[k], single.lengths)
    np.testing.assert_allclose(out.logprobs[k], single.logprobs, rtol=2e-5, atol=2e-5)
    np.testing.assert_allclose(out.no_speech_prob[k], single.no_speech_prob, rtol=1e-4)


def cell_grid(**axes):
    return dict(zip(axes, (x.ravel() for x in np.meshgrid(*axes.values(), indexing="ij"))))


@pytest.mark.parametrize("budget", [None, 20_000])
def test_cells_of_layers_and_heads_equal_single_edits(tiny_model, inputs, budget):
    mel, prompt = inputs
    cells = cell_grid(layer=np.arange(4, dtype=np.int32), head=np.arange(3, dtype=np.int32))
    out = encoder_cells.generate_encoder_cells(
        tiny_model,
        mel,
        prompt,
        cells,
        edits_of=AtCell(Scale(-4.0), "encoder.attn.z"),
        budget=budget,
        **OPTIONS,
    )
    assert out.tokens.shape == (12, 2, N_NEW)
    for k in (0, 5, 11):
        edits = {
            "encoder.attn.z": only(
                Scale(-4.0), layers=int(cells["layer"][k]), heads=int(cells["head"][k])
            )
        }
        assert_cell(out, k, generate_alone(tiny_model, mel, prompt, edits))
    assert len(np.unique(out.logprobs.round(4), axis=0)) == 12


def test_each_example_is_patched_from_its_own_row(tiny_model, inputs):
    mel, prompt = inputs
    other = tiny_model.encode(mel[::-1] * 2, readout=jaxasr.select("encoder.resid_post"))[1][
        "encoder.resid_post"
    ]
    cells = cell_grid(layer=np.arange(4, dtype=np.int32), time=np.array([0, 4, 8], np.int32))
    at = AtCell(Patch(other), "encoder.resid_post", 4, 10)
    out = encoder_cells.generate_encoder_cells(
        tiny_model, mel, prompt, cells, edits_of=at, batch=8, **OPTIONS
    )
    for k in (1, 8, 11):
        start = int(cells["time"][k])
        edits = {
            "encoder.resid_post": only(
                Patch(other), layers=int(cells["layer"][k]), frames=slice(start, min(start + 4, 10))
            )
        }
        assert_cell(out, k, generate_alone(tiny_model, mel, prompt, edits))
    programs = (
        compiled.n_compiled(encoder_cells._encode_cells),
        compiled.n_compiled(encoder_cells._generate_memories),
    )
    shorter = cell_grid(layer=np.arange(4, dtype=np.int32), time=np.array([0, 4], np.int32))
    same = encoder_cells.generate_encoder_cells(
        tiny_model, mel, prompt, shorter, edits_of=at.replace(n_frames=9), batch=8, **OPTIONS
    )
    np.testing.assert_array_equal(
        same.tokens.reshape(4, 2, 2, -1), out.tokens.reshape(4, 3, 2, -1)[:, :2]
    )
    assert programs == (
        compiled.n_compiled(encoder_cells._encode_cells),
        compiled.n_compiled(encoder_cells._generate_memories),
    )


def test_strengths_at_a_site_without_layers_equal_single_edits(tiny_model, inputs):
    mel, prompt = inputs
    doses = np.array([0.0, 0.5, 2.0], np.float32)
    cells = jax.vmap(lambda alpha: {"encoder.embed": Mix(alpha, np.float32(0.1))})(doses)
    out = encoder_cells.generate_encoder_cells(tiny_model, mel, prompt, cells, **OPTIONS)
    for k, alpha in enumerate(doses):
        assert_cell(
            out,
            k,
            generate_alone(tiny_model, mel, prompt, {"encoder.embed": Mix(alpha, np.float32(0.1))}),
        )


def test_a_sequence_sweep_of_the_encoder_takes_the_mel(asr, tiny_model, inputs):
    special = dataclasses.replace(asr.tokenizer.special, sot=1, eot=EOT, no_speech=17)
    tiny = dataclasses.replace(
        asr, model=tiny_model, tokenizer=dataclasses.replace(asr.tokenizer, special=special)
    )
    mel, prompt = inputs[0], np.array([[1, 5, 6]] * 2, np.int32)
    options = {
        "coords": {"layer": range(4)},
        "max_new_tokens": N_NEW,
        "rules": lambda logits, *_: logits,
    }
    options["edits_of"] = AtCell(Scale(-4.0), "encoder.mlp_out")
    result = sweeps.sequence_sweep(
        tiny, mel, prompt, {"layer": np.arange(4, dtype=np.int32)}, **options
    )
    assert result.text.dims == ("layer", "example")
    plain = jaxasr.generate(
        tiny_model, tiny_model.encode(mel)[0], prompt, max_new_tokens=N_NEW, eot=EOT
    )
    assert (
        result.baseline_text[1]
        == tiny.tokenizer.decode(plain.tokens[1, : plain.lengths[1]]).strip()
    )
    with pytest.raises(ValueError, match="leader: not defined"):
        sweeps.sequence_sweep(
            tiny, mel, prompt, {"layer": np.arange(4)}, leader=np.array([0, 0]), **options
        )
