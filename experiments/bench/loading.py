"""Measures the memory that loading a large model needs: `python -m experiments.bench loading`."""

import math
import shutil
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from experiments.bench import machine, options, random_weights
from experiments.bench.worker import Worker, peak_rss, reset_peak_rss
from jaxasr.config import Config
from jaxasr.language.sizes import AUDIO_LANGUAGE_SIZES

_FAMILY = "qwen2-audio-7b"  # the model whose proportions the random one has


class Loader:
    """A worker that loads a checkpoint and measures its memory.

    Args:
        job: has `folder` and `dtype`.
    """

    def __init__(self, job: dict[str, Any]):
        import jax

        from jaxasr.weights import read_checkpoint

        jax.block_until_ready(jax.numpy.zeros(1))  # starts JAX before the memory is measured
        self.job, self.checkpoint = job, read_checkpoint(job["folder"])

    def load(self) -> dict[str, float]:
        """Loads the checkpoint, and returns seconds, bytes of the model, and memory in bytes."""
        import jax

        from jaxasr.weights import assemble

        before, start, dtype = reset_peak_rss(), time.perf_counter(), self.job["dtype"]
        model = jax.block_until_ready(assemble(self.checkpoint, dtype=dtype, param_dtype=dtype))
        return {
            "seconds": time.perf_counter() - start,
            "model_bytes": sum(leaf.nbytes for leaf in jax.tree.leaves(model)),
            "before_bytes": before,
            "peak_bytes": peak_rss(),
        }


def measure(config: Config, n_shards: int, folder: Path) -> dict[str, float]:
    """Writes random weights, and measures in another process how much memory loading them takes.

    Args:
        config: dimensions of the model, and the dtype in the files and in memory.
        n_shards: number of weight files.
        folder: a folder that does not exist or is empty.

    Returns:
        Seconds, number of files, bytes of the model, and memory of the process in bytes before
        loading and at its peak.

    Example:
        ```python
        from experiments.bench.loading import measure, shrink

        measure(shrink(10_000_000, "bfloat16"), 3, Path("random"))["peak_bytes"]
        ```
    """
    n_bytes = _count_bytes(config)
    # A tensor is in one file, so files of the mean size would be one more.
    shard_bytes = math.ceil(n_bytes / (n_shards - 0.5)) if n_shards > 1 else n_bytes
    random_weights.write(config, folder, shard_bytes)
    n_files = len(list(folder.glob("*.safetensors")))
    job = {"folder": str(folder), "dtype": config.param_dtype}
    with Worker("experiments.bench.loading:Loader", job) as worker:
        return {"files": n_files, **worker.ask("load")}


def shrink(n_bytes: float, dtype: str) -> Config:
    """Returns the largest model of at most `n_bytes` with the proportions of Qwen2-Audio-7B.

    All widths, the number of layers and the vocabulary are divided by the same number.

    Example:
        >>> shrink(2e9, "bfloat16").n_text_layer
        15
    """
    large = AUDIO_LANGUAGE_SIZES[_FAMILY].replace(dtype=dtype, param_dtype=dtype)
    # The number of weights is almost a cubic function of the factor.
    factor = max(1.0, 0.85 * (_count_bytes(large) / n_bytes) ** (1 / 3))
    while _count_bytes(config := _divide(large, factor)) > n_bytes:
        factor *= 1.02
        if factor > large.n_text_layer:
            raise ValueError(f"n_bytes: expected a model of several MB, got {n_bytes:,.0f} bytes.")
    return config


def _divide(config: Config, factor: float) -> Config:
    def divide(n: int, multiple: int = 1) -> int:
        return max(1, round(n / factor / multiple)) * multiple

    return config.replace(
        n_audio_state=divide(config.n_audio_state, 40),
        n_audio_layer=divide(config.n_audio_layer),
        n_text_state=divide(config.n_text_state, 64),
        n_text_layer=divide(config.n_text_layer),
        n_text_mlp=divide(config.n_text_mlp or 0, 64),
        n_vocab=divide(config.n_vocab),
        audio_token=0,
        eos=(1,),
    )


def _count_bytes(config: Config) -> int:
    import jax

    from jaxasr.weights.assemble import abstract_model

    leaves = jax.tree.leaves(abstract_model(config))
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in leaves)


def main(
    gigabytes: Annotated[float, typer.Option(help="Size of the random model.")] = 2.0,
    shards: Annotated[int, typer.Option(min=1, help="Approximate number of weight files.")] = 5,
    dtype: options.Dtype = "bfloat16",
    out: options.Out = None,
) -> None:
    """Prints the memory for loading a random model with the proportions of Qwen2-Audio-7B."""
    folder = Path(tempfile.mkdtemp(prefix="jaxasr-loading-"))
    try:
        numbers = measure(shrink(gigabytes * 1e9, dtype), shards, folder)
    finally:
        shutil.rmtree(folder)
    size = numbers["model_bytes"]
    table = Table("quantity", title=machine.title(machine.describe_machine()))
    table.add_column("value", justify="right")
    rows = {
        "model": f"{size / 1e9:.2f} GB in {numbers['files']:.0f} files, {dtype}",
        "seconds": f"{numbers['seconds']:.1f}",
        "memory before": f"{numbers['before_bytes'] / 1e9:.2f} GB",
        "peak memory": f"{numbers['peak_bytes'] / 1e9:.2f} GB",
        "added / model": f"{(numbers['peak_bytes'] - numbers['before_bytes']) / size:.3f}",
        "peak / model": f"{numbers['peak_bytes'] / size:.3f}",
    }
    for row in rows.items():
        table.add_row(*row)
    options.make_console().print(table)
    options.save(out, numbers)
