"""Makes a tiny random model and its inputs."""

import numpy as np
import pytest
from golden.tiny import tiny_inputs, tiny_model

import jaxasr


@pytest.fixture(scope="module")
def model() -> jaxasr.Whisper:
    return tiny_model("80 mels")


@pytest.fixture(scope="module")
def mel(model) -> np.ndarray:
    """Returns random features [2, 80, 22] of two windows of 22 mel frames."""
    return tiny_inputs(model.config)[0]


@pytest.fixture(scope="module")
def tokens(model) -> np.ndarray:
    """Returns random token ids [2, 5]."""
    return tiny_inputs(model.config)[1]


@pytest.fixture(scope="module")
def memory(model, mel) -> jaxasr.Memory:
    return model.encode(mel)[0]
