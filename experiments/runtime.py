"""Prepares JAX and loads the model, before a command computes."""

import os
from typing import TYPE_CHECKING, Any

from experiments import compile_cache

if TYPE_CHECKING:
    from jaxasr import Recogniser

_PLATFORMS = {"gpu": "cuda"}  # JAX's names, where they differ from those of --device


def start(device: str | None = None) -> None:
    """Starts JAX on a device, and keeps the programs it compiles on disk.

    Args:
        device: "cpu", "gpu" or "tpu". None lets JAX choose.

    Raises:
        ValueError: if JAX cannot use the device here.
    """
    import jax

    # The text normaliser comes from transformers, which else warns that torch is not installed.
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    if device:
        jax.config.update("jax_platforms", _PLATFORMS.get(device, device))
    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:
        raise ValueError(
            f"--device {device}: JAX cannot use it here. Install its plugin, such as jax[cuda13], "
            "or omit --device."
        ) from error
    compile_cache.enable()


def check_language(model: str, language: str | None, task: str = "transcribe") -> None:
    """Checks that a released model knows a language and a task, before it is loaded.

    Args:
        model: as `--model`. A path or a Hugging Face id is not checked.
        language: code or English name; None leaves it to the model.
        task: "transcribe" or "translate".

    Raises:
        ValueError: for an unknown language; for another language than English, or a translation,
            with an English-only model.
    """
    from jaxasr.config import SIZES
    from jaxasr.languages import language_code

    code = "en" if language is None else language_code(language)
    if model not in SIZES or not model.endswith(".en"):
        return
    remedy = f"{model} is English-only. Use a multilingual model (a name without .en)."
    if code != "en":
        raise ValueError(f"--language {language}: {remedy}")
    if task != "transcribe":
        raise ValueError(f"--task {task}: {remedy}")


def load(model: str, dtype: str = "float32") -> "Recogniser":
    """Loads a recogniser (see `jaxasr.load`) with weights and activations in `dtype`."""
    import jaxasr

    return jaxasr.load(model, dtype=dtype)


def weights(asr: "Recogniser") -> dict[str, Any]:
    """Describes where the weights of a recogniser come from, for provenance."""
    checkpoint = asr.checkpoint
    return {
        "name": checkpoint.name,
        "format": checkpoint.format,
        "sha256": checkpoint.sha256,
        "dtype": asr.config.dtype,
    }
