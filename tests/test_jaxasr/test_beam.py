"""Beam search equals a plain version of openai/whisper's search, and that of CTranslate2."""

import functools

import ctranslate2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from beam_reference import (
    EOT,
    N_NEW,
    N_PROMPT,
    Sharpened,
    assert_text,
    encode_random,
    reference_search,
    search,
    teacher_forced,
    text_ids,
    timestamp_rules,
)
from hypothesis import given, settings, strategies as st
from own_edits import Shift, SilenceHead

import jaxasr
from jaxasr import beam, compiled
from jaxasr.beam import beam_search
from jaxasr.rules import rules_for


@settings(deadline=None, max_examples=120, derandomize=True)
@given(
    seed=st.integers(0, 2**31),
    # Each program has a beam size, and it may have timestamps and a length penalty.
    program=st.sampled_from([(2, False, False), (5, True, False), (5, False, True)]),
    patience=st.sampled_from([0.6, 1.0, 2.2]),
    penalty=st.sampled_from([0.0, 0.7, 1.6]),
    scale=st.floats(0.3, 4),
    end_bias=st.floats(-3, 12),
)
def test_beam_search_finds_the_text_of_the_reference_search(
    tiny_model, seed, program, patience, penalty, scale, end_bias
):
    beam_size, stamps, penalised = program
    penalty = penalty if penalised else None
    memory, prompt = encode_random(tiny_model, seed)
    rules = Sharpened(scale, end_bias, timestamp_rules(seed % 10, {seed % 50}) if stamps else None)
    generation = search(
        tiny_model,
        memory,
        prompt,
        beam_size=beam_size,
        rules=rules,
        patience=patience,
        length_penalty=penalty,
    )
    logprobs = functools.partial(teacher_forced(tiny_model), memory, rules, beam_size, {})
    assert_text(
        generation, reference_search(logprobs, prompt[0].tolist(), beam_size, patience, penalty)
    )


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize(
    "rules",
    [Sharpened(2.0, 3.0), Sharpened(1.0, 2.0, timestamp_rules())],
    ids=["text", "timestamps"],
)
def test_one_beam_generates_the_greedy_text(tiny_model, seed, rules):
    memory, prompt = encode_random(tiny_model, seed, batch=3)
    options = {"max_new_tokens": N_NEW, "eot": EOT, "rules": rules, "no_speech": (1, 9)}
    single, greedy = (
        jaxasr.generate(tiny_model, memory, prompt, beam_size=k, **options) for k in (1, None)
    )
    np.testing.assert_array_equal(single.tokens, greedy.tokens)
    np.testing.assert_array_equal(single.lengths, greedy.lengths)
    np.testing.assert_allclose(single.logprobs, greedy.logprobs, rtol=0, atol=2e-5)
    np.testing.assert_allclose(single.no_speech_prob, greedy.no_speech_prob, rtol=1e-6)


def test_more_beams_find_likelier_texts(tiny_model):
    """Averages over cases. With a length penalty of 0, the search maximises the summed logprob."""
    gains = []
    for seed in range(12):
        memory, prompt = encode_random(tiny_model, seed)
        single, five = (
            search(
                tiny_model,
                memory,
                prompt,
                beam_size=k,
                rules=Sharpened(2.0, 1.0),
                length_penalty=0.0,
            )
            for k in (1, 5)
        )
        gains.append(float(five.logprobs.sum() - single.logprobs.sum()))
    assert np.mean(gains) > 1e-3


@pytest.mark.parametrize("patience", [0.4, 1.0])
def test_rows_of_a_batch_do_not_influence_each_other(tiny_model, patience):
    memory, prompt = encode_random(tiny_model, 5, batch=3)
    options = {"beam_size": 5, "rules": Sharpened(2.0, 6.0), "patience": patience}
    batched = search(tiny_model, memory, prompt, **options)
    assert len(set(batched.lengths.tolist())) > 1
    for row in range(3):
        of_row = jaxasr.Memory(
            memory.xa[row : row + 1], memory.k[:, row : row + 1], memory.v[:, row : row + 1]
        )
        alone = search(tiny_model, of_row, prompt[row : row + 1], **options)
        assert text_ids(batched, row) == text_ids(alone)
        np.testing.assert_allclose(batched.logprobs[row], alone.logprobs[0], rtol=0, atol=2e-5)


