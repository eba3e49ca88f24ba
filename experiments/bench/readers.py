"""Defines readers: workers that read the same activations with jaxasr and with torch hooks.

The method `run(case)` runs the encoder and the teacher-forced decoder once. It measures the time
and the growth of memory, and computes the mean magnitude of the activations. Equal magnitudes show
that both libraries read the same activations.
"""

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from experiments.bench import models
from experiments.bench.models import Job
from experiments.bench.worker import peak_rss, reset_peak_rss

# Name of each case in the table. The name says what a pass reads.
CASES = {
    "nothing": "no capture",
    "encoder": "encoder.resid_post, all layers",
    "decoder": "decoder.resid_post and decoder.cross_attn.z, all layers",
    "pattern": "encoder.attn.pattern, one layer kept",
    "reduced": "entropy of every encoder.attn.pattern",
}
LAYER = 1  # encoder layer whose pattern the case "pattern" reads


class Reader:
    """Base class of readers.

    Args:
        job: from `experiments.bench.recordings`, with `batch` recordings and the `tokens` of each.
    """

    def __init__(self, job: Job):
        self.job, self.mels = job, np.load(job["mels"])[: job["batch"]]
        self.tokens = np.array(job["tokens"], np.int32)
        self.load()

    def load(self) -> None:
        """Loads the model."""
        raise NotImplementedError

    def read(self, case: str) -> list[Any]:
        """Runs one pass, and returns the activations that it reads."""
        raise NotImplementedError

    def on_host(self) -> bool:
        """Returns whether activations are in the memory of this process."""
        raise NotImplementedError

    def run(self, case: str) -> dict[str, float | None]:
        """Returns the seconds of a pass, its growth of memory, and the magnitude of activations.

        `peak_growth` is the peak memory of the pass minus the memory before it, in bytes. It is
        None on an accelerator, because the peak of an accelerator cannot be reset.
        """
        before, start = reset_peak_rss(), time.perf_counter()
        arrays = self.read(case)
        seconds = time.perf_counter() - start
        growth = peak_rss() - before if self.on_host() else None
        # Copied to the host only now, so that the time does not include the copy.
        magnitudes = [float(abs(models.to_numpy(array)).mean()) for array in arrays]
        return {
            "seconds": seconds,
            "peak_growth": growth,
            "magnitude": float(np.mean(magnitudes)) if magnitudes else 0.0,
        }


def entropy(pattern: Any) -> Any:
    """Returns the entropy over keys of attention patterns [..., S], in nats."""
    import jax

    return jax.scipy.special.entr(pattern).sum(-1)


class JaxasrReader(Reader):
    """Reads with readouts of jaxasr."""

    def load(self) -> None:
        """Loads the model."""
        import jax.numpy as jnp

        import jaxasr
        from experiments.compiling import count_compilations

        self.compiling = count_compilations()
        self.model = models.jax_model(self.job)
        self.mels, self.tokens = jnp.asarray(self.mels), jnp.asarray(self.tokens)
        self.readouts = {
            "encoder": jaxasr.select("encoder.resid_post"),
            "pattern": jaxasr.select("encoder.attn.pattern"),
            "reduced": jaxasr.reduce("entropy", "encoder.attn.pattern", entropy),
            "decoder": jaxasr.select("decoder.resid_post", "decoder.cross_attn.z"),
        }

    def read(self, case: str) -> list[Any]:
        """Returns the arrays that one pass reads."""
        import jax

        readout = self.readouts.get(case)
        encoder_readout, decoder_readout = (None, readout) if case == "decoder" else (readout, None)
        memory, encoder_acts = self.model.encode(self.mels, readout=encoder_readout)
        logits, decoder_acts = self.model.decode(self.tokens, memory, readout=decoder_readout)
        jax.block_until_ready((logits, encoder_acts, decoder_acts))
        arrays = (encoder_acts | decoder_acts).values()
        # The readout returns the patterns of all layers. The case compares only one of them.
        return [array[LAYER] if case == "pattern" else array for array in arrays]

    def on_host(self) -> bool:
        """Returns whether activations lie in the memory of this process."""
        import jax

        return jax.default_backend() == "cpu"

    def programs(self) -> int:
        """Returns the number of programs compiled so far."""
        return self.compiling.programs

    def temporary(self) -> dict[str, dict[str, int]]:
        """Returns the temporary bytes of a pass that reads nothing, and of one that reads sites.

        The second pass discards the activations that it reads, so the compiler should remove them.
        The result has the bytes of each stack.
        """
        return {
            "no capture": self._measure_temporary_bytes({}),
            "read, unused": self._measure_temporary_bytes(_list_free_sites()),
        }

    def _measure_temporary_bytes(self, sites: dict[str, list[str]]) -> dict[str, int]:
        """Returns, by stack, the temporary bytes of a pass that reads and discards `sites`."""
        import jax

        import jaxasr

        readouts = {stack: jaxasr.select(*names) for stack, names in sites.items()}
        memory = jax.eval_shape(lambda: self.model.encode(self.mels)[0])
        encode = jax.jit(lambda model, mels: model.encode(mels, readout=readouts.get("encoder"))[0])
        decode = jax.jit(
            lambda model, tokens, memory: model.decode(
                tokens, memory, readout=readouts.get("decoder")
            )[0]
        )
        lowered = {
            "encoder": encode.lower(self.model, self.mels),
            "decoder": decode.lower(self.model, self.tokens, memory),
        }
        analyses: dict[str, Any] = {
            stack: program.compile().memory_analysis() for stack, program in lowered.items()
        }
        return {stack: int(memory.temp_size_in_bytes) for stack, memory in analyses.items()}


