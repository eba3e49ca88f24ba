"""Invariances of the model: what must hold whatever the weights are."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden.tiny import tiny_inputs, tiny_model
from jax.tree_util import Partial

import jaxasr
from jaxasr import attention
from jaxasr.sites import LAYERED, SITES, sites_of, stack_of
from jaxasr.weights.assemble import structure

ENCODER, DECODER = jaxasr.select(*sites_of("encoder")), jaxasr.select(*sites_of("decoder"))
ROUNDING = 5e-6  # of max(1, max|value|): one formula in two orders of float32 operations


def near(a: jax.Array, b: jax.Array, tolerance: float = ROUNDING) -> None:
    a, b = np.asarray(a, np.float32), np.asarray(b, np.float32)
    assert a.shape == b.shape
    assert np.max(np.abs(a - b)) <= tolerance * max(1.0, np.max(np.abs(b)))


def all_near(a: object, b: object) -> None:
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b)):
        near(x, y)


@pytest.fixture(scope="module")
def model() -> jaxasr.Whisper:
    return tiny_model("80 mels")


@pytest.fixture(scope="module")
def mel(model) -> np.ndarray:
    return tiny_inputs(model.config)[0]


@pytest.fixture(scope="module")
def tokens(model) -> np.ndarray:
    return tiny_inputs(model.config)[1]


@pytest.fixture(scope="module")
def memory(model, mel) -> jaxasr.Memory:
    return model.encode(mel)[0]


# One scan


@pytest.mark.parametrize("unroll", [2, True])
def test_unrolling_changes_nothing(model, mel, tokens, memory, unroll):
    scanned, unrolled = (
        model.encode(mel, readout=ENCODER),
        model.encode(mel, readout=ENCODER, unroll=unroll),
    )
    all_near(scanned, unrolled)
    all_near(
        model.decode(tokens, memory, readout=DECODER),
        model.decode(tokens, memory, readout=DECODER, unroll=unroll),
    )


def test_each_layer_of_the_scan_is_the_layer_run_alone(model, mel, tokens, memory):
    """A Python loop over the layers: each gets the stream the scan recorded before it, through a model of that layer only."""
    readouts = {"encoder": ENCODER, "decoder": DECODER}
    whole = {
        **model.encode(mel, readout=ENCODER)[1],
        **model.decode(tokens, memory, readout=DECODER)[1],
    }
    for stack, readout in readouts.items():
        for layer in range(whole[f"{stack}.resid_pre"].shape[0]):
            one = _only_layer(model, stack, layer)
            edits = {
                f"{stack}.resid_pre": Partial(
                    _instead, np.asarray(whole[f"{stack}.resid_pre"])[layer]
                )
            }
            if stack == "encoder":
                acts = one.encode(mel, edits, readout)[1]
            else:
                acts = one.decode(tokens, one.memory(memory.xa), edits, readout)[1]
            for site in sites_of(stack):
                if site in LAYERED:
                    near(acts[site][0], whole[site][layer])


def _instead(value: jax.Array, x: jax.Array, at: jaxasr.At) -> jax.Array:
    return value


def _only_layer(model: jaxasr.Whisper, stack: str, layer: int) -> jaxasr.Whisper:
    config = model.config.replace(**{f"n_{'audio' if stack == 'encoder' else 'text'}_layer": 1})
    named = [
        leaf[layer : layer + 1]
        if f"{stack}.blocks" in jax.tree_util.keystr(path, simple=True, separator=".")
        else leaf
        for path, leaf in jax.tree_util.tree_flatten_with_path(model)[0]
    ]
    return jax.tree.unflatten(jax.tree.structure(structure(config)), named)


def test_the_stream_adds_up(model, mel, tokens, memory):
    acts = {
        **model.encode(mel, readout=ENCODER)[1],
        **model.decode(tokens, memory, readout=DECODER)[1],
    }
    for stack in ("encoder", "decoder"):
        at = {site.removeprefix(f"{stack}."): np.asarray(value) for site, value in acts.items()}
        near(at["resid_mid"], at["resid_pre"] + at["attn_out"])
        before_mlp = at["resid_mid"]
        if stack == "decoder":
            before_mlp = at["resid_mid_cross"]
            near(before_mlp, at["resid_mid"] + at["cross_attn_out"])
        near(at["resid_post"], before_mlp + at["mlp_out"])
        near(at["resid_pre"][1:], at["resid_post"][:-1], 0)
        near(at["resid_pre"][0], at["embed"], 0)
        near(at["attn.pattern"].sum(-1), np.ones(at["attn.pattern"].shape[:-1]))


# What a row may see


def test_a_token_does_not_see_its_future(model, tokens, memory):
    before = model.decode(tokens, memory, readout=DECODER)[1]
    for t in range(1, tokens.shape[1]):
        changed = np.where(
            np.arange(tokens.shape[1]) >= t, (tokens + 1) % model.config.n_vocab, tokens
        )
        logits, after = model.decode(changed, memory, readout=DECODER)
        near(logits[:, :t], before["decoder.logits"][:, :t], 0)
        near(after["decoder.resid_post"][:, :, :t], before["decoder.resid_post"][:, :, :t], 0)
        assert not np.allclose(logits[:, t:], before["decoder.logits"][:, t:])
    assert not np.triu(np.asarray(before["decoder.attn.pattern"]), 1).any()


@pytest.mark.parametrize("n_tokens", [1, 5])
def test_a_prefix_gives_the_same_as_the_whole(model, memory, n_tokens):
    whole = tiny_inputs(model.config, n_tokens=model.config.n_text_ctx)[1]
    near(model.decode(whole[:, :n_tokens], memory)[0], model.decode(whole, memory)[0][:, :n_tokens])


def test_rows_do_not_see_each_other(model, mel, tokens):
    memory, encoder = model.encode(mel, readout=ENCODER)
    _, decoder = model.decode(tokens, memory, readout=DECODER)
    for row in range(2):
        alone, acts = model.encode(mel[row : row + 1], readout=ENCODER)
        acts |= model.decode(tokens[row : row + 1], alone, readout=DECODER)[1]
        for site, value in {**encoder, **decoder}.items():
            axis = 1 if site in LAYERED else 0
            near(acts[site], np.take(value, [row], axis))


def test_nobody_sees_padded_tokens(model, memory):
    whole = tiny_inputs(model.config)[1]
    positions = np.stack([np.arange(5), np.arange(5) - 2]).astype(np.int32)
    shifted = np.stack([whole[0], np.concatenate([[0, 1], whole[1, :3]])])
    for padding in ([0, 1], [7, 7]):
        shifted[1, :2] = padding
        logits, acts = model.decode(shifted, memory, readout=DECODER, positions=positions)
        plain = model.decode(whole, memory)[0]
        near(logits[0], plain[0])
        near(logits[1, 2:], plain[1, :3])
        assert not np.asarray(acts["decoder.attn.pattern"])[:, 1, :, 2:, :2].any()
        assert np.isfinite(logits).all()


# What nobody asks for costs nothing


def temporary_bytes(fn, *args) -> int:
    return jax.jit(fn).lower(*args).compile().memory_analysis().temp_size_in_bytes


def test_captures_that_nobody_uses_are_dead(model, mel, tokens, memory):
    plain = temporary_bytes(lambda m, x: m.encode(x)[0], model, mel)
    kept = jaxasr.select("encoder.resid_post", "encoder.mlp.post", "encoder.attn.q")
    assert temporary_bytes(lambda m, x: m.encode(x, readout=kept)[0], model, mel) == plain
    plain = temporary_bytes(lambda m, x, xa: m.decode(x, m.memory(xa))[0], model, tokens, memory.xa)
    kept = jaxasr.select(
        "decoder.resid_pre", "decoder.cross_attn.z", "decoder.mlp.pre", "decoder.embed"
    )
    assert (
        temporary_bytes(
            lambda m, x, xa: m.decode(x, m.memory(xa), readout=kept)[0], model, tokens, memory.xa
        )
        == plain
    )


def test_a_reduction_never_stacks_what_it_reduces(model, mel):
    site = "encoder.attn.pattern"
    whole = temporary_bytes(
        lambda m, x: m.encode(x, readout=jaxasr.select(site))[1][site].max((-2, -1)), model, mel
    )
    reduced = jaxasr.reduce("largest", site, lambda pattern: pattern.max((-2, -1)))
    assert (
        temporary_bytes(lambda m, x: m.encode(x, readout=reduced)[1]["largest"], model, mel)
        <= whole
    )
    kept = model.encode(mel, readout=jaxasr.select(site))[1][site].max((-2, -1))
    near(model.encode(mel, readout=reduced)[1]["largest"], kept)


def test_no_readout_is_bitwise_the_same_as_a_readout_outside_attention(model, mel, tokens, memory):
    kept = jaxasr.select("decoder.resid_post")
    np.testing.assert_array_equal(
        model.decode(tokens, memory, {}, None)[0], model.decode(tokens, memory, None, kept)[0]
    )
    assert model.decode(tokens, memory)[1] == {}
    np.testing.assert_array_equal(
        model.encode(mel)[0].xa, model.encode(mel, {}, jaxasr.select())[0].xa
    )


# Two attention paths


def test_the_fast_attention_is_the_explicit_one(model, mel, tokens, memory):
    for stack, fast in (
        ("encoder", model.encode(mel)[0].xa),
        ("decoder", model.decode(tokens, memory)[0]),
    ):
        sites = [site for site in sites_of(stack) if site.endswith(("scores", "pattern"))]
        readout = jaxasr.select(*sites)
        near(
            fast,
            model.encode(mel, readout=readout)[0].xa
            if stack == "encoder"
            else model.decode(tokens, memory, readout=readout)[0],
        )


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("n_query", [5, 311])
def test_fused_attention_over_many_queries(dtype, n_query):
    """Long queries go another way on a CPU; large scores must not overflow there."""
    scale = (
        30 if dtype == "float32" else 1
    )  # in bfloat16 scores in the hundreds have no two alike after rounding
    rng = np.random.default_rng(0)
    q, k, v = (
        (scale * rng.normal(size=(2, 3, n, 7))).astype(jnp.dtype(dtype))
        for n in (n_query, 313, 313)
    )
    taps = jaxasr.taps.Tap(
        "encoder.attn.", {}, jaxasr.select(), jnp.int32(0), jnp.zeros((2, n_query), jnp.int32)
    )
    fused = jax.jit(lambda q, k, v: attention._fused(q, k, v, None, taps))(q, k, v)
    explicit = jax.jit(lambda q, k, v: attention._explicit(q, k, v, None, lambda site, x: x))(
        q, k, v
    )
    assert fused.dtype == explicit.dtype == q.dtype
    near(fused, explicit, ROUNDING if dtype == "float32" else 2e-2)
    assert np.isfinite(np.asarray(fused, np.float32)).all()


# Precision


@pytest.mark.parametrize(
    ("dtype", "param_dtype"), [("bfloat16", "bfloat16"), ("bfloat16", "float32")]
)
def test_bfloat16_is_near_float32(model, dtype, param_dtype):
    exact, model = model, tiny_model("80 mels", dtype=dtype, param_dtype=param_dtype)
    mel, tokens = tiny_inputs(model.config)
    assert {leaf.dtype for leaf in jax.tree.leaves(model)} == {jnp.dtype(param_dtype)}
    memory, encoder = model.encode(mel, readout=ENCODER)
    logits, decoder = model.decode(tokens, memory, readout=DECODER)
    assert logits.dtype == jnp.float32
    for site, value in {**encoder, **decoder}.items():
        assert value.dtype == (jnp.float32 if site == "decoder.logits" else jnp.bfloat16), site
    expected = exact.decode(tokens, exact.encode(mel)[0])[0]
    error = np.abs(np.asarray(logits - expected))
    assert error.mean() < 0.02 * np.abs(expected).max()
    assert error.max() < 0.1 * np.abs(expected).max()
    assert error.max() > 1e-4  # it did compute in bfloat16


# Wrong input


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((2, 79, 22), "80 mels"),
        ((2, 80, 21), "22 frames"),
        ((80, 22), r"mel\[None\]"),
        ((2, 128, 22), "n_mels=80"),
        ((0, 80, 0), "22 fr"),
    ],
)
def test_a_mel_of_the_wrong_shape(shape, message):
    with pytest.raises(ValueError, match=message):
        tiny_model().encode(np.zeros(shape, np.float32))


def test_a_mel_of_integers_or_with_a_nan():
    model = tiny_model()
    mel, _ = tiny_inputs(model.config)
    with pytest.raises(ValueError, match="floating point"):
        model.encode(mel.astype(np.int16))
    mel[1, 3, 5] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        model.encode(mel)


def test_tokens_past_the_vocabulary_or_the_context(model, tokens, memory):
    c = model.config
    for id_ in (c.n_vocab, -1):
        wrong = np.array(tokens)
        wrong[1, 2] = id_
        with pytest.raises(
            ValueError, match=rf"tokens: expected token ids from 0 to {c.n_vocab - 1}, got {id_}"
        ):
            model.decode(wrong, memory)
    with pytest.raises(ValueError, match=r"14 tokens.*context is 13"):
        model.decode(np.zeros((2, 14), np.int32), memory)
    with pytest.raises(ValueError, match="memory has batch 2"):
        model.decode(tokens[:1], memory)
    for wrong in (tokens[0], tokens.astype(np.float32), tokens[:, :0]):
        with pytest.raises(ValueError, match="non-empty integer array"):
            model.decode(wrong, memory)
    too_far = np.full((2, 5), 13, np.int32)
    for positions, message in (
        (too_far[:, 1:], "shape of tokens"),
        (too_far, "below the decoder's context 13"),
    ):
        with pytest.raises(ValueError, match=message):
            model.decode(tokens, memory, positions=positions)


def test_a_token_past_the_vocabulary_under_jit_is_nan_not_another_token(model, tokens, memory):
    decode = jax.jit(lambda m, x, y: m.decode(x, y)[0])
    for id_ in (model.config.n_vocab, -1):
        wrong = np.array(tokens)
        wrong[1, 4] = id_
        logits = decode(model, wrong, memory)
        assert np.isnan(logits[1, 4]).all()
        assert np.isfinite(logits[0]).all()


def test_more_tokens_than_a_released_context():
    """T = 449 on real dimensions, without its weights: the check comes before any computation."""
    config = jaxasr.SIZES["tiny"]
    model, memory = (
        structure(config),
        jaxasr.Memory(jnp.zeros((1, 1, 1)), *[jnp.zeros((1, 1, 1, 1, 1))] * 2),
    )
    with pytest.raises(ValueError, match=r"449 tokens.*context is 448"):
        model.decode(np.zeros((1, 449), np.int32), memory)


@pytest.mark.parametrize(
    "site", ["encoder.resid_pos", "decoder.attn.zz", "resid_post", "encoder.cross_attn.z"]
)
def test_an_unknown_site_is_listed_with_what_exists(model, site):
    with pytest.raises(ValueError, match=r"Unknown site.*encoder\.resid_post"):
        jaxasr.select(site)


def test_a_site_of_the_other_stack(model, mel, tokens, memory):
    with pytest.raises(ValueError, match=r"never fire.*decoder\.resid_post.*Expected one of: encoder"):
        model.encode(mel, {"decoder.resid_post": lambda x, at: x})
    with pytest.raises(ValueError, match=r"readout of the decoder"):
        model.decode(tokens, memory, readout=jaxasr.select("encoder.resid_post"))
    assert {stack_of(site) for site in SITES} == {"encoder", "decoder"}
