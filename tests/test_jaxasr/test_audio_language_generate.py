"""Cached generation of audio language models equals teacher forcing, with and without edits."""

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxasr
from jaxasr.sites import sites_of
from tests.audio_language import LENGTHS, TINY, tiny_mel, tiny_model, tiny_tokens
from tests.cached_generation import is_generated
from tests.own_edits import Shift, over_time

N_NEW = 8
DECODER = sites_of("decoder", "qwen2_audio")


@flax.struct.dataclass
class Grow:
    """Multiplies by 1 + `value` at one layer and position, so that hidden keys stay hidden."""

    value: jax.Array
    layer: jax.Array
    position: jax.Array

    def __call__(self, x, at):
        is_place = (at.layer == self.layer) & (at.positions == self.position)
        return x * (1 + self.value * over_time(is_place, at))


@pytest.fixture(scope="module", params=TINY)
def case(request):
    """Returns a model, its prefix, the prompt and its positions."""
    return make_case(request.param)


def make_case(name):
    model = tiny_model(name)
    prefix, _ = model.encode(tiny_mel(model.config), lengths=LENGTHS)
    return model, prefix, *tiny_tokens(model.config, np.asarray(prefix.lengths))


def no_audio(logits, tokens, n_tokens, n_prompt):
    """Forbids the audio token, because teacher forcing expects it for encoded audio only."""
    return logits.at[:, 98].set(-jnp.inf)


def generate(case, edits=None, **options):
    model, prefix, prompt, positions = case
    options = {"max_new_tokens": N_NEW, "positions": positions, "rules": no_audio} | options
    return jaxasr.generate(model, prefix, prompt, edits=edits, **options)


def teacher_forced(case, generation, edits=None):
    """Returns log-probabilities [B, T, V] for each generated token, by one pass over all tokens."""
    model, prefix, prompt, positions = case
    tokens = np.concatenate([prompt, generation.tokens], 1)[:, :-1]
    n_more = np.arange(1, N_NEW, dtype=np.int32)
    positions = np.concatenate([positions, positions[:, -1:] + n_more], 1)
    logits = model.decode(tokens, prefix, edits, positions=positions)[0]
    logits = logits[:, prompt.shape[1] - 1 :].at[..., model.config.audio_token].set(-jnp.inf)
    return np.asarray(jax.nn.log_softmax(logits))


def assert_cached_equals_teacher_forced(case, edits=None):
    out = generate(case, edits)
    expected = teacher_forced(case, out, edits)
    chosen = np.take_along_axis(expected, np.asarray(out.tokens)[..., None], -1)[..., 0]
    generated = is_generated(out)
    np.testing.assert_allclose(out.logprobs[generated], chosen[generated], rtol=0, atol=2e-5)
    np.testing.assert_array_equal(expected.argmax(-1)[generated], out.tokens[generated])
    return out


def test_cached_generation_equals_teacher_forcing(case):
    assert_cached_equals_teacher_forced(case)


@pytest.mark.parametrize("site", DECODER)
def test_cached_generation_equals_teacher_forcing_under_an_edit(site):
    """Every site has an edit, and all except one add 0, so that all cases share one program."""
    case = make_case("qwen2_audio")

    # The position is the last one of the prompt in the first row, and generated in the others.
    layer, position = 1 if site in jaxasr.sites.LAYERED else -1, 17

    def edits(value):
        return {
            name: Grow(jnp.float32(value * (name == site)), jnp.int32(layer), jnp.int32(position))
            for name in DECODER
        }

    plain, edited = generate(case, edits(0)), assert_cached_equals_teacher_forced(case, edits(1.5))
    for row in range(3):
        assert not np.array_equal(plain.logprobs[row], edited.logprobs[row])


def test_generation_without_edits_is_bitwise_that_with_an_empty_dictionary(case):
    for a, b in zip(jax.tree.leaves(generate(case)), jax.tree.leaves(generate(case, {}))):
        np.testing.assert_array_equal(a, b)


def test_scanned_and_unrolled_layers_agree():
    case = make_case("qwen2_audio")
    scanned, unrolled = (generate(case, unroll=unroll) for unroll in (False, True))
    np.testing.assert_array_equal(scanned.tokens, unrolled.tokens)
    np.testing.assert_allclose(scanned.logprobs, unrolled.logprobs, rtol=0, atol=1e-5)


def test_a_batch_of_edits_equals_a_loop_over_edits():
    case = make_case("qwen2_audio")
    values = jnp.array([0.0, 2.0, -3.0])

    def edited(value, axis_name=None):
        return generate(case, {"decoder.mlp_out": Shift(value, 0)}, axis_name=axis_name).tokens

    together = jax.vmap(lambda value: edited(value, "cells"), axis_name="cells")(values)
    np.testing.assert_array_equal(together, [edited(value) for value in values])
    assert not np.array_equal(together[0], together[1])


def test_a_beam_search_with_one_beam_is_greedy():
    case = make_case("qwen2_audio")
    np.testing.assert_array_equal(generate(case, beam_size=1).tokens, generate(case).tokens)


def test_a_mesh_generates_what_one_device_generates():
    case = make_case("qwen2_audio")
    on_mesh, alone = generate(case, mesh=jaxasr.make_mesh(1), recordings=2), generate(case)
    np.testing.assert_array_equal(on_mesh.tokens, alone.tokens)
    np.testing.assert_allclose(on_mesh.logprobs, alone.logprobs, rtol=0, atol=1e-5)


