"""One, two, four and eight devices of the CPU give the same results.

`pytest tests/devices` runs these tests. The number of devices is fixed when JAX starts, so each
test runs a program in a new process.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
PATHS = os.pathsep.join([str(TESTS.parent), str(TESTS)])


def run(program: str, *cases: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", f"tests.devices.{program}", *cases]
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": PATHS}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("program", "cases"),
    [
        ("meshes", ("decoder.attn.z", "encoder.mlp_out")),
        ("meshes", ("attribution", "encoder_cells")),
        ("probe_meshes", ("class-accelerator",)),
        ("store_meshes", ("encoder",)),
    ],
    ids=["sweeps", "attribution and generation", "probes", "stores"],
)
def test_one_to_eight_devices_give_the_same_bits(program, cases):
    done = run(program, *cases)
    assert done.stdout.strip() == "all equal", done.stdout + done.stderr[-2000:]


def test_eight_devices_that_share_a_model_agree_with_one():
    done = run("divided_weights", "decode", "generate", "sweep")
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    assert done.stdout.count("divided weights") == 3
