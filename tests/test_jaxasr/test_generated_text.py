"""`Recogniser.generate` returns the ids, text and mean log-probability of each row."""

import numpy as np
import pytest

import jaxasr
from experiments.data.real_speech import DEMO
from jaxasr.rules import rules_for


@pytest.fixture(scope="module")
def memory(asr):
    audio = jaxasr.load_audio(DEMO)
    windows = [audio, 0.5 * audio[::-1].copy()]
    mels = np.stack([jaxasr.log_mel(window, asr.config.n_mels) for window in windows])
    return asr.model.encode(mels)[0]


def test_each_row_equals_that_of_generate_under_the_rules(asr, memory):
    out = asr.generate(memory, max_new_tokens=20)
    prompt, special = asr.tokenizer.prompt(), asr.tokenizer.special
    expected = jaxasr.generate(
        asr.model,
        memory,
        np.tile(prompt, (2, 1)),
        max_new_tokens=20,
        rules=rules_for(asr.tokenizer),
        eot=special.eot,
        no_speech=(prompt.index(special.sot), special.no_speech),
    )
    np.testing.assert_array_equal(out.generation.tokens, expected.tokens)
    np.testing.assert_array_equal(out.avg_logprob, expected.avg_logprob)
    np.testing.assert_array_equal(out.no_speech_prob, expected.no_speech_prob)
    for row in range(2):
        n = int(expected.lengths[row])
        assert out.ids[row] == tuple(np.asarray(expected.tokens)[row, :n].tolist())
        assert out.text[row] == asr.tokenizer.decode(out.ids[row]).strip()
        assert out.ended[row] == (n < 20)


def test_a_prompt_that_asks_for_timestamps_generates_timestamps(asr, memory):
    prompt = asr.tokenizer.prompt(timestamps=True)
    ids = asr.generate(memory, prompt, max_new_tokens=8).ids
    assert all(row[0] >= asr.tokenizer.special.timestamp_begin for row in ids)


def test_edits_change_the_text(asr, memory):
    edits = {"decoder.cross_attn_out": lambda x, at: x * 0}
    plain, edited = (asr.generate(memory, max_new_tokens=8, edits=each) for each in (None, edits))
    assert plain.text[0] != edited.text[0]
    assert edited.text[0] == edited.text[1]
