"""Rows that follow another: a second recording accompanies the first, token by token."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden.tiny import tiny_inputs
from own_edits import Shift
from test_generate import EOT, N_NEW, N_PROMPT, forced, generate, written

from interventions.edits import FromRow, Mix


@pytest.fixture(scope="module")
def inputs(tiny_model):
    mel, prompt = tiny_inputs(tiny_model.config, 3, N_PROMPT)
    return tiny_model.encode(mel)[0], prompt


def test_a_row_that_follows_is_fed_what_its_leader_writes(tiny_model, inputs):
    memory, prompt = inputs
    prompt = np.repeat(prompt[:1], 3, 0)
    leader = np.array([0, 0, 2])
    plain, led = (
        generate(tiny_model, (memory, prompt)),
        generate(tiny_model, (memory, prompt), leader=leader),
    )
    assert not np.array_equal(plain.tokens[0], plain.tokens[1])
    np.testing.assert_array_equal(led.tokens, np.asarray(plain.tokens)[leader])
    np.testing.assert_array_equal(led.lengths, np.asarray(plain.lengths)[leader])
    logprobs = np.take_along_axis(
        forced(tiny_model, (memory, prompt), led), np.asarray(led.tokens)[..., None], -1
    )[..., 0]
    np.testing.assert_allclose(
        np.asarray(led.logprobs)[written(led)], logprobs[written(led)], rtol=1e-5, atol=1e-5
    )


def lock_step(model, inputs, edits, leader, n_new=N_NEW):
    """The same in words: the whole text is heard again for every token, and row b gets the token of row follow[b]."""
    memory, prompt = inputs
    tokens = np.pad(
        prompt, ((0, 0), (0, n_new))
    )  # one shape, one program: what is still to come is seen by nobody
    for n in range(prompt.shape[1], tokens.shape[1]):
        logits = np.asarray(model.decode(tokens, memory, edits)[0])[:, n - 1]
        tokens[:, n] = logits.argmax(-1)[leader]
    return tokens[:, -n_new:]


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.5])
@pytest.mark.parametrize("site", ["decoder.cross_attn.z", "decoder.attn.v"])
def test_the_other_recording_is_mixed_in_while_the_text_is_written(tiny_model, inputs, site, alpha):
    memory, prompt = inputs
    leader = np.array([0, 0, 0])
    prompt = np.repeat(prompt[:1], 3, 0)
    edits = {site: Mix(jnp.float32(alpha), FromRow(jnp.array([1, 1, 2])))}
    out = generate(tiny_model, (memory, prompt), edits, leader=leader, eot=EOT)
    expected = lock_step(tiny_model, (memory, prompt), edits, leader)
    real = written(out)
    np.testing.assert_array_equal(np.asarray(out.tokens)[real], expected[real])
    plain = generate(tiny_model, (memory, prompt))
    if alpha == 0:
        np.testing.assert_array_equal(out.tokens[0], plain.tokens[0])
        np.testing.assert_allclose(out.logprobs[0], plain.logprobs[0], rtol=1e-5, atol=1e-5)


def test_all_of_the_other_recording_s_cross_attention_is_the_other_recording(tiny_model, inputs):
    memory, prompt = inputs
    prompt = np.repeat(prompt[:1], 3, 0)
    edits = {"decoder.cross_attn.z": Mix(jnp.float32(1), FromRow(jnp.array([1, 1, 2])))}
    out, plain = (
        generate(tiny_model, (memory, prompt), edits, leader=np.array([0, 0, 2])),
        generate(tiny_model, (memory, prompt)),
    )
    assert not np.array_equal(plain.tokens[0], plain.tokens[1])
    np.testing.assert_array_equal(out.tokens[0], plain.tokens[1])
    np.testing.assert_array_equal(out.tokens[2], plain.tokens[2])


@pytest.mark.parametrize("leader", [[0, 0], [0, 1, 3], [0, -1, 2], [1, 2, 2]])
def test_whom_a_row_cannot_follow(tiny_model, inputs, leader):
    with pytest.raises(ValueError, match="leader: expected"):
        generate(tiny_model, inputs, leader=np.array(leader))


def test_members_of_a_batch_may_end_together(tiny_model, inputs):
    plain = np.asarray(generate(tiny_model, inputs).tokens)
    doses, options = jnp.array([0.0, 0.5, -3.0]), {"eot": int(plain[1, 3])}

    def one(dose, axis_name=None):
        return generate(
            tiny_model,
            inputs,
            {"decoder.resid_mid": Shift(dose, 1, 6)},
            axis_name=axis_name,
            **options,
        )

    separate = jax.vmap(one)(doses)
    jointly = jax.vmap(lambda dose: one(dose, "cells"), axis_name="cells")(doses)
    np.testing.assert_array_equal(jointly.tokens, separate.tokens)
    np.testing.assert_array_equal(jointly.lengths, separate.lengths)
    np.testing.assert_allclose(jointly.logprobs, separate.logprobs, rtol=1e-5, atol=1e-5)


def test_beams_follow_nobody(tiny_model, inputs):
    with pytest.raises(ValueError, match="beam search"):
        generate(tiny_model, inputs, beam_size=2, leader=np.array([0, 0, 0]))
