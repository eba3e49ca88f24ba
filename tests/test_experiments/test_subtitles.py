"""Transcripts have the layout of openai-whisper, and parsers of subtitles read them back."""

import json
import re

import pytest
from typer.testing import CliRunner

from experiments import cli
from experiments.commands.subtitles import Format, clock, render

# A text that would end a cue, begin another one and open a tag.
HOSTILE = " a --> b & <i>c\td\n\n2\n00:00:01,000 --> 00:00:02,000\ne"
# A transcript with two segments, as `jaxasr transcribe --json` saves it.
RESULT = {
    "text": "Hello there. ...",
    "segments": [
        {"start": 0.0, "end": 5.0, "text": " Hello there.", "words": [
            {"text": " Hello", "start": 0.1, "end": 0.4567, "probability": 0.98765},
            {"text": " there.", "start": 0.5, "end": 0.91, "probability": 0.5},
        ]},
        {"start": 3599.9994, "end": 3725.5, "text": HOSTILE, "words": [
            {"text": HOSTILE, "start": 3600.0, "end": 3601.0, "probability": 0.1},
        ]},
    ],
}  # fmt: skip
# `HOSTILE` as one line of a subtitle.
ONE_LINE = "a -> b & <i>c d 2 00:00:01,000 -> 00:00:02,000 e"


def seconds(text: str) -> float:
    *hours, minutes, rest = re.fullmatch(
        r"(?:(\d{2,}):)?([0-5]\d):([0-5]\d[.,]\d{3})", text
    ).groups()
    return 3600 * int(hours[0] or 0) + 60 * int(minutes) + float(rest.replace(",", "."))


def srt_cues(text: str) -> list[tuple[float, float, str]]:
    """Parses SubRip: blocks between blank lines, each with a counter, two times, and text."""
    cues = []
    for number, block in enumerate(text.rstrip("\n").split("\n\n"), start=1):
        counter, times, *lines = block.split("\n")
        assert counter == str(number)
        assert re.fullmatch(r"\d{2,}:\d\d:\d\d,\d{3} --> \d{2,}:\d\d:\d\d,\d{3}", times)
        cues.append((*map(seconds, times.split(" --> ")), "\n".join(lines)))
    return cues


def vtt_cues(text: str) -> list[tuple[float, float, str]]:
    """Parses WebVTT (W3C): a signature, then cues with times and text (< and & are escaped)."""
    signature, *blocks = text.rstrip("\n").split("\n\n")
    assert signature == "WEBVTT"
    cues = []
    for block in blocks:
        times, *lines = block.split("\n")
        assert re.fullmatch(r"(?:\d{2,}:)?\d\d:\d\d\.\d{3} --> (?:\d{2,}:)?\d\d:\d\d\.\d{3}", times)
        text = "\n".join(lines)
        assert "-->" not in text
        assert not re.search(r"<|&(?!amp;|lt;)", text)
        cues.append(
            (*map(seconds, times.split(" --> ")), text.replace("&lt;", "<").replace("&amp;", "&"))
        )
    return cues


def test_srt_in_the_layout_of_openai_whisper():
    text = render(RESULT, Format.srt)
    assert text.startswith(
        "1\n00:00:00,000 --> 00:00:05,000\nHello there.\n\n2\n00:59:59,999 --> 01:02:05,500\n"
    )
    assert srt_cues(text) == [(0, 5, "Hello there."), (3599.999, 3725.5, ONE_LINE)]


def test_vtt_in_the_layout_of_openai_whisper():
    text = render(RESULT, Format.vtt)
    assert text.startswith(
        "WEBVTT\n\n00:00.000 --> 00:05.000\nHello there.\n\n59:59.999 --> 01:02:05.500\n"
    )
    assert vtt_cues(text) == [(0, 5, "Hello there."), (3599.999, 3725.5, ONE_LINE)]


def test_cues_of_words_begin_and_end_with_them():
    assert [cue[:2] for cue in srt_cues(render(RESULT, Format.srt, words=True))] == [
        (0.1, 0.91),
        (3600, 3601),
    ]
    assert [cue[:2] for cue in vtt_cues(render(RESULT, Format.vtt, words=True))] == [
        (0.1, 0.91),
        (3600, 3601),
    ]


def test_tsv_is_in_milliseconds_under_a_header():
    rows = [line.split("\t") for line in render(RESULT, Format.tsv).splitlines()]
    assert rows[:2] == [["start", "end", "text"], ["0", "5000", "Hello there."]]
    assert all(len(row) == 3 for row in rows)
    rows = [line.split("\t") for line in render(RESULT, Format.tsv, words=True).splitlines()]
    assert rows[:2] == [["start", "end", "probability", "word"], ["100", "457", "0.9877", "Hello"]]
    assert len(rows) == 4


def test_txt_has_one_line_per_segment_and_a_header_over_words():
    assert render(RESULT, Format.txt).splitlines()[0] == "Hello there."
    assert len(render(RESULT, Format.txt).splitlines()) == 2
    assert render(RESULT, Format.txt, words=True).splitlines()[:2] == [
        "    start      end  prob  word",
        "     0.10     0.46  0.99  Hello",
    ]


def test_json_is_the_whole_transcript():
    assert json.loads(render(RESULT, Format.json)) == RESULT


EMPTY = {Format.txt: "", Format.srt: "", Format.vtt: "WEBVTT\n\n", Format.tsv: "start\tend\ttext\n"}


@pytest.mark.parametrize(("kind", "text"), EMPTY.items())
def test_an_empty_transcript_is_a_valid_file(kind, text):
    assert render({"text": "", "segments": []}, kind) == text


def test_a_time_is_rounded_before_it_is_cut_into_parts():
    assert clock(59.9996, ".") == "01:00.000"
    assert clock(3599.9999, ",", hours=True) == "01:00:00,000"


@pytest.mark.parametrize(("arguments", "message"), [
    (["a.wav", "b.wav", "--format", "srt"], "--format srt: 2 recordings need --out"),
    (["a.wav", "--format", "srt", "--format", "vtt"], "--format: 2 formats need --out"),
    (["a.wav", "--format", "srt", "--json"], "--json, --format srt: expected only one of the two"),
])  # fmt: skip
def test_formats_that_do_not_fit_together_are_refused(arguments, message):
    done = CliRunner().invoke(cli.app, ["transcribe", *arguments])
    assert done.exit_code == 2
    assert message in done.stderr
