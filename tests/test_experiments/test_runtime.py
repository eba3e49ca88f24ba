"""What every command does before it computes."""

import jax
import pytest

from experiments import compile_cache, runtime


@pytest.fixture
def settings(monkeypatch):
    """What `start` asks of JAX, recorded instead of done."""
    asked = {}
    monkeypatch.setattr(jax.config, "update", asked.__setitem__)
    monkeypatch.setattr(compile_cache, "enable", lambda: asked.setdefault("cache", True))
    return asked


def test_a_device_is_asked_for_by_the_name_jax_knows(settings):
    runtime.start("gpu")
    assert settings == {"jax_platforms": "cuda", "cache": True}


def test_without_a_device_jax_chooses(settings):
    runtime.start()
    assert settings == {"cache": True}


@pytest.mark.parametrize("problem", [RuntimeError("no plugin"), AssertionError()])
def test_a_device_that_is_not_there_is_a_plain_error(settings, monkeypatch, problem):
    def fail():
        raise problem

    monkeypatch.setattr(jax, "devices", fail)
    with pytest.raises(ValueError, match="--device tpu: JAX cannot use it here"):
        runtime.start("tpu")
    assert "cache" not in settings
