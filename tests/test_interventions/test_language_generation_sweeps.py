"""Texts of an audio language model under many edits equal those under each edit alone."""

import numpy as np
import pytest
from small_speech import small_recogniser

import interventions as iv
import jaxasr
from interventions.edits import AtCell, Scale, Zero
from interventions.generation import generate_cells, generate_encoder_cells
from interventions.generation.decoding_bytes import cells_per_loop
from jaxasr.language.sizes import RELEASED
from jaxasr.language.toy import write_toy
from tests.audio_language import LENGTHS, TINY, tiny_mel, tiny_model, tiny_tokens

N_NEW = 8


@pytest.fixture(scope="module")
def model():
    return tiny_model()


def inputs_of(model):
    """Returns mel, prefix, and prompts of three lengths, padded on the left."""
    mel = tiny_mel(model.config)
    prefix, _ = model.encode(mel, lengths=LENGTHS)
    return mel, prefix, *tiny_tokens(model.config, np.asarray(prefix.lengths))


def grid(**axes):
    arrays = np.meshgrid(*(np.asarray(x, np.int32) for x in axes.values()), indexing="ij")
    return {name: x.ravel() for name, x in zip(axes, arrays)}


def alone(model, site, edit, cell, window, n_steps):
    """Generates under one edit, which `only` restricts to the places of a cell."""
    mel, prefix, prompt, positions = inputs_of(model)
    place = {name: int(value) for name, value in cell.items()}
    start = place.get("time")
    frames = None if start is None else slice(start, min(start + window, n_steps))
    places = {"layers": place.get("layer"), "heads": place.get("head"), "frames": frames}
    edits = {site: iv.only(edit, positions=place.get("position"), **places)}
    if site.startswith("encoder."):
        prefix, _ = model.encode(mel, edits, lengths=LENGTHS)
        edits = None
    options = {"positions": positions, "max_new_tokens": N_NEW, "edits": edits}
    return jaxasr.generate(model, prefix, prompt, **options)


def check(model, site, edit, cells, window=1, n_steps=99, **options):
    mel, prefix, prompt, positions = inputs_of(model)
    options |= {"edits_of": AtCell(edit, site, window, n_steps), "positions": positions}
    if site.startswith("decoder."):
        out = generate_cells(model, prefix, prompt, cells, max_new_tokens=N_NEW, **options)
    else:
        options |= {"lengths": LENGTHS, "max_new_tokens": N_NEW}
        out = generate_encoder_cells(model, mel, prompt, cells, **options)
    n_cells = len(next(iter(cells.values())))
    assert out.tokens.shape == (n_cells, 3, N_NEW)
    for k in range(n_cells):
        single = alone(model, site, edit, {n: x[k] for n, x in cells.items()}, window, n_steps)
        np.testing.assert_array_equal(out.tokens[k], single.tokens)
        np.testing.assert_array_equal(out.lengths[k], single.lengths)
        np.testing.assert_allclose(out.logprobs[k], single.logprobs, rtol=2e-5, atol=2e-5)
    assert len(np.unique(out.logprobs.round(4), axis=0)) == n_cells  # every edit has an effect


def test_cells_of_heads_equal_single_edits(model):
    check(model, "decoder.attn.z", Scale(-3.0), grid(layer=[0, 1], head=[0, 2, 3]), batch=4)


def test_cells_of_windows_of_audio_equal_single_edits(model):
    """The rows have their audio at different positions, and the window is the same audio."""
    n_steps = int(np.asarray(inputs_of(model)[1].lengths).max())
    check(model, "decoder.embed", Zero(), grid(time=[0, 2]), 2, n_steps)


def test_cells_of_encoder_heads_equal_single_edits(model):
    """Each cell starts at its layer, and padding stays masked."""
    check(model, "encoder.attn.z", Scale(-4.0), grid(layer=[0, 2], head=[1, 2]))


