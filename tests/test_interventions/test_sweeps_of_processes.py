"""The parts that several processes sweep open as the sweep of one process, equal to the bit."""

import shutil

import jax
import numpy as np
import pytest

import interventions as iv
from jaxasr.processes import Process

pytestmark = pytest.mark.optimised


@pytest.fixture(scope="module")
def runs(tiny_model):
    c = tiny_model.config
    mels = jax.random.normal(jax.random.key(1), (2, 3, c.n_mels, 2 * c.n_audio_ctx))
    tokens = jax.random.randint(jax.random.key(2), (3, 5), 0, c.n_vocab)
    return [iv.Run(mel=mel, tokens=tokens) for mel in mels]


def sweep(model, runs, n_rows=3, **options):
    rows = [run.rows(np.arange(n_rows)) for run in runs]
    grid = {"site": "decoder.mlp_out", "over": ("layer", "position"), "recordings": 1}
    return iv.sweep(model, *rows, **{"metric": iv.logit_diff(3, 5), **grid, **options})


@pytest.mark.parametrize(("n_rows", "count"), [(3, 1), (3, 2), (3, 4), (1, 1), (1, 2)])
def test_parts_of_processes_open_as_one_sweep(tiny_model, runs, tmp_path, n_rows, count):
    expected = sweep(tiny_model, runs, n_rows)
    for index in range(count):
        process = Process(index, count)
        part = sweep(tiny_model, runs, n_rows, store=tmp_path, process=process)
        if count > 1:
            assert part.example.values.tolist() == list(process.share(n_rows))
    joined = iv.open_sweep(tmp_path)
    assert joined.identical(expected)
    assert not joined.encoding  # so that it is saved in the same chunks
    assert iv.open_sweep(tmp_path, process=Process(0, count)).identical(expected)


def test_progress_counts_the_cells_of_the_process(tiny_model, runs):
    calls = []
    part = sweep(
        tiny_model, runs, process=Process(1, 2), progress=lambda *numbers: calls.append(numbers)
    )
    assert calls[-1] == (part.size, part.size)


def test_a_missing_part_is_named(tiny_model, runs, tmp_path):
    with pytest.raises(FileNotFoundError, match="found none"):
        iv.open_sweep(tmp_path)
    sweep(tiny_model, runs, store=tmp_path, process=Process(0, 2))
    with pytest.raises(ValueError, match="process-1-of-2 did not finish"):
        iv.open_sweep(tmp_path)
    with pytest.raises(TimeoutError, match="process-1-of-2: wrote no file"):
        iv.open_sweep(tmp_path, process=Process(0, 2), wait_s=0.1)


def test_a_part_of_another_sweep_is_not_joined(tiny_model, runs, tmp_path):
    sweep(tiny_model, runs, store=tmp_path / "a", process=Process(0, 2))
    sweep(tiny_model, runs, store=tmp_path / "b", process=Process(1, 2), metric=iv.logit_diff(3, 6))
    shutil.copytree(tmp_path / "b" / "process-1-of-2", tmp_path / "a" / "process-1-of-2")
    with pytest.raises(ValueError, match="holds parts of different sweeps"):
        iv.open_sweep(tmp_path / "a")
    with pytest.raises(TimeoutError):
        iv.open_sweep(tmp_path / "a", process=Process(0, 2), wait_s=0.1)


def test_several_processes_divide_the_recordings_as_a_mesh_does(tiny_model, runs):
    rows = [run.rows(np.tile(np.arange(3), 4)) for run in runs]
    grid = {"site": "decoder.mlp_out", "over": ("layer",), "metric": iv.logit_diff(3, 5)}
    plans = [iv.plan_sweep(tiny_model, *rows, **grid, process=Process(0, n)) for n in (1, 2, 4)]
    assert [plan.work.recordings_per_device for plan in plans] == [12, 2, 2]
