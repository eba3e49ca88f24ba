"""Greedy tokens against torch, and word error rate against faster-whisper: `python -m experiments.bench parity --n 100`."""

import dataclasses
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import jax.numpy as jnp
import numpy as np
import typer
from rich.console import Console
from rich.table import Table

import jaxasr
from experiments.bench import ct2
from experiments.data import real_speech
from jaxasr.audio import load_audio, log_mel, pad_or_trim
from jaxasr.config import N_SAMPLES
from jaxasr.rules import rules_for

EXCUSED_BELOW = 1e-4  # logits: with less between its two best tokens, torch in another order of sums would choose otherwise
WITHOUT_SPEECH = ("rirs",)
LABELLED = ("timit", "libri_test_other", "vctk", "arctic", "ljspeech", "ravdess", "classic")
MAX_NEW_TOKENS = 224


@dataclasses.dataclass(frozen=True)
class Compared:
    """Tokens of one recording. `step` is the first that differs (-1: none), `margin` torch's there between its two best logits."""

    path: str
    n_tokens: int
    step: int
    margin: float
    ours: str
    torch: str

    @property
    def verdict(self) -> str:
        return (
            "same" if self.step < 0 else "excused" if self.margin < EXCUSED_BELOW else "DIFFERENT"
        )


def compare_tokens(
    asr: jaxasr.Recogniser, clips: list[real_speech.Recording], batch: int = 8
) -> Iterator[Compared]:
    """Each side by its own features, caches and suppression: ours in batches, torch one recording at a time."""
    from transformers import WhisperFeatureExtractor

    from experiments.bench.greedy import greedy
    from experiments.bench.torch_whisper import build

    checkpoint, tokenizer = asr.checkpoint, asr.tokenizer
    model = build(checkpoint.config, checkpoint.tensors, attention="sdpa")
    features, prompt = (
        WhisperFeatureExtractor(feature_size=asr.config.n_mels),
        tokenizer.prompt("en"),
    )
    rules = {
        "suppress": checkpoint.suppress_ids,
        "suppress_begin": checkpoint.suppress_ids_begin,
        "eot": tokenizer.special.eot,
    }
    for start in range(0, len(clips), batch):
        some = clips[start : start + batch]
        audios = [load_audio(clip.path)[:N_SAMPLES] for clip in some]
        for clip, audio, ours in zip(some, audios, _ours(asr, audios, prompt, batch)):
            mel = features(audio, sampling_rate=16_000, return_tensors="np").input_features[0]
            theirs = greedy(model, mel, prompt, max_new_tokens=MAX_NEW_TOKENS, **rules)
            step = _first_difference(ours, theirs.tokens)
            margin = theirs.margins[step] if step >= 0 else min(theirs.margins)
            yield Compared(
                str(clip.path),
                len(theirs.tokens),
                step,
                margin,
                tokenizer.decode(ours),
                tokenizer.decode(theirs.tokens),
            )


def _ours(
    asr: jaxasr.Recogniser, audios: list[np.ndarray], prompt: list[int], batch: int
) -> list[list[int]]:
    """One program for every batch: the last is filled up."""
    mels = jnp.stack(
        [
            log_mel(pad_or_trim(audio), asr.config.n_mels)
            for audio in [*audios, *audios[:1] * (batch - len(audios))]
        ]
    )
    memory, _ = asr.model.encode(mels)
    ids = jnp.tile(jnp.array(prompt, jnp.int32), (batch, 1))
    out = jaxasr.generate(
        asr.model, memory, ids, max_new_tokens=MAX_NEW_TOKENS, rules=rules_for(asr.tokenizer)
    )
    return [row[:n].tolist() for row, n in zip(np.asarray(out.tokens), np.asarray(out.lengths))][
        : len(audios)
    ]


def _first_difference(a: list[int], b: list[int]) -> int:
    if a == b:
        return -1
    return next((i for i, (x, y) in enumerate(zip(a, b)) if x != y), min(len(a), len(b)))


def word_errors(
    asr: jaxasr.Recogniser, clips: list[real_speech.Recording]
) -> dict[str, dict[str, float]]:
    """Word error rate in % by set, of `transcribe` and of faster-whisper in float32 with the same settings, and how many texts differ."""
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
        texts.setdefault(clip.set, []).append(
            (clip.transcript, ours, "".join(segment.text for segment in segments).strip())
        )
    sets = texts | {"all": [row for rows in texts.values() for row in rows]}
    return {name: _rates(rows) for name, rows in sets.items() if rows}


def _rates(rows: list[tuple[str, str, str]]) -> dict[str, float]:
    import jiwer
    from transformers.models.whisper.english_normalizer import EnglishTextNormalizer

    normal = EnglishTextNormalizer({})
    truth, ours, theirs = ([normal(text) for text in column] for column in zip(*rows))
    rates = {"ours": 100 * jiwer.wer(truth, ours), "faster_whisper": 100 * jiwer.wer(truth, theirs)}
    return {
        "clips": len(rows),
        **rates,
        "texts_differ": sum(mine != other for _, mine, other in rows),
    }


def main(
    n: Annotated[int, typer.Option(help="Recordings whose tokens are compared with torch.")] = 100,
    n_wer: Annotated[
        int, typer.Option(help="Labelled recordings for the word error rate; 0: none.")
    ] = 100,
    model: Annotated[str, typer.Option(help="A model as `jaxasr.load` takes it.")] = "tiny.en",
    out: Annotated[Path | None, typer.Option(help="A file for the numbers, JSON.")] = None,
) -> None:
    """Fails when tokens differ where torch's margin does not excuse it, or the word error rates differ by more than 0.1 point."""
    console = Console()
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
            console.print(
                f"{row.verdict}: {Path(row.path).name} at step {row.step}, torch's margin {row.margin:.1e}"
            )
            console.print(f"  ours  {row.ours}\n  torch {row.torch}")
    console.print(_token_table(model, compared))
    rates = (
        word_errors(
            asr, real_speech.spread(real_speech.recordings(LABELLED, "en", labelled=True), n_wer)
        )
        if n_wer
        else {}
    )
    console.print(_rate_table(model, rates))
    if out:
        rows = [
            dataclasses.asdict(row) | {"verdict": row.verdict, "path": Path(row.path).name}
            for row in compared
        ]
        out.write_text(
            json.dumps({"model": model, "tokens": rows, "wer": rates}, indent=1, ensure_ascii=False)
        )
    gap = abs(rates["all"]["ours"] - rates["all"]["faster_whisper"]) if rates else 0.0
    if gap > 0.1 or any(row.verdict == "DIFFERENT" for row in compared):
        raise typer.Exit(1)


def _token_table(model: str, compared: list[Compared]) -> Table:
    table = Table(
        "verdict",
        "recordings",
        "tokens",
        "smallest margin",
        title=f"{model}: greedy tokens against torch, float32",
    )
    for verdict in ("same", "excused", "DIFFERENT"):
        rows = [row for row in compared if row.verdict == verdict]
        smallest = f"{min(row.margin for row in rows):.1e}" if rows else ""
        table.add_row(verdict, str(len(rows)), str(sum(row.n_tokens for row in rows)), smallest)
    return table


def _rate_table(model: str, rates: dict[str, dict[str, float]]) -> Table:
    title = f"{model}: word error rate, greedy, no timestamps"
    table = Table("set", "clips", "jaxasr %", "faster-whisper %", "texts that differ", title=title)
    for name, row in rates.items():
        table.add_row(
            name,
            str(row["clips"]),
            f"{row['ours']:.2f}",
            f"{row['faster_whisper']:.2f}",
            str(row["texts_differ"]),
        )
    return table
