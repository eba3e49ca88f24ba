"""Transcripts as files of other programs: the formats of openai/whisper (`utils.py`), and words with their times and probabilities."""

import enum
from collections.abc import Iterator
from typing import Any


class Format(enum.StrEnum):
    """File formats of a transcript, as openai/whisper writes them."""

    txt = "txt"
    srt = "srt"
    vtt = "vtt"
    tsv = "tsv"
    json = "json"


def render(result: dict[str, Any], kind: Format, words: bool = False) -> str:
    """Renders a transcript as the content of a file.

    Args:
        result: what `Transcript.to_dict()` returns, possibly with more keys.
        kind: txt has one segment a line; srt and vtt one cue a segment; tsv times in milliseconds under a header; json all of `result`.
        words: writes one row a word, with its probability, under a header (txt, tsv); begins and ends cues with their words (srt, vtt).

    Returns:
        The text, each line with a newline.
    """
    if kind is Format.json:
        from interventions.storage.text_files import to_json

        return to_json(result) + "\n"
    return "".join(f"{line}\n" for line in _LINES[kind](result, words))


def word_table(result: dict[str, Any]) -> Iterator[str]:
    """Yields the lines of a table of words: start and end in seconds, probability, word, under a header."""
    yield f"{'start':>9} {'end':>8} {'prob':>5}  word"
    for w in _words(result):
        yield f"{w['start']:9.2f} {w['end']:8.2f} {w['probability']:5.2f}  {_line(w['text'])}"


def _txt(result: dict[str, Any], words: bool) -> Iterator[str]:
    yield from word_table(result) if words else (_line(s["text"]) for s in result["segments"])


def _tsv(result: dict[str, Any], words: bool) -> Iterator[str]:
    if not words:
        yield "start\tend\ttext"
        yield from (
            f"{_ms(s['start'])}\t{_ms(s['end'])}\t{_line(s['text'])}" for s in result["segments"]
        )
        return
    yield "start\tend\tprobability\tword"
    for w in _words(result):
        yield f"{_ms(w['start'])}\t{_ms(w['end'])}\t{w['probability']:.4f}\t{_line(w['text'])}"


def _srt(result: dict[str, Any], words: bool) -> Iterator[str]:
    for i, (start, end, text) in enumerate(_cues(result, words), start=1):
        yield f"{i}\n{clock(start, ',', hours=True)} --> {clock(end, ',', hours=True)}\n{text}\n"


def _vtt(result: dict[str, Any], words: bool) -> Iterator[str]:
    yield "WEBVTT\n"
    for start, end, text in _cues(result, words):
        text = text.replace("&", "&amp;").replace(
            "<", "&lt;"
        )  # otherwise the start of an entity or of a tag
        yield f"{clock(start, '.')} --> {clock(end, '.')}\n{text}\n"


_LINES = {Format.txt: _txt, Format.tsv: _tsv, Format.srt: _srt, Format.vtt: _vtt}


def _cues(result: dict[str, Any], words: bool) -> Iterator[tuple[float, float, str]]:
    for s in result["segments"]:
        start, end = (
            (s["words"][0]["start"], s["words"][-1]["end"])
            if words and s["words"]
            else (s["start"], s["end"])
        )
        yield start, end, _line(s["text"]).replace("-->", "->")


def _words(result: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for segment in result["segments"]:
        yield from segment["words"]


def _line(text: str) -> str:
    """Returns a text on one line, without tabs. A line break would end a cue or a row."""
    return " ".join(text.split())


def _ms(seconds: float) -> int:
    return round(1000 * seconds)


def clock(seconds: float, point: str, *, hours: bool = False) -> str:
    """Returns seconds as `02:03.456`, from an hour on as `01:02:03.456`; with `hours` always so. `point` separates the milliseconds."""
    minutes, ms = divmod(_ms(seconds), 60_000)
    whole, minutes = divmod(minutes, 60)
    lead = f"{whole:02d}:" if hours or whole else ""
    return f"{lead}{minutes:02d}:{ms // 1000:02d}{point}{ms % 1000:03d}"
