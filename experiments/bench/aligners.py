"""Defines aligners: workers that find the word times of recordings whose texts are known.

The method `align(rows)` of an aligner returns `{name: {"heads": [[layer, head], ...], "times":
[...]}}`. `times` has a list per row, with (word, start, end) for each word, in seconds.
"""

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np

from experiments.bench.models import Job
from experiments.bench.worker import Worker, threads

BATCH = 8  # recordings per pass of jaxasr
# Name of each aligner: its class in this file, and the module that it imports.
ALIGNERS = {
    "jaxasr": ("JaxasrAligner", "jaxasr"),
    "faster-whisper": ("FasterWhisperAligner", "faster_whisper"),
    "openai-whisper": ("OpenAIWhisperAligner", "whisper"),
    "whisper-timestamped": ("WhisperTimestampedAligner", "whisper_timestamped"),
}
Row = dict[str, Any]  # a recording: `path` of its file, and `text`
Times = list[tuple[str, float, float]]  # words with start and end in seconds


def installed() -> list[str]:
    """Returns the names of the aligners whose module is installed."""
    return [name for name, (_, module) in ALIGNERS.items() if importlib.util.find_spec(module)]


def run(name: str, job: Job, rows: list[Row]) -> dict[str, Any]:
    """Aligns recordings in the process of a worker.

    Args:
        name: a key of `ALIGNERS`.
        job: has `model`, `folder` for temporary files, and `choose_on`, the paths of recordings on
            which jaxasr chooses heads.
        rows: the recordings.

    Returns:
        The result of the aligner's method `align`.
    """
    target = f"experiments.bench.aligners:{ALIGNERS[name][0]}"
    with Worker(target, {**job, "aligner": name}) as worker:
        return worker.ask("align", rows=rows)


class Aligner:
    """Base class for other libraries, which get weights, token ids and heads from jaxasr."""

    def __init__(self, job: Job):
        import jaxasr

        self.job, self.asr = job, jaxasr.load(job["model"])
        self.heads = [list(pair) for pair in self.asr.alignment_heads]
        self.load()

    def load(self) -> None:
        """Builds the library's model from the weights of jaxasr."""

    def align(self, rows: list[Row]) -> dict[str, Any]:
        """Returns the word times of every row."""
        from jaxasr.audio import load_audio

        times = []
        for row in rows:
            ids = self.asr.tokenizer.encode(" " + row["text"])
            words = self.words(load_audio(row["path"]), ids)
            times.append([(word, float(start), float(end)) for word, start, end in words])
        return {self.job["aligner"]: {"heads": self.heads, "times": times}}

    def words(self, audio: np.ndarray, ids: list[int]) -> Times:
        """Returns the word times of one recording."""
        raise NotImplementedError


class JaxasrAligner:
    """Aligns with jaxasr and four sets of heads: published, chosen, all, and upper half.

    "Upper half" is all heads of the decoder's upper half of layers. Other libraries use it for a
    model without published heads.
    """

    def __init__(self, job: Job):
        from experiments import runtime

        runtime.start()
        self.job, self.asr = job, runtime.load(job["model"])

    def align(self, rows: list[Row]) -> dict[str, Any]:
        """Returns the word times of every row, by set of heads."""
        from jaxasr.alignment.released_heads import all_heads, default_heads

        published = self.asr.checkpoint.alignment_heads or default_heads(self.asr.config)
        head_sets = {
            "official": published,
            "chosen": self.asr.choose_heads(self.job["choose_on"], language="en"),
            "all": all_heads(self.asr.config),
            "upper half": default_heads(self.asr.config),
        }
        results: dict[str, Any] = {
            name: {"heads": [list(pair) for pair in heads], "times": []}
            for name, heads in head_sets.items()
        }
        for first in range(0, len(rows), BATCH):
            for name, times in self._align_batch(rows[first : first + BATCH], head_sets).items():
                results[name]["times"] += times
        results["official, one recording"] = {
            "heads": [list(pair) for pair in published],
            "times": self._align_concatenated(rows, published),
        }
        return {f"jaxasr, {name}": result for name, result in results.items()}

    def _align_concatenated(self, rows: list[Row], heads: Any) -> list[Times]:
        """Concatenates all recordings, and aligns the result in one call.

        Uses only the first of several recordings with the same text, because a real recording does
        not repeat a sentence ten times.

        Returns:
            Times per row, relative to the start of the row's recording. [] for a row that is not
            used.
        """
        from jaxasr.audio import load_audio
        from jaxasr.config import SAMPLE_RATE

        # Reversed, so that the first recording with a text is the one that stays.
        audios = {row["text"]: load_audio(row["path"]) for row in reversed(rows)}
        audio, text = np.concatenate(list(audios.values())), " ".join(audios)
        words = iter(self.asr.align(audio, text, language="en", heads=heads))
        times, offset = {}, 0.0  # offset: start in seconds of the present recording
        for text, audio in audios.items():
            # Takes words until they have as many letters as the text of the recording.
            taken, n_letters = [], len("".join(text.split()))
            while n_letters > 0:
                taken.append(next(words))
                n_letters -= len("".join(taken[-1].text.split()))
            times[text] = [(word.text, word.start - offset, word.end - offset) for word in taken]
            offset += len(audio) / SAMPLE_RATE
        # pop, so that later rows with the same text get [].
        return [times.pop(row["text"], []) for row in rows]

    def _align_batch(self, rows: list[Row], head_sets: dict[str, Any]) -> dict[str, list[Times]]:
        """Encodes a batch once, and aligns it with each set of heads.

        Fills up the last batch, so that only one program is compiled.
        """
        import jax.numpy as jnp

        from jaxasr.alignment.words import align
        from jaxasr.audio import load_audio, log_mel, n_frames

        full = rows + rows[:1] * (BATCH - len(rows))
        audios = [load_audio(row["path"]) for row in full]
        mels = jnp.stack([log_mel(audio, self.asr.config.n_mels) for audio in audios])
        memory, _ = self.asr.model.encode(mels)
        texts = [self.asr.tokenizer.encode(" " + row["text"]) for row in full]
        frames = [n_frames(len(audio)) for audio in audios]
        times = {}
        for name, heads in head_sets.items():
            aligned = align(
                self.asr.model,
                self.asr.tokenizer,
                memory,
                texts,
                frames,
                heads=heads,
                language="en",
                late_start=True,  # the recording may start with silence
            )
            times[name] = [
                [(word.text, word.start, word.end) for word in words]
                for words in aligned[: len(rows)]
            ]
        return times


