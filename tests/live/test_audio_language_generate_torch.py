"""Greedy generation of tiny audio language models equals transformers, token by token."""

# ruff: noqa: E402 (torch is imported first, because without it this file is skipped)
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from audio_language_reference import build, model_inputs

import jaxasr
from tests.audio_language import FLAMINGO, LENGTHS, TINY, tiny_mel, tiny_model, tiny_tokens

N_NEW = 20


CASES = [(name, seed) for name in TINY for seed in range(5)] + [(name, 0) for name in FLAMINGO]


@pytest.mark.parametrize(("name", "seed"), CASES)
def test_greedy_tokens_are_those_of_transformers(name, seed):
    """Rows are padded on the left and end at different steps."""
    lengths = LENGTHS - np.array([seed, 2 * seed, 0])
    model = tiny_model(name, seed)
    mel = tiny_mel(model.config, lengths)
    prefix, _ = model.encode(mel, lengths=lengths)
    prompt, positions = tiny_tokens(model.config, np.asarray(prefix.lengths), n_text=3 + seed)
    theirs = build(model)
    inputs = model_inputs(theirs, model.config, mel, lengths, prompt, positions)
    del inputs["position_ids"]  # `generate` computes them from the mask
    with torch.no_grad():
        expected = theirs.generate(
            **inputs,
            do_sample=False,
            max_new_tokens=N_NEW,
            eos_token_id=list(model.config.eos),
            pad_token_id=model.config.eos[0],
        ).numpy()[:, prompt.shape[1] :]
    ours = jaxasr.generate(model, prefix, prompt, max_new_tokens=N_NEW, positions=positions)
    width = expected.shape[1]
    np.testing.assert_array_equal(ours.tokens[:, :width], expected)
    assert (np.asarray(ours.tokens)[:, width:] == model.config.eos[0]).all()
    assert len(np.unique(expected)) > 5  # a loop over one token would compare little
    print(np.asarray(ours.lengths))
