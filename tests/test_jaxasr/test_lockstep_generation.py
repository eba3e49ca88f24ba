"""In lock-step decoding, a row reads the tokens that another row, its leader, chose."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cached_generation import EOT, N_NEW, N_PROMPT, generate, is_generated, teacher_forced
from golden.tiny import tiny_inputs
from own_edits import Shift

from interventions.edits import FromRow, Mix


@pytest.fixture(scope="module")
def inputs(tiny_model):
    mel, prompt = tiny_inputs(tiny_model.config, 3, N_PROMPT)
    return tiny_model.encode(mel)[0], prompt


def test_a_led_row_reads_the_tokens_of_its_leader(tiny_model, inputs):
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
        teacher_forced(tiny_model, (memory, prompt), led), np.asarray(led.tokens)[..., None], -1
    )[..., 0]
    np.testing.assert_allclose(
        np.asarray(led.logprobs)[is_generated(led)],
        logprobs[is_generated(led)],
        rtol=1e-5,
        atol=1e-5,
    )


def lock_step_reference(model, inputs, edits, leader, n_new=N_NEW):
    """Decodes the whole text again for each token. Row b gets the token of row leader[b]."""
    memory, prompt = inputs
    # Padding to the final length needs only one program. No token attends to the padding after it.
    tokens = np.pad(prompt, ((0, 0), (0, n_new)))
    for n in range(prompt.shape[1], tokens.shape[1]):
        logits = np.asarray(model.decode(tokens, memory, edits)[0])[:, n - 1]
        tokens[:, n] = logits.argmax(-1)[leader]
    return tokens[:, -n_new:]


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.5])
@pytest.mark.parametrize("site", ["decoder.cross_attn.z", "decoder.attn.v"])
def test_an_edit_mixes_in_the_other_recording_during_generation(tiny_model, inputs, site, alpha):
    memory, prompt = inputs
    leader = np.array([0, 0, 0])
    prompt = np.repeat(prompt[:1], 3, 0)
    edits = {site: Mix(jnp.float32(alpha), FromRow(jnp.array([1, 1, 2])))}
    out = generate(tiny_model, (memory, prompt), edits, leader=leader, eot=EOT)
    expected = lock_step_reference(tiny_model, (memory, prompt), edits, leader)
    real = is_generated(out)
    np.testing.assert_array_equal(np.asarray(out.tokens)[real], expected[real])
    plain = generate(tiny_model, (memory, prompt))
    if alpha == 0:
        np.testing.assert_array_equal(out.tokens[0], plain.tokens[0])
        np.testing.assert_allclose(out.logprobs[0], plain.logprobs[0], rtol=1e-5, atol=1e-5)


def test_patching_all_cross_attention_generates_the_text_of_the_other_recording(tiny_model, inputs):
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
def test_a_leader_that_is_unknown_or_led_itself_is_refused(tiny_model, inputs, leader):
    with pytest.raises(ValueError, match="leader: expected"):
        generate(tiny_model, inputs, leader=np.array(leader))


def test_one_loop_for_a_vmapped_axis_equals_separate_loops(tiny_model, inputs):
    plain = np.asarray(generate(tiny_model, inputs).tokens)
    doses, options = jnp.array([0.0, 0.5, -3.0]), {"eot": int(plain[1, 3])}

    def generate_with(dose, axis_name=None):
        return generate(
            tiny_model,
            inputs,
            {"decoder.resid_mid": Shift(dose, 1, 6)},
            axis_name=axis_name,
            **options,
        )

    separate = jax.vmap(generate_with)(doses)
    joint = jax.vmap(lambda dose: generate_with(dose, "cells"), axis_name="cells")(doses)
    np.testing.assert_array_equal(joint.tokens, separate.tokens)
    np.testing.assert_array_equal(joint.lengths, separate.lengths)
    np.testing.assert_allclose(joint.logprobs, separate.logprobs, rtol=1e-5, atol=1e-5)


def test_a_beam_search_with_a_leader_is_refused(tiny_model, inputs):
    with pytest.raises(ValueError, match="beam search"):
        generate(tiny_model, inputs, beam_size=2, leader=np.array([0, 0, 0]))
