"""The features of a text are defined for texts that fill the decoder's context."""

import numpy as np
import pytest
from small_english import ENGLISH_CONFIG, TOKENIZER_FOLDER, write_english

import jaxasr
from experiments.studies.features import transcript_features


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    folder = write_english(tmp_path_factory.mktemp("small") / "hf")
    (folder / "tokenizer.json").write_bytes((TOKENIZER_FOLDER / "tokenizer.json").read_bytes())
    return jaxasr.load(folder)


@pytest.mark.parametrize("max_new_tokens", [13, 14, 400])
def test_a_text_leaves_room_for_the_end_of_text_token(small, max_new_tokens):
    audio = np.random.default_rng(0).normal(scale=0.1, size=8_000).astype(np.float32)
    features = transcript_features(small, audio, max_new_tokens=max_new_tokens)
    # The random model fills its context of 16 tokens: two of the prompt, 13 of text, and the end.
    assert features["tokens"] == 13
    assert features["last"].shape == (ENGLISH_CONFIG.n_text_layer + 1, ENGLISH_CONFIG.n_text_state)
    assert np.isfinite(features["last"]).all()
