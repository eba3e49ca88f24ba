"""Recordings of any length: windows of 30 s, one after the other where timestamps say where the next begins, else all at once.

Source: openai/whisper `transcribe.py`.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Num

from jaxasr import sites
from jaxasr.alignment.released_heads import Heads, default_heads
from jaxasr.alignment.words import align
from jaxasr.audio import check_samples, log_mel, long_log_mel, pad_or_trim
from jaxasr.cache import Memory
from jaxasr.config import HOP, SAMPLE_RATE, Config
from jaxasr.decoding import unrolls
from jaxasr.generate import Generation, generate
from jaxasr.languages import language_code
from jaxasr.model import Whisper
from jaxasr.options import Options as Options
from jaxasr.rules import Rules, rules_for
from jaxasr.segments import Written, segments_of
from jaxasr.taps import Edits
from jaxasr.text import compression_ratio
from jaxasr.tokenizer import MAX_PREVIOUS, Tokenizer
from jaxasr.transcript import Segment, Silence, Transcript, Word

_PER_SECOND = SAMPLE_RATE // HOP  # mel frames
Progress = Callable[[float, float], None]


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
    """The text of a recording of any length, in segments.

    Args:
        model: the recogniser.
        tokenizer: its tokenizer.
        audio: float samples at 16 kHz, see `load_audio`.
        options: see `Options`.
        edits: of both stacks, in force in every window, while the language is detected and while words are aligned.
        heads: whose attention gives the word times; None: the upper half of the decoder.
        progress: called with the seconds done and the seconds in all.

    Raises:
        ValueError: audio that is not one recording of finite floats; an unknown language, task or site.
    """
    options = options or Options()
    check_samples(audio)
    sites.check_known(edits or {})
    of = {
        stack: {site: e for site, e in (edits or {}).items() if sites.stack_of(site) == stack}
        for stack in ("encoder", "decoder")
    }
    sound = _Sound.of(np.asarray(audio, np.float32), model.config, options.padding)
    language, prob = _language(model, tokenizer, sound, options, of)
    rules = rules_for(
        tokenizer,
        timestamps=options.timestamps,
        suppress=options.suppress,
        suppress_blank=options.suppress_blank,
        max_initial_timestamp=options.max_initial_timestamp,
    )
    writer = _Writer(
        model,
        tokenizer,
        options,
        rules,
        language,
        of["encoder"],
        of["decoder"],
        heads or default_heads(model.config),
    )
    walk = _one_by_one if options.timestamps or options.condition_on_previous_text else _all_at_once
    segments, silences = [], []
    for seek, found, silence in walk(writer, sound):
        segments += found
        silences += [silence] if silence else []
        if progress:
            progress(min(seek, sound.n_frames) / _PER_SECOND, sound.n_frames / _PER_SECOND)
    text = "".join(segment.text for segment in segments).strip()
    return Transcript(
        text, tuple(segments), language, prob, len(audio) / SAMPLE_RATE, tuple(silences)
    )


def detect_language(
    model: Whisper, tokenizer: Tokenizer, memory: Memory, edits: Edits | None = None
) -> list[dict[str, float]]:
    """For every window of `memory` the probability of each language the checkpoint knows, likeliest first.

    Raises `ValueError` for an English-only checkpoint. Source: openai/whisper `decoding.detect_language`.
    """
    if not tokenizer.is_multilingual:
        raise ValueError(
            "tokenizer: an English-only checkpoint cannot tell languages apart. Use a multilingual one (a name without .en)."
        )
    codes, ids = zip(*tokenizer.special.languages.items())
    start = jnp.full((memory.xa.shape[0], 1), tokenizer.special.sot, jnp.int32)
    logits, _ = model.decode(start, memory, edits=edits)
    probs = np.asarray(jax.nn.softmax(logits[:, 0, jnp.array(ids)], axis=-1))
    return [{codes[i]: float(row[i]) for i in np.argsort(-row)} for row in probs]


def _language(
    model: Whisper, tokenizer: Tokenizer, sound: "_Sound", options: Options, of: dict[str, Edits]
) -> tuple[str, float | None]:
    if options.language is not None or not tokenizer.is_multilingual:
        language = options.language or "en"
        tokenizer.sot_sequence(
            language, options.task
        )  # raises for what this checkpoint does not have
        return language_code(language), None
    memory, _ = model.encode(jnp.asarray(sound.window(0))[None], edits=of["encoder"])
    return next(iter(detect_language(model, tokenizer, memory, of["decoder"])[0].items()))


@dataclasses.dataclass(frozen=True)
class _Sound:
    """A recording that gives its features by the window. `n_frames` of 10 ms are true, the rest is padding.

    A window has `width` frames: 3,000 in released models.
    """

    n_frames: int
    width: int
    window: Callable[[int], Float[Array, "M F"]]

    @classmethod
    def of(cls, audio: np.ndarray, config: Config, padding: str) -> "_Sound":
        n_mels, width = config.n_mels, config.n_mel_frames
        if padding == "audio":
            return cls(
                len(audio) // HOP,
                width,
                lambda seek: log_mel(audio[seek * HOP : (seek + width) * HOP], n_mels, width),
            )
        mel = long_log_mel(audio, n_mels)
        return cls(mel.shape[1], width, lambda seek: pad_or_trim(mel[:, seek:], width))

    def true_frames(self, seek: int) -> int:
        """Mel frames of the window at `seek` that are not padding."""
        return min(self.width, self.n_frames - seek)


@dataclasses.dataclass(frozen=True)
class _Writer:
    """All that stays the same from window to window."""

    model: Whisper
    tokenizer: Tokenizer
    options: Options
    rules: Rules
    language: str
    encoder_edits: Edits
    decoder_edits: Edits
    heads: Heads

    def encode(self, mels: Sequence[Array]) -> Memory:
        mels, unstacked = jnp.stack([jnp.asarray(mel) for mel in mels]), unrolls(self.model.config)
        return self.model.encode(mels, edits=self.encoder_edits, unstacked=unstacked)[0]

    def write(
        self, memory: Memory, previous: Sequence[Sequence[int]], number: int
    ) -> list[Written]:
        """One text a window, the first of the temperatures that does not fail, else the last."""
        done: list[Written] = []
        for i, temperature in enumerate(self.options.temperatures):
            tries = self._try(
                memory,
                previous,
                temperature,
                jax.random.fold_in(jax.random.key(self.options.seed), number * 64 + i),
            )
            done = [
                new if not done or self.options.failed(done[row]) else done[row]
                for row, new in enumerate(tries)
            ]
            if not any(map(self.options.failed, done)):
                break
        return done

    def _try(
        self, memory: Memory, previous: Sequence[Sequence[int]], temperature: float, key: Array
    ) -> list[Written]:
        prompt = functools.partial(
            self.tokenizer.prompt, self.language, self.options.task, self.options.timestamps
        )
        n_last = len(prompt())
        # One width for any previous text, so that one program is compiled and not one for every length.
        width = n_last + (1 + MAX_PREVIOUS if any(previous) else 0)
        tokens, positions = _left_padded(
            [prompt(ids) for ids in previous], self.tokenizer.special.eot, width
        )
        generation = generate(
            self.model,
            memory,
            tokens,
            max_new_tokens=min(self.options.max_new_tokens, self.model.config.n_text_ctx - width),
            edits=self.decoder_edits,
            rules=self.rules,
            temperature=temperature,
            key=key,
            beam_size=None if temperature > 0 else self.options.beam_size,
            positions=positions,
            eot=self.tokenizer.special.eot,
            no_speech=(width - n_last, self.tokenizer.special.no_speech),
        )
        return self._written(generation, temperature)

    def _written(self, generation: Generation, temperature: float) -> list[Written]:
        average = generation.avg_logprob
        tokens, lengths, average, quiet = jax.device_get(
            (generation.tokens, generation.lengths, average, generation.no_speech_prob)
        )
        rows = [row[:n].tolist() for row, n in zip(tokens, lengths)]
        ratios = [compression_ratio(self.tokenizer.decode(row).strip()) for row in rows]
        return [
            Written(tuple(row), float(a), float(q), r, temperature)
            for row, a, q, r in zip(rows, average, quiet, ratios)
        ]

    def words(
        self, memory: Memory, texts: Sequence[Sequence[int]], true_frames: Sequence[int]
    ) -> list[list[Word]]:
        if not self.options.word_timestamps:
            return [[] for _ in texts]
        frames = [max(1, n // 2) for n in true_frames]
        edits = self.decoder_edits
        return align(
            self.model,
            self.tokenizer,
            memory,
            texts,
            frames,
            heads=self.heads,
            language=self.language,
            task=self.options.task,
            edits=edits,
        )


def _left_padded(prompts: list[list[int]], filler: int, width: int) -> tuple[Array, Array]:
    """Ids and absolute positions [B, T]; padding has negative positions, so nobody attends to it."""
    tokens = np.array([[filler] * (width - len(ids)) + ids for ids in prompts], np.int32)
    positions = np.array([np.arange(width) - (width - len(ids)) for ids in prompts], np.int32)
    return jnp.asarray(tokens), jnp.asarray(positions)


_Window = tuple[
    int, list[Segment], Silence | None
]  # the mel frame after it, its segments, and what explains that there are none


def _silence(writer: _Writer, written: Written, seek: int, frames: int) -> Silence:
    start, end = (round(frame / _PER_SECOND, 3) for frame in (seek, seek + frames))
    text = writer.tokenizer.decode(written.tokens).strip()
    return Silence(
        start,
        end,
        writer.options.is_silence(written),
        text,
        written.avg_logprob,
        written.no_speech_prob,
    )


def _one_by_one(writer: _Writer, sound: _Sound) -> Iterator[_Window]:
    """Each window begins where the timestamps of the one before it say."""
    options, tokenizer = writer.options, writer.tokenizer
    seek, number = 0, 0
    history = tokenizer.encode_previous(options.initial_prompt)
    while seek < sound.n_frames:
        true = sound.true_frames(seek)
        memory = writer.encode([sound.window(seek)])
        written = writer.write(memory, [history], number)[0]
        found, step = [], true
        if not options.is_silence(written):
            found, step = segments_of(written, tokenizer, seek, true)
            # Words of a high temperature would lead the next window astray.
            keep = options.condition_on_previous_text and written.temperature <= 0.5
            history = [*history, *_ids(found)] if keep else []
        silence = None if found else _silence(writer, written, seek, true)
        if found:
            found = _with_words(found, writer.words(memory, [_ids(found)], [true])[0], tokenizer)
        seek, number = seek + step, number + 1
        yield seek, found, silence


def _all_at_once(writer: _Writer, sound: _Sound) -> Iterator[_Window]:
    """Windows of 30 s that know nothing of each other, `batch_size` at a time."""
    seeks = list(range(0, sound.n_frames, sound.width))
    prompt = writer.tokenizer.encode_previous(writer.options.initial_prompt)
    for first in range(0, len(seeks), writer.options.batch_size):
        batch = seeks[first : first + writer.options.batch_size]
        rows = batch + batch[-1:] * (
            _power_of_two(len(batch), writer.options.batch_size) - len(batch)
        )  # few batch sizes, few programs
        true = [sound.true_frames(seek) for seek in rows]
        memory = writer.encode([sound.window(seek) for seek in rows])
        written = writer.write(memory, [prompt if seek == 0 else [] for seek in rows], first)
        found = [
            [] if writer.options.is_silence(w) else segments_of(w, writer.tokenizer, seek, n)[0]
            for w, seek, n in zip(written, rows, true)
        ]
        words = writer.words(memory, [_ids(segments) for segments in found], true)
        for seek, segments, timed, w, n in zip(batch, found, words, written, true):
            silence = None if segments else _silence(writer, w, seek, n)
            yield seek + sound.width, _with_words(segments, timed, writer.tokenizer), silence


def _ids(segments: Sequence[Segment]) -> list[int]:
    return [id_ for segment in segments for id_ in segment.tokens]


def _power_of_two(n: int, most: int) -> int:
    return min(most, 1 << (n - 1).bit_length())


def _with_words(segments: list[Segment], words: list[Word], tokenizer: Tokenizer) -> list[Segment]:
    """Words of a window, dealt out to its segments by their tokens."""
    rest, out = list(words), []
    for segment in segments:
        wanted = sum(id_ < tokenizer.special.eot for id_ in segment.tokens)
        own = []
        while rest and wanted > 0:
            wanted -= len(rest[0].tokens)
            own.append(rest.pop(0).shifted(segment.seek))
        out.append(dataclasses.replace(segment, words=tuple(own)))
    return out
