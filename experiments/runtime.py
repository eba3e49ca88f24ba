"""What every command does before it computes: choose the device, keep compiled programs, load the model."""

import os
from typing import Any

from experiments import compile_cache


def start(device: str | None = None) -> None:
    """Puts JAX on `device` ("cpu", "gpu", "tpu"; None: the best there is) and its compiled programs on disk. Raises ValueError."""
    import jax

    os.environ.setdefault(
        "TRANSFORMERS_NO_ADVISORY_WARNINGS", "1"
    )  # its text normaliser is used, without torch on purpose
    if device:
        jax.config.update("jax_platforms", {"gpu": "cuda"}.get(device, device))
    try:
        jax.devices()
    except (RuntimeError, AssertionError) as problem:
        raise ValueError(
            f"--device {device}: JAX cannot use it here. Install its plugin (as jax[cuda13]), or leave it out."
        ) from problem
    compile_cache.enable()


def check_language(model: str, language: str | None, task: str = "transcribe") -> None:
    """Raises ValueError for an unknown language, and for what a released English-only model cannot do; before it is loaded."""
    from jaxasr.config import SIZES
    from jaxasr.languages import language_code

    code = "en" if language is None else language_code(language)
    if model in SIZES and model.endswith(".en"):
        if code != "en":
            raise ValueError(
                f"--language {language}: {model} is English-only. Use a multilingual model (a name without .en)."
            )
        if task != "transcribe":
            raise ValueError(
                f"--task {task}: {model} is English-only. Use a multilingual model (a name without .en)."
            )


def load(model: str, dtype: str = "float32") -> Any:
    """The recogniser of `model` (see `jaxasr.load`), its weights and activations in `dtype`."""
    import jaxasr

    return jaxasr.load(model, dtype=dtype)


def weights(asr: Any) -> dict[str, Any]:
    """Where a recogniser's weights come from, for provenance."""
    checkpoint = asr.checkpoint
    return {
        "name": checkpoint.name,
        "format": checkpoint.format,
        "sha256": checkpoint.sha256,
        "dtype": asr.config.dtype,
    }