def test_a_padded_prompt_gives_the_text_of_the_prompt(tiny_model):
    memory, prompt = encode_random(tiny_model, 11)
    options = {"beam_size": 5, "rules": Sharpened(2.0, 3.0)}
    padded = jnp.pad(prompt, ((0, 0), (2, 0)), constant_values=EOT)
    unpadded = search(tiny_model, memory, prompt, **options)
    shifted = search(
        tiny_model, memory, padded, positions=jnp.arange(5, dtype=jnp.int32)[None] - 2, **options
    )
    assert text_ids(unpadded) == text_ids(shifted)
    np.testing.assert_allclose(unpadded.logprobs, shifted.logprobs, rtol=0, atol=2e-5)


# No layer has this number. An edit of this layer has no effect, but it uses the same program as an
# edit of another layer.
NO_LAYER = 99
# `Shift(value, layer, position)` adds a value, and `SilenceHead(layer, head)` ablates a head.
EDITS = {
    "a generated position": {
        "decoder.mlp.post": Shift(1.0, 1, N_PROMPT + 2),
        "decoder.attn.v": Shift(2.0, NO_LAYER, 1),
        "decoder.attn.z": SilenceHead(NO_LAYER, 1),
    },
    "a position of the prompt, and a head": {
        "decoder.mlp.post": Shift(1.0, NO_LAYER, N_PROMPT + 2),
        "decoder.attn.v": Shift(2.0, 0, 1),
        "decoder.attn.z": SilenceHead(1, 1),
    },
    "cross-attention, explicit": {
        "decoder.cross_attn.scores": Shift(1.5, -1, N_PROMPT + 1),
        "decoder.cross_attn.v": Shift(0.3),
    },
}


@pytest.mark.parametrize("name", EDITS)
def test_edits_act_as_in_a_teacher_forced_pass(tiny_model, name):
    edits, rules, n_changed = EDITS[name], Sharpened(2.0, 2.0), 0
    logprobs = teacher_forced(tiny_model)
    for seed in range(6):
        memory, prompt = encode_random(tiny_model, seed)
        generation = search(tiny_model, memory, prompt, beam_size=5, rules=rules, edits=edits)
        assert_text(
            generation,
            reference_search(
                functools.partial(logprobs, memory, rules, 5, edits), prompt[0].tolist(), 5
            ),
        )
        unedited = search(tiny_model, memory, prompt, beam_size=5, rules=rules)
        n_changed += abs(float(generation.logprobs.sum() - unedited.logprobs.sum())) > 1e-3
    assert n_changed


def test_scanned_and_unrolled_layers_agree(tiny_model):
    memory, prompt = encode_random(tiny_model, 3, batch=3)
    scanned, unrolled = (
        search(tiny_model, memory, prompt, beam_size=5, rules=Sharpened(2.0, 3.0), unroll=unroll)
        for unroll in (False, True)
    )
    np.testing.assert_array_equal(scanned.tokens, unrolled.tokens)
    np.testing.assert_allclose(scanned.logprobs, unrolled.logprobs, rtol=0, atol=2e-5)


def test_new_values_do_not_retrace(tiny_model):
    memory, prompt = encode_random(tiny_model, 1)
    counts = []
    for i in range(3):
        memory, prompt = encode_random(tiny_model, i)
        edits = {"decoder.resid_post": Shift(float(i), i, i + 2)}
        search(
            tiny_model,
            memory,
            prompt,
            beam_size=3,
            edits=edits,
            rules=Sharpened(1.0 + i, i),
            patience=1.0 + i,
            length_penalty=0.5 * i,
        )
        counts.append(compiled.n_compiled(beam._search))
    assert counts[0] == counts[2]


def test_a_batch_of_edits_shares_one_memory(tiny_model):
    memory, prompt = encode_random(tiny_model, 2)
    values = jnp.array([0.0, 2.0, -2.0])

    def run(value, prompt):
        return search(
            tiny_model,
            memory,
            prompt,
            beam_size=3,
            rules=Sharpened(2.0, 2.0),
            edits={"decoder.resid_post": Shift(value, 1)},
        )

    batched = jax.jit(jax.vmap(run, in_axes=(0, None)))(values, prompt)
    for i, value in enumerate(values):
        np.testing.assert_array_equal(batched.tokens[i], run(value, prompt).tokens)


