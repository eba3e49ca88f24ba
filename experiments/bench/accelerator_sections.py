"""Defines the sections of the bench for accelerators; see `experiments.bench.accelerator`.

Every function of `SECTIONS` measures one section, and yields its figures.
"""

import datetime
import functools
import importlib.metadata
import importlib.util
import json
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from experiments.bench import accelerator_sweeps as sweeps, random_weights
from experiments.bench.accelerator import append
from experiments.bench.models import Job
from experiments.bench.timing import measures_torch, time_calls

Figure = dict[str, Any]
# Numbers of windows per pass, and shapes (layers, rows, features) of probe banks, by size.
_BATCHES = {"large-v3": (1, 8, 32), "tiny": (1, 2)}
_BANKS = {"large-v3": ((8, 1200, 384), (33, 5000, 1280)), "tiny": ((2, 60, 16),)}
_MATRIX_ROWS = {"large-v3": None, "tiny": 256}  # None: chosen for the backend
_COPIED_NUMBERS = {"large-v3": 1 << 30, "tiny": 1 << 22}
_NEW_TOKENS = {"large-v3": 64, "tiny": 8}


def prepare(job: Job) -> Job:
    """Adds random weights, random features and tokens to a job. All sections use the same ones.

    Example:
        ```python
        job = prepare({"size": "tiny", "dtype": "float32", "folder": "/tmp/accelerator"})
        job["weights"]  # "/tmp/accelerator/weights"
        ```
    """
    from jaxasr.config import N_MEL_FRAMES, SIZES

    size, dtype, folder = job["size"], job["dtype"], Path(job["folder"])
    config = SIZES[size].replace(dtype=dtype, param_dtype=dtype)
    weights, mels = folder / "weights", folder / "mels.npy"
    if not weights.exists():
        random_weights.write(config, weights)
    rng = np.random.default_rng(0)
    n = max(16, *_BATCHES[size]) if size == "large-v3" else 4
    if not mels.exists():
        shape = (n, config.n_mels, N_MEL_FRAMES)
        np.save(mels, (rng.standard_normal(shape, np.float32) * 0.4).clip(-1, 1.5))
    described = random_weights.describe_job(config, weights)
    tokens = described["prompt"] + rng.integers(300, 40_000, 64).tolist()
    return {
        **job,
        **described,
        "model": f"random:{size}",
        "mels": str(mels),
        "max_new_tokens": _NEW_TOKENS[size],
        "seconds": [30.0] * n,
        "clips": n,
        "cache": str(folder / f"cache-{time.time_ns()}"),  # new, so that the first call compiles
        "tokens": tokens,
        "answer": 1000,
        "foil": 2000,
        "frames": config.n_audio_ctx if size == "large-v3" else 100,
    }


def machine(job: Job) -> Iterator[Figure]:
    """Measures matrix products."""
    from experiments.bench.machine import Machine

    worker = Machine({"size": _MATRIX_ROWS[job["size"]]})
    for library in ("jax", "torch") if measures_torch(job) else ("jax",):
        for dtype in ("bfloat16", "float32"):
            rate = worker.matmul_rate(library, dtype)
            yield {"library": library, "matrix_dtype": dtype, "tflops": rate / 1e12}
    yield {"library": "jax", **_measure_copy(_COPIED_NUMBERS[job["size"]])}


def _measure_copy(n: int) -> Figure:
    """Measures how many bytes per second the device reads and writes, with `n` float32 numbers."""
    import jax
    import jax.numpy as jnp

    times = time_calls(jax.jit(lambda x: x + 1), jnp.zeros(n, jnp.float32), n=10)
    return {"copy_gb_per_s": 2 * 4 * n / times["seconds"] / 1e9}


def attention(job: Job) -> Iterator[Figure]:
    """Measures the encoder's self-attention, and attention kernels without projections."""
    import jax
    import jax.numpy as jnp
    from flax import nnx

    from jaxasr.attention import Attention, self_attention
    from jaxasr.config import SIZES
    from jaxasr.taps import NOTHING, Tap

    config = SIZES[job["size"]].replace(dtype=job["dtype"], param_dtype=job["dtype"])
    n_frames, width, n_heads = config.n_audio_ctx, config.n_audio_state, config.n_audio_head
    layer = jax.jit(lambda: Attention(config, width, n_heads, nnx.Rngs(0)))()

    def attend(layer: Attention, x: jax.Array) -> jax.Array:
        positions = jnp.broadcast_to(jnp.arange(n_frames, dtype=jnp.int32), x.shape[:2])
        tap = Tap("encoder.attn.", {}, NOTHING, jnp.int32(0), positions)
        return self_attention(layer, x, None, None, None, tap)[0]

    for batch in _BATCHES[job["size"]][:2]:
        x = jax.random.normal(jax.random.key(0), (batch, n_frames, width), job["dtype"])
        flops = 4 * batch * n_frames**2 * width
        layer_flops = flops + 8 * batch * n_frames * width**2
        times = time_calls(jax.jit(attend), layer, x, n=10)
        rate = {"tflops": layer_flops / times["seconds"] / 1e12}
        yield {"who": "jaxasr, with projections", "batch": batch, **times, **rate}
        q = x.reshape(batch, n_frames, n_heads, -1)
        for kernel in ("xla", "cudnn"):
            if kernel == "cudnn" and jax.default_backend() != "gpu":
                continue
            fused = functools.partial(jax.nn.dot_product_attention, implementation=kernel)
            times = time_calls(jax.jit(fused), q, q, q, n=10)
            rate = {"tflops": flops / times["seconds"] / 1e12}
            yield {"who": f"kernel {kernel}", "batch": batch, **times, **rate}


