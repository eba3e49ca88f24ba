"""Under any edit, cached generation agrees with a teacher-forced pass at every position."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cached_generation import EOT, N_PROMPT, generate, is_generated, teacher_forced
from flax import nnx
from golden.tiny import tiny_inputs
from own_edits import Shift, SilenceHead

import jaxasr
from experiments.data import real_speech

pytestmark = pytest.mark.optimised

# A vector of the residual stream. The next norm would remove a constant, but not a wave.
WAVE = np.sin(np.arange(15, dtype=np.float32))
# `Shift(value, layer, position)` adds a value, and `SilenceHead(layer, head)` ablates a head.
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


# Cases that share a program. The edited sites of a case decide whether attention is fused and which
# layout the memory has. Both are the same in all of these cases.
SHARED_PROGRAM = (
    "stream",
    "heads",
    "one position of the prompt",
    "one position after it",
    "both ends",
)


def without_effect(edits: dict) -> dict:
    """Moves edits to a layer that does not exist. They have no effect, but the same program."""
    return {site: edit.replace(layer=99) for site, edit in edits.items()}


def edits_sharing_a_program(name: str) -> dict:
    """Returns the edits of a case, plus ineffective edits of cases that share its program."""
    return {
        site: edit
        for other in SHARED_PROGRAM
        for site, edit in without_effect(EDITS[other]).items()
        if name in SHARED_PROGRAM
    } | EDITS[name]


@pytest.fixture(scope="module")
def inputs(tiny_model):
    mel, prompt = tiny_inputs(tiny_model.config, 3, N_PROMPT)
    return tiny_model.encode(mel)[0], prompt


def assert_agrees_with_teacher_forcing(model, inputs, out, edits=None, positions=None):
    """Checks generated tokens and log-probabilities against a teacher-forced pass."""
    logprobs = teacher_forced(model, inputs, out, edits, positions)
    real = is_generated(out)
    np.testing.assert_array_equal(logprobs.argmax(-1)[real], np.asarray(out.tokens)[real])
    np.testing.assert_allclose(
        np.asarray(out.logprobs)[real], logprobs.max(-1)[real], rtol=1e-5, atol=1e-5
    )
    assert (np.asarray(out.logprobs)[~real] == 0).all()
    assert (np.asarray(out.tokens)[~real] == EOT).all()


@pytest.mark.parametrize("unroll", [True, False])
@pytest.mark.parametrize("name", EDITS)
def test_cached_generation_agrees_with_a_teacher_forced_pass(tiny_model, inputs, name, unroll):
    edits = edits_sharing_a_program(name)
    out = generate(tiny_model, inputs, edits, unroll=unroll)
    assert_agrees_with_teacher_forcing(tiny_model, inputs, out, edits)
    plain = generate(tiny_model, inputs, unroll=unroll)
    changed = np.abs(np.asarray(out.logprobs) - np.asarray(plain.logprobs)).max(0)
    assert (changed.max() > 1e-2) == bool(edits)
    # If all tokens were equal, a cache that repeats one token would pass this test.
    assert len(np.unique(out.tokens)) > 3


def test_an_edit_at_one_position_leaves_earlier_tokens_unchanged(tiny_model, inputs):
    plain, edited = (
        generate(tiny_model, inputs),
        generate(tiny_model, inputs, edits_sharing_a_program("one position after it")),
    )
    before = 7 - N_PROMPT + 1  # the logits of position 7 choose the token at position 8
    np.testing.assert_array_equal(edited.tokens[:, :before], plain.tokens[:, :before])
    np.testing.assert_array_equal(edited.logprobs[:, :before], plain.logprobs[:, :before])
    assert not np.array_equal(edited.logprobs[:, before], plain.logprobs[:, before])


def test_scanned_and_unrolled_layers_agree(tiny_model, inputs):
    for edits in (None, EDITS["keys and values"]):
        scanned, unrolled = (
            generate(tiny_model, inputs, edits, unroll=unroll) for unroll in (False, True)
        )
        np.testing.assert_array_equal(scanned.tokens, unrolled.tokens)
        np.testing.assert_allclose(scanned.logprobs, unrolled.logprobs, rtol=1e-5, atol=1e-5)


def test_an_unstacked_memory_equals_the_stacked_one(tiny_model, inputs):
    mel, _ = tiny_inputs(tiny_model.config, 3, N_PROMPT)
    stacked, unstacked = (
        tiny_model.encode(mel, unstacked=unstacked)[0] for unstacked in (False, True)
    )
    assert isinstance(unstacked.k, tuple)
    for restored, expected in zip(
        jax.tree.leaves(unstacked.stacked()), jax.tree.leaves(stacked), strict=True
    ):
        np.testing.assert_allclose(restored, expected, rtol=1e-5, atol=1e-6)
    for unroll in (False, True):
        generations = [
            generate(tiny_model, (memory, inputs[1]), unroll=unroll)
            for memory in (stacked, unstacked)
        ]
        np.testing.assert_array_equal(generations[0].tokens, generations[1].tokens)
    logits = [tiny_model.decode(inputs[1], memory)[0] for memory in (stacked, unstacked)]
    np.testing.assert_allclose(*logits, rtol=1e-4, atol=1e-5)


def test_changed_weights_change_the_cached_unstacked_layers(tiny_model, inputs):
    model = nnx.clone(tiny_model)
    before = generate(model, inputs)
    weights = model.decoder.blocks.mlp.fc2.kernel
    weights[...] = -weights[...]
    after, scanned = generate(model, inputs), generate(model, inputs, unroll=False)
    assert not np.array_equal(before.logprobs, after.logprobs)
    np.testing.assert_allclose(after.logprobs, scanned.logprobs, rtol=1e-5, atol=1e-5)


def test_left_padded_rows_equal_rows_generated_alone(tiny_model, inputs):
    memory, prompt = inputs
    pads = [0, 1, 3]
    positions = np.arange(N_PROMPT, dtype=np.int32) - np.array(pads, np.int32)[:, None]
    edits_of_both = EDITS["one position after it"] | EDITS["keys and values"]
    for edits in (without_effect(edits_of_both), edits_of_both):
        ragged = generate(tiny_model, inputs, edits, positions=positions, unroll=False)
        for row, pad in enumerate(pads):
            rows = slice(row, row + 1)
            own_memory = jaxasr.Memory(memory.xa[rows], memory.k[:, rows], memory.v[:, rows])
            alone = generate(
                tiny_model, (own_memory, prompt[row : row + 1, pad:]), edits, unroll=False
            )
            np.testing.assert_array_equal(ragged.tokens[row], alone.tokens[0])
            np.testing.assert_allclose(
                ragged.logprobs[row], alone.logprobs[0], rtol=1e-5, atol=1e-5
            )


def test_a_batch_of_edits_equals_a_loop_over_edits(tiny_model, inputs):
    doses, layers = jnp.array([0.0, 0.5, -3.0]), jnp.array([0, 1, 1])

    def generate_with(dose, layer):
        return generate(
            tiny_model, inputs, {"decoder.resid_mid": Shift(dose * WAVE, layer, 6)}, unroll=False
        )

    batch = jax.vmap(generate_with)(doses, layers)
    for i in range(3):
        single = generate_with(doses[i], layers[i])
        np.testing.assert_array_equal(batch.tokens[i], single.tokens)
        np.testing.assert_array_equal(batch.lengths[i], single.lengths)
        np.testing.assert_allclose(batch.logprobs[i], single.logprobs, rtol=1e-5, atol=1e-5)
    assert not np.array_equal(batch.logprobs[0], batch.logprobs[2])


def test_cached_generation_agrees_with_teacher_forcing_on_a_recording(asr):
    """tiny.en generates from the demo recording, with ineffective and with effective edits."""
    mel = jaxasr.log_mel(jaxasr.load_audio(real_speech.DEMO), asr.config.n_mels)
    inputs = asr.model.encode(mel[None])[0], np.array([asr.tokenizer.prompt()], np.int32)
    eot, texts = asr.tokenizer.special.eot, []
    edited = {"decoder.cross_attn.z": SilenceHead(2, 3), "decoder.mlp.post": Shift(0.5, 1, 6)}
    for edits in (without_effect(edited), edited):
        out = generate(asr.model, inputs, edits, max_new_tokens=40, eot=eot)
        logprobs, real = teacher_forced(asr.model, inputs, out, edits), is_generated(out)
        np.testing.assert_array_equal(logprobs.argmax(-1)[real], np.asarray(out.tokens)[real])
        np.testing.assert_allclose(
            np.asarray(out.logprobs)[real], logprobs.max(-1)[real], atol=2e-4
        )
        texts.append(asr.tokenizer.decode(np.asarray(out.tokens[0, : int(out.lengths[0])])))
    assert "captain read the old letter" in texts[0]
