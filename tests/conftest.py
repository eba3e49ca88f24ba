"""What all tests share: annotations are checked while they run, nothing is promoted in silence, compiled programs are kept."""
import importlib.util
import sys
from pathlib import Path

import jax
import pytest
from jaxtyping import install_import_hook

_ROOT = Path(__file__).parents[1]
# Public functions of these refuse a bad argument in their own words, which tests want to read; everything behind them is checked.
_REFUSE_THEMSELVES = {"__init__", "align", "audio", "encoder_lens", "generate", "logit_lens", "model", "recogniser", "run", "transcribe"}


def _checked(package: str) -> list[str]:
    return [f"{package}.{file.stem}" for file in (_ROOT / package).glob("*.py") if file.stem not in _REFUSE_THEMSELVES]


assert not {"jaxasr", "interventions"} & set(sys.modules), "imported before their annotations could be checked"
install_import_hook([*_checked("jaxasr"), *_checked("interventions")], "beartype.beartype")

from golden.tiny import checkpoint, tiny_state  # noqa: E402

import jaxasr  # noqa: E402
from experiments import compile_cache, data  # noqa: E402
from jaxasr.weights import assemble  # noqa: E402

jax.config.update("jax_numpy_dtype_promotion", "standard")
compile_cache.enable()

# The comparison with torch needs it; without, only `pytest tests/live` fails, as it should.
collect_ignore = [] if importlib.util.find_spec("torch") else ["live"]

# As few equal axes as one width for both stacks allows: M=7, S=11, D=15, L=4|2, H=3|5, Dh=5|3, V=101, context 23.
TINY = jaxasr.Config(7, 11, 15, 3, 4, 101, 23, 15, 5, 2)


@pytest.fixture(scope="session")
def tiny_model() -> jaxasr.Whisper:
    """A random model in which no two parameters are alike, norms and biases included."""
    return assemble(checkpoint(TINY, tiny_state(TINY)))


@pytest.fixture(scope="session")
def asr() -> jaxasr.Recogniser:
    """The real tiny.en, of the `test` extra."""
    return jaxasr.load("tiny.en")


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of real recordings."""
    where = data.folder()
    if where is None:
        pytest.skip("no recordings: JAXASR_DATA is not set and there is no ../shared/data/dev")
    return where
