"""Writes a checkpoint of random weights in seconds, also for large models."""

from pathlib import Path
from typing import Any

import numpy as np

from experiments.bench.models import Job
from jaxasr.config import Config

# Random numbers that are drawn. Larger tensors repeat them, because drawing is slow.
_N_DRAWN = 1 << 22
_STD = 0.02  # standard deviation of weights


def write(config: Config, folder: Path, shard_bytes: int = 10_000_000_000) -> Path:
    """Writes random weights with the dimensions and `param_dtype` of `config`.

    Args:
        config: dimensions of the model.
        folder: a folder that does not exist or is empty.
        shard_bytes: most bytes of a weight file.

    Example:
        ```python
        write(jaxasr.SIZES["tiny"], Path("random-tiny"))
        ```
    """
    import jax

    import jaxasr
    from jaxasr.weights.assemble import abstract_model, parameter_name

    rng = np.random.default_rng(0)
    drawn = rng.normal(scale=_STD, size=_N_DRAWN).astype(jax.numpy.dtype(config.param_dtype))

    def make(path: Any, spec: jax.ShapeDtypeStruct) -> np.ndarray:
        name = parameter_name(path)
        if name.endswith((".scale", ".bias")):
            return np.full(spec.shape, name.endswith(".scale"), spec.dtype)
        return np.resize(np.roll(drawn, rng.integers(_N_DRAWN)), spec.shape)

    model = jax.tree_util.tree_map_with_path(make, abstract_model(config))
    return jaxasr.save(model, folder, shard_bytes=shard_bytes)


def describe_job(config: Config, folder: Path) -> Job:
    """Returns the part of a job that describes random weights in `folder`.

    The end-of-text is suppressed, so that every text has the largest number of tokens.

    Example:
        ```python
        describe_job(jaxasr.SIZES["tiny"], Path("random-tiny"))["eot"]  # 50257
        ```
    """
    from jaxasr.weights.saving import generation_json

    ids = generation_json(config, None)
    language_and_task = (
        [ids["lang_to_id"]["<|en|>"], ids["task_to_id"]["transcribe"]]
        if ids["is_multilingual"]
        else []
    )
    start, no_timestamps = ids["decoder_start_token_id"], ids["no_timestamps_token_id"]
    return {
        "n_mels": config.n_mels,
        "weights": str(folder),
        "prompt": [start, *language_and_task, no_timestamps],
        "suppress": [ids["eos_token_id"]],
        "suppress_begin": [],
        "eot": ids["eos_token_id"],
        "huggingface": str(folder),
        "ctranslate2": None,
    }
