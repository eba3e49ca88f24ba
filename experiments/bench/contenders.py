"""Defines contenders: workers that transcribe with one library each.

The method `transcribe(rows)` of a contender generates tokens greedily from log-mel features
[B, M, 3000]. It returns `tokens` (without the end-of-text), and the seconds of encoder and decoder
as `encode_s` and `decode_s`. A contender imports only its library.
"""

import time
from typing import Any

import numpy as np

from experiments.bench import models
from experiments.bench.models import Job
from experiments.bench.worker import peak_rss, threads


class Contender:
    """Base class of contenders. Its job comes from `experiments.bench.recordings`."""

    def __init__(self, job: Job):
        self.job, self.mels = job, np.load(job["mels"])
        self.compile_s = 0.0  # only jaxasr compiles
        self.load()

    def load(self) -> None:
        """Loads the model."""
        raise NotImplementedError

    def transcribe(self, rows: list[int]) -> dict[str, Any]:
        """Returns the tokens of `rows` of the features, and the seconds of encoder and decoder."""
        raise NotImplementedError

    def numbers(self) -> dict[str, float]:
        """Returns peak memory in bytes, and seconds of compilation so far."""
        return {"peak_rss": peak_rss(), "compile_s": self.compile_s}

    def _make_result(self, tokens: Any, start: float, encoded_at: float) -> dict[str, Any]:
        """Returns the tokens without prompt and end-of-text, and the seconds of each stage.

        Args:
            tokens: rows of token ids, with or without the prompt.
            start: when the encoder started, on the clock `time.perf_counter`.
            encoded_at: when the encoder finished. The decoder finished just before this call.
        """
        end = time.perf_counter()
        prompt, eot = self.job["prompt"], self.job["eot"]
        rows = [list(map(int, row)) for row in tokens]
        # Some libraries return the prompt, and some pad rows with the end-of-text.
        rows = [row[len(prompt) :] if row[: len(prompt)] == prompt else row for row in rows]
        rows = [row[: row.index(eot)] if eot in row else row for row in rows]
        return {"tokens": rows, "encode_s": encoded_at - start, "decode_s": end - encoded_at}


class JaxasrContender(Contender):
    """`encode` and `generate` of jaxasr."""

    def load(self) -> None:
        """Loads the model, and keeps compiled programs in the job's cache."""
        import jax

        from experiments.compiling import count_compilations

        jax.config.update("jax_compilation_cache_dir", self.job["cache"])
        # Keeps every program, because by default only slow compilations are kept.
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
        self.compiling = count_compilations()
        self.model = models.jax_model(self.job)
        self.rules = _make_rules(self.job, self.model.config.n_vocab)

    def transcribe(self, rows: list[int]) -> dict[str, Any]:
        """Returns the tokens of `rows`, and the seconds of encoder and decoder."""
        import jax
        import jax.numpy as jnp

        import jaxasr
        from jaxasr.decoding import unrolls_layers

        start = time.perf_counter()
        # JAX returns before it has finished, so the clock waits for the arrays.
        memory, _ = jax.block_until_ready(
            self.model.encode(
                jnp.asarray(self.mels[rows]), unstacked=unrolls_layers(self.model.config)
            )
        )
        encoded_at = time.perf_counter()
        prompt = jnp.tile(jnp.array(self.job["prompt"], jnp.int32), (len(rows), 1))
        out = jaxasr.generate(
            self.model,
            memory,
            prompt,
            max_new_tokens=self.job["max_new_tokens"],
            rules=self.rules,
            eot=self.job["eot"],
        )
        return self._make_result(np.asarray(out.tokens), start, encoded_at)

    def numbers(self) -> dict[str, float]:
        """Returns peak memory in bytes, and seconds and number of compilations so far."""
        import jax

        stats = jax.devices()[0].memory_stats() or {}  # None on a CPU
        peak = stats.get("peak_bytes_in_use")
        return {
            **super().numbers(),
            **({} if peak is None else {"peak_device": peak}),
            "compile_s": self.compiling.seconds,
            "programs": self.compiling.programs,
        }


def _make_rules(job: Job, n_vocab: int) -> Any:
    """Converts the suppressed token ids of a job to the rules of `jaxasr.generate`."""
    import jax.numpy as jnp

    from jaxasr.rules import Rules

    suppress, suppress_begin = (
        jnp.zeros(n_vocab, bool).at[jnp.array(job[key], int)].set(True)
        for key in ("suppress", "suppress_begin")
    )
    return Rules(
        suppress,
        suppress_begin,
        jnp.int32(0),
        timestamps=False,
        eot=job["eot"],
        timestamp_begin=n_vocab,
    )


class TorchContender(Contender):
    """`generate` of `transformers`, with its cache and with fused attention."""

    def load(self) -> None:
        """Loads the model, and adds a hook that stores the time when the encoder has finished."""
        import torch

        self.torch, self.model = torch, models.torch_model(self.job)
        self.model.generation_config.suppress_tokens = self.job["suppress"]
        self.model.generation_config.begin_suppress_tokens = self.job["suppress_begin"] or None
        self.model.model.encoder.register_forward_hook(lambda *_: self._store_encoder_end())

    def _store_encoder_end(self) -> None:
        models.wait_for_torch()
        self.encoded_at = time.perf_counter()

    def transcribe(self, rows: list[int]) -> dict[str, Any]:
        """Returns the tokens of `rows`, and the seconds of encoder and decoder."""
        multilingual = self.model.generation_config.is_multilingual
        language = {"language": "en", "task": "transcribe"} if multilingual else {}
        start = time.perf_counter()
        with self.torch.inference_mode():
            mels = self.torch.from_numpy(self.mels[rows])
            out = self.model.generate(
                mels.to(models.torch_device(), self.model.dtype),
                do_sample=False,
                num_beams=1,
                max_new_tokens=self.job["max_new_tokens"],
                **language,
            )
            tokens = out.cpu().numpy()
        return self._make_result(tokens, start, self.encoded_at)

    def numbers(self) -> dict[str, float]:
        """Returns peak memory of process and device."""
        cuda = self.torch.cuda
        peak = {"peak_device": cuda.max_memory_allocated()} if cuda.is_available() else {}
        return {**super().numbers(), **peak}


class FasterWhisperContender(Contender):
    """`encode` and `generate` of the CTranslate2 model inside faster-whisper."""

    def load(self) -> None:
        """Loads the model, on the CPU."""
        from faster_whisper import WhisperModel

        self.model = WhisperModel(
            self.job["ctranslate2"],
            device="cpu",
            compute_type=self.job["dtype"],
            cpu_threads=threads(),
        ).model

    def transcribe(self, rows: list[int]) -> dict[str, Any]:
        """Returns the tokens of `rows`, and the seconds of encoder and decoder."""
        from ctranslate2 import StorageView

        start = time.perf_counter()
        xa = self.model.encode(StorageView.from_array(np.ascontiguousarray(self.mels[rows])))
        encoded_at = time.perf_counter()
        prompt = self.job["prompt"]
        results = self.model.generate(
            xa,
            [prompt] * len(rows),
            beam_size=1,
            max_length=len(prompt) + self.job["max_new_tokens"],  # CTranslate2 counts the prompt
            suppress_tokens=self.job["suppress"],
            suppress_blank=True,
        )
        return self._make_result([result.sequences_ids[0] for result in results], start, encoded_at)
