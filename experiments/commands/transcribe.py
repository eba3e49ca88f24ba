"""Defines `jaxasr transcribe`, which prints or saves the text of recordings."""

import enum
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from experiments.commands.errors import FORESEEABLE, check_recordings, print_error
from experiments.commands.options import (
    DEFAULT_MODEL,
    Device,
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
from experiments.commands.transcript_folders import choose_folders

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Float

    from experiments.commands.output import Output
    from experiments.progress import Progress
    from jaxasr import Recogniser

EXAMPLE = "jaxasr transcribe speech.flac interview.mp3 --model base --format srt --out texts"

# Temperatures of --temperature-fallback, in this order, as in `transcribe.py` of openai/whisper.
FALLBACK_TEMPERATURES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
_FORMAT_HELP = (
    "Format of the text, as in openai-whisper. Prints the text, or with --out saves one file per "
    "recording. May be repeated. Default with --out: txt and json."
)


class Task(enum.StrEnum):
    """Whether the text is in the language of the speech or in English."""

    TRANSCRIBE = "transcribe"
    TRANSLATE = "translate"


def transcribe(
    audio: Annotated[
        list[Path], typer.Argument(help="Recordings of any length, in any audio format.")
    ],
    model: ModelOption = DEFAULT_MODEL,
    language: LanguageOption = None,
    task: Annotated[
        Task,
        typer.Option(
            "--task",
            help="transcribe: keep the language. translate: translate into English, with a "
            "multilingual model.",
        ),
    ] = Task.TRANSCRIBE,
    timestamps: Annotated[
        bool, typer.Option("--timestamps", "-t", help="Print segments with their times.")
    ] = False,
    words: Annotated[
        bool,
        typer.Option("--words", "-w", help="Print the times and the probability of each word."),
    ] = False,
    beam_size: Annotated[
        int, typer.Option("--beam-size", min=1, help="Number of beams. 1 decodes greedily.")
    ] = 1,
    temperature_fallback: Annotated[
        bool,
        typer.Option(
            "--temperature-fallback",
            help="Generate again at a higher temperature if a text is a loop or improbable.",
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

    With --json, prints one JSON object per recording. With --out, also saves a file in each
    --format. Explains on standard error why a 30 s window has no text.
    """
    formats = list(dict.fromkeys(formats or []))  # each format once, in the given order
    _check_formats(formats, len(audio), json, out)
    settings: dict[str, Any] = {"language": language, "task": task.value, "word_timestamps": words}
    settings["temperature"] = FALLBACK_TEMPERATURES if temperature_fallback else 0.0
    if beam_size > 1:
        settings["beam_size"] = beam_size
    file_formats = formats or [Format.txt, Format.json]
    outputs = {
        path: _open_output(
            path, folder, file_formats, model, {**settings, "dtype": dtype.value}, overwrite
        )
        for path, folder in (choose_folders(out, audio) if out else {}).items()
    }
    render_text = None if out and formats else _choose_renderer(formats, json, words, timestamps)
    has_headings = len(audio) > 1 and not json and not formats
    failed = False
    for path, result in _transcripts(audio, model, dtype.value, device, settings):
        if result is None:
            failed = True
            continue
        if render_text:
            _print(path if has_headings else None, render_text(result))
        _explain_windows_without_text(path, result)
        if path in outputs:
            try:
                _save(outputs[path], path, result, file_formats, words)
            except FORESEEABLE as error:  # continue with the other recordings
                print_error(error)
                failed = True
    if failed:
        raise typer.Exit(2)


def _check_formats(
    formats: Sequence[Format], n_recordings: int, json: bool, out: Path | None
) -> None:
    if json and formats and list(formats) != [Format.json] and not out:
        raise ValueError(
            f"--json, --format {formats[0]}: expected only one of the two. Use --out to save files."
        )
    if len(formats) > 1 and not out:
        raise ValueError(
            f"--format: {len(formats)} formats need --out, a folder for one file per format."
        )
    if not out and n_recordings > 1 and set(formats) & {Format.srt, Format.vtt, Format.tsv}:
        raise ValueError(
            f"--format {formats[0]}: {n_recordings} recordings need --out, a folder for one file "
            "per recording."
        )


def _open_output(
    path: Path,
    folder: Path,
    formats: Sequence[Format],
    model: str,
    settings: dict[str, Any],
    overwrite: bool,
) -> "Output":
    from experiments.commands.output import describe_origin, open_output

    recordings = [path] if path.is_file() else []
    description = describe_origin("transcribe", recordings, model, **settings)
    return open_output(
        folder, {f"{path.name}.{suffix}": description for suffix in formats}, overwrite
    )


def _transcripts(
    audio: Sequence[Path], model: str, dtype: str, device: Device | None, settings: dict[str, Any]
) -> Iterator[tuple[Path, dict[str, Any] | None]]:
    """Yields each recording with its transcript, or with None after an error.

    Loads the model when the first recording has been read, because loading takes seconds.
    """
    from experiments import runtime
    from experiments.progress import Progress

    steps, asr = Progress(), None
    readable = []
    for path in audio:
        try:
            check_recordings([path])
            readable.append(path)
        except FORESEEABLE as error:
            print_error(error)
            yield path, None
    if not readable:
        return
    runtime.check_language(model, settings["language"], settings["task"])
    with steps("start JAX"):
        runtime.start(device)
        import jaxasr
    for path in readable:
        result = None
        samples = _call_or_print_error(jaxasr.load_audio, path)
        if samples is not None:
            if asr is None:
                with steps(f"load {model}"):
                    asr = runtime.load(model, dtype)
            result = _call_or_print_error(transcribe_file, asr, path, samples, steps, settings)
        yield path, result


def _call_or_print_error(action: Callable[..., Any], *args: Any) -> Any:
    """Returns `action(*args)`. Prints a foreseeable error of this call, and then returns None."""
    try:
        return action(*args)
    except FORESEEABLE as error:
        print_error(error)
        return None


def transcribe_file(
    asr: "Recogniser",
    path: Path,
    samples: "Float[np.ndarray, 'n']",
    steps: "Progress",
    settings: dict[str, Any],
) -> dict[str, Any]:
    """Transcribes one recording.

    Args:
        asr: the recogniser.
        path: file of the recording, which the result names.
        samples: 16 kHz samples of the recording.
        steps: shows progress.
        settings: options of `asr.transcribe`.

    Returns:
        The dictionary of `Transcript.to_dict`, with two more keys: `audio` (the path) and
        `provenance`.
    """
    from experiments.runtime import describe_weights
    from interventions.storage.provenance import provenance

    with steps.bar(f"transcribe {path.name}") as progress:
        transcript = asr.transcribe(samples, progress=progress, **settings)
    return {
        "audio": str(path),
        **transcript.to_dict(),
        "provenance": provenance(model=describe_weights(asr), data=str(path), config=settings),
    }


def _choose_renderer(
    formats: Sequence[Format], json: bool, words: bool, timestamps: bool
) -> Callable[[dict[str, Any]], str]:
    """Returns the function that renders a transcript for standard output."""
    if json or formats:
        printed_format = Format.json if json else formats[0]
        return lambda result: render(result, printed_format, words)
    if words:
        return lambda result: "\n".join(word_table(result)) + "\n"
    return _render_segments if timestamps else lambda result: result["text"] + "\n"


def _render_segments(result: dict[str, Any]) -> str:
    return "".join(
        f"[{clock(segment['start'], '.')} → {clock(segment['end'], '.')}] "
        f"{segment['text'].strip()}\n"
        for segment in result["segments"]
    )


def _print(heading: Path | None, text: str) -> None:
    from interventions.storage.text_files import printable

    if heading:
        print(f"{printable(heading)}:")
    print(printable(text, keep_lines=True), end="", flush=True)


def _explain_windows_without_text(path: Path, result: dict[str, Any]) -> None:
    """Prints on standard error why each window without text has none."""
    from interventions.storage.text_files import printable

    for silence in result["silences"]:
        reason = "left out as silence" if silence["left_out"] else "the model generated no text"
        numbers = (
            f"no-speech probability {silence['no_speech_prob']:.2f}, "
            f"mean log-probability {silence['avg_logprob']:.2f}"
        )
        span = f"{silence['start']:.2f} to {silence['end']:.2f} s"
        typer.echo(f"{printable(path)}: {span}: {reason} ({numbers}).", err=True)


def _save(
    output: "Output", path: Path, result: dict[str, Any], formats: Sequence[Format], words: bool
) -> None:
    from interventions.storage.text_files import write_text

    with output.writing() as folder:
        for suffix in formats:
            write_text(folder / f"{path.name}.{suffix}", render(result, suffix, words))
