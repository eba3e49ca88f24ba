"""Edits of scores and patterns, and mean ablation, have the documented effects."""

import jax.numpy as jnp
import numpy as np
import pytest
from golden.tiny import tiny_inputs

import jaxasr
from interventions.edits import Add, attend_only_to, freeze_pattern, knockout, mean_ablation, only

PATTERN, SCORES, Z = (
    "decoder.cross_attn.pattern",
    "decoder.cross_attn.scores",
    "decoder.cross_attn.z",
)


@pytest.fixture(scope="module")
def inputs(tiny_model):
    mel, tokens = tiny_inputs(tiny_model.config, 2, 6)
    return tokens, tiny_model.encode(mel)[0]


def patterns(model, inputs, edits=None, site=PATTERN):
    return np.asarray(model.decode(*inputs, edits, jaxasr.select(site))[1][site])


def test_a_head_attends_uniformly_to_the_given_keys(tiny_model, inputs):
    before, after = (
        patterns(tiny_model, inputs),
        patterns(
            tiny_model, inputs, {PATTERN: only(attend_only_to(slice(3, 7)), layers=0, heads=2)}
        ),
    )
    np.testing.assert_allclose(after[0, :, 2, :, 3:7], 0.25)
    assert (after[0, :, 2, :, :3] == 0).all()
    np.testing.assert_array_equal(after[0, :, [0, 1, 3, 4]], before[0, :, [0, 1, 3, 4]])


def test_self_attention_never_attends_to_the_future(tiny_model, inputs):
    site = "decoder.attn.pattern"
    before, after = (
        patterns(tiny_model, inputs, edits, site)[0]
        for edits in (None, {site: only(attend_only_to([2, 4]), layers=0)})
    )
    np.testing.assert_array_equal(after[:, :, :2], before[:, :, :2])
    np.testing.assert_array_equal(after[:, :, 2:4, 2], 1)
    np.testing.assert_array_equal(after[:, :, 4:, [2, 4]], 0.5)


def test_the_weight_of_masked_keys_goes_to_the_others(tiny_model, inputs):
    before, after = (
        patterns(tiny_model, inputs),
        patterns(tiny_model, inputs, {SCORES: only(knockout(slice(3, 7)), layers=0, heads=1)}),
    )
    expected = before[0, :, 1].copy()
    expected[:, :, 3:7] = 0
    np.testing.assert_allclose(
        after[0, :, 1], expected / expected.sum(-1, keepdims=True), rtol=1e-5
    )
    np.testing.assert_allclose(after[0, :, 0], before[0, :, 0], rtol=1e-5)


def test_a_query_whose_keys_are_all_knocked_out_keeps_its_scores(tiny_model, inputs):
    site = "decoder.attn.pattern"
    after = patterns(tiny_model, inputs, {"decoder.attn.scores": knockout([0, 1])}, site)
    assert np.isfinite(after).all()
    np.testing.assert_allclose(after[:, :, :, :2].sum(-1), 1, rtol=1e-6)
    assert (after[:, :, :, 2:, :2] == 0).all()


def test_cached_steps_equal_a_teacher_forced_pass(tiny_model, inputs):
    tokens, memory = inputs
    edits = {
        "decoder.attn.scores": knockout([0, 1]),
        "decoder.attn.pattern": only(attend_only_to([0, 5]), layers=1),
        SCORES: knockout(range(9)),
    }
    out = jaxasr.generate(tiny_model, memory, tokens[:, :3], max_new_tokens=5, eot=100, edits=edits)
    whole = np.concatenate([tokens[:, :3], out.tokens], 1)[:, :-1]
    best = np.asarray(tiny_model.decode(whole, memory, edits)[0])[:, 2:].argmax(-1)
    real = np.arange(5) <= np.asarray(out.lengths)[:, None]
    np.testing.assert_array_equal(np.asarray(out.tokens)[real], best[real])


def test_a_frozen_pattern_stays_while_the_stream_changes(tiny_model, inputs):
    before, push = patterns(tiny_model, inputs), {"decoder.resid_pre": Add(jnp.arange(15.0))}
    assert not np.allclose(patterns(tiny_model, inputs, push), before, atol=1e-3)
    np.testing.assert_array_equal(
        patterns(tiny_model, inputs, {**push, PATTERN: freeze_pattern(jnp.asarray(before))}), before
    )


def test_the_mean_ignores_steps_that_are_not_valid(tiny_model, inputs):
    activation = tiny_model.decode(*inputs, None, jaxasr.select(Z))[1][Z]
    valid = jnp.array([[True] * 6, [True] * 2 + [False] * 4])
    by_hand = np.concatenate([activation[:, 0], activation[:, 1, :2]], 1).mean(1)[:, None, None]
    np.testing.assert_allclose(
        mean_ablation(activation, Z, valid).value, by_hand, rtol=1e-5, atol=1e-6
    )
    np.testing.assert_allclose(
        mean_ablation(activation, Z).value,
        np.asarray(activation).mean((1, 2), keepdims=True),
        rtol=1e-5,
        atol=1e-6,
    )
    wrong = activation.at[:, 1, 2:].set(jnp.nan)
    np.testing.assert_array_equal(
        mean_ablation(wrong, Z, valid).value, mean_ablation(activation, Z, valid).value
    )
    after = np.asarray(
        tiny_model.decode(*inputs, {Z: mean_ablation(activation, Z)}, jaxasr.select(Z))[1][Z]
    )
    np.testing.assert_allclose(
        after, np.broadcast_to(mean_ablation(activation, Z).value, after.shape)
    )
    pattern = tiny_model.decode(*inputs, None, jaxasr.select(PATTERN))[1][PATTERN]
    assert mean_ablation(pattern, PATTERN).value.shape == (2, 1, 5, 1, 11)


def test_impossible_edits_raise(tiny_model, inputs):
    with pytest.raises(ValueError, match="all 11 keys"):
        patterns(tiny_model, inputs, {SCORES: only(knockout(range(11)), heads=0)})
    with pytest.raises(ValueError, match="lies outside of 0 to 10"):
        patterns(tiny_model, inputs, {PATTERN: attend_only_to(11)})
    with pytest.raises(
        ValueError, match=r"expected a site of `scores`, got 'decoder\.cross_attn\.pattern'"
    ):
        patterns(tiny_model, inputs, {PATTERN: knockout(1)})
    with pytest.raises(ValueError, match="expected a site of `pattern`"):
        patterns(tiny_model, inputs, {Z: attend_only_to(1)})
    with pytest.raises(ValueError, match="expected True at one position or frame at least"):
        mean_ablation(jnp.ones((2, 6, 5, 3)), Z, jnp.zeros((2, 6), bool))
    with pytest.raises(ValueError, match=r"valid: expected bool \[2, 6\], got shape \(1, 6\)"):
        mean_ablation(jnp.ones((2, 6, 5, 3)), Z, jnp.ones((1, 6), bool))
    with pytest.raises(ValueError, match=r"shape \[5, 3\]"):
        mean_ablation(jnp.ones((5, 3)), Z)
