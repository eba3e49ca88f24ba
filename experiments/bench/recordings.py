"""Prepares the job of a measurement: features and weights that all workers share."""

from pathlib import Path
from typing import Any

import numpy as np

from experiments.bench import random_weights
from experiments.bench.models import RANDOM, Job
from experiments.bench.worker import Worker

MAX_NEW_TOKENS = 224  # largest number of tokens per text
# Data sets of English speech with transcripts, in the data folder.
SETS = ("timit", "libri_test_other", "vctk", "arctic", "ljspeech", "classic", "ravdess")


def prepare_job(job: Job) -> Job:
    """Runs `Preparer.prepare` in another process that uses the CPU only.

    Example:
        ```python
        job = prepare_job({"model": "tiny.en", "clips": 2, "folder": "/tmp/job"})
        ```
    """
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
        """Writes the files, and returns the job of the workers as JSON values.

        The job has the entries of the preparer's job, and:
            `weights`: name of the model, or folder of random weights.
            `huggingface`, `ctranslate2`: folders of the same weights for other libraries. The
                second may be None.
            `mels`: file with the log-mel features [clips, M, 3000].
            `seconds`: length of each recording.
            `n_mels`, `prompt`, `eot`, `suppress`, `suppress_begin`, `max_new_tokens`: settings of
                the generation.
        """
        name, n = self.job["model"], self.job["clips"]
        weights = (
            self._write_random_weights(name.removeprefix(RANDOM))
            if name.startswith(RANDOM)
            else self._write_real_weights(name)
        )
        mels, seconds = _compute_features(n, weights["n_mels"], self.job.get("at_least_s", 0.0))
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

        A model with random weights has no tokenizer, so its texts are the ids.
        """
        if self.tokenizer is None:
            return [" ".join(map(str, row)) for row in tokens]
        return [self.tokenizer.decode(row) for row in tokens]

    def _write_real_weights(self, name: str) -> dict[str, Any]:
        """Writes a released model in the formats of all libraries. Returns its part of the job."""
        import jaxasr
        from experiments.bench import ctranslate2_folder
        from jaxasr.rules import rules_for

        asr = jaxasr.load(name)
        self.tokenizer, rules = asr.tokenizer, rules_for(asr.tokenizer)
        suppress, begin = (
            np.flatnonzero(mask).tolist() for mask in (rules.suppress, rules.suppress_begin)
        )
        ctranslate2 = None
        if asr.checkpoint.format == "ctranslate2":
            ctranslate2 = str(
                ctranslate2_folder.prepare(asr.checkpoint, self.folder / "ctranslate2")
            )
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

    def _write_random_weights(self, size: str) -> dict[str, Any]:
        """Writes a checkpoint of random weights. Returns its part of the job.

        The end-of-text is suppressed, so that every text has `MAX_NEW_TOKENS` tokens.
        """
        import jax
        from flax import nnx

        import jaxasr

        dtype = self.job.get("dtype", "float32")
        config = jaxasr.SIZES[size].replace(dtype=dtype, param_dtype=dtype)
        # Compiled as a whole, because creating each weight separately is slow.
        model = jax.jit(lambda: jaxasr.Whisper(config, rngs=nnx.Rngs(0)))()
        return random_weights.describe_job(config, jaxasr.save(model, self.folder / "huggingface"))


def _compute_features(n: int, n_mels: int, at_least_s: float) -> tuple[np.ndarray, list[float]]:
    """Returns log-mel features [n, M, 3000], and the length of each recording in seconds.

    Args:
        n: number of recordings. Without a data folder, the demo recording is used `n` times.
        n_mels: number of mel bins.
        at_least_s: smallest length of a recording in seconds.
    """
    from experiments.data import real_speech
    from jaxasr.audio import load_audio, log_mel, pad_or_trim
    from jaxasr.config import N_SAMPLES, SAMPLE_RATE

    labelled = real_speech.recordings(SETS, "en", labelled=True)
    clips = real_speech.select_evenly(
        [clip for clip in labelled if clip.duration_s >= at_least_s], n
    )
    if clips:
        print(f"Measures {len(clips)} recordings of {real_speech.folder()}.")
    else:
        print("Measures the demo recording. --data or JAXASR_DATA name a folder of others.")
    paths = [clip.path for clip in clips] or [real_speech.DEMO] * n
    audios = [load_audio(path)[:N_SAMPLES] for path in paths]
    mels = np.stack([np.asarray(log_mel(pad_or_trim(audio), n_mels)) for audio in audios])
    return mels, [len(audio) / SAMPLE_RATE for audio in audios]
