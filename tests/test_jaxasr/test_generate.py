"""Cached generation says what a teacher-forced pass says, position by position, whatever is edited."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from golden.tiny import tiny_inputs
from own_edits import Shift, SilenceHead, identity

import jaxasr
from experiments.data import real_speech
from jaxasr.sampling import first_largest

pytestmark = pytest.mark.optimised

N_PROMPT, N_NEW, EOT = 4, 11, 100

WAVE = np.sin(np.arange(15, dtype=np.float32))  # a constant would be lost in the next norm
EDITS = {
    "none": {},
    "stream": {
        "decoder.resid_post": Shift(0.5 * WAVE, 0),
        "decoder.mlp_out": Shift(-WAVE, 1),
        "decoder.attn_out": Shift(0.3 * WAVE),
    },
    "heads": {"decoder.cross_attn.z": SilenceHead(1, 4), "decoder.attn.z": SilenceHead(0, 2)},
    "one position of the prompt": {"decoder.resid_mid": Shift(4 * WAVE, 0, 2)},
    "one position after it": {"decoder.resid_mid_cross": Shift(4 * WAVE, 1, 7)},
    "keys and values": {
        "decoder.attn.k": Shift(2.0, 0, 5),
        "decoder.attn.v": Shift(2.0, 1, 1),
        "decoder.cross_attn.k": Shift(1.5, 1, 3),
    },
    "scores and pattern": {
        "decoder.attn.scores": Shift(1.0, 0, 6),
        "decoder.cross_attn.pattern": Shift(0.2, 1, 9),
    },
    "attend to the first token": {
        "decoder.attn.scores": lambda x, at: x + 3.0 * (at.keys[:, None, None, :] == 0)
    },
    "both ends": {
        "decoder.embed": Shift(2 * WAVE, -1, 5),
        "decoder.ln": Shift(0.3, -1, 8),
        "decoder.logits": Shift(-jnp.arange(101) / 9.0, -1, 6),
    },
}


# What generation does with the memory and with attention depends on which sites are edited; among these it does the same.
ALIKE = ("stream", "heads", "one position of the prompt", "one position after it", "both ends")


def nowhere(edits: dict) -> dict:
    """The same edits at a layer that is not there: they do nothing, in the program of those that do."""
    return {site: edit.replace(layer=99) for site, edit in edits.items()}


def among(name: str) -> dict:
    """The edits of a case and, doing nothing, those of its like: so all these share a program."""
    return {
        site: edit
        for other in ALIKE
        for site, edit in nowhere(EDITS[other]).items()
        if name in ALIKE
    } | EDITS[name]


@pytest.fixture(scope="module")
def inputs(tiny_model):
    mel, prompt = tiny_inputs(tiny_model.config, 3, N_PROMPT)
    return tiny_model.encode(mel)[0], prompt


def generate(model, inputs, edits=None, **options):
    memory, prompt = inputs
    return jaxasr.generate(
        model, memory, prompt, **({"max_new_tokens": N_NEW, "eot": EOT, "edits": edits} | options)
    )


def forced(model, inputs, out, edits=None, positions=None):
    """Log-probabilities [B, T, V] before each generated token, from one pass over everything."""
    memory, prompt = inputs
    whole = np.concatenate([prompt, out.tokens], 1)[:, :-1]
    logits = model.decode(whole, memory, edits, positions=positions)[0]
    return np.asarray(jax.nn.log_softmax(logits))[:, prompt.shape[1] - 1 :]


def written(out) -> np.ndarray:
    """[B, T]: the tokens and the end of text, without what fills up."""
    return np.arange(out.tokens.shape[1]) <= np.asarray(out.lengths)[:, None]


def assert_as_forced(model, inputs, out, edits=None, positions=None):
    logprobs, real = forced(model, inputs, out, edits, positions), written(out)
    np.testing.assert_array_equal(logprobs.argmax(-1)[real], np.asarray(out.tokens)[real])
    np.testing.assert_allclose(
        np.asarray(out.logprobs)[real], logprobs.max(-1)[real], rtol=1e-5, atol=1e-5
    )
    assert (np.asarray(out.logprobs)[~real] == 0).all()
    assert (np.asarray(out.tokens)[~real] == EOT).all()


@pytest.mark.parametrize("unroll", [True, False])
@pytest.mark.parametrize("name", EDITS)
def test_cached_generation_is_teacher_forcing(tiny_model, inputs, name, unroll):
    edits = among(name)
    out = generate(tiny_model, inputs, edits, unroll=unroll)
    assert_as_forced(tiny_model, inputs, out, edits)
    plain = generate(tiny_model, inputs, unroll=unroll)
    changed = np.abs(np.asarray(out.logprobs) - np.asarray(plain.logprobs)).max(0)
    assert (changed.max() > 1e-2) == bool(edits)
    assert len(np.unique(out.tokens)) > 3  # else a cache that repeats itself would pass


def test_an_edit_at_one_position_leaves_what_came_before(tiny_model, inputs):
    plain, edited = (
        generate(tiny_model, inputs),
        generate(tiny_model, inputs, among("one position after it")),
    )
    before = 7 - N_PROMPT + 1  # the logits of position 7 choose the token at position 8
    np.testing.assert_array_equal(edited.tokens[:, :before], plain.tokens[:, :before])
    np.testing.assert_array_equal(edited.logprobs[:, :before], plain.logprobs[:, :before])
    assert not np.array_equal(edited.logprobs[:, before], plain.logprobs[:, before])


def test_scan_and_loop_agree(tiny_model, inputs):
    for edits in (None, EDITS["keys and values"]):
        scan, loop = (
            generate(tiny_model, inputs, edits, unroll=unroll) for unroll in (False, True)
        )
        np.testing.assert_array_equal(scan.tokens, loop.tokens)
        np.testing.assert_allclose(scan.logprobs, loop.logprobs, rtol=1e-5, atol=1e-5)


def test_a_memory_apart_is_the_same_memory(tiny_model, inputs):
    mel, _ = tiny_inputs(tiny_model.config, 3, N_PROMPT)
    stacked, unstacked = (
        tiny_model.encode(mel, unstacked=unstacked)[0] for unstacked in (False, True)
    )
    assert isinstance(unstacked.k, tuple)
    for one, other in zip(
        jax.tree.leaves(unstacked.stacked()), jax.tree.leaves(stacked), strict=True
    ):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
    for unroll in (False, True):
        texts = [
            generate(tiny_model, (memory, inputs[1]), unroll=unroll)
            for memory in (stacked, unstacked)
        ]
        np.testing.assert_array_equal(texts[0].tokens, texts[1].tokens)
    logits = [tiny_model.decode(inputs[1], memory)[0] for memory in (stacked, unstacked)]
    np.testing.assert_allclose(*logits, rtol=1e-4, atol=1e-5)


def test_changed_weights_are_noticed(tiny_model, inputs):
    model = nnx.clone(tiny_model)
    before = generate(model, inputs)
    weights = model.decoder.blocks.mlp.fc2.kernel
    weights[...] = -weights[...]
    after, scanned = generate(model, inputs), generate(model, inputs, unroll=False)
    assert not np.array_equal(before.logprobs, after.logprobs)
    np.testing.assert_allclose(after.logprobs, scanned.logprobs, rtol=1e-5, atol=1e-5)


def test_left_padded_rows_are_as_if_alone(tiny_model, inputs):
    memory, prompt = inputs
    pads = [0, 1, 3]
    positions = np.arange(N_PROMPT, dtype=np.int32) - np.array(pads, np.int32)[:, None]
    both = EDITS["one position after it"] | EDITS["keys and values"]
    for edits in (nowhere(both), both):
        ragged = generate(tiny_model, inputs, edits, positions=positions, unroll=False)
        for row, pad in enumerate(pads):
            here = slice(row, row + 1)
            mine = jaxasr.Memory(memory.xa[here], memory.k[:, here], memory.v[:, here])
            alone = generate(tiny_model, (mine, prompt[row : row + 1, pad:]), edits, unroll=False)
            np.testing.assert_array_equal(ragged.tokens[row], alone.tokens[0])
            np.testing.assert_allclose(
                ragged.logprobs[row], alone.logprobs[0], rtol=1e-5, atol=1e-5
            )


def test_a_batch_of_edits_is_a_loop_of_single_ones(tiny_model, inputs):
    doses, layers = jnp.array([0.0, 0.5, -3.0]), jnp.array([0, 1, 1])

    def one(dose, layer):
        return generate(
            tiny_model, inputs, {"decoder.resid_mid": Shift(dose * WAVE, layer, 6)}, unroll=False
        )

    batch = jax.vmap(one)(doses, layers)
    for i in range(3):
        single = one(doses[i], layers[i])
        np.testing.assert_array_equal(batch.tokens[i], single.tokens)
        np.testing.assert_array_equal(batch.lengths[i], single.lengths)
        np.testing.assert_allclose(batch.logprobs[i], single.logprobs, rtol=1e-5, atol=1e-5)
    assert not np.array_equal(batch.logprobs[0], batch.logprobs[2])


def test_end_of_text(tiny_model, inputs):
    plain = np.asarray(generate(tiny_model, inputs).tokens)
    later = next(i for i in range(2, N_NEW) if plain[0, i] not in plain[0, :i])
    eot = int(plain[0, later])  # a token that row 0 writes in the middle now ends a row
    out = generate(tiny_model, inputs, eot=eot)
    for row in range(3):
        ends = np.flatnonzero(plain[row] == eot)
        length = int(ends[0]) if ends.size else N_NEW
        assert out.lengths[row] == length
        np.testing.assert_array_equal(out.tokens[row, :length], plain[row, :length])
        assert (np.asarray(out.tokens)[row, length:] == eot).all()
        assert (np.asarray(out.logprobs)[row, length + 1 :] == 0).all()
    assert 0 < out.lengths[0] == later < N_NEW
    np.testing.assert_allclose(
        out.avg_logprob, np.asarray(out.logprobs).sum(-1) / (np.asarray(out.lengths) + 1), rtol=1e-6
    )


def test_sampling(tiny_model, inputs):
    key = jax.random.key(7)
    first, again, other = (
        generate(tiny_model, inputs, temperature=1.0, key=k) for k in (key, key, jax.random.key(8))
    )
    np.testing.assert_array_equal(first.tokens, again.tokens)
    assert not np.array_equal(first.tokens, other.tokens)
    logprobs = forced(tiny_model, inputs, first)
    of_tokens = np.take_along_axis(logprobs, np.asarray(first.tokens)[..., None], -1)[..., 0]
    np.testing.assert_allclose(
        np.asarray(first.logprobs)[written(first)], of_tokens[written(first)], rtol=1e-5, atol=1e-5
    )
    cold = generate(tiny_model, inputs, temperature=1e-4, key=key)
    np.testing.assert_array_equal(cold.tokens, generate(tiny_model, inputs).tokens)


def test_samples_follow_the_model(tiny_model, inputs):
    """First tokens of many draws against the model's own distribution."""
    keys = jax.random.split(jax.random.key(0), 4_000)
    drawn = jax.jit(
        jax.vmap(
            lambda key: generate(
                tiny_model, inputs, max_new_tokens=1, temperature=1.0, key=key
            ).tokens[0, 0]
        )
    )(keys)
    memory, prompt = inputs
    expected = np.asarray(jax.nn.softmax(tiny_model.decode(prompt, memory)[0][0, -1]))
    np.testing.assert_allclose(
        np.bincount(drawn, minlength=101) / 4_000, expected, atol=4 * np.sqrt(0.25 / 4_000)
    )


