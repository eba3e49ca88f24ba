"""Compares greedy tokens with torch, and word error rates with faster-whisper.

Run by `python -m experiments.bench parity --n 100`.
"""

import dataclasses
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import jax.numpy as jnp
import numpy as np
import typer
from rich.table import Table

import jaxasr
from experiments.bench import ct2, options
from experiments.data import real_speech
from jaxasr.audio import load_audio, log_mel, pad_or_trim
from jaxasr.config import N_SAMPLES

# Logits. With a smaller margin between torch's two best tokens, torch itself would choose another
# token if it added in another order.
EXCUSED_BELOW = 1e-4
WITHOUT_SPEECH = ("rirs",)
LABELLED = ("timit", "libri_test_other", "vctk", "arctic", "ljspeech", "ravdess", "classic")
MAX_NEW_TOKENS = 224
_MAX_WER_GAP = 0.1  # percentage points


@dataclasses.dataclass(frozen=True)
class Compared:
    """The tokens of one recording by both libraries.

    Attributes:
        path: the recording.
        n_tokens: the number of torch's tokens.
        step: the first step that differs, or -1.
        margin: the difference between torch's two largest logits at that step; the smallest of all
            steps where none differs.
        ours: our text.
        torch: torch's text.
    """

    path: str
    n_tokens: int
    step: int
    margin: float
    ours: str
    torch: str

    @property
    def verdict(self) -> str:
        """Whether the tokens are the same, excused by the margin, or different."""
        if self.step < 0:
            return "same"
        return "excused" if self.margin < EXCUSED_BELOW else "DIFFERENT"


def compare_tokens(
    asr: jaxasr.Recogniser, clips: list[real_speech.Recording], batch: int = 8
) -> Iterator[Compared]:
    """Compares the tokens of recordings, each library with its own features, caches and rules.

    Args:
        asr: the recogniser, whose weights torch is given.
        clips: the recordings.
        batch: recordings per pass of jaxasr; torch decodes them one at a time.
    """
    from transformers import WhisperFeatureExtractor

    from experiments.bench.greedy import greedy
    from experiments.bench.torch_whisper import build

    checkpoint, tokenizer = asr.checkpoint, asr.tokenizer
    model = build(checkpoint.config, checkpoint.tensors, attention="sdpa")
    features = WhisperFeatureExtractor(feature_size=asr.config.n_mels)
    prompt = tokenizer.prompt("en")
    rules = {
        "suppress": checkpoint.suppress_ids,
        "suppress_begin": checkpoint.suppress_ids_begin,
        "eot": tokenizer.special.eot,
    }
    for start in range(0, len(clips), batch):
        rows = clips[start : start + batch]
        audios = [load_audio(clip.path)[:N_SAMPLES] for clip in rows]
        for clip, audio, ours in zip(rows, audios, _generate(asr, audios, prompt, batch)):
            mel = features(audio, sampling_rate=16_000, return_tensors="np").input_features[0]
            theirs = greedy(model, mel, prompt, max_new_tokens=MAX_NEW_TOKENS, **rules)
            step = _first_difference(ours, theirs.tokens)
            margin = theirs.margins[step] if step >= 0 else min(theirs.margins)
            texts = tokenizer.decode(ours), tokenizer.decode(theirs.tokens)
            yield Compared(str(clip.path), len(theirs.tokens), step, margin, *texts)


def _generate(
    asr: jaxasr.Recogniser, audios: list[np.ndarray], prompt: list[int], batch: int
) -> list[list[int]]:
    """Our tokens; the last batch is filled up, so that only one program is compiled."""
    full = [*audios, *audios[:1] * (batch - len(audios))]
    mels = jnp.stack([log_mel(pad_or_trim(audio), asr.config.n_mels) for audio in full])
    memory, _ = asr.model.encode(mels)
    ids = asr.generate(memory, prompt, max_new_tokens=MAX_NEW_TOKENS).ids
    return [list(row) for row in ids[: len(audios)]]


def _first_difference(a: list[int], b: list[int]) -> int:
    if a == b:
        return -1
    return next((i for i, (x, y) in enumerate(zip(a, b)) if x != y), min(len(a), len(b)))


