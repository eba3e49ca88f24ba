"""Every edit, at every kind of site, against what it says in numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden.tiny import tiny_inputs

import jaxasr
from interventions.edits import Add, FromRow, Mix, Noise, Patch, Project, Scale, Zero, chain, only
from jaxasr.sites import sites_of, stack_of

pytestmark = pytest.mark.optimised

B, T, S, H = 2, 6, 11, {"encoder": 3, "decoder": 5}


@pytest.fixture(scope="module")
def inputs(tiny_model):
    mel, tokens = tiny_inputs(tiny_model.config, B, T)
    return mel, tokens, tiny_model.encode(mel)[0]


def run(model, inputs, edits, stack, readout=None):
    """The last thing a stack computes, and its activations."""
    mel, tokens, memory = inputs
    if stack == "encoder":
        memory, acts = model.encode(mel, edits, readout)
        return memory.xa, acts
    return model.decode(tokens, memory, edits, readout)


def seen(model, inputs, site, edit):
    """The activation at `site` before and after `edit`, where the edit is the only one and layers above are fed by it."""
    stack = stack_of(site)
    before = run(model, inputs, None, stack, _everything(stack, _in_sight(site)))[1][site]
    return np.asarray(before), np.asarray(
        run(model, inputs, {site: edit}, stack, jaxasr.select(site))[1][site]
    )


def _in_sight(site):
    """Whether a site is one that only the explicit attention forms."""
    return site.endswith(("scores", "pattern"))


def _everything(stack, explicit):
    """One readout, so one program, for all sites that are seen with the same attention."""
    return jaxasr.select(*(site for site in sites_of(stack) if explicit or not _in_sight(site)))


@pytest.fixture(scope="module")
def own(tiny_model, inputs):
    """Every activation of the unedited pass."""
    encoder, decoder = (
        run(tiny_model, inputs, None, stack, jaxasr.select(*sites_of(stack)))[1]
        for stack in ("encoder", "decoder")
    )
    return encoder | decoder


@pytest.mark.parametrize("stack", ["encoder", "decoder"])
def test_edits_that_say_nothing_do_nothing_at_every_site(tiny_model, inputs, own, stack):
    plain = run(tiny_model, inputs, None, stack)[0]

    def idle(site):
        mix = Mix(jnp.float32(0), np.float32(7) * np.asarray(own[site]))
        return chain(
            mix, Add(jnp.float32(0)), Scale(1.0), Scale(2.0), Scale(0.5), only(Zero(), when=False)
        )

    for kind in (
        lambda site: Patch(own[site]),
        idle,
    ):  # apart: a patch would hide what another edit had done before it
        edited = run(tiny_model, inputs, {site: kind(site) for site in sites_of(stack)}, stack)[0]
        # A pass with its scores in sight is summed in another order than a fused one.
        np.testing.assert_allclose(edited, plain, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize(
    "site",
    ["decoder.resid_mid", "decoder.attn.k", "encoder.attn.z", "decoder.cross_attn.z", "decoder.ln"],
)
def test_a_self_patch_is_bitwise_the_pass_itself(tiny_model, inputs, site):
    stack = stack_of(site)
    plain, acts = run(tiny_model, inputs, None, stack, _everything(stack, explicit=False))
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
def test_only_touches_its_layer(tiny_model, inputs, site):
    layer = 1
    before, after = seen(tiny_model, inputs, site, only(Add(jnp.float32(3)), layers=layer))
    np.testing.assert_array_equal(after[:layer], before[:layer])
    # In a decoder of two layers and the first edited layer of an encoder, what comes in is still the same.
    np.testing.assert_allclose(after[layer], before[layer] + 3, rtol=1e-6)


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
def test_only_touches_its_places(tiny_model, inputs, name):
    site, places, where = PLACES[name]
    before, after = seen(tiny_model, inputs, site, only(Add(jnp.float32(3)), layers=0, **places))
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
def test_a_place_that_is_not_there_is_refused(tiny_model, inputs, site, places, message):
    with pytest.raises(ValueError, match=message):
        run(tiny_model, inputs, {site: only(Zero(), **places)}, stack_of(site))


@pytest.mark.parametrize(
    "places", [{"heads": []}, {"layers": range(2, 2)}, {"positions": slice(3)}, {"heads": 1.5}]
)
def test_a_place_that_is_no_place_is_refused(places):
    with pytest.raises(ValueError, match=f"{next(iter(places))}: "):
        only(Zero(), **places)


def test_a_value_of_another_length_needs_to_be_partial(tiny_model, inputs, own):
    value = own["decoder.resid_mid"][:, :, :4] + 1
    with pytest.raises(ValueError, match=r"does not fit 'decoder\.resid_mid'.*partial=True"):
        run(tiny_model, inputs, {"decoder.resid_mid": Patch(value)}, "decoder")
    _, after = seen(tiny_model, inputs, "decoder.resid_mid", Patch(value, partial=True))
    np.testing.assert_array_equal(after[:, :, :4], value)
    with pytest.raises(ValueError, match="does not fit"):
        run(
            tiny_model,
            inputs,
            {"decoder.resid_mid": Patch(own["decoder.resid_mid"][..., :14])},
            "decoder",
        )


def test_what_each_edit_does(tiny_model, inputs, own):
    site = "decoder.resid_mid"
    x, value = np.asarray(own[site][0]), np.asarray(own["decoder.resid_pre"][1])
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
            seen(tiny_model, inputs, site, edit)[1][0],
            result,
            rtol=1e-5,
            atol=1e-6,
            err_msg=repr(edit),
        )


def test_projection(tiny_model, inputs):
    vectors = np.random.default_rng(0).standard_normal((3, 15)).astype(np.float32)
    out, onto = Project.span(vectors), Project.span(vectors, keep=True)
    before, after = seen(tiny_model, inputs, "decoder.resid_mid", out)
    np.testing.assert_allclose(after[0] @ vectors.T, 0, atol=1e-5)
    _, twice = seen(tiny_model, inputs, "decoder.resid_mid", chain(out, out))
    np.testing.assert_allclose(
        twice, after, atol=1e-6 * np.abs(before).max()
    )  # rounding of what is taken away
    with jax.enable_x64(True):
        exact = Project.span(vectors.astype(np.float64))
        once = exact(jnp.asarray(before[0], jnp.float64), None)
        np.testing.assert_allclose(exact(once, None), once, atol=1e-12)
    _, kept = seen(tiny_model, inputs, "decoder.resid_mid", onto)
    np.testing.assert_allclose(kept[0] + after[0], before[0], atol=1e-5)
    with pytest.raises(ValueError, match="independent"):
        Project.span(np.stack([vectors[0], 2 * vectors[0]]))
    with pytest.raises(ValueError, match="length 3"):
        run(tiny_model, inputs, {"decoder.cross_attn.z": out}, "decoder")


def test_noise_has_its_ratio_and_is_the_same_in_cached_steps(tiny_model, inputs):
    before, after = seen(tiny_model, inputs, "encoder.resid_mid", Noise(seed=3, scale=2.0))
    added = after[0] - before[0]
    assert np.sqrt((added**2).mean() / (before[0] ** 2).mean()) == pytest.approx(2, rel=0.15)
    _, tokens, memory = inputs
    edits = {
        "decoder.resid_mid": Noise(seed=3, scale=0.5),
        "decoder.cross_attn.z": Noise(seed=4, replace=True),
    }
    out = jaxasr.generate(
        tiny_model, memory, tokens[:, :3], max_new_tokens=5, eot=100, edits=edits, unroll=False
    )  # quicker to compile
    whole = np.concatenate([tokens[:, :3], out.tokens], 1)[:, :-1]
    logprobs = jax.nn.log_softmax(tiny_model.decode(whole, memory, edits)[0])[:, 2:]
    forced = np.take_along_axis(np.asarray(logprobs), np.asarray(out.tokens)[..., None], -1)[..., 0]
    real = np.arange(5) <= np.asarray(out.lengths)[:, None]
    np.testing.assert_allclose(np.asarray(out.logprobs)[real], forced[real], rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match="not defined"):
        run(tiny_model, inputs, {"decoder.attn.scores": Noise(seed=1)}, "decoder")


def test_noise_of_rows_layers_and_positions_is_independent(tiny_model, inputs):
    before, after = seen(tiny_model, inputs, "encoder.conv2", Noise(seed=3))
    drawn = (after - before) / np.sqrt((before**2).mean(-1, keepdims=True))
    assert np.abs(np.corrcoef(drawn.reshape(B * S, -1)) - np.eye(B * S)).max() < 0.95


EDITS = [
    Patch(jnp.ones(15)),
    Mix(jnp.float32(0.5), jnp.ones(15)),
    Mix(jnp.float32(0.5), FromRow(jnp.array([1, 0]))),
    Add(jnp.ones(15), jnp.float32(2)),
    Scale(jnp.float32(0.5)),
    Zero(),
    Noise(jnp.int32(3), jnp.float32(0.5)),
    Project.span(np.eye(15, dtype=np.float32)[:2]),
    chain(Scale(jnp.float32(0.5)), Zero()),
    only(Scale(jnp.float32(0.5)), layers=1, positions=jnp.int32(3), rows=[0, 1]),
]


@pytest.mark.parametrize("edit", EDITS, ids=repr)
def test_an_edit_is_a_pytree_of_its_numbers(edit):
    x = np.random.default_rng(0).standard_normal((B, T, 15)).astype(np.float32)
    positions = jnp.tile(jnp.arange(T, dtype=jnp.int32), (B, 1))

    def edited(edit):
        return edit(jnp.asarray(x), jaxasr.At(jnp.int32(1), positions, None, "decoder.resid_mid"))

    assert len(repr(edit)) < 140
    assert type(edit).__name__ in repr(edit)
    value = edited(edit)
    np.testing.assert_allclose(jax.jit(edited)(edit), value, rtol=1e-6, atol=1e-6)
    doubled = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), edit)
    if jax.tree.leaves(edit):
        np.testing.assert_allclose(
            jax.jit(jax.vmap(edited))(doubled), [value, value], rtol=1e-5, atol=1e-6
        )
        slopes = jax.grad(lambda edit: edited(edit).sum(), allow_int=True)(edit)
        assert jax.tree.structure(slopes) == jax.tree.structure(edit)


@pytest.mark.parametrize(
    "site", ["decoder.attn.k", "decoder.cross_attn.z", "decoder.cross_attn.scores"]
)
def test_a_traced_place_is_a_concrete_one(tiny_model, inputs, site):

    def silenced(layer, head):
        return run(tiny_model, inputs, {site: only(Zero(), layers=layer, heads=head)}, "decoder")[0]

    np.testing.assert_allclose(jax.jit(silenced)(1, 4), silenced(1, 4), rtol=1e-5, atol=1e-5)
