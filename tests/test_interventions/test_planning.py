"""Plans count what really runs, and know which devices exist."""

import dataclasses

import audio_language
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_sweeps import METRIC, target_and_source

import interventions as iv
import jaxasr
from experiments.bench.flops import encoder_flops
from interventions import planning
from interventions.memory_budget import memory_budget
from interventions.planning import devices, report
from interventions.planning.operations import count_operations
from jaxasr import compiled
from jaxasr.target_device import TargetDevice, planning_for
from jaxasr.weights.assemble import abstract_model

CPU, H100 = planning.find_device("cpu"), planning.find_device("h100")
TINY = jaxasr.SIZES["tiny"]


def count(fn, *arrays, loop_steps=1):
    return count_operations(jax.make_jaxpr(fn)(*arrays), loop_steps)


def test_operations_of_loops_count_every_step():
    x = jnp.ones((4, 4))
    assert count(lambda x: x @ x, x) == 2 * 4**3
    assert count(lambda x: jax.lax.scan(lambda y, _: (y @ x, None), x, length=7)[0], x) == 7 * 128
    loop = jax.jit(lambda n, x: jax.lax.fori_loop(0, n, lambda _, y: y @ x, x))
    assert count(loop, 3, x, loop_steps=5) == 5 * 128
    branches = [lambda x: x, lambda x: x @ x, lambda x: x @ x @ x]
    assert count(lambda i, x: jax.lax.switch(i, branches, x), 0, x) == 2 * 128


@pytest.mark.parametrize("size", ["tiny", "large-v3"])
def test_the_encoder_has_the_operations_of_its_formula(size):
    plan = planning.plan_encode(jaxasr.SIZES[size], H100, 3)
    assert plan.flops == encoder_flops(size, batch=3, with_memory=True)
    (program,) = plan.programs
    n_weights = sum(x.size for x in jax.tree.leaves(abstract_model(TINY)))
    if size == "tiny":
        assert program.argument_bytes == 4 * (n_weights + 3 * 80 * 3000)
    assert (plan.collectives, plan.fits) == (None, None)


def test_each_token_reads_the_weights_and_adds_the_same_operations():
    short, middle, long = (planning.plan_generate(TINY, H100, 2, n) for n in (10, 20, 30))
    assert long.flops - middle.flops == pytest.approx(middle.flops - short.flops, rel=0.05)
    assert {p.name: p.n_reads for p in long.programs} == {
        "encode": 1,
        "generate_greedily_or_sample": 30,
    }


def calls_of(fn) -> list[str]:
    """Returns the names of the programs that `fn` runs."""
    names = []

    def run(call):
        names.append(call.fn.__name__)
        with compiled.recorder(None):
            return call.run(call.arrays)

    with compiled.recorder(run):
        fn()
    return names


@pytest.mark.parametrize(
    ("site", "over"),
    [
        ("decoder.cross_attn.z", ("layer", "head", "position")),
        ("decoder.resid_pre", ("position",)),
        ("encoder.resid_post", ("layer", "time")),
        ("encoder.attn.z", ("head",)),
    ],
)
def test_a_plan_lists_the_calls_of_the_sweep(tiny_model, site, over):
    target, source = target_and_source(tiny_model)
    options = dict(site=site, over=over, window_s=0.04, recordings=1)
    names = calls_of(lambda: iv.sweep(tiny_model, target, source, metric=METRIC, **options))
    n_tokens = target.tokens.shape[1]
    plan = planning.plan_patch(
        tiny_model.config, CPU, site, over, 2, n_tokens, window_s=0.04, recordings=1
    )
    assert {p.name for p in plan.programs} == set(names)
    for name in set(names):
        planned = sum(p.n_calls for p in plan.programs if p.name == name)
        assert planned == names.count(name), name


def test_the_planned_device_decides_how_many_cells_a_call_computes():
    plan = planning.plan_patch(
        TINY, H100, "encoder.resid_post", ("layer", "time"), 1, 5, window_s=5.0
    )
    calls = {program.name: program.n_calls for program in plan.programs}
    assert calls["encoder_cells"] == TINY.n_audio_layer  # all windows of a layer together


def test_a_sweep_of_an_audio_language_model_is_planned_with_its_audio():
    config = audio_language.TINY["qwen2_audio"]
    plan = planning.plan_patch(config, H100, "decoder.resid_post", ("layer", "time"), 1, 6, 0.08)
    names = {program.name for program in plan.programs}
    assert names == {"encode", "_run_unedited", "resumed_decoder_cells"}
    assert "time 5: 10 cells" in plan.notes[0]  # 10 audio tokens of 40 ms in windows of 80 ms
    with pytest.raises(ValueError, match=r"tokens: expected at most 54, .* without the audio"):
        planning.plan_patch(config, H100, "decoder.resid_post", ("layer",), 1, 55)


def test_attribution_is_one_program_and_probes_are_planned_without_values(tiny_model):
    sites = "decoder.cross_attn.z", "encoder.attn.z"
    plan = planning.plan_attribution(tiny_model.config, CPU, sites, ("layer", "head"), 3, 5)
    assert plan.programs
    # One forward pass of the source; the target takes about three times as much.
    assert plan.flops > 3 * planning.plan_encode(tiny_model.config, CPU, 3).flops
    bank = planning.plan_probe(CPU, (3, 40, 8), n_classes=3)
    assert bank.flops > 0


