"""Which token may come next: suppressed ids, no blank beginning, and the grammar of timestamps, as in openai/whisper `decoding.py`."""

import dataclasses
from collections.abc import Iterable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jaxasr.tokenizer import N_TIMESTAMPS, SECONDS_PER_TIMESTAMP, Tokenizer


@dataclasses.dataclass(frozen=True, eq=False)
class Rules:
    """Masks logits before a token is chosen; a pytree, so it goes into a compiled loop as an argument.

    Attributes:
        suppress: [V], ids that are never written.
        suppress_begin: [V], ids that are not written as the first token.
        max_initial: the first timestamp is at most this many steps of 20 ms.
        timestamps: whether the grammar of timestamps applies (static).
        eot: id of the end; smaller ids are text (static).
        timestamp_begin: id of <|0.00|>; 1,501 ids from there on are times, later ones are text again (static).
    """

    suppress: Bool[Array, "V"]
    suppress_begin: Bool[Array, "V"]
    max_initial: Int[Array, ""]
    timestamps: bool
    eot: int
    timestamp_begin: int

    def __call__(
        self,
        logits: Float[Array, "B V"],
        tokens: Int[Array, "B T"],
        length: Int[Array, ""] | int,
        prompt_len: Int[Array, ""] | int,
    ) -> Float[Array, "B V"]:
        """Logits with -inf wherever a token is not allowed.

        Args:
            logits: of the next token.
            tokens: a buffer of fixed width: prompt, tokens written so far, then anything.
            length: filled columns of `tokens`, the same for every row.
            prompt_len: columns of the prompt among them.

        Raises:
            ValueError: `logits` and the rules are of different vocabularies.
        """
        if logits.shape[-1] != self.suppress.shape[-1]:
            raise ValueError(
                f"logits: expected {self.suppress.shape[-1]} tokens, the vocabulary these rules were made for, got {logits.shape[-1]}. "
                "Make the rules with the tokenizer of this model."
            )
        first = length == prompt_len
        banned = self.suppress | (self.suppress_begin & first)
        if self.timestamps:
            banned = (
                banned | self._grammar(tokens, length, prompt_len) | (self._bad_start() & first)
            )
        logits = jnp.where(banned, -jnp.inf, logits)
        return self._prefer_timestamp(logits) if self.timestamps else logits

    def along(
        self,
        logits: Float[Array, "B T V"],
        tokens: Int[Array, "B T"],
        prompt_len: Int[Array, ""] | int,
    ) -> Float[Array, "B T V"]:
        """Returns the logits of a teacher-forced pass with -inf wherever a token may not follow the tokens up to that position."""

        def after(logits: Float[Array, "B V"], t: Int[Array, ""]) -> Float[Array, "B V"]:
            return self(logits, tokens, t + 1, prompt_len)

        return jax.vmap(after, in_axes=(1, 0), out_axes=1)(logits, jnp.arange(tokens.shape[1]))

    def _ids(self) -> Int[Array, "V"]:
        return jnp.arange(self.suppress.shape[-1])

    def _is_time(self, ids: Int[Array, "*shape"]) -> Bool[Array, "*shape"]:
        return (ids >= self.timestamp_begin) & (ids < self.timestamp_begin + N_TIMESTAMPS)

    def _bad_start(self) -> Bool[Array, "V"]:
        step = self._ids() - self.timestamp_begin
        return (step < 0) | (step > self.max_initial)

    def _grammar(
        self,
        tokens: Int[Array, "B T"],
        length: Int[Array, ""] | int,
        prompt_len: Int[Array, ""] | int,
    ) -> Bool[Array, "B V"]:
        """Timestamps come in pairs (a lone one only before the end) and never go back; a segment has a length above zero."""
        at = jnp.arange(tokens.shape[1])
        stamped = self._is_time(tokens) & (at >= prompt_len) & (at < length)
        last = (stamped & (at == length - 1)).any(1, keepdims=True)
        before = (stamped & (at == length - 2)).any(1, keepdims=True) | (length - prompt_len < 2)
        opens = (
            last & ~before
        )  # the last timestamp ended a segment: the same time may begin the next
        latest = jnp.where(stamped, at, -1).argmax(1)[:, None]
        floor = jnp.take_along_axis(tokens, latest, axis=1) + jnp.where(opens, 0, 1)
        ids = self._ids()
        is_time = self._is_time(ids)
        is_text = (ids < self.eot) | ((ids > self.timestamp_begin) & ~is_time)
        too_early = stamped.any(1, keepdims=True) & is_time & (ids < floor)
        return (last & before & is_time) | (opens & is_text) | too_early

    def _prefer_timestamp(self, logits: Float[Array, "B V"]) -> Float[Array, "B V"]:
        """Where all times together are likelier than any one text token, only a time may follow."""
        text = ~self._is_time(self._ids())
        times = jax.nn.logsumexp(jnp.where(text, -jnp.inf, logits), axis=-1, keepdims=True)
        best = jnp.where(text, logits, -jnp.inf).max(-1, keepdims=True)
        return jnp.where(text & (times > best), -jnp.inf, logits)


