"""Aligners of a given text, each a worker: recordings and their texts to words with start and end in seconds.

Each `align(rows)` returns {name: {"heads": [[layer, head], ...], "times": a list of (word, start, end) for each row}}.
"""

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np

from experiments.bench.worker import Worker, threads

BATCH = 8
# name: its class and the module that it needs
ALIGNERS = {
    "jaxasr": ("Ours", "jaxasr"),
    "faster-whisper": ("FasterWhisper", "faster_whisper"),
    "openai-whisper": ("OpenAIWhisper", "whisper"),
    "whisper-timestamped": ("WhisperTimestamped", "whisper_timestamped"),
}


def installed() -> list[str]:
    return [name for name, (_, module) in ALIGNERS.items() if importlib.util.find_spec(module)]


def run(name: str, job: dict[str, Any], rows: list[dict[str, Any]]) -> dict[str, Any]:
    """What the aligner's worker finds."""
    with Worker(
        f"experiments.bench.aligners:{ALIGNERS[name][0]}", {**job, "aligner": name}
    ) as worker:
        return worker.ask("align", rows=rows)


class Aligner:
    """The recogniser gives every aligner its weights, its token ids and the published heads."""

    def __init__(self, job: dict[str, Any]):
        import jaxasr

        self.job, self.asr = job, jaxasr.load(job["model"])
        self.official = [list(pair) for pair in self.asr.alignment_heads]
        self.load()

    def load(self) -> None:
        """Makes the model from the recogniser's weights."""

    def align(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        from jaxasr.audio import load_audio

        times = []
        for row in rows:
            found = self.words(
                load_audio(row["path"]), self.asr.tokenizer.encode(" " + row["text"])
            )
            times.append([(word, float(start), float(end)) for word, start, end in found])
        return {self.job["aligner"]: {"heads": self.official, "times": times}}

    def words(self, audio: np.ndarray, ids: list[int]) -> list[tuple[str, float, float]]:
        raise NotImplementedError


class Ours:
    """Official, chosen and all heads, and the upper half of the decoder, which is what peers use where no heads are published."""

    def __init__(self, job: dict[str, Any]):
        from experiments import runtime

        runtime.start()
        self.job, self.asr = job, runtime.load(job["model"])

    def align(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        from jaxasr.alignment.released_heads import all_heads, default_heads

        sets = {
            "official": self.asr.checkpoint.alignment_heads,
            "chosen": self.asr.choose_heads(self.job["choose_on"], language="en"),
            "all": all_heads(self.asr.config),
            "upper half": default_heads(self.asr.config),
        }
        found: dict[str, Any] = {
            name: {"heads": [list(pair) for pair in heads], "times": []}
            for name, heads in sets.items()
        }
        for first in range(0, len(rows), BATCH):
            for name, times in self._batch(rows[first : first + BATCH], sets).items():
                found[name]["times"] += times
        heads = sets["official"]
        found["official, one recording"] = {
            "heads": [list(pair) for pair in heads],
            "times": self._as_one(rows, heads),
        }
        return {f"jaxasr, {name}": one for name, one in found.items()}

    def _as_one(
        self, rows: list[dict[str, Any]], heads: Any
    ) -> list[list[tuple[str, float, float]]]:
        """The recordings one after the other, aligned as one long recording; times in each from its own beginning.

        Of recordings with the same text the first only, none for the others: no recording repeats a sentence ten times.
        """
        from jaxasr.audio import load_audio
        from jaxasr.config import SAMPLE_RATE

        audios = {row["text"]: load_audio(row["path"]) for row in reversed(rows)}
        words = iter(
            self.asr.align(
                np.concatenate(list(audios.values())), " ".join(audios), language="en", heads=heads
            )
        )
        found, offset = {}, 0.0
        for text, audio in audios.items():
            own, rest = [], len("".join(text.split()))
            while rest > 0:
                own.append(next(words))
                rest -= len("".join(own[-1].text.split()))
            found[text] = [(word.text, word.start - offset, word.end - offset) for word in own]
            offset += len(audio) / SAMPLE_RATE
        return [found.pop(row["text"], []) for row in rows]

    def _batch(
        self, rows: list[dict[str, Any]], sets: dict[str, Any]
    ) -> dict[str, list[list[tuple[str, float, float]]]]:
        """One encoding for all sets of heads; the last batch is filled up, so that one program is compiled."""
        import jax.numpy as jnp

        from jaxasr.alignment.words import align
        from jaxasr.audio import load_audio, log_mel, n_frames

        full = rows + rows[:1] * (BATCH - len(rows))
        audios = [load_audio(row["path"]) for row in full]
        memory, _ = self.asr.model.encode(
            jnp.stack([log_mel(audio, self.asr.config.n_mels) for audio in audios])
        )
        texts, frames = (
            [self.asr.tokenizer.encode(" " + row["text"]) for row in full],
            [n_frames(len(audio)) for audio in audios],
        )
        times = {}
        for name, heads in sets.items():
            found = align(
                self.asr.model,
                self.asr.tokenizer,
                memory,
                texts,
                frames,
                heads=heads,
                language="en",
                late_start=True,
            )
            times[name] = [
                [(word.text, word.start, word.end) for word in words]
                for words in found[: len(rows)]
            ]
        return times


class FasterWhisper(Aligner):
    """`WhisperModel.find_alignment`, float32."""

    def load(self) -> None:
        import faster_whisper
        from faster_whisper.tokenizer import Tokenizer

        from experiments.bench import ct2

        folder = str(ct2.folder(self.asr.checkpoint, Path(self.job["folder"]) / "ctranslate2"))
        self.model = faster_whisper.WhisperModel(
            folder, device="cpu", compute_type="float32", cpu_threads=threads()
        )
        self.tokenizer = Tokenizer(
            self.model.hf_tokenizer,
            self.asr.tokenizer.is_multilingual,
            task="transcribe",
            language="en",
        )

    def words(self, audio: np.ndarray, ids: list[int]) -> list[tuple[str, float, float]]:
        from faster_whisper.audio import pad_or_trim

        features = self.model.feature_extractor(audio)
        n_frames = min(features.shape[-1], -(-len(audio) // 160))
        encoded = self.model.encode(pad_or_trim(features))
        [found] = self.model.find_alignment(self.tokenizer, [ids], encoded, n_frames)
        return [(word["word"], word["start"], word["end"]) for word in found]


class OpenAIWhisper(Aligner):
    """`whisper.timing.find_alignment`."""

    def load(self) -> None:
        import torch
        import whisper
        from whisper.tokenizer import get_tokenizer

        torch.set_num_threads(threads())
        config, weights = self.asr.config, self.asr.checkpoint.tensors
        dims = whisper.model.ModelDimensions(
            **{
                name: getattr(config, name)
                for name in whisper.model.ModelDimensions.__annotations__
            }
        )
        self.model = whisper.model.Whisper(dims)
        self.model.load_state_dict(
            {name: torch.from_numpy(np.array(weights[name], np.float32)) for name in weights}
        )
        self.model.set_alignment_heads(whisper._ALIGNMENT_HEADS[self.job["model"]])
        self.model.eval()
        self.tokenizer = get_tokenizer(
            self.model.is_multilingual,
            num_languages=self.model.num_languages,
            language="en",
            task="transcribe",
        )

    def words(self, audio: np.ndarray, ids: list[int]) -> list[tuple[str, float, float]]:
        import whisper
        from whisper.timing import find_alignment

        mel = whisper.log_mel_spectrogram(whisper.pad_or_trim(audio), self.model.dims.n_mels)
        found = find_alignment(self.model, self.tokenizer, ids, mel, -(-len(audio) // 160))
        return [(word.word, word.start, word.end) for word in found]


class WhisperTimestamped(OpenAIWhisper):
    """`whisper_timestamped.transcribe`, its model made to "transcribe" the given text as one segment."""

    def words(self, audio: np.ndarray, ids: list[int]) -> list[tuple[str, float, float]]:
        import whisper_timestamped

        segment = {
            "start": 0.0,
            "end": len(audio) / 16_000,
            "seek": 0,
            "tokens": list(ids),
            "text": self.asr.tokenizer.decode(ids),
        }
        self.model.transcribe = lambda *_, **__: {
            "language": "en",
            "text": segment["text"],
            "segments": [dict(segment)],
        }
        found = whisper_timestamped.transcribe(
            self.model, audio, language="en", naive_approach=True, verbose=None
        )
        return [
            (word["text"], word["start"], word["end"])
            for one in found["segments"]
            for word in one["words"]
        ]
