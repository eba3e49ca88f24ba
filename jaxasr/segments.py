"""Splits the tokens of one window into segments and finds where the next window starts."""

import dataclasses
import itertools

from jaxasr.config import HOP, SAMPLE_RATE
from jaxasr.tokenizer import Tokenizer
from jaxasr.transcript import Segment

_MEL_FRAMES_PER_TIMESTAMP = 2  # a step of the timestamps is 20 ms, a mel frame 10 ms
_SECONDS_PER_MEL_FRAME = HOP / SAMPLE_RATE  # 0.01


@dataclasses.dataclass(frozen=True)
class DecodedWindow:
    """The tokens of one window and their scores. The fields mean the same as in `Segment`."""

    tokens: tuple[int, ...]
    avg_logprob: float
    no_speech_prob: float
    compression_ratio: float
    temperature: float


def split_segments(
    decoded: DecodedWindow, tokenizer: Tokenizer, seek: int, n_frames: int
) -> tuple[list[Segment], int]:
    """Splits a decoded window into segments.

    Two timestamps in a row end a segment. The end of the window may cut off the text after the last
    pair, so the next window starts at the time of this pair.

    Args:
        decoded: the generated tokens.
        tokenizer: the tokenizer of the model.
        seek: first mel frame of the window.
        n_frames: number of mel frames of the window without padding.

    Returns:
        The segments, and the number of mel frames from this window to the next.
    """
    begin = tokenizer.special.timestamp_begin
    tokens = decoded.tokens
    is_time = [tokenizer.is_time(id_) for id_ in tokens]
    # Index of the second timestamp of each pair.
    cuts = [i for i in range(1, len(tokens)) if is_time[i - 1] and is_time[i]]
    if not cuts:
        # One segment. It ends at the last timestamp, or with the window if the last timestamp is 0
        # or missing.
        times = [id_ - begin for id_, is_stamp in zip(tokens, is_time) if is_stamp]
        end = (times[-1] if times else 0) or n_frames / _MEL_FRAMES_PER_TIMESTAMP
        return _to_segments(decoded, tokenizer, tokens, seek, 0, end), n_frames
    # A single timestamp at the end means that no speech follows it in this window.
    ends_in_silence = is_time[-2:] == [False, True]
    bounds = [0, *cuts, *([len(tokens)] if ends_in_silence else [])]
    segments = []
    for first, stop in itertools.pairwise(bounds):
        part = tokens[first:stop]
        start, end = max(0, part[0] - begin), part[-1] - begin
        segments += _to_segments(decoded, tokenizer, part, seek, start, end)
    last_end = (tokens[bounds[-1] - 1] - begin) * _MEL_FRAMES_PER_TIMESTAMP
    # With a step of 0, the next window would be the same window again, without end.
    return segments, n_frames if ends_in_silence or last_end <= 0 else last_end


def _to_segments(
    decoded: DecodedWindow,
    tokenizer: Tokenizer,
    tokens: tuple[int, ...],
    seek: int,
    start: int,
    end: int | float,
) -> list[Segment]:
    """Returns a list of one segment, or an empty list if the segment lacks text or duration.

    `start` and `end` are timestamp steps after the start of the window.
    """
    text = tokenizer.decode(tokens)
    if start == end or not text.strip():
        return []
    start_s, end_s = (
        round((seek + step * _MEL_FRAMES_PER_TIMESTAMP) * _SECONDS_PER_MEL_FRAME, 3)
        for step in (start, end)
    )
    segment = Segment(
        start=start_s,
        end=end_s,
        text=text,
        tokens=tuple(tokens),
        seek=round(seek * _SECONDS_PER_MEL_FRAME, 3),
        avg_logprob=decoded.avg_logprob,
        no_speech_prob=decoded.no_speech_prob,
        compression_ratio=decoded.compression_ratio,
        temperature=decoded.temperature,
    )
    return [segment]
