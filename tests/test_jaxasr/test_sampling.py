"""Greedy decoding and sampling end rows, follow the distribution, and obey rules."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cached_generation import EOT, N_NEW, N_PROMPT, generate, is_generated, teacher_forced
from golden.tiny import tiny_inputs
from own_edits import identity

from jaxasr.sampling import first_largest

pytestmark = pytest.mark.optimised


@pytest.fixture(scope="module")
def inputs(tiny_model):
    mel, prompt = tiny_inputs(tiny_model.config, 3, N_PROMPT)
    return tiny_model.encode(mel)[0], prompt


def test_a_row_ends_at_its_end_of_text(tiny_model, inputs):
    plain = np.asarray(generate(tiny_model, inputs).tokens)
    # Declares a token in the middle of row 0 the end-of-text. Row 0 must not have it earlier.
    end = next(i for i in range(2, N_NEW) if plain[0, i] not in plain[0, :i])
    eot = int(plain[0, end])
    out = generate(tiny_model, inputs, eot=eot)
    for row in range(3):
        ends = np.flatnonzero(plain[row] == eot)
        length = int(ends[0]) if ends.size else N_NEW
        assert out.lengths[row] == length
        np.testing.assert_array_equal(out.tokens[row, :length], plain[row, :length])
        assert (np.asarray(out.tokens)[row, length:] == eot).all()
        assert (np.asarray(out.logprobs)[row, length + 1 :] == 0).all()
    assert 0 < out.lengths[0] == end < N_NEW
    np.testing.assert_allclose(
        out.avg_logprob, np.asarray(out.logprobs).sum(-1) / (np.asarray(out.lengths) + 1), rtol=1e-6
    )


def test_the_key_decides_the_sample_and_a_low_temperature_is_greedy(tiny_model, inputs):
    key = jax.random.key(7)
    first, again, other = (
        generate(tiny_model, inputs, temperature=1.0, key=k) for k in (key, key, jax.random.key(8))
    )
    np.testing.assert_array_equal(first.tokens, again.tokens)
    assert not np.array_equal(first.tokens, other.tokens)
    logprobs = teacher_forced(tiny_model, inputs, first)
    expected = np.take_along_axis(logprobs, np.asarray(first.tokens)[..., None], -1)[..., 0]
    np.testing.assert_allclose(
        np.asarray(first.logprobs)[is_generated(first)],
        expected[is_generated(first)],
        rtol=1e-5,
        atol=1e-5,
    )
    cold = generate(tiny_model, inputs, temperature=1e-4, key=key)
    np.testing.assert_array_equal(cold.tokens, generate(tiny_model, inputs).tokens)


def test_samples_follow_the_distribution_of_the_model(tiny_model, inputs):
    """Compares the first tokens of many samples with the model's distribution."""
    keys = jax.random.split(jax.random.key(0), 4_000)
    samples = jax.jit(
        jax.vmap(
            lambda key: generate(
                tiny_model, inputs, max_new_tokens=1, temperature=1.0, key=key
            ).tokens[0, 0]
        )
    )(keys)
    memory, prompt = inputs
    expected = np.asarray(jax.nn.softmax(tiny_model.decode(prompt, memory)[0][0, -1]))
    np.testing.assert_allclose(
        np.bincount(samples, minlength=101) / 4_000, expected, atol=4 * np.sqrt(0.25 / 4_000)
    )


def test_rules_receive_the_tokens_generated_so_far(tiny_model, inputs):
    def no_repeats(logits, tokens, n_tokens, n_prompt):
        is_filled = jnp.arange(tokens.shape[1]) < n_tokens
        return jnp.where(
            (jax.nn.one_hot(tokens, 101, dtype=bool) & is_filled[:, None]).any(1), -jnp.inf, logits
        )

    out = generate(tiny_model, inputs, rules=no_repeats)
    # Only end-of-text and tokens of the prompt may occur more than once in a row.
    for row in np.concatenate([inputs[1], out.tokens], 1):
        assert len(set(row)) >= len(row) - (row == EOT).sum() - (
            len(inputs[1][0]) - len(set(row[:N_PROMPT]))
        )


def test_the_no_speech_probability_is_that_of_a_plain_pass(tiny_model, inputs):
    memory, prompt = inputs
    out = generate(tiny_model, inputs, no_speech=(1, 17))
    np.testing.assert_allclose(
        out.no_speech_prob,
        jax.nn.softmax(tiny_model.decode(prompt, memory)[0][:, 1])[:, 17],
        rtol=1e-4,
    )
    assert np.isnan(generate(tiny_model, inputs).no_speech_prob).all()


def test_wrong_arguments_are_refused(tiny_model, inputs):
    memory, prompt = inputs
    for n in (0, 24 - N_PROMPT):
        with pytest.raises(
            ValueError, match=rf"max_new_tokens: expected 1 to 19 .*context 23.*got {n}"
        ):
            generate(tiny_model, inputs, max_new_tokens=n)
    full = np.resize(np.asarray(prompt), (3, 23))
    with pytest.raises(ValueError, match=r"prompt: expected at most 22 tokens.*got 23\. Shorten"):
        generate(tiny_model, (memory, full))
    with pytest.raises(ValueError, match="tokens: expected token ids from 0 to 100, got"):
        generate(tiny_model, (memory, prompt + 101))
    with pytest.raises(ValueError, match="memory has batch 3"):
        generate(tiny_model, (memory, prompt[:2]))
    with pytest.raises(ValueError, match="Pad on the left"):
        generate(tiny_model, inputs, positions=np.array([[0, 1, 2, -1]] * 3, np.int32))
    with pytest.raises(ValueError, match="eot"):
        generate(tiny_model, inputs, eot=None)
    with pytest.raises(ValueError, match="never fire"):
        generate(tiny_model, inputs, {"encoder.ln_post": identity})


def test_first_largest_chooses_like_argmax():
    x = np.array(
        [[1, 3, 3, 2], [-np.inf, -np.inf, -2, -2], [0, np.nan, 5, np.nan], [-np.inf] * 4],
        np.float32,
    )
    np.testing.assert_array_equal(first_largest(jnp.asarray(x)), np.argmax(x, -1))
