"""Splits the tokens of one window into segments and finds where the next window starts."""

import dataclasses
import itertools

from jaxasr.config import HOP, SAMPLE_RATE
from jaxasr.tokenizer import Tokenizer
from jaxasr.transcript import Segment

_MEL_FRAMES_PER_TIMESTAMP = 2
_FRAME_S = HOP / SAMPLE_RATE  # 10 ms


@dataclasses.dataclass(frozen=True)
class DecodedWindow:
    """Tokens generated for one window, and their scores; `Segment` describes the fields."""

    tokens: tuple[int, ...]
    avg_logprob: float
    no_speech_prob: float
    compression_ratio: float
    temperature: float


def split_segments(
    decoded: DecodedWindow, tokenizer: Tokenizer, seek: int, n_frames: int
) -> tuple[list[Segment], int]:
    """Splits a decoded window into segments.

    Two timestamps in a row end a segment. The window cuts off the text after the last such pair,
    so the next window starts at that pair.

    Args:
        decoded: the generated tokens.
        tokenizer: the tokenizer of the model.
        seek: first mel frame of the window.
        n_frames: mel frames of the window that are not padding.

    Returns:
        The segments, and the number of mel frames from this window to the next.
    """
    begin = tokenizer.special.timestamp_begin
    tokens = decoded.tokens
    is_time = [tokenizer.is_time(id_) for id_ in tokens]
    cuts = [i for i in range(1, len(tokens)) if is_time[i - 1] and is_time[i]]
    if not cuts:
        times = [id_ - begin for id_, time in zip(tokens, is_time) if time]
        end = (times[-1] if times else 0) or n_frames / _MEL_FRAMES_PER_TIMESTAMP
        return _segment(decoded, tokenizer, tokens, seek, 0, end), n_frames
    # A single timestamp at the end says that only silence follows in this window.
    ends_in_silence = is_time[-2:] == [False, True]
    bounds = [0, *cuts, *([len(tokens)] if ends_in_silence else [])]
    segments = []
    for a, b in itertools.pairwise(bounds):
        part = tokens[a:b]
        start, end = max(0, part[0] - begin), part[-1] - begin
        segments += _segment(decoded, tokenizer, part, seek, start, end)
    last_end = (tokens[bounds[-1] - 1] - begin) * _MEL_FRAMES_PER_TIMESTAMP
    # Without progress the same window would be decoded for ever.
    return segments, n_frames if ends_in_silence or last_end <= 0 else last_end


def _segment(
    decoded: DecodedWindow,
    tokenizer: Tokenizer,
    tokens: tuple[int, ...],
    seek: int,
    start: int,
    end: int | float,
) -> list[Segment]:
    """Returns one segment, or none if it has no text or no length; times are timestamp steps."""
    text = tokenizer.decode(tokens)
    if start == end or not text.strip():
        return []
    start_s, end_s = (
        round((seek + step * _MEL_FRAMES_PER_TIMESTAMP) * _FRAME_S, 3) for step in (start, end)
    )
    segment = Segment(
        start=start_s,
        end=end_s,
        text=text,
        tokens=tuple(tokens),
        seek=round(seek * _FRAME_S, 3),
        avg_logprob=decoded.avg_logprob,
        no_speech_prob=decoded.no_speech_prob,
        compression_ratio=decoded.compression_ratio,
        temperature=decoded.temperature,
    )
    return [segment]
