"""The model equals CTranslate2, an independent implementation in C++, with real weights."""

import ctranslate2
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxasr
from experiments.bench import ctranslate2_folder
from experiments.data import real_speech
from jaxasr.audio import load_audio, log_mel
from jaxasr.config import N_SAMPLES
from jaxasr.rules import rules_for

N_NEW = 60  # most tokens to generate
# CTranslate2 approximates GELU and softmax, so it is further from float64 than torch is. A wrong
# formula would be off by 1e-2.
TOLERANCE = 2e-3


@pytest.fixture(scope="module", params=["tiny.en", "base"])
def pair(request, tmp_path_factory) -> tuple[jaxasr.Recogniser, ctranslate2.models.Whisper]:
    """Returns a recogniser, and the same checkpoint in CTranslate2."""
    asr = jaxasr.load(request.param)
    folder = ctranslate2_folder.prepare(asr.checkpoint, tmp_path_factory.mktemp("ct2"))
    return asr, ctranslate2.models.Whisper(str(folder), device="cpu", compute_type="float32")


@pytest.fixture(scope="module")
def mels() -> np.ndarray:
    """Returns mel features of the demo recording and of up to four real recordings."""
    clips = real_speech.select_evenly(
        real_speech.recordings(["timit", "libri_test_other", "vctk", "ljspeech"]), 4
    )
    audios = [
        load_audio(path)[:N_SAMPLES] for path in [real_speech.DEMO, *(clip.path for clip in clips)]
    ]
    return np.stack([np.asarray(log_mel(audio, 80)) for audio in audios])


def to_ct2(mels: np.ndarray) -> ctranslate2.StorageView:
    return ctranslate2.StorageView.from_array(np.ascontiguousarray(mels))


def test_encoder_outputs_agree(pair, mels):
    asr, oracle = pair
    ours, theirs = (
        np.asarray(asr.model.encode(mels[:2])[0].xa),
        np.array(oracle.encode(to_ct2(mels[:2]))),
    )
    assert np.abs(ours - theirs).max() < TOLERANCE * np.abs(theirs).max()


def test_greedy_tokens_and_scores_agree(pair, mels):
    asr, oracle = pair
    prompt = asr.tokenizer.prompt("en")
    memory, _ = asr.model.encode(mels)
    out = jaxasr.generate(
        asr.model,
        memory,
        jnp.tile(jnp.array(prompt, jnp.int32), (len(mels), 1)),
        max_new_tokens=N_NEW,
        rules=rules_for(asr.tokenizer),
    )
    length = N_NEW + len(prompt)
    theirs = oracle.generate(
        to_ct2(mels),
        [prompt] * len(mels),
        beam_size=1,
        max_length=length,
        return_scores=True,
        length_penalty=0,
    )
    for row, result in enumerate(theirs):
        n = int(out.lengths[row])
        assert np.asarray(out.tokens[row, :n]).tolist() == result.sequences_ids[0]
        # With length_penalty 0, the score is the sum of the tokens' log-probabilities. The
        # end-of-text token counts if it was generated.
        assert float(out.logprobs[row].sum()) == pytest.approx(result.scores[0], abs=0.02)


def test_probabilities_of_the_tokens_of_a_given_text_agree(pair, mels):
    asr, oracle = pair
    special, start = asr.tokenizer.special, asr.tokenizer.sot_sequence("en")
    text = asr.tokenizer.encode(" The quick brown fox jumps over the lazy dog, and nobody saw it.")
    n_mel_frames = 1500  # needed for times; probabilities do not depend on it
    result = oracle.align(to_ct2(mels[:1]), start, [text], n_mel_frames)[0]
    ids = jnp.array([[*start, special.no_timestamps, *text]], jnp.int32)
    logits, _ = asr.model.decode(ids, asr.model.encode(mels[:1])[0])
    # As in OpenAI's alignment, the softmax is over text tokens only.
    probs = np.asarray(jax.nn.softmax(logits[0, len(start) : -1, : special.eot], axis=-1))
    ours = probs[np.arange(len(text)), text]
    np.testing.assert_allclose(ours, result.text_token_probs, atol=1e-4, rtol=TOLERANCE)
