"""Attribution, paths and generated texts of several recordings, on one device or on a mesh."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import interventions as iv
import jaxasr
from interventions.edits import AtCell, FromRow
from interventions.effects import first_order
from interventions.generation import encoder_cells, generate_cells, generate_encoder_cells
from interventions.generation.cell_edits import CellEdits
from interventions.generation.encoder_plan import EncoderCellPlan
from interventions.generation.row_values import acts_on_rows_alone
from interventions.patching import row_chunks
from interventions.patching.row_chunks import RowChunks
from jaxasr import compiled, meshes
from tests.devices.meshes import FUNCTIONS, arrays_of, generate_options, make_run, metric

OPTIONS = {"max_new_tokens": 5, "eot": 100}


def prompts(config):
    return make_run(config, 1, n_tokens=3).tokens


@pytest.fixture(scope="module")
def memory(tiny_model):
    return tiny_model.encode(make_run(tiny_model.config, 1).mel)[0]


@pytest.mark.parametrize("name", sorted(set(FUNCTIONS) - {"generate"}))
def test_recordings_together_equal_recordings_one_by_one(tiny_model, name):
    one_by_one = arrays_of(FUNCTIONS[name](tiny_model, mesh=None, recordings=1))
    for recordings in (2, 5):  # 2 leaves padding in the last chunk
        together = arrays_of(FUNCTIONS[name](tiny_model, mesh=None, recordings=recordings))
        assert together.keys() == one_by_one.keys()
        for key, values in one_by_one.items():
            if np.issubdtype(values.dtype, np.floating):
                np.testing.assert_allclose(together[key], values, rtol=0, atol=2e-5)
            else:
                np.testing.assert_array_equal(together[key], values)
    rows_differ = [np.ptp(x, 0).max() for x in one_by_one.values() if x.dtype == np.float32]
    assert max(rows_differ, default=1) > 1e-3


def test_rows_of_an_attribution_have_their_metrics(tiny_model):
    runs = [make_run(tiny_model.config, seed) for seed in (1, 2)]
    options = {"site": "decoder.attn.z", "over": ("layer", "head")}
    together = iv.attribution(tiny_model, *runs, metric=metric(), recordings=2, **options)
    for row in range(5):
        rows = [run.rows(np.array([row])) for run in runs]
        alone = iv.attribution(tiny_model, *rows, metric=iv.logit_diff(3 + row, 9), **options)
        np.testing.assert_allclose(together[row], alone, rtol=0, atol=2e-5)
        np.testing.assert_allclose(together.baseline[row], alone.baseline, rtol=0, atol=2e-5)


def test_as_many_rows_run_together_as_fit_the_memory(tiny_model, monkeypatch):
    runs, sizes = [make_run(tiny_model.config, seed) for seed in (1, 2)], []
    estimate = first_order._estimate

    def count(model, target, *arguments, **options):
        sizes.append(target.batch)
        return estimate(model, target, *arguments, **options)

    monkeypatch.setattr(first_order, "_estimate", count)
    for budget, expected in ((1 << 30, 5), (1, 1)):
        monkeypatch.setattr(row_chunks, "CPU_ROW_BUDGET", budget)
        options = {"site": "decoder.mlp_out", "over": ("layer",), "metric": metric()}
        iv.attribution(tiny_model, *runs, **options)
        assert sizes.pop() == expected


def test_the_next_chunk_is_dispatched_before_the_last_is_read():
    events = []

    class Result:
        def __init__(self, rows):
            self.rows = rows
            events.append(("dispatched", rows[0]))

        def __array__(self, dtype=None, copy=None):
            events.append(("read", self.rows[0]))
            return self.rows

    chunks = RowChunks.of(5, 2, None)
    np.testing.assert_array_equal(chunks.map(Result), np.arange(5))
    order = ["dispatched", "dispatched", "read", "dispatched", "read", "read"]
    assert [event for event, _ in events] == order


@pytest.mark.parametrize(("n_devices", "expected"), [(0, 20), (1, 3), (4, 3), (8, 3), (16, 2)])
def test_a_mesh_divides_rows_as_for_eight_devices(n_devices, expected):
    assert meshes.size_per_device(20, n_devices, 100) == expected
    assert meshes.size_per_device(20, n_devices, 2) == 2


def test_encoder_cells_of_several_recordings_decode_in_one_loop(tiny_model):
    cells = {"layer": np.array([0, 1, 2], np.int32)}
    edits = CellEdits.of(cells, AtCell(iv.Zero(), "encoder.mlp_out"))
    sizes = (tiny_model.config, edits, cells, 4, 8)
    plan = EncoderCellPlan.of(*sizes, None, None, None, None)
    assert (plan.chunks.per_device, plan.units_per_loop) == (4, 3)
    # One cell per encoder pass, so units of one recording fill the loop.
    plan = EncoderCellPlan.of(*sizes, None, 1, None, 1)
    assert (plan.cells_per_batch, plan.units_per_loop) == (1, 4)
    plan = EncoderCellPlan.of(*sizes, 1, None, None, None)
    assert (plan.chunks.per_device, plan.units_per_loop) == (1, 1)


def test_edits_that_may_read_other_rows_keep_all_rows_together(tiny_model, memory, monkeypatch):
    monkeypatch.setattr(row_chunks, "CPU_ROW_BUDGET", 1)
    config, cells = tiny_model.config, {"layer": np.array([0, 1], np.int32)}
    edits_of = AtCell(iv.Patch(FromRow(jnp.array([1, 1, 1, 1, 1]))), "decoder.mlp_out")
    assert not acts_on_rows_alone(edits_of, 5)
    assert not acts_on_rows_alone(AtCell(iv.Noise(0), "decoder.mlp_out"), 5)
    assert acts_on_rows_alone(AtCell(iv.Zero(), "decoder.mlp_out"), 5)
    options = {"edits_of": edits_of, **OPTIONS}
    out = generate_cells(tiny_model, memory, prompts(config), cells, **options)
    edits = {"decoder.mlp_out": iv.only(edits_of.edit, layers=1)}
    alone = jaxasr.generate(tiny_model, memory, prompts(config), edits=edits, **OPTIONS)
    np.testing.assert_array_equal(out.tokens[1], alone.tokens)
    options |= {"leader": np.zeros(5, np.int32), "recordings": 2}
    with pytest.raises(ValueError, match="leader: expected all 5 rows on one device"):
        generate_cells(tiny_model, memory, prompts(config), cells, **options)


def test_generation_on_a_mesh_equals_generation_without(tiny_model, memory):
    edits, mesh = {"decoder.mlp_out": iv.Scale(-2.0)}, meshes.make_mesh(1)
    options = {"edits": edits, **generate_options(tiny_model)}
    on_mesh = jaxasr.generate(tiny_model, memory, mesh=mesh, recordings=2, **options)
    plain = jaxasr.generate(tiny_model, memory, **options)
    np.testing.assert_array_equal(on_mesh.tokens, plain.tokens)
    np.testing.assert_allclose(on_mesh.logprobs, plain.logprobs, rtol=0, atol=2e-5)
    options |= {"mesh": mesh, "temperature": 1.5, "recordings": 1}
    same = memory.rows(np.zeros(5, int))
    options["prompt"] = np.repeat(options["prompt"][:1], 5, 0)
    sampled = jaxasr.generate(tiny_model, same, **options)
    assert len(np.unique(sampled.tokens, axis=0)) > 1  # every row draws its own samples


def test_what_a_mesh_cannot_divide_is_refused(tiny_model, memory):
    options = {"mesh": meshes.make_mesh(1), **generate_options(tiny_model)}
    with pytest.raises(ValueError, match="mesh: not defined with a leader"):
        jaxasr.generate(tiny_model, memory, leader=np.zeros(5, np.int32), **options)
    value = np.ones((2, 5, 8, 30), np.float32)
    edits = {"decoder.mlp_out": iv.Patch(value)}
    with pytest.raises(ValueError, match="each device decodes 1 of 5 rows"):
        jaxasr.generate(tiny_model, memory, edits=edits, **options)
    with pytest.raises(ValueError, match="recordings: expected 1 or more, got 0"):
        jaxasr.generate(tiny_model, memory, recordings=0, **options)


def test_a_mesh_without_an_axis_has_one_device_along_it(tiny_model):
    for axis in ("data", "cells"):
        mesh = meshes.resolve_mesh(jax.sharding.Mesh(np.array(jax.devices()[:1]), (axis,)))
        assert dict(mesh.shape) == {"data": 1, "cells": 1}
        runs = [make_run(tiny_model.config, seed) for seed in (1, 2)]
        options = {"site": "decoder.mlp_out", "over": ("layer",), "metric": metric()}
        iv.attribution(tiny_model, *runs, mesh=mesh, **options)


def test_another_number_of_recordings_compiles_nothing(tiny_model):
    config, cells = tiny_model.config, {"layer": np.array([0, 1, 2], np.int32)}
    options = {"edits_of": AtCell(iv.Zero(), "encoder.mlp_out"), "recordings": 2, **OPTIONS}
    run = make_run(config, 1)
    n_compiled = []
    for n in (5, 3):
        mel, prompt = run.mel[:n], prompts(config)[:n]
        generate_encoder_cells(tiny_model, mel, prompt, cells, batch=3, **options)
        n_compiled.append(compiled.n_compiled(encoder_cells._encode_cells))
    assert n_compiled[0] == n_compiled[1]
