"""Kills a sweep and an extraction. `python -m tests.attacks.kills` kills six jobs many times."""

import pytest

from attacks import kills


@pytest.fixture(scope="module", autouse=True)
def _libraries_in_memory():
    kills.preload(("jax", "flax.nnx", "jaxasr", "interventions", "experiments.store"))


@pytest.mark.parametrize(("job", "n"), [("sweep", 1), ("store", 1)])
def test_a_killed_job_resumes_to_the_same_files(tmp_path, job, n):
    results = list(kills.trials(job, n, tmp_path, seed=1, timed=False))
    assert results == [(True, "")] * n