def transcribe(job: Job) -> Iterator[Figure]:
    """Measures loading, encoding and greedy generation in this library and in torch."""
    from experiments.bench import contenders, flops

    job = prepare(job)
    classes: dict[str, Any] = {"jaxasr": contenders.JaxasrContender}
    if measures_torch(job):
        classes["torch"] = contenders.TorchContender
    workers = {}
    for who, contender in classes.items():
        start = time.perf_counter()
        workers[who] = contender(job)
        yield {"who": who, "load_s": time.perf_counter() - start}
    for batch in _BATCHES[job["size"]]:
        rows = list(range(batch))
        for who, worker in workers.items():
            start = time.perf_counter()
            worker.transcribe(rows)
            first_s = time.perf_counter() - start
            results = [worker.transcribe(rows) for _ in range(3)]
            encode_s, decode_s = (
                statistics.median(result[part] for result in results)
                for part in ("encode_s", "decode_s")
            )
            steps = max(map(len, results[0]["tokens"]))
            step_bytes = _bytes_of_step(job, batch)
            encoder_flops = flops.encoder_flops(job["size"], batch, with_memory=who == "jaxasr")
            yield {
                "who": who,
                "batch": batch,
                "first_s": first_s,
                "encode_s": encode_s,
                "decode_s": decode_s,
                "steps": steps,
                "ms_per_step": 1e3 * decode_s / max(1, steps),
                "step_gb_per_s": step_bytes * max(1, steps) / decode_s / 1e9,
                "seconds_of_audio_per_s": 30 * batch / (encode_s + decode_s),
                "encode_tflops": encoder_flops / encode_s / 1e12,
            }
    for who, worker in workers.items():
        yield {"who": who, **worker.numbers()}


def _bytes_of_step(job: Job, batch: int) -> int:
    """Returns the bytes that a decoding step must read.

    These are the decoder's weights, and the cross-attention keys and values of every row.
    """
    import jax.numpy as jnp

    from jaxasr.config import SIZES

    config, n_bytes = SIZES[job["size"]], jnp.dtype(job["dtype"]).itemsize
    width, n_layers = config.n_text_state, config.n_text_layer
    # Products of a layer: 8 D² for the MLP, 4 D² for self-attention, 2 D² for cross-attention.
    weights = 14 * n_layers * width**2 + config.n_vocab * width
    return n_bytes * (weights + 2 * batch * n_layers * config.n_audio_ctx * width)


def run_section(name: str, job: Job) -> None:
    """Runs a section, and appends its figures to the file `job["out"]`."""
    import jax

    from experiments.bench.machine import OTHER_PACKAGES
    from experiments.compiling import count_compilations
    from interventions.storage.provenance import commit, versions

    sections: dict[str, Callable[[Job], Iterator[Figure]]] = {
        "machine": machine,
        "attention": attention,
        "transcribe": transcribe,
        "decoder_sweep": lambda job: sweeps.sweep(prepare(job), "decoder"),
        "encoder_sweep": lambda job: sweeps.sweep(prepare(job), "encoder"),
        "many": lambda job: sweeps.many(prepare(job)),
        "probes": lambda job: sweeps.probes(_BANKS[job["size"]]),
        "capture": lambda job: sweeps.capture(prepare(job)),
    }
    installed = versions() | {
        package: importlib.metadata.version(package)
        for package in OTHER_PACKAGES
        if importlib.util.find_spec(package.replace("-", "_"))
    }
    origin = {
        "device": jax.devices()[0].device_kind,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "versions": installed,
        "size": job["size"],
        "dtype": job["dtype"],
    }
    compiling = count_compilations()
    warnings.filterwarnings("ignore", ".*found no tokenizer")  # random weights have none
    for figure in sections[name](job):
        append(Path(job["out"]), {"section": name, **figure, **origin})
    append(Path(job["out"]), {"section": name, "who": "jaxasr", **compiling.to_dict(), **origin})


if __name__ == "__main__":
    run_section(sys.argv[1], json.loads(sys.argv[2]))
