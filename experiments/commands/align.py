"""`jaxasr align`: word times of a given text."""

import sys
import unicodedata
from pathlib import Path
from typing import Annotated, Any

import typer

from experiments.commands.errors import check_recordings
from experiments.commands.options import (
    DEFAULT_MODEL,
    DeviceOption,
    Dtype,
    DtypeOption,
    JsonOption,
    LanguageOption,
    ModelOption,
)
from experiments.commands.subtitles import Format, render

EXAMPLE = "jaxasr align speech.flac --text speech.txt"

_MOST_BYTES = 10_000_000  # more is not the text of a recording
_TEXT_HELP = "File with the words that are spoken, UTF-8; - reads standard input. Each line becomes one segment."
_FORMAT_HELP = "txt: a table of words; tsv: the same for programs, in milliseconds; srt and vtt: a cue a line of the text; json: all of it."
_HEADS_HELP = (
    "Cross-attention heads to read: official, those of the checkpoint; chosen, those that follow this recording best; all; "
    "or a list as 3.2,4.7 (layer.head, from 0). Default: official, or chosen where the checkpoint names none."
)


def align(
    audio: Annotated[Path, typer.Argument(help="A recording of any length and format.")],
    text: Annotated[Path, typer.Option("--text", "-t", allow_dash=True, help=_TEXT_HELP)],
    model: ModelOption = DEFAULT_MODEL,
    language: LanguageOption = None,
    heads: Annotated[str, typer.Option("--heads", help=_HEADS_HELP)] = "",
    kind: Annotated[Format, typer.Option("--format", "-f", help=_FORMAT_HELP)] = Format.txt,
    json: JsonOption = False,
    dtype: DtypeOption = Dtype.float32,
    device: DeviceOption = None,
) -> None:
    """Prints when each word of a given text is spoken: start and end in seconds, and a probability.

    The probability is the mean that the model gives the tokens of the word after the words before it. Words that are not
    spoken get times too; their probability is low.
    """
    from experiments import runtime
    from experiments.progress import Progress
    from interventions.storage.text_files import printable

    check_recordings([audio])
    words = read_text(text)
    _check_heads_option(heads)
    steps = Progress()
    with steps("start JAX"):
        runtime.start(device)
        import jaxasr
    samples = jaxasr.load_audio(audio)
    with steps(f"load {model}"):
        asr = runtime.load(model, dtype.value)
    result = align_text(asr, samples, words, steps, language=language, heads=heads)
    settings = {"language": language, "heads": result["heads"]}
    known = {"audio": str(audio), **result, "provenance": _provenance(asr, audio, settings)}
    print(printable(render(known, Format.json if json else kind, words=True), lines=True), end="")


def _provenance(asr: Any, audio: Path, settings: dict[str, Any]) -> dict[str, Any]:
    from experiments.runtime import weights
    from interventions.storage.provenance import provenance

    return provenance(model=weights(asr), data=str(audio), config=settings)


def read_text(path: Path) -> str:
    """The text in a file, or on standard input for `-`. Raises ValueError or OSError naming the file."""
    name = "standard input" if str(path) == "-" else str(path)
    if name == "standard input":
        found = sys.stdin.buffer.read(_MOST_BYTES + 1)
    elif path.is_file():
        with path.open("rb") as file:
            found = file.read(_MOST_BYTES + 1)
    else:
        raise FileNotFoundError(
            f"--text {path}: no such file. For words themselves: echo 'the words' | jaxasr align AUDIO --text -"
        )
    if len(found) > _MOST_BYTES:
        raise ValueError(
            f"--text {name}: expected at most {_MOST_BYTES / 1e6:g} MB of text, got more. Check that it is the right file."
        )
    try:
        text = found.decode("utf-8-sig")
    except UnicodeDecodeError as problem:
        byte = f"byte {found[problem.start]:#x} at {problem.start}"
        raise ValueError(f"--text {name}: expected UTF-8, got {byte}. Convert the file.") from None
    text = "".join(
        char if unicodedata.category(char) != "Cc" or char.isspace() else " " for char in text
    )  # no escapes to a terminal
    if not any(char.isalnum() for char in text):
        raise ValueError(f"--text {name}: expected words, got {text.strip()[:40]!r}.")
    return text


def _check_heads_option(heads: str) -> None:
    """Raises ValueError for an option that no model can have; runs before the model loads."""
    if heads not in ("", "official", "chosen", "all"):
        _listed(heads)


def _listed(heads: str) -> tuple[tuple[int, int], ...]:
    try:
        layers, columns = zip(
            *(pair.split(".") for pair in heads.replace(",", " ").split()), strict=True
        )
        return tuple((int(layer), int(head)) for layer, head in zip(layers, columns, strict=True))
    except ValueError:
        raise ValueError(
            f"--heads {heads}: expected official, chosen, all or a list as 3.2,4.7 (layer.head)."
        ) from None


def align_text(
    asr: Any, samples: Any, text: str, steps: Any, *, language: str | None = None, heads: str = ""
) -> dict[str, Any]:
    """The aligned words as plain values, one segment for each line of `text`; progress is shown in `steps`."""
    from jaxasr.alignment.choose_heads import choose_heads
    from jaxasr.alignment.forced import align_windows, place
    from jaxasr.alignment.released_heads import all_heads, check_heads

    official = asr.checkpoint.alignment_heads
    heads = heads or ("official" if official else "chosen")
    if heads == "official" and not official:
        raise ValueError(
            f"--heads official: {asr.checkpoint.name} names no alignment heads. Use --heads chosen."
        )
    listed = (
        {"official": official, "all": all_heads(asr.config)}.get(heads)
        if heads in ("official", "all", "chosen")
        else _listed(heads)
    )
    if listed:
        check_heads(asr.config, listed)
    with steps.bar("place the text") as progress:
        windows = place(
            asr.model, asr.tokenizer, samples, text, language=language, progress=progress
        )
    if listed is None:
        with steps("choose heads"):
            listed = choose_heads(asr.model, asr.tokenizer, windows)
        typer.echo(
            f"heads chosen on this recording: {','.join(f'{layer}.{head}' for layer, head in listed)}",
            err=True,
        )
    with steps.bar("align") as progress:
        words = align_windows(asr.model, asr.tokenizer, windows, heads=listed, progress=progress)
    return {
        "text": " ".join(text.split()),
        "segments": _segments(words, text),
        "language": windows[0].language,
        "duration": len(samples) / 16_000,
        "heads": [list(pair) for pair in listed],
    }


def _segments(words: Any, text: str) -> list[dict[str, Any]]:
    """The words of each line of the text, with the line's times. A word belongs to the line that its first character is in."""
    import bisect
    import dataclasses
    import itertools

    lines = [line for line in text.splitlines() if line.strip()]
    ends = list(itertools.accumulate(_n_visible(line) for line in lines))
    starts = itertools.accumulate((_n_visible(word.text) for word in words), initial=0)
    members: list[list[dict[str, Any]]] = [[] for _ in lines]
    for word, start in zip(words, starts):
        members[min(bisect.bisect_right(ends, start), len(lines) - 1)].append(
            dataclasses.asdict(word)
        )
    return [
        {
            "start": own[0]["start"],
            "end": own[-1]["end"],
            "text": " ".join(line.split()),
            "words": own,
        }
        for line, own in zip(lines, members)
        if own
    ]


def _n_visible(text: str) -> int:
    return sum(not char.isspace() for char in text)
