"""Programs are found from shapes alone, and nothing runs."""

import jax
import jax.numpy as jnp
import numpy as np
from golden.tiny import tiny_inputs

from jaxasr import ahead_of_time, compiled
from jaxasr.taps import NOTHING
from jaxasr.weights.assemble import abstract_model


def double(x, *, times):
    return times * x


def test_a_function_of_shapes_calls_the_programs_of_its_arrays(tiny_model):
    mel, tokens = tiny_inputs(tiny_model.config, 2, 4)

    def run(model, mel, tokens):
        memory, _ = model.encode(mel)
        model.decode(tokens, memory)
        model.decode(tokens, memory)

    shapes = ahead_of_time.shapes_of((tiny_model, mel, jnp.asarray(tokens)))
    for arguments in (tiny_model, mel, jnp.asarray(tokens)), shapes:
        programs = ahead_of_time.record(run, *arguments)
        assert [(p.name, p.n_calls) for p in programs] == [("_encode", 1), ("_decode", 2)]


def test_a_record_ends_where_a_value_is_read(tiny_model):
    def run(x):
        y = compiled.call(double, x, times=2)
        compiled.call(double, np.asarray(y), times=3)

    (program,) = ahead_of_time.record(run, jnp.ones(3))
    assert program.call.options.values == {"times": 2}


def test_calls_with_other_shapes_or_options_are_other_programs():
    def run(x):
        for part, times in ((x, 2), (x, 2), (x[:2], 2), (x, 3)):
            compiled.call(double, part, times=times)

    programs = ahead_of_time.record(run, jax.ShapeDtypeStruct((3,), jnp.float32))
    assert [p.n_calls for p in programs] == [2, 1, 1]


def test_a_recorded_program_compiles_to_the_one_that_runs(tiny_model):
    mel, _ = tiny_inputs(tiny_model.config, 2, 4)
    model = abstract_model(tiny_model.config)
    (program,) = ahead_of_time.record(model.encode, jax.ShapeDtypeStruct(mel.shape, jnp.float32))
    arguments = tiny_model, jnp.asarray(mel), (None, None), ({}, NOTHING)
    arrays = tuple(compiled.split(argument)[0] for argument in arguments)
    for device in (None, jax.devices()[0]):
        memory, _ = ahead_of_time.lower(program, device).compile()(arrays)
        np.testing.assert_array_equal(memory.xa, tiny_model.encode(mel)[0].xa)
