"""Toy models have the structure of a family, and load."""

import numpy as np
import pytest

import jaxasr
from jaxasr.language.toy import toy_config, write_toy


@pytest.mark.parametrize("family", ["qwen2_audio", "voxtral", "audioflamingo3"])
def test_a_toy_loads_and_answers(family, tmp_path):
    asr = jaxasr.load(write_toy(tmp_path / "toy", family))
    assert asr.config == toy_config(family).replace(n_audio_mlp=asr.config.n_audio_mlp)
    assert asr.config.encoder.n_mlp == toy_config(family).encoder.n_mlp
    inputs = asr.inputs([np.zeros(5000, np.float32)], "What?")
    assert asr.tokenizer.decode(inputs.tokens[0]).count("What?") == 1
    assert (inputs.tokens[0] == asr.tokenizer.audio_token).sum() > 1
    out = asr.generate(inputs, max_new_tokens=3)
    assert np.isfinite(out.avg_logprob).all()


def test_seeds_give_different_weights(tmp_path):
    first, second = (jaxasr.load(write_toy(tmp_path / str(i), seed=i)).model for i in (0, 1))
    unembeddings = first.decoder.unembedding, second.decoder.unembedding
    assert not np.array_equal(*unembeddings)
