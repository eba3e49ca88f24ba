"""Wrong edits and readouts are refused, and an edit gets its layer, positions and keys."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden.tiny import tiny_inputs
from own_edits import Bend, Shift, identity

import jaxasr
from jaxasr.sites import SITES, sites_of

ENCODER_SITES, DECODER_SITES = sites_of("encoder"), sites_of("decoder")


@pytest.fixture(scope="module")
def inputs(tiny_model):
    mel, tokens = tiny_inputs(tiny_model.config, 2, 6)
    return mel, tokens, tiny_model.encode(mel)[0]


def assert_same(ours, theirs) -> None:
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


def test_unknown_sites_are_refused_with_a_list_of_sites(tiny_model, inputs):
    mel, tokens, memory = inputs
    with pytest.raises(
        ValueError,
        match=r"'decoder\.resid_pots'.*Did you mean 'decoder\.resid_post'.*decoder\.logits",
    ):
        tiny_model.decode(tokens, memory, {"decoder.resid_pots": identity})
    with pytest.raises(ValueError, match=r"'resid_post'.*decoder\.resid_post"):
        tiny_model.decode(tokens, memory, {"resid_post": identity})
    with pytest.raises(ValueError, match=r"'encoder\.cross_attn\.z'.*Expected one of: encoder\."):
        tiny_model.encode(mel, {"encoder.cross_attn.z": identity})
    with pytest.raises(ValueError, match=r"Unknown site 'decoder\.mlp'"):
        jaxasr.select("decoder.mlp")
    with pytest.raises(ValueError, match=r"Unknown site 'mlp'"):
        jaxasr.reduce("mean", "mlp", jnp.mean)


def test_an_edit_that_would_never_fire_is_refused(tiny_model, inputs):
    mel, tokens, memory = inputs
    with pytest.raises(ValueError, match="never fire"):
        tiny_model.decode(tokens, memory, {"encoder.resid_post": identity})
    with pytest.raises(ValueError, match="never fire"):
        tiny_model.encode(mel, {"decoder.resid_post": identity})
    with pytest.raises(ValueError, match="never fire"):
        jaxasr.generate(
            tiny_model,
            memory,
            tokens,
            max_new_tokens=2,
            eot=100,
            edits={"encoder.resid_post": identity},
        )
    with pytest.raises(ValueError, match="readout of the decoder"):
        tiny_model.decode(tokens, memory, readout=jaxasr.select("encoder.resid_post"))


@pytest.mark.parametrize(
    "site", ["decoder.resid_mid", "decoder.attn.pattern", "decoder.cross_attn.k", "decoder.logits"]
)
def test_an_edit_that_changes_the_shape_is_refused(tiny_model, inputs, site):
    _, tokens, memory = inputs
    with pytest.raises(
        ValueError,
        match=rf"edit at '{site}' returned shape .*expected .*axes {' '.join(SITES[site])}",
    ):
        tiny_model.decode(tokens, memory, {site: lambda x, at: x[:1]})


@pytest.mark.parametrize(("returned", "named"), [
    (lambda x: None, "NoneType"),
    (lambda x: "text", "str"),
    (lambda x: (x, x), "shape"),
    (lambda x: x + 1j, "complex64"),
    (lambda x: x[..., :1], "shape"),
])  # fmt: skip
def test_an_edit_that_returns_no_real_array_is_refused(tiny_model, inputs, returned, named):
    _, tokens, memory = inputs
    site = "decoder.resid_mid"
    with pytest.raises(
        ValueError, match=rf"edit at '{site}' returned {named}.*expected real numbers"
    ):
        tiny_model.decode(tokens, memory, {site: lambda x, at: returned(x)})


def test_objects_that_are_not_edits_or_readouts_are_refused(tiny_model, inputs):
    _, tokens, memory = inputs
    with pytest.raises(TypeError, match=r"edits\['decoder\.ln'\]: expected a callable"):
        tiny_model.decode(tokens, memory, {"decoder.ln": 1.0})
    with pytest.raises(TypeError, match=r"readout: expected jaxasr\.select"):
        tiny_model.decode(tokens, memory, readout=lambda acts: acts)


def test_an_edit_may_check_the_shape_of_its_site_before_the_pass(tiny_model, inputs):
    _, tokens, memory = inputs
    specs = []

    class Careful:
        def check(self, spec):
            specs.append(spec)
            raise ValueError("does not fit")

        def __call__(self, x, at):
            return x

    with pytest.raises(ValueError, match="does not fit"):
        tiny_model.decode(tokens, memory, {"decoder.cross_attn.pattern": Careful()})
    assert specs[0].axes == ("B", "H", "T", "S")
    assert specs[0].shape == (2, 5, 6, 11)
    assert specs[0].n_layer == 2


def test_empty_edits_and_an_empty_readout_change_nothing(tiny_model, inputs):
    mel, tokens, memory = inputs
    assert_same(tiny_model.encode(mel, {}, jaxasr.select()), tiny_model.encode(mel))
    assert_same(
        tiny_model.decode(tokens, memory, {}, jaxasr.select()), tiny_model.decode(tokens, memory)
    )
    plain = jaxasr.generate(tiny_model, memory, tokens, max_new_tokens=7, eot=100)
    assert_same(
        jaxasr.generate(tiny_model, memory, tokens, max_new_tokens=7, eot=100, edits={}), plain
    )
    assert tiny_model.encode(mel)[1] == {}


@pytest.mark.parametrize("site", ENCODER_SITES)
def test_an_identity_edit_of_an_encoder_site_changes_nothing(tiny_model, inputs, site):
    mel, _, memory = inputs
    assert_same(tiny_model.encode(mel, {site: lambda x, at: x})[0], memory)


@pytest.mark.parametrize("site", DECODER_SITES)
def test_an_identity_edit_of_a_decoder_site_changes_nothing(tiny_model, inputs, site):
    _, tokens, memory = inputs
    assert_same(
        tiny_model.decode(tokens, memory, {site: lambda x, at: x})[0],
        tiny_model.decode(tokens, memory)[0],
    )


# Sites whose edit needs explicit attention.
ATTENTION_SITES = tuple(
    site for site in (*ENCODER_SITES, *DECODER_SITES) if site.endswith(("scores", "pattern"))
)


@pytest.mark.parametrize("site", [*ENCODER_SITES, *DECODER_SITES])
def test_a_readout_of_an_edited_site_returns_the_edited_value(tiny_model, inputs, site):
    """Edits all sites, but all except one with the identity, so that all cases share one program.

    Edits of scores or patterns switch off fused attention, so other sites are tested without them.
    """
    mel, tokens, memory = inputs
    edited_sites = [
        name
        for name in (ENCODER_SITES if site in ENCODER_SITES else DECODER_SITES)
        if site in ATTENTION_SITES or name not in ATTENTION_SITES
    ]

    def run(scale, shift):
        edits = {
            name: Bend(scale, shift) if name == site else Bend(1.0, 0.0) for name in edited_sites
        }
        readout = jaxasr.select(*edited_sites)
        return (
            tiny_model.encode(mel, edits, readout)
            if site in ENCODER_SITES
            else tiny_model.decode(tokens, memory, edits, readout)
        )

    (plain_out, plain), (out, edited) = run(1.0, 0.0), run(0.5, 0.25)
    # Compares only the first layer, because the edit changes the inputs of later layers.
    layer = 0 if site in jaxasr.sites.LAYERED else ...  # `...` selects everything
    before, after = (np.asarray(acts[site])[layer] for acts in (plain, edited))
    finite = np.isfinite(before)
    np.testing.assert_allclose(after[finite], 0.5 * before[finite] + 0.25, rtol=2e-6, atol=1e-6)
    assert not np.array_equal(jax.tree.leaves(out)[0], jax.tree.leaves(plain_out)[0])


def overwrite(value):
    """Returns an edit that overwrites the activation with `value(x, at)`."""
    return lambda x, at: jnp.broadcast_to(value(x, at), x.shape).astype(x.dtype)


def test_an_edit_gets_its_layer(tiny_model, inputs):
    mel, tokens, memory = inputs
    edit = overwrite(lambda x, at: at.layer)
    acts = tiny_model.decode(
        tokens, memory, {"decoder.mlp_out": edit}, jaxasr.select("decoder.mlp_out")
    )[1]
    np.testing.assert_array_equal(
        acts["decoder.mlp_out"][..., 0], np.broadcast_to(np.arange(2)[:, None, None], (2, 2, 6))
    )
    acts = tiny_model.encode(mel, {"encoder.conv1": edit}, jaxasr.select("encoder.conv1"))[1]
    assert (np.asarray(acts["encoder.conv1"]) == -1).all()


def test_an_edit_gets_its_positions(tiny_model, inputs):
    mel, tokens, memory = inputs
    positions = np.array([[0, 1, 2, 3, 4, 5], [-2, -1, 0, 1, 2, 3]])
    edits = {
        "decoder.resid_pre": overwrite(lambda x, at: at.positions[:, :, None]),
        "decoder.attn.k": overwrite(lambda x, at: at.positions[:, :, None, None]),
        "decoder.cross_attn.v": overwrite(lambda x, at: at.positions[:, :, None, None]),
    }
    acts = tiny_model.decode(tokens, memory, edits, jaxasr.select(*edits), positions=positions)[1]
    for layer in range(2):
        np.testing.assert_array_equal(acts["decoder.resid_pre"][layer, :, :, 0], positions)
        np.testing.assert_array_equal(acts["decoder.attn.k"][layer, :, :, 0, 0], positions)
        np.testing.assert_array_equal(
            acts["decoder.cross_attn.v"][layer, :, :, 0, 0], np.tile(np.arange(11), (2, 1))
        )
    edit = overwrite(lambda x, at: at.positions[:, :, None])
    for site, frames in {"encoder.conv1": 22, "encoder.conv2": 11}.items():
        acts = tiny_model.encode(mel, {site: edit}, jaxasr.select(site))[1]
        np.testing.assert_array_equal(acts[site][0, :, 0], np.arange(frames))


def test_an_edit_of_scores_gets_the_positions_of_its_keys(tiny_model, inputs):
    _, tokens, memory = inputs
    edit = overwrite(lambda x, at: 100 * at.positions[:, None, :, None] + at.keys[:, None, None, :])
    edits = {"decoder.attn.scores": edit, "decoder.cross_attn.scores": edit}
    acts = tiny_model.decode(tokens, memory, edits, jaxasr.select(*edits))[1]
    steps = np.arange(6)[:, None]
    np.testing.assert_array_equal(acts["decoder.attn.scores"][1, 1, 2], 100 * steps + np.arange(6))
    np.testing.assert_array_equal(
        acts["decoder.cross_attn.scores"][1, 1, 2], 100 * steps + np.arange(11)
    )


def test_no_edit_of_scores_lets_a_token_attend_to_its_future(tiny_model, inputs):
    _, tokens, memory = inputs
    future = {
        "decoder.attn.scores": lambda x, at: (
            x + 100.0 * (at.keys[:, None, None, :] > at.positions[:, None, :, None])
        )
    }
    pattern = tiny_model.decode(tokens, memory, future, jaxasr.select("decoder.attn.pattern"))[1][
        "decoder.attn.pattern"
    ]
    assert (np.triu(np.asarray(pattern), 1) == 0).all()


def test_the_result_of_an_edit_is_cast_to_the_dtype_of_its_site(tiny_model, inputs):
    _, tokens, memory = inputs
    logits, _ = tiny_model.decode(
        tokens, memory, {"decoder.resid_pre": lambda x, at: np.zeros(x.shape, np.float64)}
    )
    assert logits.dtype == np.float32


def test_reduce_and_merge_keep_what_select_would_give(tiny_model, inputs):
    _, tokens, memory = inputs
    entropy = jaxasr.reduce(
        "entropy", "decoder.cross_attn.pattern", lambda p: -(p * jnp.log(p)).sum(-1)
    )
    merged = jaxasr.merge(entropy, jaxasr.select("decoder.cross_attn.pattern", "decoder.ln"))
    acts = tiny_model.decode(tokens, memory, readout=merged)[1]
    assert acts.keys() == {"entropy", "decoder.cross_attn.pattern", "decoder.ln"}
    pattern = np.asarray(acts["decoder.cross_attn.pattern"])
    np.testing.assert_allclose(acts["entropy"], -(pattern * np.log(pattern)).sum(-1), rtol=1e-5)
    alone = tiny_model.decode(tokens, memory, readout=entropy)[1]
    assert alone.keys() == {"entropy"}
    np.testing.assert_array_equal(alone["entropy"], acts["entropy"])


def temporary_bytes(tiny_model, inputs, readout) -> int:
    _, tokens, memory = inputs
    compiled = (
        jax.jit(lambda model, memory: model.decode(tokens, memory, readout=readout)[0])
        .lower(tiny_model, memory)
        .compile()
    )
    return compiled.memory_analysis().temp_size_in_bytes


def test_readouts_whose_result_is_unused_take_no_memory(tiny_model, inputs):
    n_bytes = temporary_bytes(tiny_model, inputs, readout=None)
    assert temporary_bytes(tiny_model, inputs, jaxasr.select(*DECODER_SITES)) == n_bytes > 0


def test_edits_compose_with_vmap_and_grad(tiny_model, inputs):
    _, tokens, memory = inputs

    def logit(strength):
        return tiny_model.decode(tokens, memory, {"decoder.mlp.post": Shift(strength, 1, 3)})[0][
            0, -1, 7
        ]

    doses = jnp.linspace(-1, 1, 5)
    np.testing.assert_allclose(
        jax.vmap(logit)(doses), [logit(dose) for dose in doses], rtol=1e-5, atol=1e-6
    )
    step = 1e-2
    slope = (logit(jnp.float32(step)) - logit(jnp.float32(-step))) / (2 * step)
    np.testing.assert_allclose(jax.grad(logit)(jnp.float32(0)), slope, rtol=2e-2, atol=1e-4)
