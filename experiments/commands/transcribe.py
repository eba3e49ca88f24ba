"""`jaxasr transcribe`: recordings to text."""

import enum
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from experiments.commands.errors import FORESEEABLE, check_recordings, say
from experiments.commands.options import (
    DEFAULT_MODEL,
    DeviceOption,
    Dtype,
    DtypeOption,
    JsonOption,
    LanguageOption,
    ModelOption,
    OutOption,
    OverwriteOption,
)
from experiments.commands.subtitles import Format, clock, render, word_table

EXAMPLE = "jaxasr transcribe speech.flac interview.mp3 --model base --format srt --out texts"

FALLBACK = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)  # openai/whisper `transcribe.py`
_FORMAT_HELP = "As openai-whisper writes it: printed, or with --out a file each; may be repeated. Default with --out: txt and json."


class Task(enum.StrEnum):
    """Write what is said, or its translation into English."""

    TRANSCRIBE = "transcribe"
    TRANSLATE = "translate"


def transcribe(
    audio: Annotated[list[Path], typer.Argument(help="Recordings of any length and format.")],
    model: ModelOption = DEFAULT_MODEL,
    language: LanguageOption = None,
    task: Annotated[
        Task, typer.Option("--task", help="translate: into English, by multilingual models.")
    ] = Task.TRANSCRIBE,
    timestamps: Annotated[
        bool, typer.Option("--timestamps", "-t", help="Print segments with their times.")
    ] = False,
    words: Annotated[
        bool,
        typer.Option(
            "--words", "-w", help="Find the time and the probability of every word, and print them."
        ),
    ] = False,
    beam_size: Annotated[
        int, typer.Option("--beam-size", min=1, help="Beams of the search; 1 is greedy.")
    ] = 1,
    temperature_fallback: Annotated[
        bool,
        typer.Option(
            "--temperature-fallback",
            help="Write again, more freely, what repeats itself or is improbable.",
        ),
    ] = False,
    formats: Annotated[
        list[Format] | None, typer.Option("--format", "-f", help=_FORMAT_HELP)
    ] = None,
    json: JsonOption = False,
    out: OutOption = None,
    overwrite: OverwriteOption = False,
    dtype: DtypeOption = Dtype.float32,
    device: DeviceOption = None,
) -> None:
    """Prints the text of recordings.

    With --json one object a line and recording; with --out also a file in each --format. Why a window has no text is printed on
    standard error.
    """
    formats = list(dict.fromkeys(formats or []))
    _check_formats(formats, len(audio), json, out)
    settings: dict[str, Any] = {"language": language, "task": task.value, "word_timestamps": words}
    settings["temperature"] = FALLBACK if temperature_fallback else 0.0
    if beam_size > 1:
        settings["beam_size"] = beam_size
    places = places_in(out, audio) if out else {}
    kinds = formats or [Format.txt, Format.json]
    outputs = {
        path: _output(path, place, kinds, model, {**settings, "dtype": dtype.value}, overwrite)
        for path, place in places.items()
    }
    show = _shown(formats, json, words, timestamps) if not (out and formats) else None
    failed = False
    for path, result in _results(audio, model, dtype.value, device, settings):
        if result is None:
            failed = True
            continue
        if show:
            _print(path if len(audio) > 1 and not json and not formats else None, show(result))
        _explain(path, result)
        if path in outputs:
            try:
                with outputs[path].writing() as folder:
                    for kind in kinds:
                        _write(folder / f"{path.name}.{kind}", render(result, kind, words))
            except FORESEEABLE as problem:  # the other recordings get their turn
                say(problem)
                failed = True
    if failed:
        raise typer.Exit(2)


def _check_formats(
    formats: Sequence[Format], n_recordings: int, json: bool, out: Path | None
) -> None:
    if json and formats and list(formats) != [Format.json] and not out:
        raise ValueError(
            f"--json, --format {formats[0]}: expected one of the two, or --out for files."
        )
    if len(formats) > 1 and not out:
        raise ValueError(
            f"--format: {len(formats)} formats need --out, a folder for a file in each."
        )
    if not out and n_recordings > 1 and set(formats) & {Format.srt, Format.vtt, Format.tsv}:
        raise ValueError(
            f"--format {formats[0]}: {n_recordings} recordings need --out, a folder for a file of each."
        )


