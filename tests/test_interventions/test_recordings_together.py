"""Sweeps that compute several recordings together, on one device or on a mesh."""

import jax
import numpy as np
import pytest
import xarray as xr
from jax.sharding import AxisType

import interventions as iv
from interventions.patching import programs, workload
from interventions.patching.cell_chunks import cell_chunks
from jaxasr import compiled, meshes
from tests.devices.meshes import SITES, make_run

METRIC = iv.logit_diff(np.array([3, 4, 5, 6, 7]), 9)


@pytest.fixture(scope="module")
def five(tiny_model):
    return make_run(tiny_model.config, 1), make_run(tiny_model.config, 2)


def options_of(site):
    options = dict(site=site, over=SITES[site], metric=METRIC, window_s=0.08)
    if "time" in SITES[site]:
        options["n_frames"] = 11
    return options | ({"alphas": (0.5, 1.0)} if "alpha" in SITES[site] else {})


@pytest.mark.parametrize("site", SITES)
def test_recordings_together_equal_recordings_one_by_one(tiny_model, five, site):
    one_by_one = iv.sweep(tiny_model, *five, recordings=1, **options_of(site))
    for recordings in (2, 5):  # 2 leaves padding in the last chunk
        together = iv.sweep(tiny_model, *five, recordings=recordings, **options_of(site))
        xr.testing.assert_allclose(together, one_by_one, rtol=0, atol=2e-5)
    assert np.ptp((one_by_one - one_by_one.baseline).values) > 1e-3


def test_each_row_has_its_metric_and_its_source(tiny_model, five):
    together = iv.sweep(tiny_model, *five, recordings=5, **options_of("decoder.attn.z"))
    for row in range(5):
        metric = iv.logit_diff(3 + row, 9)
        options = options_of("decoder.attn.z") | {"metric": metric}
        alone = iv.sweep(tiny_model, *(run.rows(np.array([row])) for run in five), **options)
        np.testing.assert_allclose(together[row], alone, rtol=0, atol=2e-5)
        np.testing.assert_allclose(together.source[row], alone.source, rtol=0, atol=2e-5)


@pytest.mark.parametrize("source", ["zero", "mean", "noise"])
def test_named_sources_of_recordings_together(tiny_model, five, source):
    options = options_of("decoder.cross_attn.z")
    one_by_one = iv.sweep(tiny_model, five[0], source, recordings=1, **options)
    together = iv.sweep(tiny_model, five[0], source, recordings=3, **options)
    xr.testing.assert_allclose(together, one_by_one, rtol=0, atol=2e-5)


@pytest.mark.parametrize("site", ["decoder.attn.z", "encoder.resid_pre"])
def test_patching_recordings_with_themselves_changes_no_bit(tiny_model, five, site):
    target = five[0]
    patched = iv.sweep(
        tiny_model, target, target.rows(np.arange(5)), recordings=5, **options_of(site)
    )
    # Every encoder cell runs a whole pass under `vmap`, so its bits need not be those of the
    # baseline, but all cells of a recording have the same ones.
    change = patched - (patched.baseline if site.startswith("decoder") else patched[:, :1, :1])
    assert float(np.abs(change).max()) < 2e-5


def test_recordings_of_another_number_use_the_same_programs(tiny_model, five):
    options = options_of("decoder.mlp.post") | {"recordings": 2}
    iv.sweep(tiny_model, *five, **options)
    before = compiled.n_compiled(programs.resumed_decoder_cells)
    rows = [run.rows(np.arange(3)) for run in five]
    metric = iv.logit_diff(np.array([3, 4, 5]), 9)
    iv.sweep(tiny_model, *rows, **(options | {"metric": metric}))
    assert compiled.n_compiled(programs.resumed_decoder_cells) == before


