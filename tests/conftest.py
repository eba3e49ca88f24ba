"""Shared by all tests: annotations are checked at run time, and compiled programs are cached."""

import gc
import importlib.metadata
import os
import sys
from pathlib import Path

# Without optimisation, compiling takes a quarter of the time, and programs run at two thirds of the
# speed. Modules marked `optimised` compare programs bitwise and are compiled as for users. Setting
# XLA_FLAGS, even to an empty string, compiles everything as for users.
if "XLA_FLAGS" not in os.environ:
    os.environ["XLA_FLAGS"] = "--xla_cpu_parallel_codegen_split_count=1"
    # Later versions do not know this flag, and abort at unknown flags.
    if importlib.metadata.version("jaxlib").startswith("0.10."):
        os.environ["XLA_FLAGS"] += " --xla_cpu_use_fusion_emitters=false"
    os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"

import jax
import pytest
from jaxtyping import install_import_hook

# The modules that compute. Public functions above them have error messages of their own, which
# tests match; pytrees of `cache` and `decoding` may hold other things than arrays.
_CHECKED = ("attention", "beam", "blocks", "cpu_kernels", "decoder", "encoder", "stack", "taps")

assert "jaxasr" not in sys.modules, "imported before their annotations could be checked"
install_import_hook([f"jaxasr.{module}" for module in _CHECKED], "beartype.beartype")

from golden.tiny import checkpoint, tiny_state  # noqa: E402

import jaxasr  # noqa: E402
from experiments import compile_cache  # noqa: E402
from experiments.data import real_speech  # noqa: E402
from jaxasr.weights import assemble  # noqa: E402

compile_cache.enable()

QUICK = os.environ.get("JAX_DISABLE_MOST_OPTIMIZATIONS") == "1"

# Comparisons with torch run by `pytest tests/live`, after `pip install torch`.
collect_ignore = ["live"]

# Distinct sizes, so that a transposed axis fails: M=7, S=11, D=15, L=4|2, H=3|5, Dh=5|3, V=101,
# context 23.
TINY = jaxasr.Config(7, 11, 15, 3, 4, 101, 23, 15, 5, 2)


def pytest_collection_finish() -> None:
    """Excludes the half million objects of imported libraries from garbage collection."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="module", autouse=True)
def _programs_of_one_module(request):
    """Frees the programs of a module at its end.

    Each is mapped into memory several times, and Linux allows 65,530 mappings.
    """
    jax.config.update(
        "jax_disable_most_optimizations",
        QUICK and request.node.get_closest_marker("optimised") is None,
    )
    yield
    jax.clear_caches()
    gc.collect()


@pytest.fixture(scope="session")
def tiny_model() -> jaxasr.Whisper:
    """A random model whose parameters all differ, norms and biases included."""
    state = tiny_state(TINY, seed=1)
    # A random model with a tied embedding repeats its last token, unless positions outweigh it.
    state["decoder.positional_embedding"] *= 4
    state["decoder.ln.bias"] /= 8
    return assemble(checkpoint(TINY, state))


@pytest.fixture(scope="session")
def asr() -> jaxasr.Recogniser:
    """The real tiny.en, of the `test` extra."""
    return jaxasr.load("tiny.en")


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of real recordings."""
    folder = real_speech.folder()
    if folder is None:
        pytest.skip("no data folder: JAXASR_DATA names none")
    return folder
