"""Attention and decoding steps of real widths, compiled for a TPU that this machine does not have.

`pip install 'libtpu==0.0.42.*' && JAX_PLATFORMS=cpu pytest tests/tpu` runs these tests.
"""

import os
import re

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import SingleDeviceSharding

import jaxasr
from jaxasr import fused_attention
from jaxasr.cache import Memory
from jaxasr.decoding import Request
from jaxasr.precision import precision_fields
from jaxasr.sampling import generate_greedily_or_sample
from jaxasr.stack import unstack
from jaxasr.weights.assemble import abstract_model

pytest.importorskip("libtpu")

N_FRAMES, N_HEAD, WIDTH, N_LAYER = 1500, 6, 64, 2
SCORE_BYTES = 4 * N_HEAD * N_FRAMES**2


@pytest.fixture(scope="module")
def chip():
    from jax.experimental import topologies

    os.environ["TPU_SKIP_MDS_QUERY"] = "1"
    topology = topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x2")
    # JAX cannot load a program for an absent TPU from the persistent cache.
    enabled = jax.config.jax_enable_compilation_cache
    jax.config.update("jax_enable_compilation_cache", False)
    yield SingleDeviceSharding(topology.devices[0])
    jax.config.update("jax_enable_compilation_cache", enabled)


def compile_for(chip, fn, *arguments):
    shapes = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=chip), arguments
    )
    return jax.jit(fn).trace(*shapes).lower(lowering_platforms=("tpu",)).compile()


def heads(n, dtype="bfloat16", lead=()):
    return jax.ShapeDtypeStruct((*lead, 1, N_HEAD, n, WIDTH), dtype)


def attend(q, k, v):
    return fused_attention.attend(q, k, v, "auto")


@pytest.mark.parametrize("precision", ["default", "highest"])
def test_the_encoder_uses_a_fused_kernel_that_stores_no_scores(chip, precision):
    with jax.default_matmul_precision(precision):
        program = compile_for(chip, attend, *[heads(N_FRAMES)] * 3)
    assert "tpu_custom_call" in program.as_text()
    assert program.memory_analysis().temp_size_in_bytes < SCORE_BYTES / 10


def test_cells_that_share_keys_use_the_fused_kernel(chip):
    mapped = jax.vmap(attend, (0, None, None))
    program = compile_for(chip, mapped, heads(11, lead=(40,)), *[heads(N_FRAMES)] * 2)
    assert program.as_text().count('custom_call_target="tpu_custom_call"') == 1
    assert program.memory_analysis().temp_size_in_bytes < 4 * N_HEAD * 440 * N_FRAMES / 4


@pytest.mark.parametrize(("n_queries", "dtype"), [(11, "bfloat16"), (N_FRAMES, "float32")])
def test_few_queries_and_float32_use_products_of_xla(chip, n_queries, dtype):
    arguments = heads(n_queries, dtype), heads(N_FRAMES, dtype), heads(N_FRAMES, dtype)
    assert "tpu_custom_call" not in compile_for(chip, attend, *arguments).as_text()


@pytest.mark.parametrize("policy", ["bfloat16", "mixed"])
def test_a_decoding_step_copies_neither_weights_nor_keys(chip, policy):
    program = compile_for(chip, generate, *generation_of(policy))
    assert large_results_in_loops(program.as_text()) == []


def generate(model, request):
    return generate_greedily_or_sample(
        model, request, jnp.float32(0), jax.random.key(0), None, axis_name=None
    )


def generation_of(policy):
    width = N_HEAD * WIDTH
    config = jaxasr.SIZES["tiny.en"].replace(n_text_layer=N_LAYER, n_audio_layer=1)
    config = config.replace(**precision_fields(policy))
    model = abstract_model(config)
    layers = (heads(N_FRAMES, config.product_dtype),) * N_LAYER
    memory = Memory(jax.ShapeDtypeStruct((1, N_FRAMES, width), config.dtype), layers, layers)
    tokens = jax.ShapeDtypeStruct((1, 4), jnp.int32)
    blocks = jax.eval_shape(unstack, model.decoder.blocks)
    return model, Request(tokens, tokens, memory, blocks, {}, None, 28, 50_256, None)


def large_results_in_loops(hlo):
    """Returns instructions of while loops that write as much as a weight or a layer's keys."""
    computations, instructions = {}, []
    for line in hlo.splitlines():
        if start := re.match(r"(?:ENTRY )?%?([\w.\-]+) \(.*\{$", line):
            instructions = computations.setdefault(start.group(1), [])
        elif " = " in line:
            instructions.append(line.strip())
    bodies = re.findall(r"body=%?([\w.\-]+)", hlo)
    assert bodies
    unwritten = "parameter", "get-tuple-element", "tuple", "while", "bitcast"
    found = []
    for line in (line for body in bodies for line in computations[body]):
        match = re.match(r"(?:ROOT )?%?\S+ = \w+\[([\d,]*)\]\S* ([\w\-]+)\(", line)
        if match and match.group(2) not in unwritten:
            sizes = [int(n) for n in match.group(1).split(",") if n]
            if jnp.prod(jnp.array(sizes or [1])) >= (N_HEAD * WIDTH) ** 2:
                found.append(line[:120])
    return found
