"""Controls of a bank, wrong arguments, and the edits and monitors made from a probe."""

import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr

import interventions
import jaxasr
from interventions import only
from interventions.probes import controls, monitor

N, TYPES = 120, 24
SITE = "decoder.resid_post"


@pytest.fixture(scope="module")
def words():
    """Makes activations of words. Each type has its own centre, so any labels can be memorised.

    Returns:
        Activations [L, N, D] with centres in layer 1 only, class numbers [N] and types [N].
    """
    rng = np.random.default_rng(0)
    types = np.arange(N) % TYPES
    centres = rng.normal(size=(2, TYPES, 31)) * np.array([0, 3])[:, None, None]
    return (centres[:, types] + rng.normal(size=(2, N, 31))).astype(np.float32), types % 3, types


@pytest.fixture(scope="module")
def word_bank(words):
    X, y, _ = words
    return interventions.fit_probes(X, y, folds=4, seeds=(0, 1))


@pytest.fixture(scope="module")
def word_controls(words, word_bank):
    X, _, types = words
    baselines = {"noise": X[0], "layer 1": X[1]}
    return controls.fit_controls(word_bank, X, types=types, baselines=baselines)


def test_controls_separate_chance_memory_and_knowledge(word_controls):
    mean = word_controls.mean(("fold", "seed", "penalty"))
    assert mean.probe[1] > 0.9
    assert mean.shuffled.max() < 0.5
    assert mean.majority == pytest.approx(1 / 3, abs=0.05)
    assert mean.control_task[1] > 0.75  # random labels are memorised
    assert mean.selectivity[1] < 0.2 < 0.4 < mean.probe[1] - mean.shuffled[1]
    assert mean.baselines.sel(baseline="noise") < 0.6 < mean.baselines.sel(baseline="layer 1")
    np.testing.assert_allclose(
        word_controls.baselines.sel(baseline="layer 1"), word_controls.probe.sel(layer=1), atol=0.05
    )


def test_controls_equal_fits_by_hand(words, word_bank, word_controls):
    X, y, _ = words
    same = {"folds": 4, "seeds": (0, 1)}
    xr.testing.assert_identical(word_controls.probe, word_bank.accuracy.rename("probe"))
    xr.testing.assert_identical(word_controls.by_row, word_bank.accuracy.rename("by_row"))
    permuted = [y[np.random.default_rng(seed).permutation(N)] for seed in (0, 1)]
    shuffled = interventions.fit_probes(X, np.stack(permuted), **same).accuracy
    xr.testing.assert_identical(word_controls.shuffled, shuffled.rename("shuffled"))


def test_controls_do_not_fit_the_bank_again(words, word_bank, monkeypatch):
    X, y, types = words
    fitted = []

    def record(X, y, *arguments, **options):
        fitted.append(np.asarray(y))
        return interventions.fit_probes(X, y, *arguments, **options)

    monkeypatch.setattr(controls, "fit_probes", record)
    controls.fit_controls(word_bank, X, types=types)
    assert len(fitted) == 2  # shuffled labels and the control task
    assert not any((labels == y).all() for labels in fitted)


def test_controls_of_values_raise(words):
    X, y, _ = words
    bank = interventions.fit_probes(X, y * 1.0, target="value", folds=2)
    with pytest.raises(ValueError, match="bank: expected a bank of classes"):
        controls.fit_controls(bank, X)


def test_types_in_test_rows_only_cannot_be_memorised(words):
    X, y, types = words
    bank = interventions.fit_probes(X, y, types, folds=4, seeds=(0, 1))
    assert bank.accuracy.sel(layer=1).mean() < 0.6


X, Y = np.random.default_rng(1).normal(size=(2, 24, 5)).astype(np.float32), np.arange(24) % 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"y": np.zeros(24, int)}, "expected at least 2 classes, got only 0"),
        ({"y": Y[:-1]}, r"y: expected one for each of 24 rows \(or \[1, 24\]\), got shape \[23\]"),
        ({"y": Y + 0.5}, "For a quantity pass target='value'"),
        (
            {"y": np.array(["rare", *["often"] * 23])},
            "at least 5 rows per class for 5 folds, got 1 of class 'rare'",
        ),
        ({"groups": np.arange(24) % 3}, "3 groups cannot be split into 5 folds. Pass folds=3"),
        (
            {"groups": Y * 4 + np.arange(24) // 6 * (Y == 0), "folds": 2},
            "would be in none of the training rows",
        ),
        ({"groups": np.arange(23)}, "groups: expected one for each of 24 rows"),
        (
            {"X": np.where(np.arange(24)[:, None] == 7, np.nan, X)},
            r"NaN or infinity in layer 0, in 1 rows \(the first is 7\)",
        ),
        ({"X": X[0]}, r"X: expected \[layers, rows, features\]"),
        ({"X": {"a": X, "b": X[:1]}}, "the same shape for all sites"),
        ({"penalties": (1.0, -1.0)}, "penalties: expected different positive numbers"),
        ({"folds": 1}, "folds: expected a number from 2 to 24"),
        ({"seeds": ()}, "seeds: expected at least one"),
        ({"target": "label"}, "target: expected 'class' or 'value'"),
        ({"y": np.full(24, 2.0), "target": "value"}, "y: expected different values"),
    ],
)
def test_wrong_arguments_raise(change, message):
    with pytest.raises(ValueError, match=message):
        interventions.fit_probes(**{"X": X, "y": Y, **change})


