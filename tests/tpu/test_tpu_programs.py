"""Every kind of work compiles for four TPU chips, which this machine does not have.

`pip install 'jaxasr[tpu]' && JAX_PLATFORMS=cpu pytest tests/tpu` runs these tests.
"""

import jax
import jax.numpy as jnp
import pytest
from audio_language import TINY
from jax.sharding import PartitionSpec as P

import jaxasr
from interventions import planning
from interventions.planning.report import cost_of
from jaxasr import ahead_of_time, compiled
from jaxasr.meshes import DATA
from tests.devices.divided_weights import SHAPE

CONFIG = jaxasr.SIZES["tiny"].replace(
    n_audio_ctx=20,
    n_audio_state=32,
    n_audio_head=2,
    n_audio_layer=3,
    n_text_state=32,
    n_text_head=2,
    n_text_layer=3,
    n_text_ctx=16,
    n_vocab=64,
    dtype="bfloat16",
    param_dtype="bfloat16",
)


# 8 devices hold one head of keys and as many hidden units and tokens each.
LANGUAGE = TINY["qwen2_audio"].replace(dtype="bfloat16", param_dtype="bfloat16", **SHAPE)


@pytest.fixture(scope="module")
def device():
    return planning.find_device("v5e:2x2")


def plans_without_exchange(device):
    return {
        "encode": lambda: planning.plan_encode(CONFIG, device, 8),
        "decoder sweep": lambda: planning.plan_patch(
            CONFIG, device, "decoder.cross_attn.z", ("layer", "head", "position"), 2, 6
        ),
        "encoder sweep": lambda: planning.plan_patch(
            CONFIG, device, "encoder.resid_post", ("layer", "time"), 2, 6, window_s=0.1
        ),
    }


@pytest.mark.parametrize("kind", ["encode", "decoder sweep", "encoder sweep"])
def test_encoding_and_sweeps_exchange_nothing_between_devices(device, kind):
    plan = plans_without_exchange(device)[kind]()
    assert plan.n_devices == 4
    assert plan.collectives == 0
    assert plan.fits


def test_generation_attribution_and_probes_compile_and_fit(device):
    sites = "decoder.cross_attn.z", "encoder.resid_post"
    plans = (
        planning.plan_generate(CONFIG, device, 8, 5),
        planning.plan_attribution(CONFIG, device, sites, ("layer", "head"), 8, 6),
        planning.plan_probe(device, (9, 40, 16)),
    )
    assert all(plan.fits for plan in plans)
    assert all(program.compile_s is not None for plan in plans for program in plan.programs)


def sum_over_devices(x):
    return jax.lax.psum(x, DATA)


def test_an_exchange_is_counted(device):
    def run(x):
        compiled.call_on_mesh(device.mesh(4), sum_over_devices, x, specs=(P(DATA),), out_specs=P())

    (program,) = ahead_of_time.record(run, jax.ShapeDtypeStruct((8, 128), jnp.float32))
    assert cost_of(program, device, 1, False).collectives == {"all-reduce": 1}


@pytest.fixture(scope="module")
def sharing():
    return planning.find_device("v5e:2x4", model_axis=8)


@pytest.mark.parametrize("kind", ["prefill", "step"])
def test_chips_share_an_audio_language_model(sharing, kind):
    plan = getattr(planning, f"plan_{kind}")(LANGUAGE, sharing, 2, n_tokens=5)
    assert plan.fits
    (program,) = plan.programs
    # Two sums in each layer, in a loop over layers, and one of the embeddings. Chips never send
    # each other weights.
    assert program.collectives == {"all-reduce": 3}


def test_chips_that_share_a_model_generate(sharing):
    plan = planning.plan_generate(LANGUAGE, sharing, 2, n_tokens=5)
    assert plan.fits
    assert [program.name for program in plan.programs] == ["_encode", "generate_greedily_or_sample"]


def test_chips_that_share_a_model_sweep(sharing):
    plan = planning.plan_patch(LANGUAGE, sharing, "decoder.attn.z", ("layer", "head"), 1, 6)
    assert plan.fits
    kinds = {kind for program in plan.programs for kind in program.collectives}
    assert kinds == {"all-reduce"}


def test_chips_share_a_whisper(sharing):
    plan = planning.plan_encode(CONFIG, sharing, 2)
    assert plan.fits
    assert plan.collectives > 0
    whole = planning.plan_encode(CONFIG, planning.find_device("h100"), 2)
    assert plan.flops == whole.flops / 8


def double(x):
    return 2 * x


def test_a_program_that_is_too_large_is_reported(device):
    shape = jax.ShapeDtypeStruct((5_000_000_000,), jnp.bfloat16)  # 10 GB twice
    (program,) = ahead_of_time.record(lambda x: compiled.call(double, x), shape)
    refused = cost_of(program, device, 1, False)
    assert "RESOURCE_EXHAUSTED" in str(refused.error)
    assert planning.Report("x", "v5e:2x2", 4, None, (refused,), None).fits is False
