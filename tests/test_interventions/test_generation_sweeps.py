"""Generation under many edits at once equals generation under one edit at a time."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden.tiny import tiny_inputs
from own_edits import SilenceHead

import jaxasr
from experiments.data import real_speech
from interventions.edits import AtCell, FromRow, Mix, Scale, Zero, only
from interventions.generation import generate_cells, sweeps
from interventions.generation.cells import _generate_chunk
from jaxasr import compiled

N_NEW, EOT, HEADS = 7, 100, [(layer, head) for layer in range(2) for head in range(5)]


def no_rules(logits, tokens, n_tokens, n_prompt):
    """Allows every token."""
    return logits


SWEEP_OPTIONS = {
    "rules": no_rules,
    "no_speech": (1, 17),
}  # the no-speech token is 17; its probability is read at column 1 of the prompt


@pytest.fixture(scope="module")
def inputs(tiny_model):
    mel, prompt = tiny_inputs(tiny_model.config, 2, 3)
    return tiny_model.encode(mel)[0], prompt


def generate_all_cells(model, inputs, cells, **options):
    return generate_cells(
        model, *inputs, cells, **({"max_new_tokens": N_NEW, "eot": EOT} | options)
    )


def assert_cell(out, k, single):
    np.testing.assert_array_equal(out.tokens[k], single.tokens)
    np.testing.assert_array_equal(out.lengths[k], single.lengths)
    np.testing.assert_allclose(out.logprobs[k], single.logprobs, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(out.no_speech_prob[k], single.no_speech_prob, rtol=1e-5)


@pytest.mark.parametrize("batch", [3, 64])
def test_each_cell_equals_its_edit_alone(tiny_model, inputs, batch):
    memory, prompt = inputs
    layers, heads = jnp.array(HEADS).T
    cells = {"decoder.cross_attn.z": SilenceHead(layers, heads)}
    out = generate_all_cells(tiny_model, inputs, cells, batch=batch, **SWEEP_OPTIONS)
    assert out.tokens.shape == (10, 2, N_NEW)
    for k, (layer, head) in enumerate(HEADS):
        edits = {"decoder.cross_attn.z": SilenceHead(layer, head)}
        assert_cell(
            out,
            k,
            jaxasr.generate(
                tiny_model,
                memory,
                prompt,
                max_new_tokens=N_NEW,
                eot=EOT,
                edits=edits,
                **SWEEP_OPTIONS,
            ),
        )
    assert len(np.unique(out.logprobs.round(4), axis=0)) == 10


def test_chunks_cells_and_their_values_share_one_executable(tiny_model, inputs):
    before = compiled.n_compiled(_generate_chunk)
    edits_of = AtCell(Scale(0.5), "decoder.attn.z")
    for n, factor in ((7, 0.5), (5, 2.0)):
        cells = {
            "layer": np.arange(n, dtype=np.int32) % 2,
            "head": np.arange(n, dtype=np.int32) % 5,
        }
        generate_all_cells(
            tiny_model, inputs, cells, edits_of=edits_of.replace(edit=Scale(factor)), batch=4
        )
    assert compiled.n_compiled(_generate_chunk) == before + 1


def test_strengths_of_a_patch_from_another_row_equal_single_edits(tiny_model, inputs):
    memory, prompt = inputs
    prompt, leader = np.repeat(prompt[:1], 2, 0), np.array([0, 0])
    row = FromRow(jnp.array([1, 1]))
    doses = jax.vmap(lambda alpha: {"decoder.cross_attn.z": Mix(alpha, row)})(
        jnp.array([0.0, 0.4, 1.0])
    )
    out = generate_all_cells(tiny_model, (memory, prompt), doses, leader=leader)
    for k, alpha in enumerate((0.0, 0.4, 1.0)):
        edits = {"decoder.cross_attn.z": Mix(jnp.float32(alpha), row)}
        assert_cell(
            out,
            k,
            jaxasr.generate(
                tiny_model,
                memory,
                prompt,
                max_new_tokens=N_NEW,
                eot=EOT,
                edits=edits,
                leader=leader,
            ),
        )


def test_cells_of_unequal_number_raise(tiny_model, inputs):
    with pytest.raises(ValueError, match=r"leading axis of cells.*\(3,\), \(2,\)"):
        generate_all_cells(
            tiny_model, inputs, {"decoder.cross_attn.z": SilenceHead(np.arange(3), np.arange(2))}
        )
    with pytest.raises(ValueError, match="leading axis of cells"):
        generate_all_cells(tiny_model, inputs, {"decoder.cross_attn.z": Zero()})


@pytest.fixture(scope="module")
def tiny(asr, tiny_model) -> jaxasr.Recogniser:
    """Returns a random model with the tokenizer of tiny.en, and special ids in its vocabulary."""
    special = dataclasses.replace(asr.tokenizer.special, sot=1, eot=100, no_speech=17)
    tokenizer = dataclasses.replace(asr.tokenizer, special=special)
    return dataclasses.replace(asr, model=tiny_model, tokenizer=tokenizer)


def test_a_sweep_is_labelled_and_scored(tiny, inputs):
    memory, prompt = inputs
    prompt = np.array([[5, 1, 6]] * 2, np.int32)
    coords = {"layer": np.arange(2), "head": np.arange(5)}
    layers, heads = jnp.array(HEADS).T
    cells = {"decoder.cross_attn.z": SilenceHead(layers, heads)}
    result = sweeps.sequence_sweep(
        tiny, memory, prompt, cells, coords=coords, max_new_tokens=N_NEW, rules=no_rules
    )
    assert result.text.dims == ("layer", "head", "example")
    options = {"max_new_tokens": N_NEW, "eot": EOT, **SWEEP_OPTIONS}
    plain = jaxasr.generate(tiny.model, memory, prompt, **options)
    single = jaxasr.generate(
        tiny.model, memory, prompt, edits={"decoder.cross_attn.z": SilenceHead(1, 3)}, **options
    )
    for example in range(2):
        cell = result.sel(layer=1, head=3).isel(example=example)
        assert (
            cell.text
            == tiny.tokenizer.decode(single.tokens[example, : single.lengths[example]]).strip()
        )
        assert cell.length == single.lengths[example]
        np.testing.assert_allclose(cell.avg_logprob, single.avg_logprob[example], rtol=1e-5)
        assert (
            cell.baseline_text
            == tiny.tokenizer.decode(plain.tokens[example, : plain.lengths[example]]).strip()
        )
        np.testing.assert_allclose(cell.baseline_avg_logprob, plain.avg_logprob[example], rtol=1e-5)
    assert (result.baseline_wer.fillna(0) == 0).all()
    np.testing.assert_array_equal(result.d_cer, result.cer - result.baseline_cer)
    with pytest.raises(ValueError, match="10 cells in all, got 6"):
        sweeps.sequence_sweep(
            tiny, memory, prompt, cells, coords={"layer": [0, 1], "head": [0, 1, 2]}, rules=no_rules
        )


def test_ablating_the_last_layer_equals_transcribing_with_the_edit(asr):
    audio = jaxasr.load_audio(real_speech.DEMO)
    result = sweeps.generation_sweep(
        asr, audio, site="decoder.cross_attn_out", over=("layer",), max_new_tokens=40
    )
    assert result.sizes == {"layer": 4, "example": 1}
    assert "captain read the old letter" in str(result.baseline_text[0].item())
    assert (result.d_wer.max() > 0.1).item()
    assert not result.resolved.any()
    transcribed = asr.transcribe(
        audio,
        timestamps=False,
        edits={"decoder.cross_attn_out": only(Zero(), layers=3)},
        max_new_tokens=40,
    )
    assert result.text.sel(layer=3).item() == transcribed.text.strip()


def test_recordings_of_other_lengths_compile_nothing(asr):
    call = functools.partial(
        sweeps.generation_sweep,
        asr,
        site="decoder.cross_attn.pattern",
        over=("time",),
        window_s=0.5,
        max_new_tokens=3,
    )
    audio = jaxasr.load_audio(real_speech.DEMO)
    long = call(audio[:40_000])
    before = compiled.n_compiled(_generate_chunk)
    assert long.sizes["time"] == 5
    assert call(audio[:20_000]).sizes["time"] == 3
    assert compiled.n_compiled(_generate_chunk) == before


@pytest.mark.parametrize(
    ("site", "over", "message"),
    [
        ("encoder.resid_post", ("head",), "expected some of layer, time, alpha"),
        ("decoder.resid_post", ("head",), "expected some of layer, position, alpha"),
        ("decoder.attn.z", ("frame",), "expected some of layer, head, position, alpha"),
        ("decoder.ln", ("layer",), "expected some of position, alpha"),
        ("decoder.attn.z", ("alpha",), "needs an edit with a strength"),
    ],
)
def test_dimensions_that_a_site_lacks_raise(asr, site, over, message):
    with pytest.raises(ValueError, match=message):
        sweeps.generation_sweep(asr, np.zeros(16000, np.float32), site=site, over=over)
