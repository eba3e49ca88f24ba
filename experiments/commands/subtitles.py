"""Renders a transcript, per segment or per word, in one of the file formats of openai/whisper."""

import enum
from collections.abc import Iterator
from typing import Any


class Format(enum.StrEnum):
    """File formats of a transcript, as in openai/whisper's `utils.py`."""

    txt = "txt"
    srt = "srt"
    vtt = "vtt"
    tsv = "tsv"
    json = "json"


def render(result: dict[str, Any], kind: Format, words: bool = False) -> str:
    """Renders a transcript as the content of a file.

    Args:
        result: the dictionary of `Transcript.to_dict()`; it may have more keys.
        kind: file format. txt and tsv have one line per segment, tsv with a header and times in
            milliseconds. srt and vtt have one cue per segment. json has all of `result`.
        words: whether to use word times. txt and tsv then have a header, and one line per word with
            its probability. A cue of srt or vtt then begins with its first word and ends with its
            last word.

    Returns:
        The text. Every line ends with a newline.

    Example:
        ```python
        subtitles = render(asr.transcribe("speech.flac").to_dict(), Format.srt)
        ```
    """
    if kind is Format.json:
        from interventions.storage.text_files import to_json

        return to_json(result) + "\n"
    return "".join(f"{line}\n" for line in _LINES[kind](result, words))


def word_table(result: dict[str, Any]) -> Iterator[str]:
    """Yields a header, then one line per word: start and end in seconds, probability, word."""
    yield f"{'start':>9} {'end':>8} {'prob':>5}  word"
    for word in _yield_words(result):
        times = f"{word['start']:9.2f} {word['end']:8.2f}"
        yield f"{times} {word['probability']:5.2f}  {_join_lines(word['text'])}"


def _render_txt(result: dict[str, Any], words: bool) -> Iterator[str]:
    yield from word_table(result) if words else (_join_lines(s["text"]) for s in result["segments"])


def _render_tsv(result: dict[str, Any], words: bool) -> Iterator[str]:
    if not words:
        yield "start\tend\ttext"
        for segment in result["segments"]:
            yield f"{_format_span(segment)}\t{_join_lines(segment['text'])}"
        return
    yield "start\tend\tprobability\tword"
    for word in _yield_words(result):
        yield f"{_format_span(word)}\t{word['probability']:.4f}\t{_join_lines(word['text'])}"


def _render_srt(result: dict[str, Any], words: bool) -> Iterator[str]:
    for i, (start, end, text) in enumerate(_yield_cues(result, words), start=1):
        yield f"{i}\n{clock(start, ',', hours=True)} --> {clock(end, ',', hours=True)}\n{text}\n"


def _render_vtt(result: dict[str, Any], words: bool) -> Iterator[str]:
    yield "WEBVTT\n"
    for start, end, text in _yield_cues(result, words):
        # Escaped, because & begins an entity and < begins a tag.
        escaped = text.replace("&", "&amp;").replace("<", "&lt;")
        yield f"{clock(start, '.')} --> {clock(end, '.')}\n{escaped}\n"


# Function that yields the lines of each format.
_LINES = {
    Format.txt: _render_txt,
    Format.tsv: _render_tsv,
    Format.srt: _render_srt,
    Format.vtt: _render_vtt,
}


def _yield_cues(result: dict[str, Any], words: bool) -> Iterator[tuple[float, float, str]]:
    for segment in result["segments"]:
        spans = segment["words"] if words and segment["words"] else [segment]
        # Replaced, because --> separates the times of a cue.
        text = _join_lines(segment["text"]).replace("-->", "->")
        yield spans[0]["start"], spans[-1]["end"], text


def _yield_words(result: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for segment in result["segments"]:
        yield from segment["words"]


def _join_lines(text: str) -> str:
    """Replaces line breaks and tabs, because these would end a cue or a column."""
    return " ".join(text.split())


def _format_span(part: dict[str, Any]) -> str:
    return f"{_round_to_ms(part['start'])}\t{_round_to_ms(part['end'])}"


def _round_to_ms(seconds: float) -> int:
    return round(1000 * seconds)


def clock(seconds: float, decimal_mark: str, *, hours: bool = False) -> str:
    """Formats seconds as `02:03.456`, or `01:02:03.456` from one hour on.

    Args:
        seconds: time since the start.
        decimal_mark: separator before the milliseconds.
        hours: whether hours are always shown.

    Example:
        >>> clock(123.456, ".")
        '02:03.456'
    """
    minutes, ms = divmod(_round_to_ms(seconds), 60_000)
    n_hours, minutes = divmod(minutes, 60)
    hours_text = f"{n_hours:02d}:" if hours or n_hours else ""
    return f"{hours_text}{minutes:02d}:{ms // 1000:02d}{decimal_mark}{ms % 1000:03d}"
