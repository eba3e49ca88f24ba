"""Starts JAX, checks the language, and loads the model of a command."""

import os
from typing import TYPE_CHECKING, Any

from experiments import compile_cache

if TYPE_CHECKING:
    from jaxasr import Recogniser

_PLATFORMS = {"gpu": "cuda"}  # value of --device: JAX's name, if it differs


def start(device: str | None = None) -> None:
    """Starts JAX on a device, and makes JAX save compiled programs on disk.

    Args:
        device: "cpu", "gpu" or "tpu". None lets JAX choose.

    Raises:
        ValueError: JAX cannot use the device here.

    Example:
        ```python
        start("cpu")
        ```
    """
    import jax

    # Otherwise transformers, whose text normaliser we use, warns that torch is not installed.
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
    """Checks, before a released model is loaded, that it supports a language and a task.

    Args:
        model: name of a released model. For a path or a Hugging Face id, only the language's name
            is checked.
        language: code or English name. None: the model detects it.
        task: "transcribe" or "translate".

    Raises:
        ValueError: the language is unknown. Or the model is English-only, but the language is
            another or the task is not "transcribe".

    Example:
        >>> check_language("base", "german")
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
    """Loads a recogniser as `jaxasr.load` does, with weights and activations in `dtype`.

    Example:
        ```python
        asr = load("tiny.en", "bfloat16")
        ```
    """
    import jaxasr

    return jaxasr.load(model, dtype=dtype)


def describe_weights(asr: "Recogniser") -> dict[str, Any]:
    """Returns the name, file format, hash and number format of a recogniser's weights.

    Example:
        ```python
        describe_weights(jaxasr.load("tiny.en"))["name"]  # "tiny.en"
        ```
    """
    checkpoint = asr.checkpoint
    return {
        "name": checkpoint.name,
        "format": checkpoint.format,
        "sha256": checkpoint.sha256,
        "dtype": asr.config.dtype,
    }
