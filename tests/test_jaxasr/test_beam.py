"""Beam search against a plain statement of openai/whisper's, and against CTranslate2's."""

import functools
import math

import ctranslate2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from own_edits import Shift, SilenceHead

import jaxasr
from jaxasr import beam, compiled, pytrees
from jaxasr.beam import beam_search
from jaxasr.rules import Rules, rules_for

EOT, NO_TIMESTAMPS, BEGIN = (
    60,
    61,
    62,
)  # as if the 101 ids of the tiny model were text, an end and times
N_PROMPT, N_NEW, CONTEXT = 3, 11, 23


@pytrees.dataclass
class Sharper:
    """Makes a random model sure of itself, and `by` readier to end; then come rules."""

    scale: float
    by: float
    then: Rules | None = None

    def __call__(self, logits, tokens, length, prompt_len):
        logits = (logits * self.scale).at[:, EOT].add(self.by)
        return logits if self.then is None else self.then(logits, tokens, length, prompt_len)


def timestamps(max_initial=9, suppress=()):
    def mask(ids):
        return jnp.asarray(np.isin(np.arange(101), sorted(ids)))

    return Rules(
        mask({NO_TIMESTAMPS, *suppress}),
        mask({1, EOT}),
        jnp.asarray(max_initial, jnp.int32),
        True,
        EOT,
        BEGIN,
    )


def heard(model, seed, batch=1):
    mel = np.random.default_rng(seed).normal(size=(batch, 7, 22)).astype(np.float32)
    prompt = np.random.default_rng(seed + 1).integers(0, 60, (batch, N_PROMPT))
    return model.encode(jnp.asarray(mel))[0], jnp.asarray(prompt, jnp.int32)


@functools.cache
def teacher(model):
    """Log-probabilities after prefixes of any length, from whole teacher-forced passes."""

    @jax.jit
    def logprobs(memory, tokens, n, rules, edits):
        logits = jax.vmap(lambda row: model.decode(row[None], memory, edits=edits)[0][0, n - 1])(
            tokens
        )
        return jax.nn.log_softmax(rules(logits, tokens, n, N_PROMPT))

    def of(memory, rules, beam_size, edits, prefixes):
        tokens = np.zeros((beam_size, CONTEXT), np.int32)
        for row, prefix in zip(tokens, prefixes):
            row[: len(prefix)] = prefix
        return np.asarray(
            logprobs(memory, jnp.asarray(tokens), jnp.int32(len(prefixes[0])), rules, edits)
        )[: len(prefixes)]

    return of


def plain(logprobs, prompt, beam_size, patience=1.0, penalty=None):
    """OpenAI's BeamSearchDecoder and MaximumLikelihoodRanker for one recording: the tokens and their summed log-probability.

    Departing from it, nothing impossible is kept, and an empty text has length 1 (where it would divide by zero).
    """
    beams, finished, most = {tuple(prompt): 0.0}, {}, round(beam_size * patience)
    for _ in range(N_NEW):
        scores = {}
        for (prefix, total), row in zip(beams.items(), logprobs(list(beams))):
            for token in np.argsort(-row, kind="stable")[: beam_size + 1]:
                if row[token] > -math.inf:
                    scores[(*prefix, int(token))] = total + float(row[token])
        beams, ended = {}, {}
        for text in sorted(scores, key=scores.get, reverse=True):
            (ended if text[-1] == EOT else beams)[text] = scores[text]
            if len(beams) == beam_size:
                break
        for text, total in ended.items():
            if len(finished) < most:
                finished[text] = total
        if len(finished) >= most or not beams:
            break
    for text, total in beams.items():
        if len(finished) < beam_size:
            finished[(*text, EOT)] = total
    texts = {text[N_PROMPT:-1]: total for text, total in finished.items()}
    by = (lambda n: max(n, 1)) if penalty is None else (lambda n: ((5 + n) / 6) ** penalty)
    return max(texts.items(), key=lambda item: item[1] / by(len(item[0])))