def test_cells_of_audio_tokens_equal_single_edits(model):
    check(model, "encoder.project", Zero(), grid(time=[0, 1]), 1, 3)


def test_prompts_that_do_not_fit_their_audio_are_refused(model):
    mel, prefix, prompt, positions = inputs_of(model)
    wrong = np.where(prompt == model.config.audio_token, 3, prompt)
    edits_of, cells = AtCell(Zero(), "decoder.mlp_out"), grid(layer=[0])
    options = {"edits_of": edits_of, "max_new_tokens": 2, "positions": positions}
    with pytest.raises(ValueError, match="expected the audio token 98"):
        generate_cells(model, prefix, wrong, cells, **options)
    options["edits_of"] = AtCell(Zero(), "encoder.mlp_out")
    with pytest.raises(ValueError, match="expected the audio token 98"):
        generate_encoder_cells(model, mel, wrong, cells, lengths=LENGTHS, **options)


def test_cells_of_a_released_model_are_few_enough_for_the_memory():
    config = RELEASED["qwen2-audio-7b"]
    assert cells_per_loop(config, 1000) == 1  # on a CPU
    assert cells_per_loop(TINY["qwen2_audio"], 60) == 64


@pytest.mark.parametrize(
    ("family", "site", "over"),
    [
        ("qwen2_audio", "decoder.attn.z", ("layer", "head")),
        ("voxtral", "encoder.mlp_out", ("layer",)),
    ],
)
def test_a_generation_sweep_equals_generating_with_each_edit(family, site, over, tmp_path):
    asr = jaxasr.load(write_toy(tmp_path / "toy", family))
    rng = np.random.default_rng(0)
    audios = [rng.normal(size=n).astype(np.float32) * 0.1 for n in (20_000, 9_000)]
    options = {"site": site, "over": over, "question": "What?", "max_new_tokens": N_NEW}
    result = iv.generation_sweep(asr, audios, edit=Scale(-3.0), **options)
    assert result.text.dims == (*over, "example")
    inputs = asr.inputs(audios, "What?")
    plain = asr.generate(inputs, max_new_tokens=N_NEW)
    assert [text.strip() for text in plain.text] == result.baseline_text.values.tolist()
    assert np.isnan(result.no_speech_prob).all()
    last = {dim: result.sizes[dim] - 1 for dim in over}
    edits = {site: iv.only(Scale(-3.0), layers=last["layer"], heads=last.get("head"))}
    edited = asr.generate(inputs, max_new_tokens=N_NEW, edits=edits)
    assert [text.strip() for text in edited.text] == result.text.isel(last).values.tolist()
    np.testing.assert_allclose(result.avg_logprob.isel(last), edited.avg_logprob, rtol=1e-4)
    assert (result.avg_logprob.isel(last) != result.baseline_avg_logprob).any()


def test_a_whisper_gets_no_question_and_a_language_model_no_foreign_site(tmp_path):
    with pytest.raises(ValueError, match="a Whisper answers no questions"):
        iv.generation_sweep(small_recogniser(), np.zeros(16_000, np.float32), question="What?")
    asr = jaxasr.load(write_toy(tmp_path / "toy"))
    with pytest.raises(ValueError, match=r"Unknown site .* 'decoder\.cross_attn\.z'"):
        iv.generation_sweep(asr, np.zeros(16_000, np.float32), site="decoder.cross_attn.z")


def test_windows_of_audio_tokens_have_their_length_in_seconds(tmp_path):
    asr = jaxasr.load(write_toy(tmp_path / "toy"))
    audio = np.random.default_rng(0).normal(size=20_000).astype(np.float32) * 0.1
    options = {"site": "encoder.project", "over": ("time",), "window_s": 0.5, "max_new_tokens": 2}
    result = iv.generation_sweep(asr, audio, question="What?", **options)
    assert result.attrs["window_s"] == pytest.approx(float(np.diff(result.time)[0]))
