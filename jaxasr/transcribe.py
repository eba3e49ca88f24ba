"""Transcribes recordings of any length, window by window.

Source: openai/whisper `transcribe.py`.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Num

from jaxasr import sites
from jaxasr.alignment.released_heads import Heads, default_heads
from jaxasr.audio import check_samples
from jaxasr.audio.windows import AudioWindows
from jaxasr.cache import Memory
from jaxasr.config import HOP, SAMPLE_RATE
from jaxasr.languages import language_code
from jaxasr.model import Whisper
from jaxasr.options import Options as Options
from jaxasr.rules import rules_for
from jaxasr.segments import DecodedWindow, split_segments
from jaxasr.taps import Edits
from jaxasr.tokenizer import Tokenizer
from jaxasr.transcript import Segment, Silence, Transcript, Word
from jaxasr.window_decoder import WindowDecoder

_MEL_FRAMES_PER_S = SAMPLE_RATE // HOP  # 100 mel frames per second
# Text sampled above this temperature is too unreliable to prompt the next window.
_MAX_PROMPT_TEMPERATURE = 0.5
# Receives the seconds transcribed so far and the duration of the recording in seconds.
Progress = Callable[[float, float], None]

# Result of one window: the mel frame where the next window starts, the segments of this window, and
# a `Silence` if it has no segments.
_WindowResult = tuple[int, list[Segment], Silence | None]


def transcribe(
    model: Whisper,
    tokenizer: Tokenizer,
    audio: Num[np.ndarray, "*n_samples"],
    options: Options | None = None,
    *,
    edits: Edits | None = None,
    heads: Heads | None = None,
    progress: Progress | None = None,
) -> Transcript:
    """Transcribes a recording of any length.

    With timestamps, each window starts at the last timestamp of the previous window. Without
    timestamps, windows of 30 s are decoded in batches.

    Args:
        model: the recogniser's model.
        tokenizer: the tokenizer of the model.
        audio: float samples at 16 kHz, see `load_audio`.
        options: see `Options`. None: the defaults.
        edits: edits of encoder and decoder sites, active in every window, in language detection
            and in word alignment.
        heads: `(layer, head)` pairs of the cross-attention heads that give word times. None: all
            heads of the upper half of the decoder.
        progress: called with the seconds transcribed so far and the duration in seconds.

    Returns:
        The text, its segments and, with `options.word_timestamps`, its words.

    Raises:
        ValueError: `audio` is not one recording of finite floats; the language, task or an edited
            site is unknown.

    Example:
        ```python
        import jaxasr
        from jaxasr.transcribe import Options, transcribe

        asr = jaxasr.load("tiny.en")
        audio = jaxasr.load_audio("experiments/assets/demo.flac")
        transcript = transcribe(asr.model, asr.tokenizer, audio, Options(word_timestamps=True))
        ```
    """
    options = options or Options()
    check_samples(audio)
    sites.check_known(edits or {})
    encoder_edits, decoder_edits = (
        {site: edit for site, edit in (edits or {}).items() if sites.stack_of(site) == stack}
        for stack in ("encoder", "decoder")
    )
    windows = AudioWindows.from_audio(np.asarray(audio, np.float32), model.config, options.padding)
    language, language_prob = _choose_language(
        model, tokenizer, windows, options, encoder_edits, decoder_edits
    )
    rules = rules_for(
        tokenizer,
        timestamps=options.timestamps,
        suppress=options.suppress,
        suppress_blank=options.suppress_blank,
        max_initial_timestamp=options.max_initial_timestamp,
    )
    decoder = WindowDecoder(
        model=model,
        tokenizer=tokenizer,
        options=options,
        rules=rules,
        language=language,
        encoder_edits=encoder_edits,
        decoder_edits=decoder_edits,
        heads=heads or default_heads(model.config),
    )
    in_sequence = options.timestamps or options.condition_on_previous_text
    decode_windows = _decode_in_sequence if in_sequence else _decode_in_batches
    segments: list[Segment] = []
    silences: list[Silence] = []
    for seek, window_segments, silence in decode_windows(decoder, windows):
        segments += window_segments
        silences += [silence] if silence else []
        if progress:
            n_done = min(seek, windows.n_frames)  # the next window may start after the end
            progress(n_done / _MEL_FRAMES_PER_S, windows.n_frames / _MEL_FRAMES_PER_S)
    return Transcript(
        text="".join(segment.text for segment in segments).strip(),
        segments=tuple(segments),
        language=language,
        language_prob=language_prob,
        duration=len(audio) / SAMPLE_RATE,
        silences=tuple(silences),
    )


def detect_language(
    model: Whisper, tokenizer: Tokenizer, memory: Memory, edits: Edits | None = None
) -> list[dict[str, float]]:
    """Detects the language of each window from the token that follows <|startoftranscript|>.

    Source: openai/whisper `decoding.detect_language`.

    Args:
        model: the recogniser's model.
        tokenizer: the tokenizer of the model.
        memory: encoded audio of B windows, from `model.encode`.
        edits: edits of decoder sites.

    Returns:
        For each window the probability of every language code, the most probable first.

    Raises:
        ValueError: the checkpoint is English-only.

    Example:
        ```python
        import jaxasr
        from jaxasr.transcribe import detect_language

        asr = jaxasr.load("base")
        audio = jaxasr.load_audio("experiments/assets/demo.flac")
        memory, _ = asr.model.encode(jaxasr.log_mel(audio, asr.config.n_mels)[None])
        [probabilities] = detect_language(asr.model, asr.tokenizer, memory)
        language = next(iter(probabilities))
        ```
    """
    if not tokenizer.is_multilingual:
        raise ValueError(
            "tokenizer: expected a multilingual checkpoint to detect a language, got an "
            "English-only one. Use a checkpoint whose name does not end in .en."
        )
    codes, ids = zip(*tokenizer.special.languages.items())
    start = jnp.full((memory.xa.shape[0], 1), tokenizer.special.sot, jnp.int32)
    logits, _ = model.decode(start, memory, edits=edits)
    probabilities = np.asarray(jax.nn.softmax(logits[:, 0, jnp.array(ids)], axis=-1))
    return [{codes[i]: float(row[i]) for i in np.argsort(-row)} for row in probabilities]


def _choose_language(
    model: Whisper,
    tokenizer: Tokenizer,
    windows: AudioWindows,
    options: Options,
    encoder_edits: Edits,
    decoder_edits: Edits,
) -> tuple[str, float | None]:
    """Returns the language code, with its probability if the language was detected."""
    if options.language is not None or not tokenizer.is_multilingual:
        language = options.language or "en"
        # Raises an error if the checkpoint does not have the language or the task.
        tokenizer.sot_sequence(language, options.task)
        return language_code(language), None
    memory, _ = model.encode(jnp.asarray(windows.features(0))[None], edits=encoder_edits)
    return next(iter(detect_language(model, tokenizer, memory, decoder_edits)[0].items()))


def _decode_in_sequence(decoder: WindowDecoder, windows: AudioWindows) -> Iterator[_WindowResult]:
    """Decodes one window after the other. Timestamps decide where the next window starts."""
    options, tokenizer = decoder.options, decoder.tokenizer
    seek, number = 0, 0  # first mel frame and number of the window
    history = tokenizer.encode_previous(options.initial_prompt)
    while seek < windows.n_frames:
        n_frames = windows.n_unpadded_frames(seek)
        memory = decoder.encode([windows.features(seek)])
        [decoded] = decoder.decode(memory, [history], first_window=number)
        segments, step, silence = [], n_frames, None
        if not options.is_silence(decoded):
            segments, step = split_segments(decoded, tokenizer, seek, n_frames)
            reliable = decoded.temperature <= _MAX_PROMPT_TEMPERATURE
            keeps_history = options.condition_on_previous_text and reliable
            history = [*history, *_token_ids(segments)] if keeps_history else []
        if segments:
            [words] = decoder.align_words(memory, [_token_ids(segments)], [n_frames])
            segments = _with_words(segments, words, tokenizer)
        else:
            silence = _to_silence(decoder, decoded, seek, n_frames)
        seek, number = seek + step, number + 1
        yield seek, segments, silence


def _decode_in_batches(decoder: WindowDecoder, windows: AudioWindows) -> Iterator[_WindowResult]:
    """Decodes windows of 30 s independently, `batch_size` at a time."""
    options, tokenizer = decoder.options, decoder.tokenizer
    seeks = list(range(0, windows.n_frames, windows.width))
    prompt = tokenizer.encode_previous(options.initial_prompt)
    for first in range(0, len(seeks), options.batch_size):
        batch = seeks[first : first + options.batch_size]
        # Fills the batch with copies of the last window up to a power of two, so that few programs
        # are compiled.
        n_rows = _round_up_to_power_of_two(len(batch), options.batch_size)
        rows = batch + batch[-1:] * (n_rows - len(batch))
        n_frames = [windows.n_unpadded_frames(seek) for seek in rows]
        memory = decoder.encode([windows.features(seek) for seek in rows])
        prompts = [prompt if seek == 0 else [] for seek in rows]
        decoded = decoder.decode(memory, prompts, first_window=first)
        segments = [
            [] if options.is_silence(row) else split_segments(row, tokenizer, seek, n)[0]
            for row, seek, n in zip(decoded, rows, n_frames)
        ]
        words = decoder.align_words(memory, [_token_ids(row) for row in segments], n_frames)
        for row, seek in enumerate(batch):
            silence = None
            if not segments[row]:
                silence = _to_silence(decoder, decoded[row], seek, n_frames[row])
            yield seek + windows.width, _with_words(segments[row], words[row], tokenizer), silence


def _to_silence(
    decoder: WindowDecoder, decoded: DecodedWindow, seek: int, n_frames: int
) -> Silence:
    return Silence(
        start=round(seek / _MEL_FRAMES_PER_S, 3),
        end=round((seek + n_frames) / _MEL_FRAMES_PER_S, 3),
        left_out=decoder.options.is_silence(decoded),
        text=decoder.tokenizer.decode(decoded.tokens).strip(),
        avg_logprob=decoded.avg_logprob,
        no_speech_prob=decoded.no_speech_prob,
    )


def _token_ids(segments: Sequence[Segment]) -> list[int]:
    return [id_ for segment in segments for id_ in segment.tokens]


def _round_up_to_power_of_two(n: int, limit: int) -> int:
    """Returns the smallest power of two that is at least `n`, but at most `limit`."""
    return min(limit, 1 << (n - 1).bit_length())


def _with_words(segments: list[Segment], words: list[Word], tokenizer: Tokenizer) -> list[Segment]:
    """Divides the words of a window among its segments.

    Each segment takes the next words until their tokens are as many as its text tokens. The times
    of `words` count from the start of the window, and those of the result from the start of the
    recording.
    """
    remaining, timed = list(words), []
    for segment in segments:
        n_tokens = sum(map(tokenizer.is_text, segment.tokens))
        segment_words = []
        while remaining and n_tokens > 0:
            n_tokens -= len(remaining[0].tokens)
            segment_words.append(remaining.pop(0).shifted(segment.seek))
        timed.append(dataclasses.replace(segment, words=tuple(segment_words)))
    return timed
