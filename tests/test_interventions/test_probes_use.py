"""Controls, refusals, and what a probe is good for once it is fitted: edits and monitors."""

import jax.numpy as jnp
import numpy as np
import pytest

import interventions
import jaxasr
from interventions import only
from interventions.probes import controls, monitor

N, TYPES = 120, 24
SITE = "decoder.resid_post"


@pytest.fixture(scope="module")
def words():
    """Each type of word has its own place among the features, and a label; so any labelling of types can be learnt by heart."""
    rng = np.random.default_rng(0)
    types = np.arange(N) % TYPES
    places = rng.normal(size=(2, TYPES, 31)) * np.array([0, 3])[:, None, None]
    return (places[:, types] + rng.normal(size=(2, N, 31))).astype(np.float32), types % 3, types


def test_controls(words):
    X, y, types = words
    found = controls.run(
        X, y, folds=4, types=types, baselines={"noise": X[0], "layer 1": X[1]}, seeds=(0, 1)
    )
    mean = found.mean(("fold", "seed", "penalty"))
    assert mean.probe[1] > 0.9
    assert mean.shuffled.max() < 0.5
    assert mean.majority == pytest.approx(1 / 3, abs=0.05)
    assert mean.control_task[1] > 0.75  # what it learns by heart, however random
    assert mean.selectivity[1] < 0.2 < 0.4 < mean.probe[1] - mean.shuffled[1]
    assert mean.baselines.sel(baseline="noise") < 0.6 < mean.baselines.sel(baseline="layer 1")
    np.testing.assert_allclose(
        found.baselines.sel(baseline="layer 1"), found.probe.sel(layer=1), atol=0.05
    )


def test_types_held_out_cannot_be_learnt_by_heart(words):
    X, y, types = words
    assert (
        interventions.fit_probes(X, y, types, folds=4, seeds=(0, 1)).accuracy.sel(layer=1).mean()
        < 0.6
    )


X, Y = np.random.default_rng(1).normal(size=(2, 24, 5)).astype(np.float32), np.arange(24) % 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"y": np.zeros(24, int)}, "expected at least 2 classes, got only 0"),
        ({"y": Y[:-1]}, r"y: expected one for each of 24 rows \(or \[1, 24\]\), got shape \[23\]"),
        ({"y": Y + 0.5}, "for a quantity pass target='value'"),
        ({"y": np.array(["rare", *["often"] * 23])}, "class 'rare' has 1 rows, 5 folds need 5"),
        ({"groups": np.arange(24) % 3}, "3 groups cannot be split into 5 folds; pass folds=3"),
        (
            {"groups": Y * 4 + np.arange(24) // 6 * (Y == 0), "folds": 2},
            "would be in none of the training rows",
        ),
        ({"groups": np.arange(23)}, "groups: expected one for each of 24 rows"),
        (
            {"X": np.where(np.arange(24)[:, None] == 7, np.nan, X)},
            "NaN or infinity in layer 0, 1 rows, the first 7",
        ),
        ({"X": X[0]}, r"X: expected \[layers, rows, features\]"),
        ({"X": {"a": X, "b": X[:1]}}, "the same shape for all sites"),
        ({"penalties": (1.0, -1.0)}, "penalties: expected different positive numbers"),
        ({"folds": 1}, "folds: expected 2 to 24"),
        ({"seeds": ()}, "seeds: expected at least one"),
        ({"target": "label"}, "target: expected 'class' or 'value'"),
        ({"y": np.full(24, 2.0), "target": "value"}, "y: expected different values"),
    ],
)
def test_refusals(change, message):
    with pytest.raises(ValueError, match=message):
        interventions.fit_probes(**{"X": X, "y": Y, **change})


@pytest.fixture(scope="module")
def heard(tiny_model):
    rng = np.random.default_rng(3)
    memory, _ = tiny_model.encode(jnp.asarray(rng.normal(size=(2, 7, 22)), jnp.float32))
    tokens = jnp.asarray(rng.integers(0, 101, (2, 9)))
    return memory, tokens


@pytest.fixture(scope="module")
def bank(tiny_model, heard):
    """Probes of whether a token's id is even, from real activations of the tiny model."""
    memory, tokens = heard
    _, acts = tiny_model.decode(tokens, memory, None, jaxasr.select(SITE))
    x = np.asarray(acts[SITE]).reshape(2, -1, 15)
    y = np.array(["odd", "even"])[1 - np.asarray(tokens).ravel() % 2]
    return interventions.fit_probes(x, y, folds=2), x