@pytest.fixture(scope="module")
def memory_and_tokens(tiny_model):
    rng = np.random.default_rng(3)
    memory, _ = tiny_model.encode(jnp.asarray(rng.normal(size=(2, 7, 22)), jnp.float32))
    tokens = jnp.asarray(rng.integers(0, 101, (2, 9)))
    return memory, tokens


@pytest.fixture(scope="module")
def activations(tiny_model, memory_and_tokens):
    """Activations [layers, tokens, features] of all tokens."""
    memory, tokens = memory_and_tokens
    _, acts = tiny_model.decode(tokens, memory, None, jaxasr.select(SITE))
    return np.asarray(acts[SITE]).reshape(2, -1, 15)


@pytest.fixture(scope="module")
def bank(memory_and_tokens, activations):
    """Probes that predict whether the id of a token is even or odd."""
    _, tokens = memory_and_tokens
    y = np.array(["even", "odd"])[np.asarray(tokens).ravel() % 2]
    return interventions.fit_probes(activations, y, folds=2)


def test_adding_a_direction_moves_the_log_odds_by_its_slope(
    tiny_model, memory_and_tokens, bank, activations
):
    memory, tokens = memory_and_tokens
    probe = monitor.Probe.of(bank, layer=1)
    direction = bank.direction(1, "even", "odd")
    assert np.linalg.norm(direction) == pytest.approx(1, abs=1e-5)
    np.testing.assert_allclose(direction, bank.direction(1, "even"), atol=1e-5)
    edits = {SITE: bank.as_add(1, "even", "odd", strength=2.5)}
    probabilities = [
        tiny_model.decode(tokens, memory, e, monitor.readout(probe, SITE))[1]["probe"][1]
        for e in (None, edits)
    ]
    log_odds = [jnp.log(p[..., 0] / p[..., 1]) for p in probabilities]
    slope = (probe.weights[0] - probe.weights[1]) @ direction
    np.testing.assert_allclose(log_odds[1] - log_odds[0], jnp.full((2, 9), 2.5 * slope), rtol=1e-2)
    assert list(bank.classes) == ["even", "odd"]
    logits = bank.decision(activations).sel(layer=1).mean(("fold", "seed")).isel(penalty=0)
    np.testing.assert_allclose(log_odds[0].ravel(), logits[:, 0] - logits[:, 1], atol=1e-3)


def test_a_projected_activation_has_constant_probabilities(tiny_model, memory_and_tokens, bank):
    memory, tokens = memory_and_tokens
    probe = monitor.Probe.of(bank, layer=0)
    _, acts = tiny_model.decode(
        tokens, memory, {SITE: bank.as_project(0)}, monitor.readout(probe, SITE)
    )
    probabilities = acts["probe"][0]
    np.testing.assert_allclose(
        probabilities, jnp.broadcast_to(probabilities[0, 0], probabilities.shape), atol=1e-5
    )


def test_a_monitor_equals_the_probe_on_a_whole_pass(tiny_model, memory_and_tokens, bank):
    memory, tokens = memory_and_tokens
    probe = monitor.Probe.of(bank, layer=1)
    options = dict(max_new_tokens=5, eot=100, edits={SITE: bank.as_add(0, "odd", strength=3.0)})
    out, probabilities = monitor.generate_with_probe(
        tiny_model, memory, tokens[:, :3], probe, site=SITE, layer=1, **options
    )
    assert probabilities.shape == (2, 5, 2)
    whole = jnp.concatenate([tokens[:, :3], out.tokens], 1)
    _, acts = tiny_model.decode(whole, memory, options["edits"], jaxasr.select(SITE))
    expected = probe(acts[SITE][1][:, 2:7])
    is_generated = np.arange(5) <= np.asarray(out.lengths)[:, None]
    np.testing.assert_allclose(
        np.asarray(probabilities)[is_generated], np.asarray(expected)[is_generated], atol=1e-5
    )
    with pytest.raises(ValueError, match="site for a monitor of the decoder"):
        monitor.generate_with_probe(
            tiny_model, memory, tokens, probe, site="encoder.resid_post", max_new_tokens=2
        )


def test_when_applies_its_edit_above_the_threshold_only(tiny_model, memory_and_tokens, bank):
    memory, tokens = memory_and_tokens
    probe = monitor.Probe.of(bank, layer=1)
    zero = interventions.Zero()

    def logits(threshold):
        when = monitor.When(probe, zero, column=0, threshold=threshold)
        return tiny_model.decode(tokens, memory, {SITE: only(when, layers=1)})[0]

    plain, always = (
        tiny_model.decode(tokens, memory, e)[0] for e in (None, {SITE: only(zero, layers=1)})
    )
    np.testing.assert_array_equal(logits(1.1), plain)
    np.testing.assert_array_equal(logits(0.0), always)
    is_above = (
        tiny_model.decode(tokens, memory, None, monitor.readout(probe, SITE))[1]["probe"][1][..., 0]
        >= 0.5
    )
    np.testing.assert_allclose(
        logits(0.5), jnp.where(is_above[..., None], always, plain), atol=1e-5
    )
    wide = monitor.When(monitor.Probe(jnp.ones((2, 4)), jnp.zeros(2)), zero, 0)
    with pytest.raises(ValueError, match="expected a probe of 15 features"):
        tiny_model.decode(tokens, memory, {SITE: wide})


def test_unknown_labels_of_a_probe_raise(bank):
    with pytest.raises(ValueError, match=r"layer: expected one of \[0, 1\], got 5"):
        bank.direction(5, "even")
    with pytest.raises(ValueError, match="positive: expected one of"):
        bank.direction(0, "prime")
    with pytest.raises(TypeError, match="fold_"):
        bank.direction(0, "even", fold_=1)
