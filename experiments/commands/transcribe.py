"""`jaxasr transcribe`: recordings to text."""
import enum
from pathlib import Path
from typing import Annotated, Any

import typer

from experiments.commands.errors import FORESEEABLE, say
from experiments.commands.options import (
    DEFAULT_MODEL,
    DeviceOption,
    Dtype,
    DtypeOption,
    JsonOption,
    LanguageOption,
    ModelOption,
    OutOption,
)

EXAMPLE = "jaxasr transcribe speech.flac interview.mp3 --model base --words"

FALLBACK = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)  # openai/whisper `transcribe.py`


class Task(enum.StrEnum):
    """Write what is said, or its translation into English."""

    TRANSCRIBE = "transcribe"
    TRANSLATE = "translate"


def transcribe(
    audio: Annotated[list[Path], typer.Argument(help="Recordings of any length and format.")],
    model: ModelOption = DEFAULT_MODEL,
    language: LanguageOption = None,
    task: Annotated[Task, typer.Option("--task", help="translate: into English, by multilingual models.")] = Task.TRANSCRIBE,
    timestamps: Annotated[bool, typer.Option("--timestamps", "-t", help="Print segments with their times.")] = False,
    words: Annotated[bool, typer.Option("--words", "-w", help="Find the time of every word, from cross-attention, and print it.")] = False,
    beam_size: Annotated[int, typer.Option("--beam-size", min=1, help="Beams of the search; 1 is greedy.")] = 1,
    temperature_fallback: Annotated[
        bool, typer.Option("--temperature-fallback", help="Write again, more freely, what repeats itself or is improbable.")
    ] = False,
    json: JsonOption = False,
    out: OutOption = None,
    dtype: DtypeOption = Dtype.float32,
    device: DeviceOption = None,
) -> None:
    """Prints the text of recordings.

    With --json one object a line and recording; with --out also a .txt and a .json file for each.
    """
    from experiments import runtime
    from experiments.files import printable
    from experiments.progress import Steps

    steps = Steps()
    with steps(f"load {model}"):
        runtime.start(device)
        asr = runtime.load(model, dtype.value)
    settings = {"language": language, "task": task.value, "word_timestamps": words}
    settings["temperature"] = FALLBACK if temperature_fallback else 0.0
    if beam_size > 1:
        settings["beam_size"] = beam_size
    show = _json if json else _words if words else _segments if timestamps else _text
    failed = False
    for path in audio:
        try:
            result = transcribe_file(asr, path, steps, settings)
        except FORESEEABLE as problem:  # the other recordings get their turn
            say(problem)
            failed = True
            continue
        if len(audio) > 1 and not json:
            print(f"{printable(path)}:")
        print(printable(show(result), lines=True))
        if out:
            _write(out, path, result)
    if failed:
        raise typer.Exit(2)


def transcribe_file(asr: Any, path: Path, steps: Any, settings: dict[str, Any]) -> dict[str, Any]:
    """A transcript as plain values, with its recording and where it comes from; progress is shown in `steps`."""
    import jaxasr
    from experiments.provenance import provenance
    from experiments.runtime import weights

    audio = jaxasr.load_audio(path)
    with steps.bar(f"transcribe {path.name}") as progress:
        transcript = asr.transcribe(audio, progress=progress, **settings)
    return {"audio": str(path), **transcript.to_dict(), "provenance": provenance(model=weights(asr), data=str(path), config=settings)}


def _text(result: dict[str, Any]) -> str:
    return result["text"]


def _segments(result: dict[str, Any]) -> str:
    return "\n".join(f"[{_clock(s['start'])} → {_clock(s['end'])}] {s['text'].strip()}" for s in result["segments"])


def _words(result: dict[str, Any]) -> str:
    words = [word for segment in result["segments"] for word in segment["words"]]
    return "\n".join(f"{w['start']:9.2f} {w['end']:8.2f} {w['probability']:5.2f}  {w['text'].strip()}" for w in words)


def _json(result: dict[str, Any]) -> str:
    from experiments.files import to_json

    return to_json(result)


def _write(out: Path, path: Path, result: dict[str, Any]) -> None:
    from experiments.files import write_json, write_text

    write_text(out / f"{path.name}.txt", result["text"] + "\n")
    write_json(out / f"{path.name}.json", result)


def _clock(seconds: float) -> str:
    """`1:02:03.45`, the hours only where there are some."""
    hours, rest = divmod(round(seconds * 100), 360_000)
    minutes, hundredths = divmod(rest, 6_000)
    return f"{f'{hours}:' if hours else ''}{minutes:02d}:{hundredths / 100:05.2f}"
