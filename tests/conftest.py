"""Sets up all tests: checks annotations at run time, and caches compiled programs."""

import gc
import importlib.metadata
import os
import sys
from pathlib import Path

# Without optimisation, compiling takes a quarter of the time, and programs run at two thirds of the
# speed. Test modules marked `optimised` compare programs bitwise, so they compile as users do.
# If XLA_FLAGS is set, even to an empty string, all tests compile as users do.
if "XLA_FLAGS" not in os.environ:
    os.environ["XLA_FLAGS"] = "--xla_cpu_parallel_codegen_split_count=1"
    # Later versions of jaxlib abort at this flag, because they do not know it.
    if importlib.metadata.version("jaxlib").startswith("0.10."):
        os.environ["XLA_FLAGS"] += " --xla_cpu_use_fusion_emitters=false"
    os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"

import jax
import pytest
from jaxtyping import install_import_hook

# The modules whose annotations are checked. Public functions of other modules raise their own
# errors, which tests match.
# Pytrees of `cache` and `decoding` may hold objects that are not arrays.
_CHECKED = (
    "attention",
    "beam",
    "blocks",
    "cpu_kernels",
    "decoder",
    "encoder",
    "language",
    "stack",
    "taps",
)

assert "jaxasr" not in sys.modules, "imported before their annotations could be checked"
install_import_hook([f"jaxasr.{module}" for module in _CHECKED], "beartype.beartype")

from golden.tiny import checkpoint, tiny_state  # noqa: E402

import jaxasr  # noqa: E402
from experiments import compile_cache  # noqa: E402
from experiments.data import real_speech  # noqa: E402
from jaxasr.weights import assemble  # noqa: E402

compile_cache.enable()

QUICK = os.environ.get("JAX_DISABLE_MOST_OPTIMIZATIONS") == "1"

# Folders with tests that need more packages or more time. CONTRIBUTING.md has their commands.
collect_ignore = ["devices", "documentation", "live", "tpu"]

# All sizes differ, so that a transposed axis fails. Heads have width 5 and 3.
TINY = jaxasr.Config(
    n_mels=7,
    n_audio_ctx=11,
    n_audio_state=15,
    n_audio_head=3,
    n_audio_layer=4,
    n_vocab=101,
    n_text_ctx=23,
    n_text_state=15,
    n_text_head=5,
    n_text_layer=2,
)


def pytest_collection_finish() -> None:
    """Excludes the half million objects of imported libraries from garbage collection."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="module", autouse=True)
def _programs_of_one_module(request):
    """Frees the compiled programs of a test module at its end.

    Each program takes several memory mappings, and Linux allows a process 65,530.
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
    """Returns a random model. No two parameters are equal, also not in norms and biases."""
    state = tiny_state(TINY, seed=1)
    # A random model with a tied embedding repeats its last token. Larger position embeddings
    # prevent this.
    state["decoder.positional_embedding"] *= 4
    state["decoder.ln.bias"] /= 8
    return assemble(checkpoint(TINY, state))


@pytest.fixture(scope="session")
def asr() -> jaxasr.Recogniser:
    """Returns the real tiny.en, whose weights the `test` extra installs."""
    return jaxasr.load("tiny.en")


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Returns the folder of real recordings."""
    folder = real_speech.folder()
    if folder is None:
        pytest.skip("no data folder: JAXASR_DATA names none")
    return folder
