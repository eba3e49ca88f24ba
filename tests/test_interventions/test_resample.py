"""Resample ablation patches activations of another recording, drawn once for all cells."""

import jax
import numpy as np
import pytest

import interventions as iv
from interventions.patching.sources import resampled

METRIC = iv.logit_diff(3, 5)


@pytest.fixture(scope="module")
def target(tiny_model):
    c = tiny_model.config
    mel = jax.random.normal(jax.random.key(1), (5, c.n_mels, 2 * c.n_audio_ctx))
    return iv.Run(mel=mel, tokens=jax.random.randint(jax.random.key(2), (5, 4), 0, c.n_vocab))


def source_rows(run, of):
    return [int(np.flatnonzero([np.array_equal(x, y) for y in of.mel])[0]) for x in run.mel]


def test_every_row_is_drawn_once_and_never_for_itself(target):
    draws = [source_rows(resampled(target, seed), target) for seed in range(20)]
    assert all(sorted(draw) == list(range(5)) for draw in draws)
    assert all(draw[b] != b for draw in draws for b in range(5))
    assert len({tuple(draw) for draw in draws}) > 5
    assert draws[3] == source_rows(resampled(target, "resample:3"), target)
    assert (
        source_rows(resampled(target), target)
        == source_rows(resampled(target, "resample"), target)
        == draws[0]
    )


def test_rows_of_a_data_set_come_with_their_tokens(target):
    few = target.replace(mel=target.mel[:2], tokens=target.tokens[:2])
    drawn = resampled(few, 1, among=target)
    for b, row in enumerate(source_rows(drawn, target)):
        np.testing.assert_array_equal(drawn.tokens[b], target.tokens[row])
    with pytest.raises(ValueError, match="among: expected 4 tokens"):
        resampled(few, among=target.replace(tokens=target.tokens[:, :3]))


def test_a_sweep_patches_from_the_other_recording(tiny_model, target):
    options = {
        "site": "decoder.cross_attn.z",
        "over": ("layer", "head", "position"),
        "metric": METRIC,
    }
    two = target.replace(mel=target.mel[:2], tokens=target.tokens[:2])
    swept = iv.sweep(tiny_model, two, "resample", **options)
    swapped = two.replace(mel=two.mel[::-1], tokens=two.tokens[::-1])
    np.testing.assert_allclose(swept, iv.sweep(tiny_model, two, swapped, **options), atol=1e-6)
    np.testing.assert_allclose(swept.source, swept.baseline[::-1], atol=1e-6)
    np.testing.assert_array_equal(swept.token_id, two.tokens)  # tokens differ between rows
    estimate = iv.attribution(tiny_model, target=two, source="resample", **options)
    np.testing.assert_array_equal(estimate.token_id, two.tokens)
    np.testing.assert_allclose(
        estimate, iv.attribution(tiny_model, target=two, source=swapped, **options), atol=1e-6
    )
    summary = iv.summarize(swept)
    np.testing.assert_allclose(
        summary.recovery, summary.change / (swept.source - swept.baseline), rtol=1e-6
    )


def test_resampling_a_single_example_raises(tiny_model, target):
    single = target.replace(mel=target.mel[:1], tokens=target.tokens[:1])
    with pytest.raises(ValueError, match="expected at least two examples, got one"):
        iv.sweep(
            tiny_model, single, "resample", site="decoder.attn.z", over=("layer",), metric=METRIC
        )
    with pytest.raises(ValueError, match="expected a Run or one of"):
        iv.sweep(
            tiny_model, single, "resample:x", site="decoder.attn.z", over=("layer",), metric=METRIC
        )