def test_rules_see_what_was_written(tiny_model, inputs):
    def no_repeats(logits, tokens, n_tokens, n_prompt):
        seen = jnp.arange(tokens.shape[1]) < n_tokens
        return jnp.where(
            (jax.nn.one_hot(tokens, 101, dtype=bool) & seen[:, None]).any(1), -jnp.inf, logits
        )

    out = generate(tiny_model, inputs, rules=no_repeats)
    for row in np.concatenate([inputs[1], out.tokens], 1):
        assert len(set(row)) >= len(row) - (row == EOT).sum() - (
            len(inputs[1][0]) - len(set(row[:N_PROMPT]))
        )


def test_no_speech_probability(tiny_model, inputs):
    memory, prompt = inputs
    out = generate(tiny_model, inputs, no_speech=(1, 17))
    np.testing.assert_allclose(
        out.no_speech_prob,
        jax.nn.softmax(tiny_model.decode(prompt, memory)[0][:, 1])[:, 17],
        rtol=1e-4,
    )
    assert np.isnan(generate(tiny_model, inputs).no_speech_prob).all()


def test_what_is_refused(tiny_model, inputs):
    memory, prompt = inputs
    for n in (0, 24 - N_PROMPT):
        with pytest.raises(
            ValueError, match=rf"max_new_tokens: expected 1 to 19 .*context 23.*got {n}"
        ):
            generate(tiny_model, inputs, max_new_tokens=n)
    with pytest.raises(ValueError, match="tokens: expected token ids from 0 to 100, got"):
        generate(tiny_model, (memory, prompt + 101))
    with pytest.raises(ValueError, match="memory has batch 3"):
        generate(tiny_model, (memory, prompt[:2]))
    with pytest.raises(ValueError, match="pad on the left"):
        generate(tiny_model, inputs, positions=np.array([[0, 1, 2, -1]] * 3, np.int32))
    with pytest.raises(ValueError, match="eot"):
        generate(tiny_model, inputs, eot=None)
    with pytest.raises(ValueError, match="never fire"):
        generate(tiny_model, inputs, {"encoder.ln_post": identity})


