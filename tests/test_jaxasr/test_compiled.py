"""New strengths, layers, heads and positions of an edit reuse its compiled program."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden.tiny import tiny_inputs
from own_edits import Shift, SilenceHead

import jaxasr
from jaxasr import compiled, model, sampling


@pytest.fixture(scope="module")
def inputs(tiny_model):
    mel, tokens = tiny_inputs(tiny_model.config, 2, 4)
    return mel, tokens, tiny_model.encode(mel)[0]


def index_array(i: int) -> jax.Array:
    """Returns an index as an array, which is an input of the program and not a constant."""
    return jnp.int32(i)


def edits_of(value: float, layer: int, head: int, position: int) -> dict:
    return {
        "decoder.cross_attn.z": SilenceHead(index_array(layer), index_array(head)),
        "decoder.mlp.post": Shift(jnp.float32(value), index_array(layer), index_array(position)),
    }


EDITS = [
    edits_of(value, layer, head, position)
    for value, layer, head, position in [(0.5, 0, 1, 2), (-2.0, 1, 4, 0), (3.0, 1, 0, 3)]
]


def test_decode_does_not_retrace_for_new_values(tiny_model, inputs):
    _, tokens, memory = inputs
    outs = [tiny_model.decode(tokens, memory, EDITS[0])[0]]
    n_programs = compiled.n_compiled(model._decode)
    outs += [tiny_model.decode(tokens, memory, edits)[0] for edits in EDITS[1:]]
    assert compiled.n_compiled(model._decode) == n_programs
    assert not np.allclose(outs[0], outs[1])
    assert not np.allclose(outs[1], outs[2])


def test_encode_does_not_retrace_for_new_values(tiny_model, inputs):
    mel, *_ = inputs
    edits = {"encoder.attn.z": SilenceHead(index_array(0), index_array(0))}
    first, _ = tiny_model.encode(mel, edits)
    n_programs = compiled.n_compiled(model._encode)
    edits = {"encoder.attn.z": SilenceHead(index_array(3), index_array(2))}
    second, _ = tiny_model.encode(mel, edits)
    assert compiled.n_compiled(model._encode) == n_programs
    assert not np.allclose(first.xa, second.xa)


def test_generate_does_not_retrace_for_new_values(tiny_model, inputs):
    _, tokens, memory = inputs
    options = dict(max_new_tokens=5, eot=100)
    outs = [jaxasr.generate(tiny_model, memory, tokens, edits=EDITS[0], **options)]
    n_programs = compiled.n_compiled(sampling.generate_greedily_or_sample)
    outs += [
        jaxasr.generate(tiny_model, memory, tokens, edits=edits, **options) for edits in EDITS[1:]
    ]
    outs += [
        jaxasr.generate(
            tiny_model,
            memory,
            tokens,
            edits=EDITS[0],
            temperature=0.7,
            key=jax.random.key(3),
            **options,
        )
    ]
    assert compiled.n_compiled(sampling.generate_greedily_or_sample) == n_programs
    assert not np.array_equal(outs[0].logprobs, outs[1].logprobs)


def test_another_structure_compiles_another_program(tiny_model, inputs):
    _, tokens, memory = inputs
    tiny_model.decode(tokens, memory)
    n_programs = compiled.n_compiled(model._decode)
    tiny_model.decode(tokens, memory, {"decoder.mlp.post": Shift(jnp.float32(1), index_array(0))})
    assert compiled.n_compiled(model._decode) == n_programs + 1


def test_functions_that_differ_in_a_default_do_not_share_a_program(tiny_model, inputs):
    _, tokens, memory = inputs
    halved, doubled = (
        tiny_model.decode(tokens, memory, {"decoder.ln": lambda x, at, c=c: c * x})[0]
        for c in (0.5, 2.0)
    )
    np.testing.assert_allclose(doubled, 4 * halved, rtol=1e-5, atol=1e-6)


def test_join_restores_a_split_pytree():
    tree = {"a": Shift(jnp.arange(3.0), 1), "f": len, "n": (np.float32(2), 3, None)}
    arrays, structure = compiled.split(tree)
    other_structure = compiled.split(
        {"a": Shift(jnp.ones(3), 7), "f": len, "n": (np.float32(5), 4, None)}
    )[1]
    assert structure == other_structure
    assert hash(structure) == hash(other_structure)
    restored = structure.join(arrays)
    assert restored["f"] is len
    assert restored["n"] == tree["n"]
    np.testing.assert_array_equal(restored["a"].value, tree["a"].value)


def test_under_jit_decode_is_traced_once_with_its_caller(tiny_model, inputs):
    _, tokens, memory = inputs
    traces = []

    @jax.jit
    def logits(edits):
        traces.append(1)
        return tiny_model.decode(tokens, memory, edits)[0]

    for edits in EDITS:
        np.testing.assert_allclose(
            logits(edits), tiny_model.decode(tokens, memory, edits)[0], rtol=1e-5, atol=1e-5
        )
    assert len(traces) == 1
