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


def test_a_run_is_heard_or_still_to_be_heard(tiny_model, inputs):
    mel, tokens = inputs
    run = Run(mel=mel, tokens=tokens)
    heard = run.encode(tiny_model)
    assert heard.mel is None
    assert heard.encode(tiny_model) is heard
    assert run.batch == heard.batch == 2
    logits, _ = tiny_model.decode(tokens, tiny_model.encode(mel)[0])
    for one in (run, heard):
        np.testing.assert_array_equal(one.decode(tiny_model)[0], logits)


def test_edits_readouts_and_positions_reach_the_decoder(tiny_model, inputs):
    mel, tokens = inputs
    memory = tiny_model.encode(mel)[0]
    positions = np.array([[0, 1, 2, 3, 4], [-2, -1, 0, 1, 2]], np.int32)
    edits, readout = {"decoder.mlp.post": Shift(1.0, 1, 2)}, jaxasr.select("decoder.resid_post")
    ours = Run(memory=memory, tokens=tokens, positions=positions).decode(tiny_model, edits, readout)
    theirs = tiny_model.decode(tokens, memory, edits, readout, positions=positions)
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)
    plain = Run(memory=memory, tokens=tokens).decode(tiny_model)[0]
    assert not np.allclose(plain, ours[0])


def test_layers_apart_are_refused(tiny_model, inputs):
    mel, tokens = inputs
    with pytest.raises(ValueError, match="stacked"):
        Run(memory=tiny_model.encode(mel, unstacked=True)[0], tokens=tokens)


def test_neither_or_both(tiny_model, inputs):
    mel, tokens = inputs
    with pytest.raises(ValueError, match=r"mel= or memory="):
        Run(tokens=tokens)
    with pytest.raises(ValueError, match="not both"):
        Run(tokens=tokens, mel=mel, memory=tiny_model.encode(mel)[0])


def test_a_run_is_a_pytree(tiny_model, inputs):
    mel, tokens = inputs
    logits = jax.jit(lambda run: run.decode(tiny_model)[0])(Run(mel=mel, tokens=tokens))
    np.testing.assert_allclose(
        logits, Run(mel=mel, tokens=tokens).decode(tiny_model)[0], rtol=1e-5, atol=1e-5
    )