def test_adding_a_direction_moves_the_probe(tiny_model, heard, bank):
    fitted, x = bank
    memory, tokens = heard
    probe = monitor.Probe.of(fitted, layer=1)
    direction = fitted.direction(1, "even", "odd")
    assert np.linalg.norm(direction) == pytest.approx(1, abs=1e-5)
    np.testing.assert_allclose(direction, fitted.direction(1, "even"), atol=1e-5)
    edits = {SITE: fitted.as_add(1, "even", "odd", strength=2.5)}
    said = [
        tiny_model.decode(tokens, memory, e, monitor.readout(probe, SITE))[1]["probe"][1]
        for e in (None, edits)
    ]
    log_odds = [jnp.log(p[..., 0] / p[..., 1]) for p in said]
    slope = (probe.weights[0] - probe.weights[1]) @ direction
    np.testing.assert_allclose(log_odds[1] - log_odds[0], jnp.full((2, 9), 2.5 * slope), rtol=1e-2)
    assert list(fitted.classes) == ["even", "odd"]
    mean = fitted.decision(x).sel(layer=1).mean(("fold", "seed")).isel(penalty=0)
    flat = jnp.log(said[0].reshape(-1, 2))
    np.testing.assert_allclose(flat[:, 0] - flat[:, 1], mean[:, 0] - mean[:, 1], atol=1e-3)


def test_projecting_leaves_nothing_for_the_probe(tiny_model, heard, bank):
    memory, tokens = heard
    probe = monitor.Probe.of(bank[0], layer=0)
    _, acts = tiny_model.decode(
        tokens, memory, {SITE: bank[0].as_project(0)}, monitor.readout(probe, SITE)
    )
    said = acts["probe"][0]
    np.testing.assert_allclose(said, jnp.broadcast_to(said[0, 0], said.shape), atol=1e-5)


def test_a_monitor_reads_every_step(tiny_model, heard, bank):
    memory, tokens = heard
    probe = monitor.Probe.of(bank[0], layer=1)
    options = dict(max_new_tokens=5, eot=100, edits={SITE: bank[0].as_add(0, "odd", strength=3.0)})
    out, said = monitor.generate(
        tiny_model, memory, tokens[:, :3], probe, site=SITE, layer=1, **options
    )
    assert said.shape == (2, 5, 2)
    whole = jnp.concatenate([tokens[:, :3], out.tokens], 1)
    _, acts = tiny_model.decode(whole, memory, options["edits"], jaxasr.select(SITE))
    expected = probe(acts[SITE][1][:, 2:7])
    there = np.arange(5) <= np.asarray(out.lengths)[:, None]
    np.testing.assert_allclose(np.asarray(said)[there], np.asarray(expected)[there], atol=1e-5)
    with pytest.raises(ValueError, match="site for a monitor of the decoder"):
        monitor.generate(
            tiny_model, memory, tokens, probe, site="encoder.resid_post", max_new_tokens=2
        )


def test_an_edit_that_waits_for_the_probe(tiny_model, heard, bank):
    memory, tokens = heard
    probe = monitor.Probe.of(bank[0], layer=1)
    zero = interventions.Zero()

    def logits(threshold):
        when = monitor.When(probe, zero, column=0, threshold=threshold)
        return tiny_model.decode(tokens, memory, {SITE: only(when, layers=1)})[0]

    plain, always = (
        tiny_model.decode(tokens, memory, e)[0] for e in (None, {SITE: only(zero, layers=1)})
    )
    np.testing.assert_array_equal(logits(1.1), plain)
    np.testing.assert_array_equal(logits(0.0), always)
    sure = (
        tiny_model.decode(tokens, memory, None, monitor.readout(probe, SITE))[1]["probe"][1][..., 0]
        >= 0.5
    )
    np.testing.assert_allclose(logits(0.5), jnp.where(sure[..., None], always, plain), atol=1e-5)
    wide = monitor.When(monitor.Probe(jnp.ones((2, 4)), jnp.zeros(2)), zero, 0)
    with pytest.raises(ValueError, match="expected a probe of 15 features"):
        tiny_model.decode(tokens, memory, {SITE: wide})


def test_several_layers_need_a_name(bank):
    with pytest.raises(ValueError, match=r"layer: expected one of \[0, 1\], got 5"):
        bank[0].direction(5, "even")
    with pytest.raises(ValueError, match="positive: expected one of"):
        bank[0].direction(0, "prime")