def word_errors(
    asr: jaxasr.Recogniser, clips: list[real_speech.Recording]
) -> dict[str, dict[str, float]]:
    """Returns word error rates in % by set, and how many texts differ.

    Compares `transcribe` with faster-whisper in float32 under the same settings.
    """
    import faster_whisper

    with tempfile.TemporaryDirectory() as scratch:
        theirs = faster_whisper.WhisperModel(
            str(ct2.folder(asr.checkpoint, Path(scratch))), device="cpu", compute_type="float32"
        )
    texts: dict[str, list[tuple[str, str, str]]] = {}
    for clip in clips:
        audio = load_audio(clip.path)
        ours = asr.transcribe(
            audio,
            language="en",
            timestamps=False,
            padding="features",
            max_new_tokens=MAX_NEW_TOKENS,
        ).text
        segments, _ = theirs.transcribe(
            audio,
            language="en",
            beam_size=1,
            temperature=0.0,
            without_timestamps=True,
            condition_on_previous_text=False,
            max_new_tokens=MAX_NEW_TOKENS,
        )
        other = "".join(segment.text for segment in segments).strip()
        texts.setdefault(clip.set, []).append((clip.transcript, ours, other))
    sets = texts | {"all": [row for rows in texts.values() for row in rows]}
    return {name: _rates(rows) for name, rows in sets.items() if rows}


def _rates(rows: list[tuple[str, str, str]]) -> dict[str, float]:
    """Word error rates of rows of (transcript, our text, their text)."""
    import jiwer
    from transformers.models.whisper.english_normalizer import EnglishTextNormalizer

    normalise = EnglishTextNormalizer({})
    truth, ours, theirs = ([normalise(text) for text in column] for column in zip(*rows))
    return {
        "clips": len(rows),
        "ours": 100 * jiwer.wer(truth, ours),
        "faster_whisper": 100 * jiwer.wer(truth, theirs),
        "texts_differ": sum(mine != other for _, mine, other in rows),
    }


def main(
    n: Annotated[int, typer.Option(help="Recordings whose tokens are compared with torch.")] = 100,
    n_wer: Annotated[
        int, typer.Option(help="Labelled recordings for the word error rate; 0 for none.")
    ] = 100,
    model: options.Model = "tiny.en",
    data: options.Data = None,
    out: options.Out = None,
) -> None:
    """Fails if tokens differ without an excuse, or word error rates by more than 0.1 points.

    A difference is excused where the margin between torch's two best tokens is below 1e-4.
    """
    console = options.start(data)
    usable = [clip for clip in real_speech.recordings() if clip.set not in WITHOUT_SPEECH]
    if not usable:
        raise typer.BadParameter(
            "expected recordings, found none: set JAXASR_DATA to a folder with manifest.jsonl."
        )
    asr = jaxasr.load(model)
    compared = []
    for row in compare_tokens(asr, real_speech.spread(usable, n)):
        compared.append(row)
        if row.step >= 0:
            where = f"{Path(row.path).name} at step {row.step}, torch's margin {row.margin:.1e}"
            console.print(f"{row.verdict}: {where}\n  ours  {row.ours}\n  torch {row.torch}")
    console.print(_token_table(model, compared))
    labelled = real_speech.recordings(LABELLED, "en", labelled=True) if n_wer else []
    rates = word_errors(asr, real_speech.spread(labelled, n_wer)) if n_wer else {}
    console.print(_rate_table(model, rates))
    rows = [
        dataclasses.asdict(row) | {"verdict": row.verdict, "path": Path(row.path).name}
        for row in compared
    ]
    options.save(out, {"model": model, "tokens": rows, "wer": rates})
    gap = abs(rates["all"]["ours"] - rates["all"]["faster_whisper"]) if rates else 0.0
    if gap > _MAX_WER_GAP or any(row.verdict == "DIFFERENT" for row in compared):
        raise typer.Exit(1)


def _token_table(model: str, compared: list[Compared]) -> Table:
    columns = ("verdict", "recordings", "tokens", "smallest margin")
    table = Table(*columns, title=f"{model}: greedy tokens against torch, float32")
    for verdict in ("same", "excused", "DIFFERENT"):
        rows = [row for row in compared if row.verdict == verdict]
        smallest = f"{min(row.margin for row in rows):.1e}" if rows else ""
        table.add_row(verdict, str(len(rows)), str(sum(row.n_tokens for row in rows)), smallest)
    return table


def _rate_table(model: str, rates: dict[str, dict[str, float]]) -> Table:
    columns = ("set", "clips", "jaxasr %", "faster-whisper %", "texts that differ")
    table = Table(*columns, title=f"{model}: word error rate, greedy, no timestamps")
    for name, row in rates.items():
        table.add_row(
            name,
            str(row["clips"]),
            f"{row['ours']:.2f}",
            f"{row['faster_whisper']:.2f}",
            str(row["texts_differ"]),
        )
    return table
