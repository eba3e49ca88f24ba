"""Turns the results of the logit lens and the encoder lens into the tables of a page."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from experiments.analyses.text_kinds import text_category
from experiments.pages.lens_page import EncoderRow, LogitTable
from experiments.pages.signs import Signs
from interventions import EncoderLens, LogitLens
from interventions.generation.transcripts import is_loop, longest_loop, repeated
from jaxasr import GeneratedText, Tokenizer
from jaxasr.options import Options
from jaxasr.text import compression_ratio
from jaxasr.transcript import Word


def token_times(words: Sequence[Word]) -> Float[np.ndarray, "T 2"]:
    """Returns the start and end in seconds of the word that contains each token.

    Example:
        >>> token_times([Word(" Hi!", 0.5, 0.9, 1.0, (15, 0))]).tolist()
        [[0.5, 0.9], [0.5, 0.9]]
    """
    times = [(word.start, word.end) for word in words for _ in word.tokens]
    return np.asarray(times, float).reshape(-1, 2)


def logit_table(
    tokenizer: Tokenizer,
    lens: LogitLens,
    ids: Sequence[int],
    first: int,
    times: Float[np.ndarray, "T 2"],
) -> LogitTable:
    """Makes the table of a logit lens, for the first recording of the lens.

    Args:
        tokenizer: tokenizer of the model.
        lens: result of `interventions.logit_lens`.
        ids: the generated tokens.
        first: position at which the first generated token is predicted.
        times: start and end of each token's word in seconds.
    """
    positions = slice(first, first + len(ids))
    return LogitTable(
        tokens=tuple(tokenizer.token_texts(ids)),
        times=times,
        candidates=_candidate_texts(tokenizer, np.asarray(lens.ids)[:, 0, positions]),
        logprobs=np.asarray(lens.logprobs)[:, 0, positions],
        rank=np.asarray(lens.rank)[:, 0, positions],
        logprob=np.asarray(lens.logprob)[:, 0, positions],
        saturation=np.asarray(lens.saturation)[0, positions],
    )


def _candidate_texts(
    tokenizer: Tokenizer, ids: Int[np.ndarray, "L T K"]
) -> tuple[tuple[tuple[str, ...], ...], ...]:
    return tuple(
        tuple(tuple(tokenizer.token_texts(candidates)) for candidates in layer) for layer in ids
    )


def encoder_rows(lens: EncoderLens, final: str) -> tuple[EncoderRow, ...]:
    """Makes one row per encoder layer, for the first recording of the lens.

    Args:
        lens: result of `interventions.encoder_lens`.
        final: text generated from the last layer, with which the other texts are compared.
    """
    rows = []
    for tokens, logprobs, lengths, texts in zip(
        lens.tokens, lens.logprobs, lens.lengths, lens.text
    ):
        n = int(lengths[0])
        # The mean includes the end of the text, which is one more token.
        mean_logprob = float(np.asarray(logprobs)[0].sum() / (n + 1))
        text, ids = texts[0].strip(), np.asarray(tokens)[0, :n].tolist()
        # Loops are found first, because a text that equals `final` is not correct if it is a loop.
        text_kind = "loop" if is_loop(ids, text) else text_category(text, final, ids)
        rows.append(EncoderRow(text, mean_logprob, text_kind))
    return tuple(rows)


def find_signs(
    generated: GeneratedText, tokenizer: Tokenizer, audio: Float[np.ndarray, "n"]
) -> Signs:
    """Finds signs of loops and silence in the first row of a generated text."""
    # The thresholds for silence are those of `transcribe`.
    defaults, ids = Options(), list(generated.ids[0])
    assert defaults.no_speech_threshold is not None
    assert defaults.logprob_threshold is not None
    loop = longest_loop(ids)
    no_speech_prob = float(generated.no_speech_prob[0])
    avg_logprob = float(generated.avg_logprob[0])
    return Signs(
        loop=tokenizer.decode(repeated(ids, loop)).strip() if loop.k else "",
        times=loop.k,
        compression_ratio=compression_ratio(generated.text[0]),
        no_speech_prob=no_speech_prob,
        avg_logprob=avg_logprob,
        silent=no_speech_prob > defaults.no_speech_threshold
        and avg_logprob <= defaults.logprob_threshold,
        ended=bool(generated.ended[0]),
        peak=float(np.abs(audio).max()),
    )
