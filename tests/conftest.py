"""What all tests share: annotations are checked while they run, compiled programs are kept."""

import gc
import importlib.metadata
import os
import sys
from pathlib import Path

# Nearly all of the time would go into compiling: this is a quarter of it, for programs that run half as fast again. Modules marked
# `optimised`, which compare programs to the bit, are compiled as for users. With XLA_FLAGS set, also to nothing, everything is.
if "XLA_FLAGS" not in os.environ:
    os.environ["XLA_FLAGS"] = "--xla_cpu_parallel_codegen_split_count=1"
    if importlib.metadata.version("jaxlib").startswith(
        "0.10."
    ):  # later ones no longer know the flag, and end at a flag they do not know
        os.environ["XLA_FLAGS"] += " --xla_cpu_use_fusion_emitters=false"
    os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"

import jax
import pytest
from jaxtyping import install_import_hook

# Where arrays meet arrays. The functions in front refuse a bad argument in their own words, which tests want to read;
# the pytrees of `cache` and `steps` are at times filled with other things, as `jax.tree.map` may.
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

collect_ignore = [
    "live"
]  # the comparison with torch: `pytest tests/live`, after `pip install torch`

# As few equal axes as one width for both stacks allows: M=7, S=11, D=15, L=4|2, H=3|5, Dh=5|3, V=101, context 23.
TINY = jaxasr.Config(7, 11, 15, 3, 4, 101, 23, 15, 5, 2)


def pytest_collection_finish() -> None:
    """Half a million objects of imported libraries stay anyway: from now on the garbage collector need not look at them."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="module", autouse=True)
def _programs_of_one_module(request):
    """Lets a module's programs go when it ends: each is mapped into memory several times, and Linux allows 65,530 mappings."""
    jax.config.update(
        "jax_disable_most_optimizations",
        QUICK and request.node.get_closest_marker("optimised") is None,
    )
    yield
    jax.clear_caches()
    gc.collect()


@pytest.fixture(scope="session")
def tiny_model() -> jaxasr.Whisper:
    """A random model in which no two parameters are alike, norms and biases included."""
    state = tiny_state(TINY, seed=1)
    # A random model with a tied embedding repeats its input: positions must outweigh it for the text to go on changing.
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
    where = real_speech.folder()
    if where is None:
        pytest.skip("no recordings: JAXASR_DATA is not set and there is no ../shared/data/dev")
    return where
