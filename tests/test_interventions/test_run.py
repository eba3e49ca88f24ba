"""A run holds a recording (mel or memory) and its tokens."""

import jax
import numpy as np
import pytest
from golden.tiny import tiny_inputs
from own_edits import Shift

import jaxasr
from interventions import Run


@pytest.fixture(scope="module")
def inputs(tiny_model):
    return tiny_inputs(tiny_model.config, 2, 5)


def test_encoding_twice_changes_nothing(tiny_model, inputs):
    mel, tokens = inputs
    run = Run(mel=mel, tokens=tokens)
    encoded = run.encode(tiny_model)
    assert encoded.mel is None
    assert encoded.encode(tiny_model) is encoded
    assert run.batch == encoded.batch == 2
    logits, _ = tiny_model.decode(tokens, tiny_model.encode(mel)[0])
    np.testing.assert_array_equal(run.decode(tiny_model)[0], logits)
    np.testing.assert_array_equal(encoded.decode(tiny_model)[0], logits)


def test_edits_readouts_and_positions_reach_the_decoder(tiny_model, inputs):
    mel, tokens = inputs
    memory = tiny_model.encode(mel)[0]
    positions = np.array([[0, 1, 2, 3, 4], [-2, -1, 0, 1, 2]], np.int32)
    edits, readout = {"decoder.mlp.post": Shift(1.0, 1, 2)}, jaxasr.select("decoder.resid_post")
    ours = Run(memory=memory, tokens=tokens, positions=positions).decode(tiny_model, edits, readout)
    expected = tiny_model.decode(tokens, memory, edits, readout, positions=positions)
    jax.tree.map(np.testing.assert_array_equal, ours, expected)
    plain = Run(memory=memory, tokens=tokens).decode(tiny_model)[0]
    assert not np.allclose(plain, ours[0])


def test_rows_keep_their_recording_tokens_and_positions(tiny_model, inputs):
    mel, tokens = inputs
    positions = np.array([[0, 1, 2, 3, 4], [-2, -1, 0, 1, 2]], np.int32)
    run = Run(mel=mel, tokens=tokens, positions=positions)
    logits = run.decode(tiny_model)[0]
    swapped = run.rows(np.array([1, 0]))
    np.testing.assert_allclose(swapped.decode(tiny_model)[0], logits[::-1], rtol=1e-5, atol=1e-5)
    row = run.encode(tiny_model).row(1)
    np.testing.assert_array_equal(row.encoded_mel, mel[1:])
    np.testing.assert_allclose(row.decode(tiny_model)[0], logits[1:], rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match=r"call run\.encode\(model\) first"):
        run.row(0)


def test_a_run_prints_on_one_line(tiny_model, inputs):
    mel, tokens = inputs
    run = Run(mel=mel, tokens=tokens)
    assert repr(run) == "Run(2 x 5 tokens, mel [2, 7, 22])"
    assert repr(run.encode(tiny_model)) == "Run(2 x 5 tokens, encoded with its mel)"
    memory, positions = tiny_model.encode(mel)[0], np.zeros((2, 5), np.int32)
    padded = Run(memory=memory, tokens=tokens, positions=positions)
    assert repr(padded) == "Run(2 x 5 tokens, padded, encoded)"
    assert repr(jax.tree.map(lambda leaf: "leaf", run)) == "Run(? x ? tokens, mel [])"


def test_an_unstacked_memory_is_refused(tiny_model, inputs):
    mel, tokens = inputs
    with pytest.raises(ValueError, match="memory: expected stacked layers"):
        Run(memory=tiny_model.encode(mel, unstacked=True)[0], tokens=tokens)


def test_a_run_needs_either_mel_or_memory(tiny_model, inputs):
    mel, tokens = inputs
    with pytest.raises(ValueError, match=r"mel= or memory=, got neither"):
        Run(tokens=tokens)
    with pytest.raises(ValueError, match="got both"):
        Run(tokens=tokens, mel=mel, memory=tiny_model.encode(mel)[0])


def test_a_run_is_a_pytree(tiny_model, inputs):
    mel, tokens = inputs
    run = Run(mel=mel, tokens=tokens)
    logits = jax.jit(lambda run: run.decode(tiny_model)[0])(run)
    np.testing.assert_allclose(logits, run.decode(tiny_model)[0], rtol=1e-5, atol=1e-5)