def written(generation, row=0):
    n = int(generation.lengths[row])
    assert (np.asarray(generation.tokens[row, n:]) == EOT).all()
    assert (np.asarray(generation.logprobs[row, n + 1 :]) == 0).all()
    return tuple(np.asarray(generation.tokens[row, :n]).tolist())


def search(model, memory, prompt, **options):
    return beam_search(model, memory, prompt, max_new_tokens=N_NEW, eot=EOT, **options)


def same(generation, expected, row=0):
    tokens, total = expected
    assert written(generation, row) == tokens
    np.testing.assert_allclose(float(generation.logprobs[row].sum()), total, rtol=0, atol=2e-4)


@settings(deadline=None, max_examples=120, derandomize=True)
@given(
    seed=st.integers(0, 2**31),
    program=st.sampled_from([(2, False, False), (5, True, False), (5, False, True)]),
    patience=st.sampled_from([0.6, 1.0, 2.2]),
    penalty=st.sampled_from([0.0, 0.7, 1.6]),
    scale=st.floats(0.3, 4),
    by=st.floats(-3, 12),
)
def test_it_finds_what_the_plain_statement_finds(
    tiny_model, seed, program, patience, penalty, scale, by
):
    beam_size, stamps, penalised = program
    penalty = penalty if penalised else None
    memory, prompt = heard(tiny_model, seed)
    rules = Sharper(scale, by, timestamps(seed % 10, {seed % 50}) if stamps else None)
    found = search(
        tiny_model,
        memory,
        prompt,
        beam_size=beam_size,
        rules=rules,
        patience=patience,
        length_penalty=penalty,
    )
    logprobs = functools.partial(teacher(tiny_model), memory, rules, beam_size, {})
    same(found, plain(logprobs, prompt[0].tolist(), beam_size, patience, penalty))


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize(
    "rules", [Sharper(2.0, 3.0), Sharper(1.0, 2.0, timestamps())], ids=["text", "timestamps"]
)
def test_one_beam_is_greedy(tiny_model, seed, rules):
    memory, prompt = heard(tiny_model, seed, batch=3)
    options = {"max_new_tokens": N_NEW, "eot": EOT, "rules": rules, "no_speech": (1, 9)}
    one, greedy = (
        jaxasr.generate(tiny_model, memory, prompt, beam_size=k, **options) for k in (1, None)
    )
    np.testing.assert_array_equal(one.tokens, greedy.tokens)
    np.testing.assert_array_equal(one.lengths, greedy.lengths)
    np.testing.assert_allclose(one.logprobs, greedy.logprobs, rtol=0, atol=2e-5)
    np.testing.assert_allclose(one.no_speech_prob, greedy.no_speech_prob, rtol=1e-6)


def test_more_beams_find_what_is_likelier(tiny_model):
    """Not in every single case, but of many; with a penalty of 0 the sum is what is searched for."""
    gains = []
    for seed in range(12):
        memory, prompt = heard(tiny_model, seed)
        one, five = (
            search(
                tiny_model, memory, prompt, beam_size=k, rules=Sharper(2.0, 1.0), length_penalty=0.0
            )
            for k in (1, 5)
        )
        gains.append(float(five.logprobs.sum() - one.logprobs.sum()))
    assert np.mean(gains) > 1e-3


@pytest.mark.parametrize("patience", [0.4, 1.0])
def test_rows_of_a_batch_do_not_influence_each_other(tiny_model, patience):
    memory, prompt = heard(tiny_model, 5, batch=3)
    options = {"beam_size": 5, "rules": Sharper(2.0, 6.0), "patience": patience}
    together = search(tiny_model, memory, prompt, **options)
    assert len(set(together.lengths.tolist())) > 1
    for row in range(3):
        of_row = jaxasr.Memory(
            memory.xa[row : row + 1], memory.k[:, row : row + 1], memory.v[:, row : row + 1]
        )
        alone = search(tiny_model, of_row, prompt[row : row + 1], **options)
        assert written(together, row) == written(alone)
        np.testing.assert_allclose(together.logprobs[row], alone.logprobs[0], rtol=0, atol=2e-5)