def test_a_real_recording(asr):
    """tiny.en on the demo: the cache agrees with teacher forcing, with edits that do nothing and with edits that do."""
    mel = jaxasr.log_mel(jaxasr.load_audio(real_speech.DEMO), asr.config.n_mels)
    inputs = asr.model.encode(mel[None])[0], np.array([asr.tokenizer.prompt()], np.int32)
    eot, texts = asr.tokenizer.special.eot, []
    edited = {"decoder.cross_attn.z": SilenceHead(2, 3), "decoder.mlp.post": Shift(0.5, 1, 6)}
    for edits in (nowhere(edited), edited):  # one program
        out = generate(asr.model, inputs, edits, max_new_tokens=40, eot=eot)
        logprobs, real = forced(asr.model, inputs, out, edits), written(out)
        np.testing.assert_array_equal(logprobs.argmax(-1)[real], np.asarray(out.tokens)[real])
        np.testing.assert_allclose(
            np.asarray(out.logprobs)[real], logprobs.max(-1)[real], atol=2e-4
        )
        texts.append(asr.tokenizer.decode(np.asarray(out.tokens[0, : int(out.lengths[0])])))
    assert "captain read the old letter" in texts[0]


def test_the_first_of_the_largest_is_chosen():
    x = np.array(
        [[1, 3, 3, 2], [-np.inf, -np.inf, -2, -2], [0, np.nan, 5, np.nan], [-np.inf] * 4],
        np.float32,
    )
    np.testing.assert_array_equal(first_largest(jnp.asarray(x)), np.argmax(x, -1))
