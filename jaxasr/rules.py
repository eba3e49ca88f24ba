"""Masks the tokens that may not come next, such as timestamps out of order.

Source: openai/whisper `decoding.py`: SuppressTokens, SuppressBlank, ApplyTimestampRules.
"""

import dataclasses
from collections.abc import Iterable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jaxasr.tokenizer import N_TIMESTAMPS, SECONDS_PER_TIMESTAMP, Tokenizer


@dataclasses.dataclass(frozen=True, eq=False)
class Rules:
    """Masks the logits of tokens that may not come next.

    The rules are a pytree, so that a compiled loop can take them as an argument.

    Attributes:
        suppress: bool [V], True for ids that are never generated.
        suppress_begin: bool [V], True for ids that are never the first token.
        max_initial: int32 scalar, latest first timestamp in steps of 20 ms.
        timestamps: whether the grammar of timestamps applies (static).
        eot: id of the end-of-text (static). Smaller ids are text.
        timestamp_begin: id of <|0.00|>, the first of 1,501 timestamps (static). Ids after the
            timestamps are tokens that fine-tuning added.

    Example:
        ```python
        rules = jaxasr.rules_for(asr.tokenizer)
        out = jaxasr.generate(asr.model, memory, prompt, max_new_tokens=100, rules=rules)
        ```
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
        """Returns the logits with -inf wherever a token is not allowed.

        Args:
            logits: logits of the next token [B, V].
            tokens: ids [B, T]: prompt, generated tokens, then unused columns.
            length: number of used columns of `tokens`, the same for all rows.
            prompt_len: number of columns of the prompt.

        Raises:
            ValueError: `logits` has another vocabulary than the rules.
        """
        if logits.shape[-1] != self.suppress.shape[-1]:
            raise ValueError(
                f"logits: expected {self.suppress.shape[-1]} tokens, the vocabulary these rules "
                f"were made for, got {logits.shape[-1]}. Make the rules with the tokenizer of this "
                "model."
            )
        is_first = length == prompt_len
        banned = self.suppress | (self.suppress_begin & is_first)
        if self.timestamps:
            ungrammatical = self._ungrammatical(tokens, length, prompt_len)
            banned = banned | ungrammatical | (self._forbidden_first_tokens() & is_first)
        logits = jnp.where(banned, -jnp.inf, logits)
        return self._prefer_timestamp(logits) if self.timestamps else logits

    def along(
        self,
        logits: Float[Array, "B T V"],
        tokens: Int[Array, "B T"],
        prompt_len: Int[Array, ""] | int,
    ) -> Float[Array, "B T V"]:
        """Applies the rules at every position of a teacher-forced pass.

        Args:
            logits: logits [B, T, V] after each of `tokens`.
            tokens: ids [B, T] of the pass.
            prompt_len: number of columns of the prompt.

        Returns:
            The logits with -inf wherever a token may not follow the tokens before it.

        Example:
            ```python
            rules = jaxasr.rules_for(asr.tokenizer)
            logits, _ = asr.model.decode(tokens, memory)
            logprobs = jax.nn.log_softmax(rules.along(logits, tokens, prompt_len=2))
            ```
        """

        def constrain(logits: Float[Array, "B V"], t: Int[Array, ""]) -> Float[Array, "B V"]:
            return self(logits, tokens, t + 1, prompt_len)

        positions = jnp.arange(tokens.shape[1])
        return jax.vmap(constrain, in_axes=(1, 0), out_axes=1)(logits, positions)

    def _all_ids(self) -> Int[Array, "V"]:
        return jnp.arange(self.suppress.shape[-1])

    def _is_timestamp(self, ids: Int[Array, "*shape"]) -> Bool[Array, "*shape"]:
        return (ids >= self.timestamp_begin) & (ids < self.timestamp_begin + N_TIMESTAMPS)

    def _forbidden_first_tokens(self) -> Bool[Array, "V"]:
        """Returns False for timestamps that may come first, and True for all other tokens."""
        step = self._all_ids() - self.timestamp_begin  # of 20 ms; negative for other tokens
        return (step < 0) | (step > self.max_initial)

    def _ungrammatical(
        self,
        tokens: Int[Array, "B T"],
        length: Int[Array, ""] | int,
        prompt_len: Int[Array, ""] | int,
    ) -> Bool[Array, "B V"]:
        """Returns True for tokens that would break the grammar of timestamps.

        Timestamps come in pairs, except before the end-of-text. They never decrease, and the end of
        a segment is later than its start.
        """
        index = jnp.arange(tokens.shape[1])
        is_past_timestamp = self._is_timestamp(tokens) & (index >= prompt_len) & (index < length)
        last_is_timestamp = (is_past_timestamp & (index == length - 1)).any(1, keepdims=True)
        closes_pair = (is_past_timestamp & (index == length - 2)).any(1, keepdims=True)
        # The first timestamp has no partner. Text follows it, as text follows a pair.
        closes_pair = closes_pair | (length - prompt_len < 2)
        # If the last token is a timestamp without a partner, it ended a segment. The next segment
        # may start at the same time.
        ended_segment = last_is_timestamp & ~closes_pair
        # Column of the latest timestamp. Without a timestamp it is 0, and `too_early` ignores it.
        latest = jnp.where(is_past_timestamp, index, -1).argmax(1)[:, None]
        earliest = jnp.take_along_axis(tokens, latest, axis=1) + jnp.where(ended_segment, 0, 1)
        ids = self._all_ids()
        is_timestamp = self._is_timestamp(ids)
        is_text = (ids < self.eot) | ((ids > self.timestamp_begin) & ~is_timestamp)
        too_early = is_past_timestamp.any(1, keepdims=True) & is_timestamp & (ids < earliest)
        return (
            (last_is_timestamp & closes_pair & is_timestamp) | (ended_segment & is_text) | too_early
        )

    def _prefer_timestamp(self, logits: Float[Array, "B V"]) -> Float[Array, "B V"]:
        """Allows only timestamps if together they are likelier than the best other token."""
        is_other = ~self._is_timestamp(self._all_ids())
        timestamps = jax.nn.logsumexp(jnp.where(is_other, -jnp.inf, logits), axis=-1, keepdims=True)
        best_other = jnp.where(is_other, logits, -jnp.inf).max(-1, keepdims=True)
        return jnp.where(is_other & (timestamps > best_other), -jnp.inf, logits)


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
    """Returns the rules of openai/whisper, with the defaults of its `DecodingOptions`.

    Args:
        tokenizer: tokenizer of the model.
        timestamps: apply the grammar of timestamps; for a prompt without <|notimestamps|>.
        suppress: ids never to generate, in addition to control tokens. -1 stands for all symbols
            that are not speech. None: suppress no ids, not even control tokens. `suppress_tokens`
            in a Hugging Face generation config has this form.
        suppress_blank: forbid an end-of-text or a space as the first token.
        max_initial_timestamp: latest first timestamp in seconds; None: no limit.

    Raises:
        ValueError: an id outside the vocabulary, or a time outside the window of 30 s.

    Example:
        ```python
        rules = jaxasr.rules_for(asr.tokenizer, timestamps=True)
        ```
    """
    special = tokenizer.special
    blank = [*tokenizer.encode(" "), special.eot] if suppress_blank else []
    suppressed = [] if suppress is None else [*_expand_suppressed(tokenizer, suppress)]
    suppressed += [special.no_timestamps] if timestamps else []
    return Rules(
        suppress=_make_mask(tokenizer, suppressed),
        suppress_begin=_make_mask(tokenizer, blank),
        max_initial=jnp.asarray(_to_timestamp_steps(max_initial_timestamp), jnp.int32),
        timestamps=timestamps,
        eot=special.eot,
        timestamp_begin=special.timestamp_begin,
    )


def _expand_suppressed(tokenizer: Tokenizer, suppress: Iterable[int]) -> set[int]:
    """Returns `suppress` with the control tokens, and with symbols in place of -1."""
    ids = set(suppress)
    special = tokenizer.special
    control = {
        special.transcribe,
        special.translate,
        special.sot,
        special.startofprev,
        special.startoflm,
        special.no_speech,
    }
    return (ids - {-1}) | control | (set(tokenizer.non_speech) if -1 in ids else set())


def _make_mask(tokenizer: Tokenizer, ids: Sequence[int]) -> Bool[Array, "V"]:
    mask, indices = np.zeros(tokenizer.n_vocab, bool), np.unique(np.asarray(ids, int))
    if indices.size and not (indices[0] >= 0 and indices[-1] < tokenizer.n_vocab):
        raise ValueError(
            f"suppress: expected token ids from 0 to {tokenizer.n_vocab - 1}, or -1; got ids from "
            f"{indices[0]} to {indices[-1]}."
        )
    mask[indices] = True
    return jnp.asarray(mask)


def _to_timestamp_steps(seconds: int | float | None) -> int:
    window_s = 30.0
    if seconds is not None and not 0 <= seconds <= window_s:
        raise ValueError(
            f"max_initial_timestamp: expected 0 to {window_s} seconds or None, got {seconds}."
        )
    return round((window_s if seconds is None else seconds) / SECONDS_PER_TIMESTAMP)