def places_in(out: Path, recordings: Sequence[Path]) -> dict[Path, Path]:
    """Chooses the folder for the files of each recording.

    It is `out`; where two recordings have the same name, their folders are kept below `out`, from the first that differs on.

    Raises ValueError for a recording that is given twice.
    """
    absolute = {path: Path(os.path.abspath(path)) for path in recordings}
    names = {
        path.name.casefold() for path in recordings
    }  # some file systems do not distinguish A from a
    if len(set(absolute.values())) < len(recordings):
        twice = next(
            path
            for i, path in enumerate(recordings)
            if absolute[path] in [absolute[one] for one in recordings[:i]]
        )
        raise ValueError(f"{twice}: given twice, and --out has room for one text of it.")
    if len(names) == len(recordings):
        return dict.fromkeys(recordings, out)
    common = Path(os.path.commonpath([path.parent for path in absolute.values()]))
    return {path: out / where.parent.relative_to(common) for path, where in absolute.items()}


def _output(
    path: Path,
    folder: Path,
    kinds: Sequence[Format],
    model: str,
    settings: dict[str, Any],
    overwrite: bool,
) -> Any:
    from experiments.commands.output import checked, made

    known = made("transcribe", [path] if path.is_file() else [], model, **settings)
    return checked(folder, {f"{path.name}.{kind}": known for kind in kinds}, overwrite)


def _results(
    audio: Sequence[Path], model: str, dtype: str, device: Any, settings: dict[str, Any]
) -> Iterator[tuple[Path, dict[str, Any] | None]]:
    """Yields each recording with its transcript, or None where it could not be read: the others get their turn.

    The model is loaded once the first recording was read.
    """
    from experiments.progress import Progress

    readable, steps = [], Progress()
    for path in audio:
        try:
            check_recordings([path])
            readable.append(path)
        except FORESEEABLE as problem:
            say(problem)
            yield path, None
    if not readable:
        return
    from experiments import runtime

    with steps("start JAX"):
        runtime.start(device)
        import jaxasr
    runtime.check_language(model, settings["language"], settings["task"])
    asr = None
    for path in readable:
        try:
            samples = jaxasr.load_audio(path)
        except FORESEEABLE as problem:
            say(problem)
            yield path, None
            continue
        if asr is None:
            with steps(f"load {model}"):
                asr = runtime.load(model, dtype)
        try:
            yield path, transcribe_file(asr, path, samples, steps, settings)
        except FORESEEABLE as problem:
            say(problem)
            yield path, None


def transcribe_file(
    asr: Any, path: Path, samples: Any, steps: Any, settings: dict[str, Any]
) -> dict[str, Any]:
    """A transcript as plain values, with its recording and where it comes from; progress is shown in `steps`."""
    from experiments.runtime import weights
    from interventions.storage.provenance import provenance

    with steps.bar(f"transcribe {path.name}") as progress:
        transcript = asr.transcribe(samples, progress=progress, **settings)
    return {
        "audio": str(path),
        **transcript.to_dict(),
        "provenance": provenance(model=weights(asr), data=str(path), config=settings),
    }


def _shown(formats: Sequence[Format], json: bool, words: bool, timestamps: bool) -> Any:
    """Returns the function that renders a transcript for standard output."""
    if json or formats:
        kind = Format.json if json else formats[0]
        return lambda result: render(result, kind, words)
    if words:
        return lambda result: "\n".join(word_table(result)) + "\n"
    return _segments if timestamps else lambda result: result["text"] + "\n"


def _segments(result: dict[str, Any]) -> str:
    return "".join(
        f"[{clock(s['start'], '.')} → {clock(s['end'], '.')}] {s['text'].strip()}\n"
        for s in result["segments"]
    )


def _print(path: Path | None, text: str) -> None:
    from interventions.storage.text_files import printable

    if path:
        print(f"{printable(path)}:")
    print(printable(text, lines=True), end="", flush=True)


def _explain(path: Path, result: dict[str, Any]) -> None:
    """Prints, on standard error, why windows have no text."""
    from interventions.storage.text_files import printable

    for silence in result["silences"]:
        numbers = f"no-speech probability {silence['no_speech_prob']:.2f}, mean log-probability {silence['avg_logprob']:.2f}"
        why = (
            f"left out as silence ({numbers})"
            if silence["left_out"]
            else f"the model generated no text ({numbers})"
        )
        typer.echo(
            f"{printable(path)}: {silence['start']:.2f} to {silence['end']:.2f} s: {why}.", err=True
        )


def _write(path: Path, text: str) -> None:
    from interventions.storage.text_files import write_text

    write_text(path, text)
