"""A sweep compiles its programs before it calls them, once each, and side by side."""

import collections
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import interventions as iv
from interventions.metrics import logit_diff
from interventions.patching import compile_ahead
from interventions.patching.cell_chunks import cell_chunks, group_by_program
from interventions.patching.compile_ahead import CompileAhead
from interventions.patching.compute import RecordingChunk
from jaxasr import ahead_of_time, pytrees
from tests.tiny_sweeps import target_and_source

METRIC = logit_diff(3, 5)


@pytest.fixture
def compiled_names():
    """Names of the functions that JAX compiles, with their numbers."""
    names = collections.Counter()

    def count(event, duration_secs, **details):
        if event.endswith("backend_compile_duration"):
            names[details["fun_name"]] += 1

    jax.monitoring.register_event_duration_secs_listener(count)
    yield names
    jax.monitoring.unregister_event_duration_listener(count)


@pytest.fixture(autouse=True)
def nothing_compiled(monkeypatch):
    monkeypatch.setattr(compile_ahead, "_COMPILED", set())
    jax.clear_caches()


def make_plan(model, **options):
    grid = {"site": "decoder.cross_attn.z", "over": ("layer", "head", "position")}
    return iv.plan_sweep(model, *target_and_source(model), **(grid | options), metric=METRIC)


def groups_of(plan):
    chunks = [chunk for layer in plan.work.grid.layers for chunk in cell_chunks(plan.work, layer)]
    return list(group_by_program(chunks, 1))


@pytest.mark.parametrize("options", [{}, {"site": "encoder.resid_post", "over": ("layer",)}])
def test_programs_are_compiled_before_they_are_called(tiny_model, compiled_names, options):
    plan = make_plan(tiny_model, **options)
    rows, groups = plan.work.row_chunks()[0], groups_of(plan)
    ahead = CompileAhead(plan)
    ahead.start(rows, groups)
    ahead.wait_for_unedited()
    for group in groups:
        ahead.wait_for(group)
    # One encodes, one decodes without an edit, and the others compute cells.
    n_programs = 2 + len({group[0].program for group in groups})
    assert compiled_names["jit(call)"] == n_programs
    recordings = RecordingChunk.of(plan, rows)
    for group in groups:
        recordings.dispatch(group)()
    assert compiled_names["jit(call)"] == n_programs


def test_a_second_sweep_lists_no_programs(tiny_model, monkeypatch):
    first = iv.sweep(plan=make_plan(tiny_model))
    monkeypatch.setattr(ahead_of_time, "record", pytest.fail)
    assert iv.sweep(plan=make_plan(tiny_model)).identical(first)


def test_every_program_has_a_thread(tiny_model, monkeypatch):
    """All programs are being compiled at the same time: each waits for the others."""
    plan = make_plan(tiny_model)
    groups = groups_of(plan)
    barrier = threading.Barrier(2 + len({group[0].program for group in groups}), timeout=60)
    compile_one = jax.stages.Lowered.compile

    def compile_together(lowered, *arguments):
        barrier.wait()
        return compile_one(lowered, *arguments)

    monkeypatch.setattr(jax.stages.Lowered, "compile", compile_together)
    ahead = CompileAhead(plan)
    ahead.start(plan.work.row_chunks()[0], groups)
    ahead.wait_for_unedited()
    assert not barrier.broken


@pytrees.dataclass
class ReadsValues:
    """A metric that reads a value in Python when its row is selected."""

    position: int = pytrees.field(pytree_node=False, default=-1)
    vocab = None

    def __call__(self, logits):
        return logits[:, 3]

    def row(self, b):
        assert float(jnp.float32(b) + 1) > 0
        return self


def test_a_metric_that_reads_values_is_compiled_by_its_calls(tiny_model):
    values = iv.sweep(
        tiny_model,
        *target_and_source(tiny_model),
        site="decoder.mlp_out",
        over=("layer",),
        metric=ReadsValues(),
    )
    assert not compile_ahead._COMPILED
    assert np.isfinite(values).all()


def test_an_error_of_the_compiler_is_raised_by_the_call(tiny_model, monkeypatch):
    plan = make_plan(tiny_model)

    def fail(lowered):
        raise RuntimeError("the compiler fails on purpose")

    monkeypatch.setattr(jax.stages.Lowered, "compile", fail)
    assert np.isfinite(iv.sweep(plan=plan)).all()
