"""The text, the last decoder row and the last encoder row of a lens page agree, also in loops."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from html_outline import Outline

import interventions
import jaxasr
from experiments.analyses.lens import lens_page
from experiments.pages.lens_page import render, summary
from experiments.pages.terminal import print_page
from experiments.progress import Progress
from jaxasr.rules import rules_for

LOOPING_RECORDINGS = ("d0674_speech_noise",)  # without rules the model generates "(baby crying)"


@pytest.fixture(scope="module", params=LOOPING_RECORDINGS)
def looping(request, asr, data_dir):
    audio = jaxasr.load_audio(data_dir / "triggers" / f"{request.param}.flac")
    return lens_page(
        asr, audio, request.param, Progress(quiet=True), model="tiny.en", max_new_tokens=64
    )


def test_a_looping_page_has_one_text(looping):
    assert looping.encoder[-1].text == looping.text
    last = looping.logit.candidates[-1]
    assert tuple(tops[0] for tops in last) == looping.logit.tokens
    assert (looping.logit.rank[-1] == 0).all()
    assert "".join(looping.logit.tokens).strip() == looping.text
    assert (looping.logit.saturation < len(looping.logit.candidates)).all()


def test_a_looping_page_shows_that_it_loops(looping, capsys):
    assert looping.signs.times >= 4
    assert looping.encoder[-1].category == "loop"
    page = Outline(render(looping))
    assert any(
        text.startswith(f"Loop: “{looping.signs.loop}” {looping.signs.times} times")
        for _, text in page.of("li")
    )
    print_page(looping)
    printed = capsys.readouterr().out
    assert f"Loop: “{looping.signs.loop}”" in " ".join(printed.split())
    assert summary(looping)["signs"]["times"] == looping.signs.times


def test_the_rules_hold_for_every_layer(tiny_model):
    """Candidates of every layer obey the rules, and the last layer predicts the generated token."""
    rng = np.random.default_rng(0)
    config = tiny_model.config
    memory, _ = tiny_model.encode(
        rng.normal(size=(2, config.n_mels, 2 * config.n_audio_ctx)).astype(np.float32)
    )
    ids = jnp.arange(config.n_vocab)
    rules = jaxasr.rules.Rules(
        suppress=ids % 2 == 0,  # no even id anywhere
        suppress_begin=ids % 4 == 1,  # none of the ids 1, 5, 9, ... as the first token
        max_initial=jnp.int32(0),
        timestamps=False,
        eot=config.n_vocab - 1,
        timestamp_begin=config.n_vocab,
    )
    prompt = jnp.asarray([[3, 5], [7, 9]])
    out = jaxasr.generate(
        tiny_model, memory, prompt, max_new_tokens=6, rules=rules, eot=config.n_vocab - 1
    )
    run = interventions.Run(memory=memory, tokens=jnp.concatenate([prompt, out.tokens], 1))
    lens = interventions.logit_lens(tiny_model, run, 3, rules=rules, prompt_len=2)
    np.testing.assert_array_equal(np.asarray(lens.final)[:, 1:-1], out.tokens)
    np.testing.assert_array_equal(np.asarray(lens.ids)[-1, :, 1:-1, 0], out.tokens)
    assert (np.asarray(lens.ids) % 2 == 1).all()
    assert not np.isin(np.asarray(lens.ids)[:, :, 1], np.arange(1, config.n_vocab, 4)).any()
    free = interventions.logit_lens(tiny_model, run, 3)
    assert (np.asarray(free.ids) % 2 == 0).any()


def test_rules_need_the_length_of_the_prompt(tiny_model, asr):
    run = interventions.Run(mel=jnp.zeros((1, 7, 22)), tokens=jnp.zeros((1, 3), jnp.int32))
    with pytest.raises(ValueError, match="prompt_len: expected the number of tokens in the prompt"):
        interventions.logit_lens(tiny_model, run, rules=rules_for(asr.tokenizer))


def test_signs_are_sentences(looping):
    quiet = dataclasses.replace(
        looping.signs, loop="", times=0, compression_ratio=1.0, silent=False, ended=True, peak=0.1
    )
    assert quiet.lines() == []
    assert len(looping.signs.lines()) >= 2