def test_a_padded_prompt_is_the_prompt(tiny_model):
    memory, prompt = heard(tiny_model, 11)
    options = {"beam_size": 5, "rules": Sharper(2.0, 3.0)}
    padded = jnp.pad(prompt, ((0, 0), (2, 0)), constant_values=EOT)
    bare = search(tiny_model, memory, prompt, **options)
    more = search(
        tiny_model, memory, padded, positions=jnp.arange(5, dtype=jnp.int32)[None] - 2, **options
    )
    assert written(bare) == written(more)
    np.testing.assert_allclose(bare.logprobs, more.logprobs, rtol=0, atol=2e-5)


NOWHERE = 99  # no such layer: an edit there does nothing, in the program of one that does
EDITS = {
    "a position among those written": {
        "decoder.mlp.post": Shift(1.0, 1, N_PROMPT + 2),
        "decoder.attn.v": Shift(2.0, NOWHERE, 1),
        "decoder.attn.z": SilenceHead(NOWHERE, 1),
    },
    "a position of the prompt, and a head": {
        "decoder.mlp.post": Shift(1.0, NOWHERE, N_PROMPT + 2),
        "decoder.attn.v": Shift(2.0, 0, 1),
        "decoder.attn.z": SilenceHead(1, 1),
    },
    "cross-attention, explicit": {
        "decoder.cross_attn.scores": Shift(1.5, -1, N_PROMPT + 1),
        "decoder.cross_attn.v": Shift(0.3),
    },
}


@pytest.mark.parametrize("name", EDITS)
def test_edits_mean_what_they_mean_in_a_teacher_forced_pass(tiny_model, name):
    edits, rules, changed = EDITS[name], Sharper(2.0, 2.0), 0
    logprobs = teacher(tiny_model)
    for seed in range(6):
        memory, prompt = heard(tiny_model, seed)
        found = search(tiny_model, memory, prompt, beam_size=5, rules=rules, edits=edits)
        same(
            found,
            plain(functools.partial(logprobs, memory, rules, 5, edits), prompt[0].tolist(), 5),
        )
        changed += (
            abs(
                float(
                    found.logprobs.sum()
                    - search(tiny_model, memory, prompt, beam_size=5, rules=rules).logprobs.sum()
                )
            )
            > 1e-3
        )
    assert changed


def test_layers_may_be_scanned_or_looped_over(tiny_model):
    memory, prompt = heard(tiny_model, 3, batch=3)
    scanned, looped = (
        search(tiny_model, memory, prompt, beam_size=5, rules=Sharper(2.0, 3.0), unroll=unroll)
        for unroll in (False, True)
    )
    np.testing.assert_array_equal(scanned.tokens, looped.tokens)
    np.testing.assert_allclose(scanned.logprobs, looped.logprobs, rtol=0, atol=2e-5)


def test_new_values_do_not_retrace(tiny_model):
    memory, prompt = heard(tiny_model, 1)
    counts = []
    for i in range(3):
        memory, prompt = heard(tiny_model, i)
        edits = {"decoder.resid_post": Shift(float(i), i, i + 2)}
        search(
            tiny_model,
            memory,
            prompt,
            beam_size=3,
            edits=edits,
            rules=Sharper(1.0 + i, i),
            patience=1.0 + i,
            length_penalty=0.5 * i,
        )
        counts.append(compiled.n_compiled(beam._search))
    assert counts[0] == counts[2]


def test_a_batch_of_edits_shares_one_memory(tiny_model):
    memory, prompt = heard(tiny_model, 2)
    values = jnp.array([0.0, 2.0, -2.0])

    def run(value, prompt):
        return search(
            tiny_model,
            memory,
            prompt,
            beam_size=3,
            rules=Sharper(2.0, 2.0),
            edits={"decoder.resid_post": Shift(value, 1)},
        )

    many = jax.jit(jax.vmap(run, in_axes=(0, None)))(values, prompt)
    for i, value in enumerate(values):
        np.testing.assert_array_equal(many.tokens[i], run(value, prompt).tokens)


