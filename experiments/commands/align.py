"""Defines `jaxasr align`, which prints when each word of a given text is spoken."""

import sys
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

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

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Float

    from experiments.progress import Progress
    from jaxasr import Recogniser
    from jaxasr.transcript import Word

EXAMPLE = "jaxasr align speech.flac --text speech.txt"

_MAX_BYTES = 10_000_000  # of --text; a larger file is not the text of a recording
_TEXT_HELP = (
    "UTF-8 file with the spoken words, one segment per line. Write - to use standard input."
)
_FORMAT_HELP = (
    "txt: a table of words. tsv: the same table in milliseconds, for programs. srt, vtt: one cue "
    "per line of the text. json: everything."
)
_HEADS_HELP = (
    "Cross-attention heads that the times are computed from. official: the alignment heads that "
    "the checkpoint names. chosen: the heads that fit this recording best. all: every head. "
    "3.2,4.7: layer 3 head 2 and layer 4 head 7, counted from 0. Default: official, or chosen if "
    "the checkpoint names none."
)


def align(
    audio: Annotated[Path, typer.Argument(help="A recording of any length, in any audio format.")],
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

    The probability of a word is the mean over its tokens. The model predicts each token from the
    audio and the preceding text. Words that are not spoken also get times, with a low probability.
    """
    from experiments import runtime
    from experiments.progress import Progress

    check_recordings([audio])
    words = read_text(text)
    _check_heads_option(heads)
    runtime.check_language(model, language)
    steps = Progress()
    with steps("start JAX"):
        runtime.start(device)
        import jaxasr
        from interventions.storage.text_files import printable
    samples = jaxasr.load_audio(audio)
    with steps(f"load {model}"):
        asr = runtime.load_whisper(model, dtype.value)
    result = align_text(asr, samples, words, steps, language=language, heads=heads)
    settings = {"language": language, "heads": result["heads"]}
    result = {"audio": str(audio), **result, "provenance": _make_provenance(asr, audio, settings)}
    rendered = render(result, Format.json if json else kind, words=True)
    print(printable(rendered, keep_lines=True), end="")


def _make_provenance(asr: "Recogniser", audio: Path, settings: dict[str, Any]) -> dict[str, Any]:
    from experiments.runtime import describe_weights
    from interventions.storage.provenance import provenance

    return provenance(model=describe_weights(asr), data=str(audio), config=settings)


def read_text(path: Path) -> str:
    """Reads the text of a file, or standard input if `path` is `-`.

    Returns:
        The text. Spaces replace its control characters, because these could act on a terminal.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not UTF-8, has no words, or is larger than 10 MB.
    """
    from_standard_input = str(path) == "-"
    name = "standard input" if from_standard_input else str(path)
    if from_standard_input:
        content = sys.stdin.buffer.read(_MAX_BYTES + 1)
    elif path.is_file():
        with path.open("rb") as file:
            content = file.read(_MAX_BYTES + 1)
    else:
        raise FileNotFoundError(
            f"--text {path}: no such file. To give the words themselves: "
            "echo 'the words' | jaxasr align AUDIO --text -"
        )
    if len(content) > _MAX_BYTES:
        raise ValueError(
            f"--text {name}: expected at most {_MAX_BYTES / 1e6:g} MB of text, got more. "
            "Check that it is the right file."
        )
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        byte = f"byte {content[error.start]:#x} at {error.start}"
        raise ValueError(f"--text {name}: expected UTF-8, got {byte}. Convert the file.") from None
    text = "".join(map(_replace_control, text))
    if not any(char.isalnum() for char in text):
        raise ValueError(f"--text {name}: expected words, got {text.strip()[:40]!r}.")
    return text


def _replace_control(char: str) -> str:
    # Cc is Unicode's category of control characters, which includes the line ends and tabs to keep.
    return char if unicodedata.category(char) != "Cc" or char.isspace() else " "


def _check_heads_option(heads: str) -> None:
    """Raises ValueError if `--heads` is malformed, before the model loads."""
    if heads not in ("", "official", "chosen", "all"):
        _parse_heads(heads)


def _parse_heads(heads: str) -> tuple[tuple[int, int], ...]:
    """Parses `3.2,4.7` to the pairs (3, 2) and (4, 7)."""
    parts = heads.replace(",", " ").split()
    try:
        # A part that is not two numbers with one dot raises ValueError.
        pairs = tuple(
            (int(layer), int(head)) for layer, head in (part.split(".") for part in parts)
        )
    except ValueError:
        pairs = ()
    if not pairs:
        raise ValueError(
            f"--heads {heads}: expected official, chosen, all or a list such as 3.2,4.7."
        )
    return pairs


def align_text(
    asr: "Recogniser",
    samples: "Float[np.ndarray, 'n']",
    text: str,
    steps: "Progress",
    *,
    language: str | None = None,
    heads: str = "",
) -> dict[str, Any]:
    """Aligns a text with a recording.

    Args:
        asr: the recogniser.
        samples: the recording at 16 kHz, of any length.
        text: the spoken words.
        steps: shows progress.
        language: language of the text. None: the model detects it.
        heads: the value of `--heads`; "" stands for its default.

    Returns:
        A dictionary with `text`, `segments` (one per line of the text, with its words), `language`,
        `duration` in seconds, and `heads`, the pairs (layer, head) that the times come from.

    Raises:
        ValueError: the model does not have the heads, or text and recording cannot be aligned (see
            `Recogniser.align`).
    """
    from jaxasr.alignment.choose_heads import choose_heads
    from jaxasr.alignment.forced import align_windows, place_text
    from jaxasr.alignment.released_heads import all_heads, check_heads
    from jaxasr.config import SAMPLE_RATE

    official = asr.checkpoint.alignment_heads
    heads = heads or ("official" if official else "chosen")
    if heads == "official" and not official:
        raise ValueError(
            f"--heads official: {asr.checkpoint.name} names no alignment heads. Use --heads chosen."
        )
    # None for "chosen", because the heads are chosen after the text is placed.
    pairs = (
        {"official": official, "all": all_heads(asr.config)}.get(heads)
        if heads in ("official", "all", "chosen")
        else _parse_heads(heads)
    )
    if pairs:
        check_heads(asr.config, pairs)
    with steps.bar("place the text") as progress:
        windows = place_text(
            asr.model, asr.tokenizer, samples, text, language=language, progress=progress
        )
    if pairs is None:
        with steps("choose heads"):
            pairs = choose_heads(asr.model, asr.tokenizer, windows)
        names = ",".join(f"{layer}.{head}" for layer, head in pairs)
        typer.echo(f"heads chosen on this recording: {names}", err=True)
    with steps.bar("align") as progress:
        words = align_windows(asr.model, asr.tokenizer, windows, heads=pairs, progress=progress)
    return {
        "text": " ".join(text.split()),
        "segments": _group_by_line(words, text),
        "language": windows[0].language,
        "duration": len(samples) / SAMPLE_RATE,
        "heads": [list(pair) for pair in pairs],
    }


def _group_by_line(words: "Sequence[Word]", text: str) -> list[dict[str, Any]]:
    """Groups words into segments, by the line of the text that has the word's first character."""
    import bisect
    import dataclasses
    import itertools

    lines = [line for line in text.splitlines() if line.strip()]
    # Positions are counted in visible characters, because the white space of the text differs from
    # that of the words.
    ends = list(itertools.accumulate(_count_visible(line) for line in lines))
    starts = itertools.accumulate((_count_visible(word.text) for word in words), initial=0)
    words_of_lines: list[list[dict[str, Any]]] = [[] for _ in lines]
    for word, start in zip(words, starts):
        line = min(bisect.bisect_right(ends, start), len(lines) - 1)
        words_of_lines[line].append(dataclasses.asdict(word))
    return [
        {
            "start": line_words[0]["start"],
            "end": line_words[-1]["end"],
            "text": " ".join(line.split()),
            "words": line_words,
        }
        for line, line_words in zip(lines, words_of_lines)
        if line_words
    ]


def _count_visible(text: str) -> int:
    return sum(not char.isspace() for char in text)
