"""The same weights for every library, each imported only where it is used."""

from typing import Any

import numpy as np

RANDOM = "random:"  # a size after it: its shapes with random weights


def ours(job: dict[str, Any]) -> Any:
    """The model of a job (`recordings.prepared`), in its dtype (default: float32)."""
    from jaxasr.weights import assemble, read_checkpoint

    dtype = job.get("dtype", "float32")
    return assemble(read_checkpoint(job["weights"]), dtype, dtype)


def device() -> str:
    """Where torch computes: on the accelerator that there is."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def of_torch(job: dict[str, Any], attention: str = "sdpa") -> Any:
    """The job's `WhisperForConditionalGeneration`, in its dtype, on `device()`; "eager" `attention` shows its patterns."""
    import torch
    import transformers

    from experiments.bench.worker import threads

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    torch.set_num_threads(threads())
    load, dtype = (
        transformers.WhisperForConditionalGeneration.from_pretrained,
        getattr(torch, job.get("dtype", "float32")),
    )
    return (
        load(job["huggingface"], attn_implementation=attention, dtype=dtype)
        .to(device())
        .eval()
        .requires_grad_(False)
    )


def wait_for_torch() -> None:
    """Until the accelerator has done what it was given; a clock read before would be early."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()


def to_numpy(array: Any) -> np.ndarray:
    """Of either library, from its device; bfloat16, which NumPy lacks, as float32."""
    return array.float().cpu().numpy() if hasattr(array, "cpu") else np.asarray(array, np.float32)
