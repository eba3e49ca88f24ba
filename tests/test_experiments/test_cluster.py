"""A launcher is detected by the variables that it sets, and its processes divide a study."""

import dataclasses
import functools
import json
import threading

import numpy as np
import pytest
import xarray as xr
from matplotlib.figure import Figure

from experiments import cluster
from experiments.item_cache import ItemCache
from experiments.studies import reproduce as studies
from experiments.studies.study import Analysis, Settings, Study
from jaxasr.processes import Process
from tests.small_speech import small_recogniser, tones


@pytest.mark.parametrize(
    ("environment", "launched"),
    [
        ({}, False),
        ({"SLURM_JOB_ID": "1", "SLURM_NTASKS": "4", "SLURM_PROCID": "0"}, False),  # without srun
        ({"SLURM_STEP_NUM_TASKS": "4", "SLURM_STEP_NODELIST": "n[0-3]"}, True),
        ({"SLURM_STEP_NUM_TASKS": "1", "SLURM_STEP_NODELIST": "n0"}, False),
        ({"TPU_WORKER_HOSTNAMES": "localhost", "TPU_WORKER_ID": "0"}, False),
        ({"TPU_WORKER_HOSTNAMES": "10.0.0.1,10.0.0.2", "TPU_WORKER_ID": "1"}, True),
        ({"TPU_PROCESS_ADDRESSES": "a:1,b:1", "TPU_WORKER_HOSTNAMES": "a"}, True),
        ({"MEGASCALE_NUM_SLICES": "2"}, True),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, True),
    ],
)
def test_several_processes_of_a_launcher_are_detected(environment, launched):
    assert cluster.is_launched(environment) == launched


@pytest.mark.parametrize("text", ["yes", "host,2,0", "host:1,2", "host:1,2,x", "host:1,2,2"])
def test_another_form_is_refused(text):
    with pytest.raises(ValueError, match="--distributed: expected"):
        cluster.connect(text)


def test_without_a_launcher_nothing_is_connected(monkeypatch):
    import jax

    monkeypatch.setattr(cluster, "is_launched", lambda: False)
    monkeypatch.setattr(jax.distributed, "initialize", lambda **_: pytest.fail("connected"))
    cluster.connect()
    cluster.connect("off")


def test_the_address_and_the_numbers_reach_jax(monkeypatch):
    import jax

    given, settings = {}, {}
    monkeypatch.setattr(jax.distributed, "is_initialized", lambda: False)
    monkeypatch.setattr(jax.distributed, "initialize", lambda **options: given.update(options))
    monkeypatch.setattr(jax.config, "update", settings.__setitem__)
    cluster.connect("10.0.0.1:1234,4,3")
    wanted = {"coordinator_address": "10.0.0.1:1234", "num_processes": 4, "process_id": 3}
    assert wanted.items() <= given.items()
    assert settings == {"jax_enable_recoverability": True}


@dataclasses.dataclass(frozen=True)
class Config(Settings):
    pass


def make_study(computed, fail_at=None):
    """Makes a study of two steps, of which the second needs all results of the first."""

    def run(asr, corpus, config, cache):
        def compute(step, item):
            if item == fail_at:
                raise ZeroDivisionError(item)
            computed.append((cache.process.index, (step, item)))
            return {"x": np.random.default_rng(item).normal()}

        def of(step):
            return functools.partial(compute, step)

        first = [item["x"] for item in cache.each("first", range(5), of("first"))]
        largest = int(np.argmax(first))
        second = cache.each("second", range(largest, largest + 3), of("second"))
        search = cache.one_by_one("search", range(20), of("search"))
        found = next(i for i, item in enumerate(search) if item["x"] > 1)
        values = np.array([*first, *[item["x"] for item in second], found], float)
        return xr.Dataset({"x": ("example", values)})

    def analyse(arrays, config):
        return Analysis({}, {"x": arrays.x.values})

    return Study("t", "s", "a", "d", Config, run, analyse, lambda *_: {"f": Figure()})


def run_processes(study, out, count, restart=()):
    """Runs all processes of a study in threads. Returns their results and errors."""
    asr, corpus, results = small_recogniser(), tones([0.3]), {}

    def run(index):
        try:
            results[index] = studies.reproduce(
                "T1", study, asr, corpus, out, preset="paper", process=Process(index, count)
            )
        except Exception as error:
            results[index] = error

    threads = [threading.Thread(target=run, args=(index,)) for index in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def test_processes_divide_the_items_of_a_study(tmp_path):
    computed, alone = [], []
    expected = run_processes(make_study(alone), tmp_path / "one", 1)[0]
    results = run_processes(make_study(computed), tmp_path / "three", 3)
    assert results[0]["numbers"] == expected["numbers"]
    assert results[1] == results[2] == {}
    saved = json.loads((tmp_path / "three" / "result.json").read_text())
    assert saved["numbers"] == expected["numbers"]
    # No item is computed twice. A search computes at most one item more per process.
    assert len(computed) == len({item for _, item in computed})
    assert len(alone) <= len(computed) <= len(alone) + 2
    assert {index for index, _ in computed} == {0, 1, 2}


def test_items_of_another_number_of_processes_serve_as_well(tmp_path):
    run_processes(make_study([]), tmp_path, 3)
    again = []
    run_processes(make_study(again), tmp_path, 2)
    run_processes(make_study(again), tmp_path, 1)
    assert again == []


def test_a_process_that_fails_ends_the_wait_of_the_others(tmp_path):
    results = run_processes(make_study([], fail_at=4), tmp_path, 2)
    assert isinstance(results[1], ZeroDivisionError)
    assert isinstance(results[0], ChildProcessError)
    assert "process-1-of-2 failed: ZeroDivisionError: 4" in str(results[0])


def test_a_process_waits_a_limited_time_for_an_item(tmp_path, monkeypatch):
    monkeypatch.setenv("JAXASR_WAIT_S", "0.2")
    cache = ItemCache(tmp_path / "items", process=Process(0, 2))
    with pytest.raises(TimeoutError, match="process-1-of-2: wrote no file"):
        cache.each("a", range(4), lambda item: {"x": item})