class FasterWhisperAligner(Aligner):
    """`WhisperModel.find_alignment` in float32."""

    def load(self) -> None:
        """Loads the weights into CTranslate2."""
        import faster_whisper
        from faster_whisper.tokenizer import Tokenizer

        from experiments.bench import ctranslate2_folder

        folder = str(
            ctranslate2_folder.prepare(
                self.asr.checkpoint, Path(self.job["folder"]) / "ctranslate2"
            )
        )
        # Any: the annotation of `find_alignment` contradicts the arguments that its code takes.
        self.model: Any = faster_whisper.WhisperModel(
            folder, device="cpu", compute_type="float32", cpu_threads=threads()
        )
        self.tokenizer = Tokenizer(
            self.model.hf_tokenizer,
            self.asr.tokenizer.is_multilingual,
            task="transcribe",
            language="en",
        )

    def words(self, audio: np.ndarray, ids: list[int]) -> Times:
        """Returns the word times of one recording."""
        from faster_whisper.audio import pad_or_trim

        features = self.model.feature_extractor(audio)
        n_frames = min(features.shape[-1], -(-len(audio) // 160))  # 160 samples per mel frame
        encoded = self.model.encode(pad_or_trim(features))
        [words] = self.model.find_alignment(self.tokenizer, [ids], encoded, n_frames)
        return [(word["word"], word["start"], word["end"]) for word in words]


class OpenAIWhisperAligner(Aligner):
    """`whisper.timing.find_alignment`."""

    def load(self) -> None:
        """Copies the weights into openai-whisper's model."""
        import torch
        import whisper
        from whisper.tokenizer import get_tokenizer

        torch.set_num_threads(threads())
        config, weights = self.asr.config, self.asr.checkpoint.tensors
        names = whisper.model.ModelDimensions.__annotations__
        dims = whisper.model.ModelDimensions(**{name: getattr(config, name) for name in names})
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

    def words(self, audio: np.ndarray, ids: list[int]) -> Times:
        """Returns the word times of one recording."""
        import whisper
        from whisper.timing import find_alignment

        mel = whisper.log_mel_spectrogram(whisper.pad_or_trim(audio), self.model.dims.n_mels)
        words = find_alignment(self.model, self.tokenizer, ids, mel, -(-len(audio) // 160))
        return [(word.word, word.start, word.end) for word in words]


class WhisperTimestampedAligner(OpenAIWhisperAligner):
    """`whisper_timestamped.transcribe`.

    The method `transcribe` of its model is replaced by one that returns the given text.
    """

    def words(self, audio: np.ndarray, ids: list[int]) -> Times:
        """Returns the word times of one recording."""
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
        transcript = whisper_timestamped.transcribe(
            self.model, audio, language="en", naive_approach=True, verbose=None
        )
        return [
            (word["text"], word["start"], word["end"])
            for segment in transcript["segments"]
            for word in segment["words"]
        ]