def cost(**changes) -> report.ProgramCost:
    numbers = dict(name="a", n_calls=2, flops=10.0, n_reads=1, argument_bytes=6, output_bytes=4)
    return report.ProgramCost(**numbers | changes)


def test_the_time_is_that_of_the_bytes_or_of_the_operations():
    chip = devices.Chip("gpu", 100, peak_flops=5.0, peak_flops_float32=1.0, bytes_per_s=10.0)
    assert report.least_seconds([cost()], chip, "bfloat16") == 2 * 2.0
    assert report.least_seconds([cost()], chip, "float32") == 2 * 10.0
    assert report.least_seconds([cost(n_reads=5)], chip, "bfloat16") == 2 * 3.4
    assert report.least_seconds([cost()], CPU.chip, "float32") is None


def test_a_plan_fits_if_every_program_does():
    compiled_cost = cost(temporary_bytes=20, code_bytes=1, collectives={"all-reduce": 2})
    plan = planning.Report("x", "v5e", 4, 31, (compiled_cost, compiled_cost), None)
    assert (plan.fits, plan.peak_bytes, plan.collectives, plan.flops) == (True, 31, 4, 40.0)
    assert dataclasses.replace(plan, memory_bytes=30).fits is False
    refused = dataclasses.replace(compiled_cost, error="RESOURCE_EXHAUSTED")
    assert dataclasses.replace(plan, programs=(refused,)).fits is False


def test_exchanges_are_found_in_hlo():
    text = "%a = f32[] all-reduce(%b)\n%c = all-gather-start(%d)\n%e = all-gather-done(%c)\n"
    assert report._COLLECTIVE.findall(text) == ["all-reduce", "all-gather"]


def test_an_unknown_device_lists_the_known_ones(monkeypatch):
    with pytest.raises(ValueError, match=r"--device tpu: expected .*h100.*v5e:2x2.*v6e:4x4"):
        planning.find_device("tpu")
    with pytest.raises(ValueError, match=r"--device v6e:3x3: expected one of 2x2, 2x4"):
        planning.find_device("v6e:3x3")
    monkeypatch.setattr(devices.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install 'jaxasr\[tpu\]'"):
        planning.find_device("v5e:2x2")


def test_chunks_fit_the_planned_device_and_not_this_one():
    here = memory_budget(None)
    with planning_for(TargetDevice("tpu", 1000)):
        assert memory_budget(None) == 400
    with planning_for(TargetDevice("gpu", None)):
        assert memory_budget(None) > here
    assert memory_budget(None) == here


def test_the_plan_of_an_audio_language_model_counts_its_weights_and_its_cache():
    config = audio_language.TINY["qwen2_audio"]
    n_weights = sum(x.size for x in jax.tree.leaves(abstract_model(config)))
    (program,) = planning.plan_encode(config, H100, 3).programs
    # Mel, and the numbers of frames and of audio tokens of each row.
    assert program.argument_bytes == 4 * (n_weights + 3 * 8 * 40 + 2 * 3)
    assert program.output_bytes == 4 * (3 * 10 * 28 + 3)
    step = planning.plan_step(config, H100, 3, n_tokens=5).programs[0]
    longer = planning.plan_step(config, H100, 3, n_tokens=6).programs[0]
    slot = 4 * 3 * (2 * 2 * 2 * 10 + 1)  # keys and values of 2 layers and 2 heads, and a position
    assert longer.argument_bytes - step.argument_bytes == slot
    prefill = planning.plan_prefill(config, H100, 3, n_tokens=5)
    assert prefill.flops > 30 * planning.plan_step(config, H100, 3, n_tokens=5).flops
    generate = planning.plan_generate(config, H100, 3, n_tokens=5)
    assert {p.name: p.n_reads for p in generate.programs} == {
        "_encode": 1,
        "generate_greedily_or_sample": 5,
    }


def test_devices_that_share_a_model_hold_one():
    four = devices.PlannedDevice("v5e:2x2", devices.CHIPS["v5e"], tuple(jax.devices() * 4))
    sharing = dataclasses.replace(four, shares_model=True)
    assert (four.n_models, sharing.n_models) == (4, 1)
    assert sharing.mesh(8) is None
    # The fused kernel cannot be divided.
    assert sharing.supported(TINY).attention_kernel == "xla"
    assert four.supported(TINY).attention_kernel == "auto"
    with pytest.raises(ValueError, match="--model-axis 1: expected 4, the devices of v5e:2x2"):
        planning.plan_encode(audio_language.TINY["qwen2_audio"], four)
    with pytest.raises(ValueError, match="--model-axis 2: expected 1, because h100 has 1 in all"):
        planning.find_device("h100", 2)


def test_as_many_devices_as_recordings_divide_them():
    four = devices.PlannedDevice("x", devices.CHIPS["v5e"], tuple(jax.devices() * 4))
    shapes = [dict(four.mesh(n).shape) for n in (1, 2, 3, 4, 9)]
    assert [s["data"] for s in shapes] == [1, 2, 2, 4, 4]
    assert all(np.prod(list(s.values())) == 4 for s in shapes)
