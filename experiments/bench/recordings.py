"""Prepares the job that the contenders of a measurement share."""

from pathlib import Path
from typing import Any

import numpy as np

from experiments.bench.models import RANDOM, Job
from experiments.bench.worker import Worker

MAX_NEW_TOKENS = 224
# Data sets of English speech with transcripts.
SETS = ("timit", "libri_test_other", "vctk", "arctic", "ljspeech", "classic", "ravdess")


def prepare_job(job: Job) -> Job:
    """Runs `Preparer.prepare` in another process, which does not use the accelerator."""
    with Worker("experiments.bench.recordings:Preparer", job, JAX_PLATFORMS="cpu") as preparer:
        return preparer.ask("prepare")


class Preparer:
    """A worker that writes features and weights to a folder, and decodes tokens to text.

    Args:
        job: has `model`, `clips` (their number), `folder`, and optionally `dtype` and
            `at_least_s` (smallest length of a recording).
    """

    def __init__(self, job: Job):
        self.job, self.folder, self.tokenizer = job, Path(job["folder"]), None

    def prepare(self) -> Job:
        """Writes the files and returns the job of the contenders, which has JSON values only."""
        name, n = self.job["model"], self.job["clips"]
        weights = (
            self._random_weights(name.removeprefix(RANDOM))
            if name.startswith(RANDOM)
            else self._real_weights(name)
        )
        mels, seconds = _features(n, weights["n_mels"], self.job.get("at_least_s", 0.0))
        np.save(self.folder / "mels.npy", mels)
        return {
            **self.job,
            **weights,
            "mels": str(self.folder / "mels.npy"),
            "seconds": seconds,
            "max_new_tokens": MAX_NEW_TOKENS,
        }

    def texts(self, tokens: list[list[int]]) -> list[str]:
        """Decodes tokens to texts.

        Random models have no tokenizer, so their texts are ids.
        """
        if self.tokenizer is None:
            return [" ".join(map(str, row)) for row in tokens]
        return [self.tokenizer.decode(row) for row in tokens]

    def _real_weights(self, name: str) -> dict[str, Any]:
        """Writes a released model in the formats of all contenders; returns files and rules."""
        import jaxasr
        from experiments.bench import ct2
        from jaxasr.rules import rules_for

        asr = jaxasr.load(name)
        self.tokenizer, rules = asr.tokenizer, rules_for(asr.tokenizer)
        suppress, begin = (
            np.flatnonzero(mask).tolist() for mask in (rules.suppress, rules.suppress_begin)
        )
        ctranslate2 = None
        if asr.checkpoint.format == "ctranslate2":
            ctranslate2 = str(ct2.folder(asr.checkpoint, self.folder / "ctranslate2"))
        return {
            "n_mels": asr.config.n_mels,
            "weights": name,
            "prompt": asr.tokenizer.prompt("en"),
            "suppress": suppress,
            "suppress_begin": begin,
            "eot": asr.tokenizer.special.eot,
            "sha256": asr.checkpoint.sha256,
            "huggingface": str(jaxasr.save(asr, self.folder / "huggingface")),
            "ctranslate2": ctranslate2,
        }

    def _random_weights(self, size: str) -> dict[str, Any]:
        """Writes a checkpoint of random weights and returns its files and rules.

        The end-of-text is suppressed, so that every text has the full length.
        """
        import jax
        from flax import nnx

        import jaxasr
        from jaxasr.weights.saving import generation_json

        dtype = self.job.get("dtype", "float32")
        config = jaxasr.SIZES[size].replace(dtype=dtype, param_dtype=dtype)
        model = jax.jit(lambda: jaxasr.Whisper(config, rngs=nnx.Rngs(0)))()
        folder = str(jaxasr.save(model, self.folder / "huggingface"))
        ids = generation_json(config, None)
        language_and_task = (
            [ids["lang_to_id"]["<|en|>"], ids["task_to_id"]["transcribe"]]
            if ids["is_multilingual"]
            else []
        )
        start, no_timestamps = ids["decoder_start_token_id"], ids["no_timestamps_token_id"]
        return {
            "n_mels": config.n_mels,
            "weights": folder,
            "prompt": [start, *language_and_task, no_timestamps],
            "suppress": [ids["eos_token_id"]],
            "suppress_begin": [],
            "eot": ids["eos_token_id"],
            "huggingface": folder,
            "ctranslate2": None,
        }


def _features(n: int, n_mels: int, at_least_s: float) -> tuple[np.ndarray, list[float]]:
    """Returns log-mels [n, M, 3000] of recordings of at least `at_least_s`, and their lengths.

    Without a data folder, the demo recording is repeated.
    """
    from experiments.data import real_speech
    from jaxasr.audio import load_audio, log_mel, pad_or_trim
    from jaxasr.config import N_SAMPLES, SAMPLE_RATE

    labelled = real_speech.recordings(SETS, "en", labelled=True)
    clips = real_speech.select_evenly(
        [clip for clip in labelled if clip.duration_s >= at_least_s], n
    )
    paths = [clip.path for clip in clips] or [real_speech.DEMO] * n
    audios = [load_audio(path)[:N_SAMPLES] for path in paths]
    mels = np.stack([np.asarray(log_mel(pad_or_trim(audio), n_mels)) for audio in audios])
    return mels, [len(audio) / SAMPLE_RATE for audio in audios]
