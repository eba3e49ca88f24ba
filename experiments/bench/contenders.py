"""Three implementations of one task, each a worker: features [B, M, 3000] to greedy tokens, encoder and decoder timed apart.

Each `transcribe(rows)` gives `tokens` (without the end) and `encode_s`, `decode_s`. What a contender does not need is not imported.
"""

import time
from typing import Any

import numpy as np

from experiments.bench import models
from experiments.bench.worker import peak_rss, threads


class Contender:
    def __init__(self, job: dict[str, Any]):
        self.job, self.mels = job, np.load(job["mels"])
        self.compile_s = 0.0
        self.load()

    def load(self) -> None:
        raise NotImplementedError

    def transcribe(self, rows: list[int]) -> dict[str, Any]:
        raise NotImplementedError

    def numbers(self) -> dict[str, float]:
        """Peak memory in bytes, and seconds of compilation so far."""
        return {"peak_rss": peak_rss(), "compile_s": self.compile_s}

    def _until_end(self, rows: Any) -> list[list[int]]:
        prompt, eot = self.job["prompt"], self.job["eot"]
        rows = [list(map(int, row)) for row in rows]
        rows = [row[len(prompt) :] if row[: len(prompt)] == prompt else row for row in rows]
        return [row[: row.index(eot)] if eot in row else row for row in rows]


class Ours(Contender):
    """`encode` and `generate`."""

    def load(self) -> None:
        import jax

        from experiments.bench.compiling import listen

        jax.config.update("jax_compilation_cache_dir", self.job["cache"])
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
        self.compiling = listen()
        self.model = models.ours(self.job)
        self.rules = _rules(self.job, self.model.config.n_vocab)

    def transcribe(self, rows: list[int]) -> dict[str, Any]:
        import jax
        import jax.numpy as jnp

        import jaxasr
        from jaxasr.decoding import unrolls

        start = time.perf_counter()
        memory, _ = jax.block_until_ready(
            self.model.encode(jnp.asarray(self.mels[rows]), unstacked=unrolls(self.model.config))
        )
        heard = time.perf_counter()
        prompt = jnp.tile(jnp.array(self.job["prompt"], jnp.int32), (len(rows), 1))
        out = jaxasr.generate(
            self.model,
            memory,
            prompt,
            max_new_tokens=self.job["max_new_tokens"],
            rules=self.rules,
            eot=self.job["eot"],
        )
        tokens = np.asarray(out.tokens)
        return {
            "tokens": self._until_end(tokens),
            "encode_s": heard - start,
            "decode_s": time.perf_counter() - heard,
        }

    def numbers(self) -> dict[str, float]:
        import jax

        on_device = jax.devices()[0].memory_stats() or {}
        device = (
            {"peak_device": on_device["peak_bytes_in_use"]}
            if "peak_bytes_in_use" in on_device
            else {}
        )
        return (
            super().numbers()
            | device
            | {"compile_s": self.compiling.seconds, "programs": self.compiling.programs}
        )


def _rules(job: dict[str, Any], n_vocab: int) -> Any:
    import jax.numpy as jnp

    from jaxasr.rules import Rules

    suppress, begin = (
        jnp.zeros(n_vocab, bool).at[jnp.array(job[key], int)].set(True)
        for key in ("suppress", "suppress_begin")
    )
    return Rules(
        suppress, begin, jnp.int32(0), timestamps=False, eot=job["eot"], timestamp_begin=n_vocab
    )


class Torch(Contender):
    """`generate` of `transformers` with its own cache and fused attention; a hook around its encoder looks at the clock."""

    def load(self) -> None:
        import torch

        self.torch, self.model = torch, models.of_torch(self.job)
        self.model.generation_config.suppress_tokens = self.job["suppress"]
        self.model.generation_config.begin_suppress_tokens = self.job["suppress_begin"] or None
        self.model.model.encoder.register_forward_hook(lambda *_: self._heard())

    def _heard(self) -> None:
        models.wait_for_torch()
        self.heard = time.perf_counter()

    def transcribe(self, rows: list[int]) -> dict[str, Any]:
        language = (
            {"language": "en", "task": "transcribe"}
            if self.model.generation_config.is_multilingual
            else {}
        )
        start = time.perf_counter()
        with self.torch.inference_mode():
            mels = self.torch.from_numpy(self.mels[rows]).to(models.device(), self.model.dtype)
            out = self.model.generate(
                mels,
                do_sample=False,
                num_beams=1,
                max_new_tokens=self.job["max_new_tokens"],
                **language,
            )
            tokens = out.cpu().numpy()
        end = time.perf_counter()
        return {
            "tokens": self._until_end(tokens),
            "encode_s": self.heard - start,
            "decode_s": end - self.heard,
        }

    def numbers(self) -> dict[str, float]:
        device = (
            {"peak_device": self.torch.cuda.max_memory_allocated()}
            if self.torch.cuda.is_available()
            else {}
        )
        return super().numbers() | device


class FasterWhisper(Contender):
    """CTranslate2 as faster-whisper loads it, in float32."""

    def load(self) -> None:
        from faster_whisper import WhisperModel

        self.model = WhisperModel(
            self.job["ctranslate2"],
            device="cpu",
            compute_type=self.job["dtype"],
            cpu_threads=threads(),
        ).model

    def transcribe(self, rows: list[int]) -> dict[str, Any]:
        from ctranslate2 import StorageView

        start = time.perf_counter()
        heard = self.model.encode(StorageView.from_array(np.ascontiguousarray(self.mels[rows])))
        middle = time.perf_counter()
        prompt = self.job["prompt"]
        results = self.model.generate(
            heard,
            [prompt] * len(rows),
            beam_size=1,
            max_length=len(prompt) + self.job["max_new_tokens"],
            suppress_tokens=self.job["suppress"],
            suppress_blank=True,
        )
        tokens = [result.sequences_ids[0] for result in results]
        return {
            "tokens": self._until_end(tokens),
            "encode_s": middle - start,
            "decode_s": time.perf_counter() - middle,
        }