def shapes_in(jaxpr):
    """Yields the shape of every array that a jaxpr or a jaxpr inside of it computes."""
    for eqn in jaxpr.eqns:
        yield from (getattr(v.aval, "shape", ()) for v in eqn.outvars)
        for param in jax.tree.leaves(
            eqn.params, is_leaf=lambda x: hasattr(x, "eqns") or hasattr(x, "jaxpr")
        ):
            inner = getattr(param, "jaxpr", param)
            if hasattr(inner, "eqns"):
                yield from shapes_in(inner)


def test_beams_share_one_copy_of_the_memory(tiny_model):
    memory, prompt = encode_random(tiny_model, 2, batch=2)
    traced = jax.make_jaxpr(
        lambda memory, prompt: search(tiny_model, memory, prompt, beam_size=13)
    )(memory, prompt)
    shapes = set(shapes_in(traced.jaxpr))
    # There are 13 beams and 11 frames. Attention scores have both axes. Keys and values (width 3)
    # must not have a beam axis.
    assert any(13 in shape and 11 in shape for shape in shapes)
    assert not any({13, 11} <= set(shape) and shape[-1] == 3 for shape in shapes)


def test_an_impossible_text_is_not_a_candidate(tiny_model):
    """Only id 7 and the end-of-text are possible, so most of five beams have probability zero."""
    memory, prompt = encode_random(tiny_model, 4)

    def allow_two(logits, tokens, length, prompt_len):
        return jnp.where(jnp.isin(jnp.arange(101), jnp.array([7, EOT])), logits, -jnp.inf)

    generation = search(tiny_model, memory, prompt, beam_size=5, rules=allow_two)
    assert set(text_ids(generation)) <= {7}
    assert np.isfinite(np.asarray(generation.logprobs)).all()


def test_wrong_arguments_are_refused(tiny_model):
    memory, prompt = encode_random(tiny_model, 0)
    for options in ({"beam_size": 0}, {"beam_size": 101}, {"beam_size": 2, "patience": 0.1}):
        with pytest.raises(ValueError, match="beam_size, patience: expected 1 to 100"):
            search(tiny_model, memory, prompt, **options)
    with pytest.raises(ValueError, match=r"temperature: a beam search does not sample.*got 0\.3"):
        jaxasr.generate(
            tiny_model, memory, prompt, max_new_tokens=3, eot=EOT, beam_size=2, temperature=0.3
        )
    with pytest.raises(ValueError, match="max_new_tokens"):
        beam_search(tiny_model, memory, prompt, beam_size=2, max_new_tokens=21, eot=EOT)


# A recording of the data folder, and folders of which the first recording is used.
CLIPS = ("classic/jfk", "libri_test_other", "vctk", "ravdess", "ljspeech")


@pytest.mark.parametrize("clip", CLIPS)
def test_tiny_en_generates_the_text_of_ctranslate2(asr, data_dir, clip):
    """CTranslate2 has an independent beam search with the same length penalty and stopping rule."""
    path = sorted(
        data_dir.glob(f"{clip}*.flac") if "/" in clip else (data_dir / clip).glob("*.flac")
    )[0]
    mel = jaxasr.log_mel(jaxasr.load_audio(path), 80)
    ids = asr.tokenizer.prompt("en", "transcribe", timestamps=False)
    oracle = ctranslate2.models.Whisper(
        str(asr.checkpoint.source), compute_type="float32", intra_threads=2
    )
    features = ctranslate2.StorageView.from_array(np.array(mel)[None])
    result = oracle.generate(features, [ids], beam_size=5, max_length=len(ids) + 64)[0]
    memory, rules = asr.model.encode(mel[None])[0], rules_for(asr.tokenizer)
    generation = jaxasr.generate(
        asr.model, memory, jnp.array([ids]), max_new_tokens=64, rules=rules, beam_size=5
    )
    assert (
        np.asarray(generation.tokens[0, : int(generation.lengths[0])]).tolist()
        == result.sequences_ids[0]
    )