def test_as_many_recordings_run_together_as_fit_the_budget(tiny_model, five):
    plan = iv.plan_sweep(tiny_model, *five, **options_of("decoder.cross_attn.z"))
    assert plan.work.recordings_per_device == 5
    n_bytes = max(
        batch.cells_per_chunk * batch.rows.positions.size * workload.row_bytes(plan.work)
        for layer in range(2)
        for batch in workload.decoder_batches(plan.work, layer)
    )
    for n, expected in ((2, 2), (1, 1), (3, 3)):
        options = options_of("decoder.cross_attn.z") | {"budget": n * n_bytes}
        few = iv.plan_sweep(tiny_model, *five, **options)
        assert few.work.recordings_per_device == expected


def splits_and_pads(work):
    """Returns whether cells of the first layer need several chunks, of which one has padding."""
    chunks = list(cell_chunks(work, work.grid.layers[0]))
    sizes = [len(next(iter(chunk.cells.values()))) for chunk in chunks]
    has_padding = [len(chunk.indices) < size for chunk, size in zip(chunks, sizes)]
    return len(chunks) > 1 and any(has_padding)


@pytest.mark.parametrize("reuse", [True, False])
@pytest.mark.parametrize("site", ["decoder.attn.z", "decoder.cross_attn.z", "encoder.attn.z"])
def test_cells_of_a_layer_in_several_chunks_equal_those_in_one(tiny_model, five, site, reuse):
    options = options_of(site) | {"reuse": reuse, "recordings": 2}
    expected = iv.sweep(tiny_model, *five, **options)
    work = iv.plan_sweep(tiny_model, *five, **options).work
    cell_bytes = workload.row_bytes(work) if work.resumes_decoder else workload.cell_bytes(work)
    budgets = (n * cell_bytes for n in range(1, 200))
    plans = (iv.plan_sweep(tiny_model, *five, **options, budget=budget) for budget in budgets)
    result = iv.sweep(plan=next(plan for plan in plans if splits_and_pads(plan.work)))
    xr.testing.assert_allclose(result, expected, rtol=0, atol=2e-5)
    assert np.ptp((result - result.baseline).values) > 1e-3


def test_an_interrupted_sweep_of_recordings_resumes(tiny_model, five, tmp_path):
    options = options_of("decoder.attn.z") | {"recordings": 2}
    expected = iv.sweep(tiny_model, *five, **options)

    class Interrupted(Exception):
        pass

    def interrupt(n_done, n_cells):
        if n_done > n_cells / 2:
            raise Interrupted

    with pytest.raises(Interrupted):
        iv.sweep(tiny_model, *five, **options, store=tmp_path, progress=interrupt)
    counts = []
    resumed = iv.sweep(
        tiny_model, *five, **options, store=tmp_path, progress=lambda *n: counts.append(n)
    )
    xr.testing.assert_identical(resumed, expected)
    assert counts[-1] == (expected.size, expected.size)


def test_a_mesh_of_one_device_changes_no_bit(tiny_model, five):
    options = options_of("decoder.attn.z") | {"recordings": 2}
    expected = iv.sweep(tiny_model, *five, **options)
    xr.testing.assert_identical(
        iv.sweep(tiny_model, *five, mesh=meshes.make_mesh(1), **options), expected
    )
    with jax.set_mesh(meshes.make_mesh(1)):
        xr.testing.assert_identical(iv.sweep(tiny_model, *five, **options), expected)


def test_wrong_meshes_are_refused(tiny_model, five):
    other = jax.make_mesh((1,), ("model",), (AxisType.Auto,))
    with pytest.raises(
        ValueError, match=r"mesh: expected the axes 'data' and 'cells', got 'model'"
    ):
        iv.sweep(tiny_model, *five, mesh=other, **options_of("decoder.attn.z"))
    with pytest.raises(ValueError, match="n_devices: expected 1 to "):
        meshes.make_mesh(99)
    with pytest.raises(ValueError, match="cells: expected a divisor of 1 devices, got 3"):
        meshes.make_mesh(1, cells=3)
    with pytest.raises(ValueError, match="recordings: expected 1 or more, got 0"):
        iv.sweep(tiny_model, *five, recordings=0, **options_of("decoder.attn.z"))