def _list_free_sites() -> dict[str, list[str]]:
    """Returns the sites of each stack whose readout does not change how a layer is computed."""
    from jaxasr.sites import sites_of

    # If these sites are read, the layer does not use its fused attention or its MLP in chunks.
    not_free = (".pattern", ".scores", "mlp.pre", "mlp.post")
    return {
        stack: [site for site in sites_of(stack) if not site.endswith(not_free)]
        for stack in ("encoder", "decoder")
    }


class TorchReader(Reader):
    """Reads with forward hooks on the model of `transformers`."""

    def load(self) -> None:
        """Loads the model twice, because fused attention does not return its patterns."""
        import torch

        self.torch = torch
        self.fused, self.eager = models.torch_model(self.job), models.torch_model(self.job, "eager")
        device = models.torch_device()
        self.mels = torch.from_numpy(self.mels).to(device, self.fused.dtype)
        self.tokens = torch.from_numpy(self.tokens).long().to(device)

    def on_host(self) -> bool:
        """Returns whether activations lie in the memory of this process."""
        return models.torch_device() == "cpu"

    def read(self, case: str) -> list[Any]:
        """Returns the arrays that one pass reads."""
        model, arrays = self.eager if case in ("pattern", "reduced") else self.fused, []
        handles = self._register_hooks(case, model.model, arrays.append)
        with self.torch.inference_mode():
            model(input_features=self.mels, decoder_input_ids=self.tokens, use_cache=False)
        models.wait_for_torch()
        for handle in handles:
            handle.remove()
        return arrays

    def _register_hooks(self, case: str, model: Any, keep: Callable[[Any], None]) -> list[Any]:
        """Registers hooks that pass the activations of a case to `keep`. Returns their handles."""

        def keep_output(module: Any, args: Any, out: Any) -> None:
            keep(out[0] if isinstance(out, tuple) else out)

        def keep_pattern(module: Any, args: Any, out: Any) -> None:
            keep(out[1])

        def keep_entropy(module: Any, args: Any, out: Any) -> None:
            keep(self.torch.special.entr(out[1]).sum(-1))

        def keep_input(module: Any, args: Any) -> None:
            keep(args[0])

        encoder, decoder = model.encoder.layers, model.decoder.layers
        if case == "encoder":
            return [layer.register_forward_hook(keep_output) for layer in encoder]
        if case == "decoder":
            projections = [layer.encoder_attn.out_proj for layer in decoder]
            z = [projection.register_forward_pre_hook(keep_input) for projection in projections]
            return [*z, *(layer.register_forward_hook(keep_output) for layer in decoder)]
        if case == "pattern":
            return [encoder[LAYER].self_attn.register_forward_hook(keep_pattern)]
        if case == "reduced":
            return [layer.self_attn.register_forward_hook(keep_entropy) for layer in encoder]
        return []
