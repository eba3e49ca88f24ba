"""Edits equal their formulas in NumPy, and change only the places they are restricted to."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden.tiny import tiny_inputs

import jaxasr
from interventions.edits import Add, FromRow, Mix, Noise, Patch, Project, Scale, Zero, chain, only
from jaxasr.sites import sites_of, stack_of

# Compiled with all optimisations, because a test compares bit by bit.
pytestmark = pytest.mark.optimised

B, T, S = 2, 6, 11  # rows, tokens and encoder frames


@pytest.fixture(scope="module")
def inputs(tiny_model):
    mel, tokens = tiny_inputs(tiny_model.config, B, T)
    return mel, tokens, tiny_model.encode(mel)[0]


def run(model, inputs, edits, stack, readout=None):
    """Returns the output of a stack, and its activations."""
    mel, tokens, memory = inputs
    if stack == "encoder":
        memory, acts = model.encode(mel, edits, readout)
        return memory.xa, acts
    return model.decode(tokens, memory, edits, readout)


def before_and_after(model, inputs, site, edit):
    """Returns the activation at `site` without an edit and with `edit`."""
    stack = stack_of(site)
    before = run(model, inputs, None, stack, _readout(stack, _is_explicit(site)))[1][site]
    return np.asarray(before), np.asarray(
        run(model, inputs, {site: edit}, stack, jaxasr.select(site))[1][site]
    )


def _is_explicit(site):
    """Returns whether only explicit attention computes the site. Fused attention skips it."""
    return site.endswith(("scores", "pattern"))


def _readout(stack, explicit):
    """Returns a readout of a stack's sites; only with `explicit` those of explicit attention.

    Tests of different sites share this readout, so that they share a compiled program.
    """
    return jaxasr.select(*(site for site in sites_of(stack) if explicit or not _is_explicit(site)))


@pytest.fixture(scope="module")
def activations(tiny_model, inputs):
    """Returns every activation of the unedited pass."""
    encoder, decoder = (
        run(tiny_model, inputs, None, stack, jaxasr.select(*sites_of(stack)))[1]
        for stack in ("encoder", "decoder")
    )
    return encoder | decoder


@pytest.mark.parametrize("stack", ["encoder", "decoder"])
def test_edits_without_effect_change_nothing_at_any_site(tiny_model, inputs, activations, stack):
    plain = run(tiny_model, inputs, None, stack)[0]

    def idle(site):
        mix = Mix(jnp.float32(0), np.float32(7) * np.asarray(activations[site]))
        return chain(
            mix, Add(jnp.float32(0)), Scale(1.0), Scale(2.0), Scale(0.5), only(Zero(), when=False)
        )

    for kind in (
        lambda site: Patch(activations[site]),
        idle,
    ):  # in two passes, because a patch would replace the results of the other edits
        edited = run(tiny_model, inputs, {site: kind(site) for site in sites_of(stack)}, stack)[0]
        # Explicit attention sums in another order than fused attention.
        np.testing.assert_allclose(edited, plain, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize(
    "site",
    ["decoder.resid_mid", "decoder.attn.k", "encoder.attn.z", "decoder.cross_attn.z", "decoder.ln"],
)
def test_a_self_patch_is_bitwise_the_unedited_pass(tiny_model, inputs, site):
    stack = stack_of(site)
    plain, acts = run(tiny_model, inputs, None, stack, _readout(stack, explicit=False))
    np.testing.assert_array_equal(
        run(tiny_model, inputs, {site: Patch(acts[site])}, stack)[0], plain
    )


SITES_TO_TRY = [
    "decoder.resid_mid",
    "decoder.cross_attn.z",
    "decoder.cross_attn.v",
    "decoder.attn.scores",
    "encoder.attn.k",
]


@pytest.mark.parametrize("site", SITES_TO_TRY)
def test_a_restricted_edit_changes_only_its_layer(tiny_model, inputs, site):
    layer = 1
    before, after = before_and_after(
        tiny_model, inputs, site, only(Add(jnp.float32(3)), layers=layer)
    )
    np.testing.assert_array_equal(after[:layer], before[:layer])
    # Layers below the edited one are unedited, so its input is the same.
    np.testing.assert_allclose(after[layer], before[layer] + 3, rtol=1e-6)


# Per case: the site, the arguments of `only`, and the index of the edited values in one layer of
# the activation.
PLACES = {
    "heads": ("decoder.cross_attn.z", {"heads": [1, 4]}, np.s_[:, :, [1, 4]]),
    "heads of a pattern": ("decoder.cross_attn.pattern", {"heads": 2}, np.s_[:, 2]),
    "positions": ("decoder.resid_mid", {"positions": slice(2, 5)}, np.s_[:, 2:5]),
    "queries": ("decoder.cross_attn.scores", {"positions": -1 % T}, np.s_[:, :, T - 1]),
    "keys of self-attention": ("decoder.attn.k", {"positions": range(3)}, np.s_[:, :3]),
    "frames": ("decoder.cross_attn.scores", {"frames": range(4, 9)}, np.s_[:, :, :, 4:9]),
    "frames of keys": ("decoder.cross_attn.v", {"frames": [0, 10]}, np.s_[:, [0, 10]]),
    "frames of the encoder": ("encoder.resid_mid", {"frames": range(4, 9)}, np.s_[:, 4:9]),
    "rows": ("decoder.mlp.pre", {"rows": 1}, np.s_[1]),
    "all at once": (
        "decoder.cross_attn.pattern",
        {"heads": 3, "frames": 7, "positions": [0, 2], "rows": [0]},
        np.s_[0, 3, [0, 2], 7],
    ),
    "when": (
        "decoder.resid_mid",
        {"when": lambda at: (at.positions % 2 == 1)[..., None]},
        np.s_[:, 1::2],
    ),
}


@pytest.mark.parametrize("name", PLACES)
def test_a_restricted_edit_changes_only_its_places(tiny_model, inputs, name):
    site, places, where = PLACES[name]
    before, after = before_and_after(
        tiny_model, inputs, site, only(Add(jnp.float32(3)), layers=0, **places)
    )
    expected = before[0].copy()
    expected[where] += 3
    np.testing.assert_allclose(after[0], expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("site", "places", "message"),
    [
        ("decoder.resid_mid", {"layers": 2}, "layers: .* lies outside of 0 to 1"),
        ("decoder.cross_attn.z", {"heads": [0, 5]}, "heads: .* 0 to 4"),
        ("decoder.cross_attn.z", {"positions": T}, "positions: .* 0 to 5"),
        ("decoder.cross_attn.scores", {"frames": range(5, 12)}, "frames: .* 0 to 10"),
        ("decoder.cross_attn.z", {"rows": -1}, "rows: .* 0 to 1"),
        ("decoder.resid_mid", {"heads": 0}, "heads: .* no such axis"),
        ("decoder.resid_mid", {"frames": 0}, "frames: .* no such axis"),
        ("decoder.ln", {"layers": 0}, "layers: .* no such axis"),
        ("decoder.cross_attn.k", {"positions": 0}, "positions: .* no such axis"),
    ],
)
def test_places_outside_of_the_pass_raise(tiny_model, inputs, site, places, message):
    with pytest.raises(ValueError, match=message):
        run(tiny_model, inputs, {site: only(Zero(), **places)}, stack_of(site))


@pytest.mark.parametrize(
    "places", [{"heads": []}, {"layers": range(2, 2)}, {"positions": slice(3)}, {"heads": 1.5}]
)
def test_empty_and_fractional_places_raise(places):
    with pytest.raises(ValueError, match=f"{next(iter(places))}: "):
        only(Zero(), **places)


def test_a_shorter_value_must_be_partial(tiny_model, inputs, activations):
    value = activations["decoder.resid_mid"][:, :, :4] + 1
    with pytest.raises(ValueError, match=r"does not fit 'decoder\.resid_mid'.*partial=True"):
        run(tiny_model, inputs, {"decoder.resid_mid": Patch(value)}, "decoder")
    _, after = before_and_after(tiny_model, inputs, "decoder.resid_mid", Patch(value, partial=True))
    np.testing.assert_array_equal(after[:, :, :4], value)
    with pytest.raises(ValueError, match="does not fit"):
        run(
            tiny_model,
            inputs,
            {"decoder.resid_mid": Patch(activations["decoder.resid_mid"][..., :14])},
            "decoder",
        )


def test_each_edit_equals_its_formula(tiny_model, inputs, activations):
    site = "decoder.resid_mid"
    x, value = np.asarray(activations[site][0]), np.asarray(activations["decoder.resid_pre"][1])
    expected = [
        (Patch(value), value),
        (Mix(jnp.float32(1.5), value), -0.5 * x + 1.5 * value),
        (Add(value[0, 0], 2.0), x + 2 * value[0, 0]),
        (Scale(-2.0), -2 * x),
        (Zero(), 0 * x),
        (Patch(FromRow(jnp.array([1, 0]))), x[::-1]),
        (Mix(jnp.float32(0.25), FromRow(jnp.array([1, 1]))), 0.75 * x + 0.25 * x[[1, 1]]),
        (chain(Scale(2.0), Add(jnp.float32(1))), 2 * x + 1),
        (chain(Add(jnp.float32(1)), Scale(2.0)), 2 * (x + 1)),
    ]
    for edit, result in expected:
        np.testing.assert_allclose(
            before_and_after(tiny_model, inputs, site, edit)[1][0],
            result,
            rtol=1e-5,
            atol=1e-6,
            err_msg=repr(edit),
        )


def test_a_projection_removes_or_keeps_its_subspace(tiny_model, inputs):
    vectors = np.random.default_rng(0).standard_normal((3, 15)).astype(np.float32)
    out, onto = Project.span(vectors), Project.span(vectors, keep=True)
    before, after = before_and_after(tiny_model, inputs, "decoder.resid_mid", out)
    np.testing.assert_allclose(after[0] @ vectors.T, 0, atol=1e-5)
    _, twice = before_and_after(tiny_model, inputs, "decoder.resid_mid", chain(out, out))
    np.testing.assert_allclose(
        twice, after, atol=1e-6 * np.abs(before).max()
    )  # the second projection removes what rounding left of the first
    with jax.enable_x64(True):
        exact = Project.span(vectors.astype(np.float64))
        once = exact(jnp.asarray(before[0], jnp.float64), None)
        np.testing.assert_allclose(exact(once, None), once, atol=1e-12)
    _, kept = before_and_after(tiny_model, inputs, "decoder.resid_mid", onto)
    np.testing.assert_allclose(kept[0] + after[0], before[0], atol=1e-5)
    with pytest.raises(ValueError, match="independent"):
        Project.span(np.stack([vectors[0], 2 * vectors[0]]))
    with pytest.raises(ValueError, match="length 3"):
        run(tiny_model, inputs, {"decoder.cross_attn.z": out}, "decoder")


def test_noise_has_the_given_scale_and_is_the_same_in_cached_steps(tiny_model, inputs):
    before, after = before_and_after(
        tiny_model, inputs, "encoder.resid_mid", Noise(seed=3, scale=2.0)
    )
    added = after[0] - before[0]
    assert np.sqrt((added**2).mean() / (before[0] ** 2).mean()) == pytest.approx(2, rel=0.15)
    _, tokens, memory = inputs
    edits = {
        "decoder.resid_mid": Noise(seed=3, scale=0.5),
        "decoder.cross_attn.z": Noise(seed=4, replace=True),
    }
    out = jaxasr.generate(
        tiny_model, memory, tokens[:, :3], max_new_tokens=5, eot=100, edits=edits, unroll=False
    )  # a scan over layers compiles faster
    whole = np.concatenate([tokens[:, :3], out.tokens], 1)[:, :-1]
    logprobs = jax.nn.log_softmax(tiny_model.decode(whole, memory, edits)[0])[:, 2:]
    forced = np.take_along_axis(np.asarray(logprobs), np.asarray(out.tokens)[..., None], -1)[..., 0]
    real = np.arange(5) <= np.asarray(out.lengths)[:, None]
    np.testing.assert_allclose(np.asarray(out.logprobs)[real], forced[real], rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match="not defined"):
        run(tiny_model, inputs, {"decoder.attn.scores": Noise(seed=1)}, "decoder")


def test_noise_differs_between_rows_and_positions(tiny_model, inputs):
    before, after = before_and_after(tiny_model, inputs, "encoder.conv2", Noise(seed=3))
    drawn = (after - before) / np.sqrt((before**2).mean(-1, keepdims=True))
    assert np.abs(np.corrcoef(drawn.reshape(B * S, -1)) - np.eye(B * S)).max() < 0.95


@pytest.mark.parametrize(
    "site", ["decoder.attn.k", "decoder.cross_attn.z", "decoder.cross_attn.scores"]
)
def test_a_traced_place_equals_a_concrete_one(tiny_model, inputs, site):

    def silenced(layer, head):
        return run(tiny_model, inputs, {site: only(Zero(), layers=layer, heads=head)}, "decoder")[0]

    np.testing.assert_allclose(jax.jit(silenced)(1, 4), silenced(1, 4), rtol=1e-5, atol=1e-5)
