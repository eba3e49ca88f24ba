"""JAX is started on the given device, or an error names --device."""

import jax
import pytest

from experiments import compile_cache, runtime


@pytest.fixture
def settings(monkeypatch):
    """Records the settings of JAX instead of changing them."""
    settings = {}
    monkeypatch.setattr(jax.config, "update", settings.__setitem__)
    monkeypatch.setattr(compile_cache, "enable", lambda: settings.setdefault("cache", True))
    return settings


def test_a_device_gets_its_name_in_jax(settings):
    runtime.start("gpu")
    assert settings == {"jax_platforms": "cuda", "cache": True}


def test_without_a_device_jax_chooses(settings):
    runtime.start()
    assert settings == {"cache": True}


@pytest.mark.parametrize("problem", [RuntimeError("no plugin"), AssertionError()])
def test_a_missing_device_is_a_plain_error(settings, monkeypatch, problem):
    def fail():
        raise problem

    monkeypatch.setattr(jax, "devices", fail)
    with pytest.raises(ValueError, match="--device tpu: JAX cannot use it here"):
        runtime.start("tpu")
    assert "cache" not in settings