def test_a_prompt_in_two_parts_equals_the_whole_prompt():
    """The second pass finds the next audio tokens by those that the cache holds."""
    model, prefix, *arrays = make_case("qwen2_audio")
    prompt, positions = map(jnp.asarray, arrays)
    session = make_session(model, prefix, prompt, positions)
    whole, _, _ = session.advance(
        prompt, positions, session.empty_cache(3, prompt.shape[1]), jnp.int32(0)
    )
    cache, cut = session.empty_cache(3, prompt.shape[1]), 7
    _, cache, _ = session.advance(prompt[:, :cut], positions[:, :cut], cache, jnp.int32(0))
    parts, _, _ = session.advance(prompt[:, cut:], positions[:, cut:], cache, jnp.int32(cut))
    np.testing.assert_allclose(parts, whole, rtol=0, atol=2e-5)


def make_session(model, prefix, prompt, positions):
    from jaxasr.decoding import Request, Settings
    from jaxasr.session import DecodingSession

    settings = Settings(max_new_tokens=1, positions=positions)
    return DecodingSession.from_request(
        model, Request.from_arguments(model, prefix, prompt, settings)
    )


def test_an_audio_token_after_all_audio_is_text():
    case = make_case("qwen2_audio")
    model, prefix, prompt, positions = case

    def audio_first(logits, tokens, n_tokens, n_prompt):
        is_audio = jnp.arange(logits.shape[1]) == model.config.audio_token
        return jnp.where(is_audio | (n_tokens > n_prompt), logits, -jnp.inf)

    out = generate(case, rules=audio_first)
    assert (out.tokens[:, 0] == model.config.audio_token).all()
    tokens = np.concatenate([prompt, out.tokens], 1)[:, : prompt.shape[1] + 1]
    positions = np.concatenate([positions, positions[:, -1:] + 1], 1)
    frames = model.decoder.frames(jnp.asarray(tokens), jnp.asarray(positions), prefix)
    np.testing.assert_array_equal((frames >= 0).sum(1), prefix.lengths)
    x, _, tap, _ = model.decoder.residual(
        jnp.asarray(tokens), jnp.asarray(positions), prefix, {}, jaxasr.select()
    )
    logits = model.decoder.to_logits(x, tap)[:, -1]
    np.testing.assert_array_equal(logits.argmax(-1), out.tokens[:, 1])
    embedded = model.decoder.embed(jnp.asarray(tokens), frames, prefix)[:, -1]
    expected = model.decoder.token_embedding[...][model.config.audio_token]
    np.testing.assert_array_equal(embedded, np.broadcast_to(expected, embedded.shape))


def test_any_of_several_ids_ends_a_text():
    case = make_case("qwen2_audio")
    plain = generate(case)
    first, second = (int(token) for token in plain.tokens[0, [2, 4]])
    model = tiny_model("qwen2_audio", eos=(second, first))
    out = generate((model, *case[1:]))
    assert out.lengths[0] == list(plain.tokens[0]).index(first) <= 2
    assert (out.tokens[0, out.lengths[0] :] == second).all()
    np.testing.assert_array_equal(
        out.logprobs[0, : out.lengths[0] + 1], plain.logprobs[0, : out.lengths[0] + 1]
    )


def test_rows_of_a_prefix_keep_their_lengths():
    _, prefix, *_ = make_case("qwen2_audio")
    rows = prefix.rows(np.array([2, 0]))
    np.testing.assert_array_equal(rows.lengths, [2, 10])
    np.testing.assert_array_equal(rows.xa, prefix.xa[np.array([2, 0])])
    assert repr(rows).startswith("Prefix(2 recordings, up to 10 audio tokens, width 28, float32")


def test_a_row_with_another_number_of_audio_tokens_is_refused():
    model, prefix, prompt, positions = make_case("qwen2_audio")
    wrong = np.where(prompt == 98, 97, prompt)
    for call in (
        lambda: model.decode(wrong, prefix, positions=positions),
        lambda: jaxasr.generate(model, prefix, wrong, max_new_tokens=2, positions=positions),
    ):
        with pytest.raises(ValueError, match=r"audio token 98 10 times in row 0.*got 0 times"):
            call()


def test_a_memory_of_another_family_is_refused(tiny_model):
    ours, prefix, prompt, _ = make_case("qwen2_audio")
    with pytest.raises(ValueError, match="'whisper' model returns, got a Prefix"):
        tiny_model.decode(prompt[:, :3], prefix)
    memory, _ = tiny_model.encode(np.zeros((3, 7, 22), np.float32))
    with pytest.raises(ValueError, match="'qwen2_audio' model returns, got a Memory"):
        ours.decode(prompt, memory)


@pytest.mark.parametrize(
    ("lengths", "message"),
    [
        ([40, 41, 9], "expected 3 to 40 mel frames, got .40, 41, 9."),
        ([40, 2, 9], "expected 3 to 40"),
        ([40, 9], "one integer for each of 3 rows"),
        ([40.0, 9.0, 9.0], "one integer for each of 3 rows, got float64"),
    ],
)
def test_lengths_that_do_not_fit_are_refused(lengths, message):
    model = tiny_model()
    with pytest.raises(ValueError, match=f"lengths: .*{message}"):
        model.encode(tiny_mel(model.config), lengths=lengths)