jax.tree_util.register_dataclass(
    Rules,
    data_fields=["suppress", "suppress_begin", "max_initial"],
    meta_fields=["timestamps", "eot", "timestamp_begin"],
)


def rules_for(
    tokenizer: Tokenizer,
    *,
    timestamps: bool = False,
    suppress: Iterable[int] | None = (-1,),
    suppress_blank: bool = True,
    max_initial_timestamp: int | float | None = 1.0,
) -> Rules:
    """The rules of openai/whisper's `DecodingOptions`, with its defaults.

    Args:
        tokenizer: of the model whose logits will be masked.
        timestamps: apply the grammar of timestamps; for a prompt without <|notimestamps|>.
        suppress: ids never to write, besides the control tokens; -1 stands for the symbols that are not speech. None suppresses nothing at
            all. `suppress_tokens` of a Hugging Face generation config can be given as it is.
        suppress_blank: no end and no space as the first token.
        max_initial_timestamp: seconds; the first timestamp is not later. None: no limit.

    Raises:
        ValueError: an id outside the vocabulary, a time outside the window.
    """
    special = tokenizer.special
    blank = [*tokenizer.encode(" "), special.eot] if suppress_blank else []
    never = [] if suppress is None else [*_expanded(tokenizer, suppress)]
    return Rules(
        suppress=_mask(tokenizer, [*never, *([special.no_timestamps] if timestamps else [])]),
        suppress_begin=_mask(tokenizer, blank),
        max_initial=jnp.asarray(_steps(max_initial_timestamp), jnp.int32),
        timestamps=timestamps,
        eot=special.eot,
        timestamp_begin=special.timestamp_begin,
    )


def _expanded(tokenizer: Tokenizer, suppress: Iterable[int]) -> set[int]:
    ids = set(suppress)
    s = tokenizer.special
    control = {s.transcribe, s.translate, s.sot, s.startofprev, s.startoflm, s.no_speech}
    return (ids - {-1}) | control | (set(tokenizer.non_speech) if -1 in ids else set())


def _mask(tokenizer: Tokenizer, ids: Iterable[int]) -> Bool[Array, "V"]:
    mask = np.zeros(tokenizer.n_vocab, bool)
    ids = np.asarray(sorted(ids), int)
    if ids.size and not (ids[0] >= 0 and ids[-1] < tokenizer.n_vocab):
        raise ValueError(
            f"suppress: expected token ids from 0 to {tokenizer.n_vocab - 1} (or -1), got {ids[[0, -1]].tolist()} among them."
        )
    mask[ids] = True
    return jnp.asarray(mask)


def _steps(seconds: int | float | None) -> int:
    window = 30.0
    if seconds is not None and not 0 <= seconds <= window:
        raise ValueError(
            f"max_initial_timestamp: expected 0 to {window} seconds or None, got {seconds}."
        )
    return round((window if seconds is None else seconds) / SECONDS_PER_TIMESTAMP)
