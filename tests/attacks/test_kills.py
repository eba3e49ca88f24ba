"""A sweep and a store that are killed at changes of files go on to the bit. The long version: `python -m tests.attacks.kills`."""

import pytest

from attacks import kills


@pytest.fixture(scope="module", autouse=True)
def _libraries_in_memory():
    kills.preload(("jax", "flax.nnx", "jaxasr", "interventions", "experiments.store"))


@pytest.mark.parametrize(("job", "n"), [("sweep", 1), ("store", 1)])
def test_a_killed_job_goes_on_to_the_bit(tmp_path, job, n):
    found = list(kills.trials(job, n, tmp_path, seed=1, timed=False))
    assert found == [(True, "")] * n
