"""Transcribes a long recording window by window with an audio language model."""

import dataclasses
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from jaxasr.audio.features import check_samples
from jaxasr.config import SAMPLE_RATE
from jaxasr.generated_text import GeneratedText
from jaxasr.language.inputs import least_samples
from jaxasr.languages import LANGUAGES, language_code
from jaxasr.options import Options
from jaxasr.taps import Edits
from jaxasr.text import compression_ratio
from jaxasr.transcribe import Progress
from jaxasr.transcript import Segment, Silence, Transcript

if TYPE_CHECKING:
    from jaxasr.language.recogniser import PromptedRecogniser

# Options that act on an audio language model.
_SUPPORTED = ("language", "max_new_tokens", "batch_size")
UNDETERMINED = "und"  # code of ISO 639-2 for a language that is not known
# A language that the model states before the text.
_STATED_LANGUAGE = re.compile(r"^\s*<\|([a-z]{2,3})\|>")


def check_options(options: Mapping[str, Any]) -> Options:
    """Checks that an audio language model has all given options of a transcription.

    Args:
        options: options by name, as in `PromptedRecogniser.transcribe`.

    Returns:
        The options, with the language as a code.

    Raises:
        ValueError: an option is unknown, or has no effect on an audio language model.

    Example:
        >>> check_options({"language": "German"}).language
        'de'
    """
    defaults = {field.name: field.default for field in dataclasses.fields(Options)}
    for name, value in options.items():
        if name not in defaults:
            raise ValueError(
                f"transcribe: unknown option {name!r}. Expected one of: {', '.join(_SUPPORTED)}."
            )
        if name not in _SUPPORTED and value != defaults[name]:
            raise ValueError(
                f"{name}: not supported by an audio language model; expected {defaults[name]!r}, "
                f"got {value!r}. Leave it out, or use a Whisper."
            )
    language = options.get("language")
    code = None if language is None else language_code(language)
    return Options(**{**options, "language": code})


def transcribe_windows(
    asr: "PromptedRecogniser",
    audio: Float[np.ndarray, "n_samples"],
    options: Options,
    *,
    edits: Edits | None,
    progress: Progress | None,
) -> Transcript:
    """Transcribes a recording of any length; see `PromptedRecogniser.transcribe`.

    Args:
        asr: the model.
        audio: 16 kHz samples.
        options: from `check_options`.
        edits: `{site: edit}`, applied to every window.
        progress: called with the seconds transcribed so far and the duration in seconds.

    Returns:
        Text, and one segment per window.
    """
    check_samples(audio)
    language = options.language
    width, least = asr.config.n_samples, least_samples(asr.config)
    # The last window is left out if it is too short for an audio token.
    starts = [i for i in range(0, len(audio), width) if len(audio) - i >= least or i == 0]
    segments: list[Segment] = []
    silences: list[Silence] = []
    stated: str | None = None
    for first in range(0, len(starts), options.batch_size):
        batch = starts[first : first + options.batch_size]
        windows = [audio[start : start + width] for start in batch]
        out = asr.generate(
            asr.inputs(windows, language=language),
            max_new_tokens=options.max_new_tokens,
            edits=edits,
        )
        languages = (_find_language(asr, ids) for ids in out.ids)
        stated = stated or next(filter(None, languages), None)
        for row, (start, window) in enumerate(zip(batch, windows)):
            seconds = start / SAMPLE_RATE, (start + len(window)) / SAMPLE_RATE
            segment = _make_segment(out, row, *seconds)
            if segment.text:
                segments.append(segment)
            else:
                silences.append(_make_silence(segment))
        if progress:
            progress(min(len(audio), batch[-1] + width) / SAMPLE_RATE, len(audio) / SAMPLE_RATE)
    return Transcript(
        text=" ".join(segment.text for segment in segments),
        segments=tuple(segments),
        language=language or stated or UNDETERMINED,
        language_prob=None,
        duration=len(audio) / SAMPLE_RATE,
        silences=tuple(silences),
    )


def _find_language(asr: "PromptedRecogniser", ids: tuple[int, ...]) -> str | None:
    match = _STATED_LANGUAGE.match(asr.tokenizer.decode(ids, special=True))
    return match[1] if match and match[1] in LANGUAGES else None


def _make_segment(out: GeneratedText, row: int, start: float, end: float) -> Segment:
    text = _STATED_LANGUAGE.sub("", out.text[row]).strip()
    return Segment(
        start=round(start, 3),
        end=round(end, 3),
        text=text,
        tokens=out.ids[row],
        seek=round(start, 3),
        avg_logprob=float(out.avg_logprob[row]),
        no_speech_prob=float(out.no_speech_prob[row]),
        compression_ratio=compression_ratio(text) if text else 0.0,
        temperature=0.0,
    )


def _make_silence(segment: Segment) -> Silence:
    return Silence(
        start=segment.start,
        end=segment.end,
        left_out=False,
        text="",
        avg_logprob=segment.avg_logprob,
        no_speech_prob=segment.no_speech_prob,
    )
