"""Loads the same weights into each library, and imports a library only where it is used."""

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from jaxasr.model import Whisper

RANDOM = "random:"  # before a size: a model of its shapes with random weights
Job = dict[str, Any]  # what a worker is given, see `experiments.bench.recordings`


def jax_model(job: Job) -> "Whisper":
    """Returns jaxasr's model of a job, in the job's dtype (default: float32)."""
    from jaxasr.weights import assemble, read_checkpoint

    dtype = job.get("dtype", "float32")
    return assemble(read_checkpoint(job["weights"]), dtype, dtype)


def torch_model(job: Job, attention: str = "sdpa") -> Any:
    """Returns the job's `WhisperForConditionalGeneration`, in its dtype, on `torch_device()`.

    Args:
        job: the job.
        attention: "sdpa", fused, or "eager", which returns its patterns.
    """
    import torch
    import transformers

    from experiments.bench.worker import threads

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    torch.set_num_threads(threads())
    dtype = getattr(torch, job.get("dtype", "float32"))
    model: Any = transformers.WhisperForConditionalGeneration.from_pretrained(
        job["huggingface"], attn_implementation=attention, dtype=dtype
    )
    return model.to(torch_device()).eval().requires_grad_(False)


def torch_device() -> str:
    """Returns where torch computes: on the accelerator, if there is one."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def wait_for_torch() -> None:
    """Blocks until the accelerator has finished, so that a clock may be read."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()


def to_numpy(array: Any) -> np.ndarray:
    """Copies an array of either library to NumPy, as float32, because NumPy has no bfloat16."""
    return array.float().cpu().numpy() if hasattr(array, "cpu") else np.asarray(array, np.float32)
