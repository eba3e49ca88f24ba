"""Checks --language and --task, starts JAX, and loads the model of a command."""

import os
import runpy
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments import cluster, compile_cache
from experiments.compiling import count_compilations

if TYPE_CHECKING:
    from jaxasr import Recogniser
    from jaxasr.language.recogniser import PromptedRecogniser

_PLATFORMS = {"gpu": "cuda"}  # values of --device that JAX calls by another name


def start(device: str | None = None, distributed: str = cluster.OFF) -> None:
    """Starts JAX on a device, and makes JAX save compiled programs on disk.

    Args:
        device: "cpu", "gpu" or "tpu". None: JAX chooses.
        distributed: whether to connect with other processes, as for `experiments.cluster.connect`.

    Raises:
        ValueError: JAX cannot use the device on this machine, or cannot connect the processes.

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
    cluster.connect(distributed)
    # JAX starts a device only when the device is used. A call that fails raises the error now.
    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:
        raise ValueError(
            f"--device {device}: JAX cannot use it here. Install JAX's plugin for it, such as "
            "jax[cuda13], or omit --device."
        ) from error
    compile_cache.enable()
    count_compilations()


def check_language(model: str, language: str | None, task: str = "transcribe") -> None:
    """Checks that a language is known, and that a released model supports the language and task.

    Args:
        model: a model as for --model. For a path or a Hugging Face id, the check of language and
            task takes place when the model is loaded.
        language: code or English name of the language. None: the model detects the language.
        task: "transcribe" or "translate".

    Raises:
        ValueError: the language is unknown. Or the model is English-only, but the language is not
            English or the task is "translate".

    Example:
        ```python
        check_language("base", "German")
        ```
    """
    language_code = _names_in("languages.py")["language_code"]
    code = "en" if language is None else language_code(language)
    # Multilingual models support all languages and tasks. Other models are checked when loaded.
    if model not in _names_in("languages.py")["ENGLISH_ONLY"]:
        return
    remedy = f"{model} is English-only. Use a multilingual model (a name without .en)."
    if code != "en":
        raise ValueError(f"--language {language}: {remedy}")
    if task != "transcribe":
        raise ValueError(f"--task {task}: {remedy}")


def _names_in(file: str) -> dict[str, Any]:
    """Returns the names that a file of jaxasr defines, without `import jaxasr`, which loads JAX."""
    return runpy.run_path(str(Path(__file__).parents[1] / "jaxasr" / file))


def load(model: str, dtype: str = "float32") -> "Recogniser":
    """Loads a recogniser as `jaxasr.load` does. `dtype` is a policy of `jaxasr.precision`.

    Example:
        ```python
        asr = load("tiny.en", "bfloat16")
        ```
    """
    import jaxasr

    return jaxasr.load(model, precision=dtype)


def load_whisper(model: str, dtype: str = "float32") -> "Recogniser":
    """Loads a Whisper, for commands that read its cross-attention.

    Args:
        model: name, Hugging Face id or path of the weights.
        dtype: a policy of `jaxasr.precision`.

    Raises:
        ValueError: the model is an audio language model, which has no cross-attention.

    Example:
        ```python
        asr = load_whisper("tiny.en")
        ```
    """
    asr = load(model, dtype)
    if asr.config.audio_language is not None:
        raise ValueError(
            f"--model: expected a Whisper, got {model}, an audio language model, whose decoder has "
            "no cross-attention. Choose a Whisper. `transcribe`, `probe`, `plan`, `info` and "
            "`reproduce` open both; docs/audio_language_models.md has sweeps and lenses in Python."
        )
    return asr


def describe_weights(asr: "Recogniser | PromptedRecogniser") -> dict[str, Any]:
    """Returns the name, file format and hash of the weights, and how the model computes.

    In 16 bits this names the kernel of attention that runs on this device.

    Example:
        ```python
        describe_weights(jaxasr.load("tiny.en"))["name"]  # "tiny.en"
        ```
    """
    import jax.numpy as jnp

    from jaxasr.fused_attention import chosen_kernel
    from jaxasr.precision import precision_name

    checkpoint = asr.checkpoint
    description = {
        "name": checkpoint.name,
        "format": checkpoint.format,
        "sha256": checkpoint.sha256,
        "dtype": precision_name(asr.config),
    }
    if jnp.dtype(asr.config.product_dtype).itemsize > 2:
        return description
    # Only attention in 16 bits has a choice of kernels.
    return description | {"attention_kernel": chosen_kernel(asr.config)}
