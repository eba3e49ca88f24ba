"""The same readings by this library and by torch with forward hooks, each a worker.

`run(case)` encodes and teacher-forces once and gives seconds, the bytes by which memory grew at its peak (None on an accelerator, which
forgets no peak), and the mean magnitude of what was read, by which the two can be seen to have read the same. A reading ends in host
memory for neither: both keep arrays.
"""

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from experiments.bench import models
from experiments.bench.worker import peak_rss, reset_peak_rss

CASES = {
    "nothing": "no capture",
    "encoder": "encoder.resid_post, all layers",
    "decoder": "decoder.resid_post and decoder.cross_attn.z, all layers",
    "pattern": "encoder.attn.pattern, one layer kept",
    "reduced": "entropy of every encoder.attn.pattern",
}
LAYER = 1


class Reader:
    def __init__(self, job: dict[str, Any]):
        self.mels, self.tokens = (
            np.load(job["mels"])[: job["batch"]],
            np.array(job["tokens"], np.int32),
        )
        self.job = job
        self.load()

    def load(self) -> None:
        raise NotImplementedError

    def read(self, case: str) -> list[Any]:
        """Arrays read in one pass through both stacks."""
        raise NotImplementedError

    def on_host(self) -> bool:
        """Whether activations lie in the memory of this process."""
        raise NotImplementedError

    def run(self, case: str) -> dict[str, float | None]:
        before, start = reset_peak_rss(), time.perf_counter()
        arrays = self.read(case)
        seconds = time.perf_counter() - start
        grown = peak_rss() - before if self.on_host() else None
        size = [float(abs(models.to_numpy(array)).mean()) for array in arrays]
        return {
            "seconds": seconds,
            "peak_growth": grown,
            "magnitude": float(np.mean(size)) if size else 0.0,
        }


def entropy(pattern: Any) -> Any:
    import jax

    return jax.scipy.special.entr(pattern).sum(-1)


class Ours(Reader):
    def load(self) -> None:
        import jax.numpy as jnp

        import jaxasr
        from experiments.bench.compiling import listen

        self.compiling = listen()
        self.model = models.ours(self.job)
        self.mels, self.tokens = jnp.asarray(self.mels), jnp.asarray(self.tokens)
        self.readouts = {
            "encoder": jaxasr.select("encoder.resid_post"),
            "pattern": jaxasr.select("encoder.attn.pattern"),
            "reduced": jaxasr.reduce("entropy", "encoder.attn.pattern", entropy),
            "decoder": jaxasr.select("decoder.resid_post", "decoder.cross_attn.z"),
        }

    def read(self, case: str) -> list[Any]:
        import jax

        readout = self.readouts.get(case)
        memory, heard = self.model.encode(self.mels, readout=None if case == "decoder" else readout)
        logits, said = self.model.decode(
            self.tokens, memory, readout=readout if case == "decoder" else None
        )
        jax.block_until_ready((logits, heard, said))
        # Every layer comes out of the scan; one layer of the patterns is kept.
        return [value[LAYER] if case == "pattern" else value for value in (heard | said).values()]

    def on_host(self) -> bool:
        import jax

        return jax.default_backend() == "cpu"

    def programs(self) -> int:
        return self.compiling.programs

    def temporary(self) -> dict[str, dict[str, int]]:
        """Temporary bytes of the compiled passes without capture, and of those whose every reading is thrown away."""
        return {"no capture": self._temporary(None), "read, unused": self._temporary(_all_sites())}

    def _temporary(self, sites: dict[str, list[str]] | None) -> dict[str, int]:
        import jax

        import jaxasr

        readouts = {stack: jaxasr.select(*names) for stack, names in (sites or {}).items()}
        memory = jax.eval_shape(lambda: self.model.encode(self.mels)[0])
        encode = jax.jit(
            lambda model, mels: model.encode(mels, readout=readouts.get("encoder"))[0]
        ).lower(self.model, self.mels)
        decode = jax.jit(
            lambda model, tokens, memory: model.decode(
                tokens, memory, readout=readouts.get("decoder")
            )[0]
        )
        lowered = {"encoder": encode, "decoder": decode.lower(self.model, self.tokens, memory)}
        return {
            stack: int(low.compile().memory_analysis().temp_size_in_bytes)
            for stack, low in lowered.items()
        }


def _all_sites() -> dict[str, list[str]]:
    """All but those that, asked for, change how a layer is computed before the compiler sees that nobody wants them."""
    from jaxasr.sites import sites_of

    formed = (".pattern", ".scores", "mlp.pre", "mlp.post")
    return {
        stack: [site for site in sites_of(stack) if not site.endswith(formed)]
        for stack in ("encoder", "decoder")
    }


class Torch(Reader):
    def load(self) -> None:
        import torch

        self.torch = torch
        self.fused = models.of_torch(self.job)
        self.eager = models.of_torch(self.job, "eager")  # fused attention has no pattern to show
        self.mels = torch.from_numpy(self.mels).to(models.device(), self.fused.dtype)
        self.tokens = torch.from_numpy(self.tokens).long().to(models.device())

    def on_host(self) -> bool:
        return models.device() == "cpu"

    def read(self, case: str) -> list[Any]:
        model, seen = self.eager if case in ("pattern", "reduced") else self.fused, []
        handles = self._hooks(case, model.model, seen.append)
        with self.torch.inference_mode():
            model(input_features=self.mels, decoder_input_ids=self.tokens, use_cache=False)
        models.wait_for_torch()
        for handle in handles:
            handle.remove()
        return seen

    def _hooks(self, case: str, model: Any, keep: Callable[[Any], None]) -> list[Any]:
        def output(module: Any, args: Any, out: Any) -> None:
            keep(out[0] if isinstance(out, tuple) else out)

        def entropy(module: Any, args: Any, out: Any) -> None:
            keep(self.torch.special.entr(out[1]).sum(-1))

        encoder, decoder = model.encoder.layers, model.decoder.layers
        if case == "decoder":
            z = [
                layer.encoder_attn.out_proj.register_forward_pre_hook(
                    lambda module, args: keep(args[0])
                )
                for layer in decoder
            ]
            return [*z, *(layer.register_forward_hook(output) for layer in decoder)]
        if case == "pattern":
            return [
                encoder[LAYER].self_attn.register_forward_hook(
                    lambda module, args, out: keep(out[1])
                )
            ]
        if case == "reduced":
            return [layer.self_attn.register_forward_hook(entropy) for layer in encoder]
        return (
            [layer.register_forward_hook(output) for layer in encoder] if case == "encoder" else []
        )
