"""Tools refuse padded sources, and tokens, lengths and positions that the model cannot read."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from language_runs import LENGTHS, METRIC, model_of, runs_of
from test_audio_language_lenses import Spelled

import interventions as iv

HEADS = {"site": "decoder.attn.z", "over": ("layer", "head"), "metric": METRIC}


def with_positions(run: iv.Run) -> iv.Run:
    n_rows, n_tokens = run.tokens.shape
    positions = np.tile(np.arange(n_tokens, dtype=np.int32) - 1, (n_rows, 1))
    return dataclasses.replace(run, positions=positions)


@pytest.mark.parametrize("tool", [iv.sweep, iv.attribution])
@pytest.mark.parametrize("name", ["target", "source"])
def test_padded_rows_are_refused(tool, name):
    runs = dict(zip(("target", "source"), runs_of()))
    runs[name] = with_positions(runs[name])
    with pytest.raises(ValueError, match=f"{name}: expected rows of equal length, got padded"):
        tool(model_of(), **runs, **HEADS)


def sweep(target, source=None):
    return iv.sweep(model_of(), target, source or runs_of()[1], **HEADS)


def attribute(target, source=None):
    return iv.attribution(model_of(), target, source or runs_of()[1], **HEADS)


def split_logit(target):
    return iv.direct_logit_attribution(model_of(), target, 3, 5)


def patch_paths(target, source=None):
    senders, receivers = [iv.Node("decoder.attn.z", 1, 0)], [iv.Node("decoder.logits")]
    options = {"senders": senders, "receivers": receivers, "metric": METRIC}
    return iv.path_patch(model_of(), target, source or runs_of()[1], **options)


def decode_layers(target):
    return iv.logit_lens(model_of(), target)


def with_tokens(change):
    def damage(run):
        return dataclasses.replace(run, tokens=change(np.array(run.tokens)))

    return damage


def set_first(token):
    def change(tokens):
        tokens[1, 0] = token
        return tokens

    return with_tokens(change)


DAMAGES = {
    "a token above the vocabulary": (set_first(99), "expected token ids from 0 to 98, got 99"),
    "a negative token": (set_first(-1), "expected token ids from 0 to 98, got -1"),
    "an audio token too many": (set_first(98), "expected the audio token 98 7 times in row 1"),
    "no integers": (with_tokens(lambda x: x + 0.0), "tokens: expected a non-empty integer array"),
    "too many tokens": (
        with_tokens(lambda x: np.pad(x, ((0, 0), (60, 0)))),
        "tokens: 75 tokens, but the decoder's context is 64",
    ),
    "another number of rows": (with_tokens(lambda x: x[:1]), "tokens: .*1"),
}


@pytest.mark.parametrize("encoded", [False, True], ids=["mel", "memory"])
@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("tool", [sweep, attribute, split_logit, patch_paths, decode_layers])
def test_tokens_that_the_model_cannot_read_are_refused(tool, damage, encoded):
    change, message = DAMAGES[damage]
    run = runs_of()[0]
    with pytest.raises(ValueError, match=message):
        tool(change(run.encode(model_of()) if encoded else run))


@pytest.mark.parametrize(
    "damage", [name for name in DAMAGES if name not in ("no integers", "another number of rows")]
)
def test_prompts_that_the_model_cannot_read_are_refused(damage):
    change, message = DAMAGES[damage]
    run = change(runs_of()[0])
    with pytest.raises(ValueError, match=message):
        iv.encoder_lens(Spelled(model_of()), run.mel, prompt=run.tokens, lengths=run.lengths)


@pytest.mark.parametrize("tool", [sweep, attribute, patch_paths])
def test_the_source_is_checked_as_the_target(tool):
    target, source = runs_of()
    with pytest.raises(ValueError, match="source: tokens: expected token ids from 0 to 98"):
        tool(target, set_first(99)(source))


@pytest.mark.parametrize("tool", [sweep, attribute, split_logit, patch_paths])
@pytest.mark.parametrize("mel", [np.zeros((2, 8, 30), np.float32), np.full((2, 8, 40), np.nan)])
def test_features_of_another_shape_or_with_nan_are_refused(tool, mel):
    with pytest.raises(ValueError, match=r"mel: (expected|contains NaN)"):
        tool(dataclasses.replace(runs_of()[0], mel=mel))


def test_lists_are_arrays_of_a_run():
    run = runs_of()[0]
    lists = iv.Run(run.tokens.tolist(), run.mel, lengths=LENGTHS.tolist())
    np.testing.assert_array_equal(patch_paths(lists), patch_paths(run))
    np.testing.assert_array_equal(split_logit(lists).frames, split_logit(run).frames)
    assert lists.rows(np.array([1])).lengths.tolist() == [30]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ([0, 1, 1, 2], "positions: expected positions that increase along each row, got 1 after 1"),
        ([3, 2, 1, 0], "positions: expected positions that increase along each row, got 2 after 3"),
        ([0, -1, 0, 1], "positions: expected positions that increase along each row, got 0 after"),
        ([0.5, 1.5, 2.5, 3.5], "positions: expected integers, got float"),
    ],
)
def test_positions_that_do_not_increase_are_refused(row, message):
    prefix = model_of().memory(jnp.zeros((1, 10, 28)), [0])
    with pytest.raises(ValueError, match=message):
        model_of().decode(np.array([[3, 4, 5, 6]]), prefix, positions=np.array([row]))


def test_positions_may_leave_some_out():
    prefix = model_of().memory(jnp.zeros((2, 10, 28)), [0, 0])
    tokens = np.array([[3, 4, 5, 6]] * 2)
    positions = np.array([[0, 1, 2, 3], [7, 8, 9, 10]])
    plain, later = model_of().decode(tokens, prefix, positions=positions)[0]
    np.testing.assert_allclose(later, plain, atol=2e-5)  # rotary positions are relative
    shift = np.array([0, 0, 5, 5])
    gap, padded = model_of().decode(tokens, prefix, positions=positions + shift)[0]
    np.testing.assert_allclose(gap[:2], plain[:2], atol=2e-5)
    assert np.abs(gap[2:] - plain[2:]).max() > 1e-2
    np.testing.assert_allclose(padded, gap, atol=2e-5)


@pytest.mark.parametrize("lengths", [[60, 60], [0, 29], [29.0, 30.0], [29]])
def test_impossible_lengths_are_refused(lengths):
    target = dataclasses.replace(runs_of()[0], lengths=np.array(lengths))
    for tool in (sweep, attribute, split_logit, patch_paths):
        with pytest.raises(ValueError, match="lengths: expected"):
            tool(target)


@pytest.mark.parametrize("lengths", [[99, 1], [-1, 1], 3, [1.0, 1.0]])
def test_a_prefix_is_at_most_as_long_as_its_audio(lengths):
    prefix = runs_of()[0].encode(model_of()).memory
    with pytest.raises(ValueError, match="lengths: expected one integer from 0 to"):
        model_of().memory(prefix.xa, np.array(lengths))
