"""The real weights of the installed packages are found, complete and loaded in little memory."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxasr.alignment.released_heads import ALIGNMENT_HEADS
from jaxasr.config import SIZES
from jaxasr.encoder import sinusoids
from jaxasr.weights import assemble, packaged, read_checkpoint, save

_ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", packaged.PACKAGED_MODELS)
def test_packaged_weights_are_those_of_their_size(name, tmp_path, monkeypatch):
    # The cache is empty, so that the hashes are computed.
    monkeypatch.setenv("JAXASR_CACHE", str(tmp_path))
    read = read_checkpoint(name)
    assert (read.name, read.format, read.config) == (name, "ctranslate2", SIZES[name])
    assert read.alignment_heads == ALIGNMENT_HEADS[name]
    assert read.tokenizer_file.name == "tokenizer.json"
    assert read.suppress_ids_begin == ((220, 50256) if name == "tiny.en" else (220, 50257))
    assert len(list((tmp_path / "sha256").iterdir())) == len(packaged.PACKAGED_MODELS[name].files)
    model = assemble(read)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(model))
    expected = sinusoids(1500, SIZES[name].n_audio_state)
    np.testing.assert_allclose(
        model.encoder.positional_embedding[...], expected, atol=1e-3
    )  # stored as float16


# Prints the peak memory of loading, divided by the size of the model.
_MEASURE = """
import re, sys
import jax
from jaxasr.weights import assemble, read_checkpoint
peak = lambda: int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1]) * 1024
jax.block_until_ready(jax.numpy.zeros(1))
before = peak()
model = jax.block_until_ready(assemble(read_checkpoint(sys.argv[1])))
print((peak() - before) / sum(leaf.nbytes for leaf in jax.tree.leaves(model)))
"""


def _peak_ratio(name: str) -> float:
    """Returns the peak memory of loading in a new process, divided by the size of the model."""
    # The peak is read from /proc, because `ru_maxrss` starts at the peak of the parent process.
    command = [sys.executable, "-c", _MEASURE, name]
    process = subprocess.run(
        command,
        cwd=_ROOT,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=True,
    )
    return float(process.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak of a process from /proc")
@pytest.mark.parametrize("form", ["packaged float16", "huggingface float32"])
def test_loading_base_takes_at_most_two_and_a_half_times_its_size(form, tmp_path):
    name = (
        "base"
        if form == "packaged float16"
        else str(save(assemble(read_checkpoint("base")), tmp_path / "base"))
    )
    ratio = _peak_ratio(name)
    print(f"{form}: {ratio:.2f}")
    assert 0.9 < ratio < 2.5  # a ratio well below 1 would mean a wrong measurement
