"""Loads the weights of a job into jaxasr or torch.

Libraries are imported inside functions, so that a worker imports only the library it measures.
"""

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from jaxasr.model import Whisper

RANDOM = "random:"  # prefix of a model with random weights, such as "random:base"
Job = dict[str, Any]  # settings and files that a worker gets; `recordings.Preparer` makes most jobs


def jax_model(job: Job) -> "Whisper":
    """Loads the model of a job into jaxasr, in the job's dtype (default: float32)."""
    from jaxasr.weights import assemble, read_checkpoint

    dtype = job.get("dtype", "float32")
    return assemble(read_checkpoint(job["weights"]), dtype, dtype)


def torch_model(job: Job, attention: str = "sdpa") -> Any:
    """Loads the model of a job into torch, in the job's dtype.

    Args:
        job: has `huggingface`, the folder of the weights, and optionally `dtype`.
        attention: "sdpa" for fused attention, or "eager" for attention that returns patterns.

    Returns:
        A `WhisperForConditionalGeneration` on `torch_device()`.
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
    """Returns "cuda" if torch has an accelerator, else "cpu"."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def wait_for_torch() -> None:
    """Waits until the accelerator has finished, because torch's calls return before that."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()


def to_numpy(array: Any) -> np.ndarray:
    """Converts a JAX or torch array to NumPy, as float32 because NumPy lacks bfloat16."""
    return array.float().cpu().numpy() if hasattr(array, "cpu") else np.asarray(array, np.float32)
