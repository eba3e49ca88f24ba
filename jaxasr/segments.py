"""From the tokens of one window to segments in time, and to where the next window begins."""

import dataclasses
import itertools

from jaxasr.config import HOP, SAMPLE_RATE
from jaxasr.tokenizer import Tokenizer
from jaxasr.transcript import Segment

_MEL_FRAMES_PER_TIMESTAMP = 2
_FRAME_S = HOP / SAMPLE_RATE  # 10 ms


@dataclasses.dataclass(frozen=True)
class Written:
    """What was generated in one window; see `Segment` for the meaning of the numbers."""

    tokens: tuple[int, ...]
    avg_logprob: float
    no_speech_prob: float
    compression_ratio: float
    temperature: float


def segments_of(
    written: Written, tokenizer: Tokenizer, seek: int, n_frames: int
) -> tuple[list[Segment], int]:
    """Segments of a window at mel frame `seek` with `n_frames` true frames, and how many frames the next window is away.

    Two timestamps in a row end a segment. What comes after the last pair was cut off by the end of the window: the next one begins there.
    """
    begin = tokenizer.special.timestamp_begin
    tokens = written.tokens
    is_time = [tokenizer.is_time(id_) for id_ in tokens]
    cuts = [i for i in range(1, len(tokens)) if is_time[i - 1] and is_time[i]]
    if not cuts:
        times = [id_ - begin for id_, time in zip(tokens, is_time) if time]
        last = times[-1] if times else 0
        return _segment(
            written, tokenizer, tokens, seek, 0, last or n_frames / _MEL_FRAMES_PER_TIMESTAMP
        ), n_frames
    ends_in_silence = is_time[-2:] == [False, True]
    bounds = [0, *cuts, *([len(tokens)] if ends_in_silence else [])]
    slices = [tokens[a:b] for a, b in itertools.pairwise(bounds)]
    found = [
        s
        for part in slices
        for s in _segment(written, tokenizer, part, seek, max(0, part[0] - begin), part[-1] - begin)
    ]
    heard = (tokens[bounds[-1] - 1] - begin) * _MEL_FRAMES_PER_TIMESTAMP
    return found, n_frames if ends_in_silence or heard <= 0 else heard


def _segment(
    written: Written,
    tokenizer: Tokenizer,
    tokens: tuple[int, ...],
    seek: int,
    start: int,
    end: int | float,
) -> list[Segment]:
    """A segment, its times in timestamp steps; none when it is without text or length."""
    text = tokenizer.decode(tokens)
    if start == end or not text.strip():
        return []
    numbers = (
        written.avg_logprob,
        written.no_speech_prob,
        written.compression_ratio,
        written.temperature,
    )
    starts, ends = (
        round((seek + step * _MEL_FRAMES_PER_TIMESTAMP) * _FRAME_S, 3) for step in (start, end)
    )
    return [Segment(starts, ends, text, tuple(tokens), round(seek * _FRAME_S, 3), *numbers)]