def _shapes(jaxpr):
    for eqn in jaxpr.eqns:
        yield from (getattr(v.aval, "shape", ()) for v in eqn.outvars)
        for param in jax.tree.leaves(
            eqn.params, is_leaf=lambda x: hasattr(x, "eqns") or hasattr(x, "jaxpr")
        ):
            inner = getattr(param, "jaxpr", param)
            if hasattr(inner, "eqns"):
                yield from _shapes(inner)


def test_no_beam_has_a_memory_of_its_own(tiny_model):
    memory, prompt = heard(tiny_model, 2, batch=2)
    made = jax.make_jaxpr(lambda memory, prompt: search(tiny_model, memory, prompt, beam_size=13))(
        memory, prompt
    )
    shapes = set(_shapes(made.jaxpr))
    assert any(13 in shape and 11 in shape for shape in shapes)  # scores: 13 beams, 11 frames
    assert not any(
        {13, 11} <= set(shape) and shape[-1] == 3 for shape in shapes
    )  # keys or values: head width 3


def test_an_impossible_text_is_no_candidate(tiny_model):
    """Two ids are left, the end among them: of five beams most have no probability."""
    memory, prompt = heard(tiny_model, 4)

    def two(logits, tokens, length, prompt_len):
        return jnp.where(jnp.isin(jnp.arange(101), jnp.array([7, EOT])), logits, -jnp.inf)

    found = search(tiny_model, memory, prompt, beam_size=5, rules=two)
    assert set(written(found)) <= {7}
    assert np.isfinite(np.asarray(found.logprobs)).all()


def test_what_is_refused(tiny_model):
    memory, prompt = heard(tiny_model, 0)
    for options in ({"beam_size": 0}, {"beam_size": 101}, {"beam_size": 2, "patience": 0.1}):
        with pytest.raises(ValueError, match="beam_size, patience: expected 1 to 100"):
            search(tiny_model, memory, prompt, **options)
    with pytest.raises(ValueError, match=r"temperature: beam search does not sample.*got 0\.3"):
        jaxasr.generate(
            tiny_model, memory, prompt, max_new_tokens=3, eot=EOT, beam_size=2, temperature=0.3
        )
    with pytest.raises(ValueError, match="max_new_tokens"):
        beam_search(tiny_model, memory, prompt, beam_size=2, max_new_tokens=21, eot=EOT)


CLIPS = ("classic/jfk", "libri_test_other", "vctk", "ravdess", "ljspeech")


@pytest.mark.parametrize("clip", CLIPS)
def test_tiny_en_writes_what_ctranslate2_writes(asr, data_dir, clip):
    """Its scores are divided by the same length, and it stops after as many ends; it is a beam search of its own all the same."""
    path = sorted(
        data_dir.glob(f"{clip}*.flac") if "/" in clip else (data_dir / clip).glob("*.flac")
    )[0]
    mel = jaxasr.log_mel(jaxasr.load_audio(path), 80)
    ids = asr.tokenizer.prompt("en", "transcribe", False)
    oracle = ctranslate2.models.Whisper(
        str(asr.checkpoint.source), compute_type="float32", intra_threads=2
    )
    features = ctranslate2.StorageView.from_array(np.array(mel)[None])
    result = oracle.generate(features, [ids], beam_size=5, max_length=len(ids) + 64)[0]
    memory, rules = asr.model.encode(mel[None])[0], rules_for(asr.tokenizer)
    found = jaxasr.generate(
        asr.model, memory, jnp.array([ids]), max_new_tokens=64, rules=rules, beam_size=5
    )
    assert np.asarray(found.tokens[0, : int(found.lengths[0])]).tolist() == result.sequences_ids[0]
