"""What every contender is given: the same features, prompt, suppressed tokens and weights."""

from pathlib import Path
from typing import Any

import numpy as np

from experiments.bench.models import RANDOM
from experiments.bench.worker import Worker

MAX_NEW_TOKENS = 224
SETS = ("timit", "libri_test_other", "vctk", "arctic", "ljspeech", "classic", "ravdess")


def prepared(job: dict[str, Any]) -> dict[str, Any]:
    """What `Preparer` makes of a job (model, clips, folder), without holding the accelerator."""
    with Worker("experiments.bench.recordings:Preparer", job, JAX_PLATFORMS="cpu") as preparer:
        return preparer.ask("prepare")


class Preparer:
    """A worker that writes all of it to a folder, then turns tokens back into text."""

    def __init__(self, job: dict[str, Any]):
        self.job, self.folder, self.tokenizer = job, Path(job["folder"]), None

    def prepare(self) -> dict[str, Any]:
        """The job of the contenders: files, prompt, ids; everything JSON."""
        name, n = self.job["model"], self.job["clips"]
        made = (
            self._random(name.removeprefix(RANDOM)) if name.startswith(RANDOM) else self._real(name)
        )
        mels, seconds = _features(n, made["n_mels"], self.job.get("at_least_s", 0.0))
        np.save(self.folder / "mels.npy", mels)
        return {
            **self.job,
            **made,
            "mels": str(self.folder / "mels.npy"),
            "seconds": seconds,
            "max_new_tokens": MAX_NEW_TOKENS,
        }

    def texts(self, tokens: list[list[int]]) -> list[str]:
        return [
            self.tokenizer.decode(row) if self.tokenizer else " ".join(map(str, row))
            for row in tokens
        ]

    def _real(self, name: str) -> dict[str, Any]:
        import jaxasr
        from experiments.bench import ct2
        from jaxasr.rules import rules_for

        asr = jaxasr.load(name)
        self.tokenizer, rules = asr.tokenizer, rules_for(asr.tokenizer)
        suppress, begin = (
            np.flatnonzero(mask).tolist() for mask in (rules.suppress, rules.suppress_begin)
        )
        packaged = asr.checkpoint.format == "ctranslate2"
        return {
            "n_mels": asr.config.n_mels,
            "weights": name,
            "prompt": asr.tokenizer.prompt("en"),
            "suppress": suppress,
            "suppress_begin": begin,
            "eot": asr.tokenizer.special.eot,
            "sha256": asr.checkpoint.sha256,
            "huggingface": str(jaxasr.save(asr, self.folder / "huggingface")),
            "ctranslate2": str(ct2.folder(asr.checkpoint, self.folder / "ctranslate2"))
            if packaged
            else None,
        }

    def _random(self, size: str) -> dict[str, Any]:
        """A checkpoint of random weights. They never end a text in a way worth timing: every row is written to its full length."""
        import jax
        from flax import nnx

        import jaxasr
        from jaxasr.weights.saving import generation_json

        dtype = self.job.get("dtype", "float32")
        config = jaxasr.SIZES[size].replace(dtype=dtype, param_dtype=dtype)
        folder = str(
            jaxasr.save(
                jax.jit(lambda: jaxasr.Whisper(config, rngs=nnx.Rngs(0)))(),
                self.folder / "huggingface",
            )
        )
        ids = generation_json(config, None)
        spoken = (
            [ids["lang_to_id"]["<|en|>"], ids["task_to_id"]["transcribe"]]
            if ids["is_multilingual"]
            else []
        )
        return {
            "n_mels": config.n_mels,
            "weights": folder,
            "prompt": [ids["decoder_start_token_id"], *spoken, ids["no_timestamps_token_id"]],
            "suppress": [ids["eos_token_id"]],
            "suppress_begin": [],
            "eot": ids["eos_token_id"],
            "huggingface": folder,
            "ctranslate2": None,
        }


def _features(n: int, n_mels: int, at_least_s: float) -> tuple[np.ndarray, list[float]]:
    """Log-mel [n, M, 3000] of `n` recordings, none shorter than `at_least_s`, and their seconds.

    Where there are no recordings, the demo's again and again.
    """
    from experiments.data import real_speech
    from jaxasr.audio import load_audio, log_mel, pad_or_trim
    from jaxasr.config import N_SAMPLES, SAMPLE_RATE

    known = real_speech.recordings(SETS, "en", labelled=True)
    clips = real_speech.spread([clip for clip in known if clip.duration_s >= at_least_s], n)
    audios = [
        load_audio(path)[:N_SAMPLES]
        for path in ([clip.path for clip in clips] or [real_speech.DEMO] * n)
    ]
    mels = np.stack([np.asarray(log_mel(pad_or_trim(audio), n_mels)) for audio in audios])
    return mels, [len(audio) / SAMPLE_RATE for audio in audios]
