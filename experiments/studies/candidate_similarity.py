"""Compares the top tokens of the logit lens (the candidates) with the generated text.

Axes: L decoder layers, T tokens of the text, K candidates, O offsets.
"""

from collections.abc import Callable, Iterable

import numpy as np
from jaxtyping import Bool, Float, Int

from experiments.data.corpora import Utterance
from experiments.data.phonemes import espeak_installed, phoneme_error_rate, phonemes
from experiments.item_cache import Arrays
from experiments.studies.selection import language
from jaxasr import Recogniser
from jaxasr.languages import WITHOUT_SPACES

TOKEN_OFFSETS = (0, 1, 2)  # the token at a position, and the next two tokens

Candidates = Int[np.ndarray, "L T K"]
Ids = Int[np.ndarray, "T"]
# Function of candidates [L, K] and a token that returns similarities or distances [L, K].
Compare = Callable[[Int[np.ndarray, "L K"], int], Float[np.ndarray, "L K"]]


def mean_of_finite(values: Float[np.ndarray, "*axes T"]) -> Float[np.ndarray, "*axes"]:
    """Averages the finite values along the last axis; NaN if no value is finite.

    Example:
        >>> mean_of_finite(np.array([[1.0, 3.0, np.nan], [np.nan] * 3]))
        array([ 2., nan])
    """
    finite = np.isfinite(values)
    mean = np.full(values.shape[:-1], np.nan)
    sums = np.where(finite, values, 0).sum(-1)
    return np.divide(sums, finite.sum(-1), out=mean, where=finite.any(-1))


def look_ahead(
    candidates: Candidates, ids: Ids
) -> tuple[Float[np.ndarray, "O L T"], Float[np.ndarray, "L T"]]:
    """Checks whether the next tokens of the text are already candidates.

    Args:
        candidates: top tokens of every layer and position.
        ids: tokens of the generated text.

    Returns:
        `hit` [O, L, T]: 1 if the token at the position plus the offset is a candidate, else 0. It
        is NaN after the end of the text, and if a later token equals the current one.
        `null` [L, T]: of the tokens further away than all offsets, the share that are candidates.
    """
    is_candidate = (candidates[:, :, :, None] == ids).any(2).astype(float)  # [L, T, T]
    positions = np.arange(len(ids))
    hit = np.full((len(TOKEN_OFFSETS), *candidates.shape[:2]), np.nan)
    for row, offset in enumerate(TOKEN_OFFSETS):
        # A later token that equals the current one would be a candidate for the wrong reason.
        t = positions[: len(ids) - offset]
        t = t[(ids[t + offset] != ids[t]) | (offset == 0)]
        hit[row][:, t] = is_candidate[:, t, t + offset]
    near = np.abs(positions[:, None] - positions) <= max(TOKEN_OFFSETS)
    # occurs_near[j, t] is true if the id of token j also occurs near position t. Such a token does
    # not count as far away. No id is -1.
    occurs_near = (ids[:, None, None] == np.where(near, ids, -1)).any(-1)
    return hit, mean_of_finite(np.where(occurs_near.T, np.nan, is_candidate))


def similarity(
    name: str, candidates: Candidates, ids: Ids, compare: Compare, is_word: Bool[np.ndarray, "T"]
) -> Arrays:
    """Computes the mean similarity between candidates and generated token at every position.

    Args:
        name: name of the measure, the beginning of the names of the results.
        candidates: top tokens of every layer and position.
        ids: tokens of the generated text.
        compare: function that compares candidates with one token.
        is_word: positions to evaluate. The result is NaN at all others.

    Returns:
        `{name}` [L, T]: mean over all candidates.
        `{name}_others` [L, T]: mean over the candidates except the generated token.
        `{name}_null` and `{name}_others_null` [L, T]: the same means, where the candidates are
        compared with the token that is half the text away. NaN if the two tokens are equal.
    """
    names = [f"{name}{kind}{null}" for kind in ("", "_others") for null in ("", "_null")]
    results = {key: np.full(candidates.shape[:2], np.nan) for key in names}
    distant_ids = np.roll(ids, len(ids) // 2)  # the text as a ring, turned by half its length
    for t in np.flatnonzero(is_word):
        for null, token in (("", ids[t]), ("_null", distant_ids[t])):
            if null and token == ids[t]:
                continue
            values = compare(candidates[:, t], token)
            others = np.where(candidates[:, t] == ids[t], np.nan, values)
            results[f"{name}{null}"][:, t] = mean_of_finite(values)
            results[f"{name}_others{null}"][:, t] = mean_of_finite(others)
    return results


def word_tokens(
    asr: Recogniser, ids: Ids, clip: Utterance, whole_words: bool
) -> Bool[np.ndarray, "T"]:
    """Marks the tokens that contain letters.

    If `whole_words` is true, a marked token also begins with a space, and so begins a word. This
    does not apply to languages without spaces.
    """
    texts = asr.tokenizer.token_texts(ids.tolist())
    accept_word_parts = language(clip) in WITHOUT_SPACES or not whole_words
    is_word = [
        any(map(str.isalpha, text)) and (accept_word_parts or text[:1] == " ") for text in texts
    ]
    return np.array(is_word, bool)


def cosine_in_vocabulary(asr: Recogniser, tokens: Iterable[int]) -> Compare:
    """Returns a function that compares tokens by the cosine of their centred unembedding vectors.

    Args:
        asr: the model.
        tokens: ids of all tokens that the function will be called with.
    """
    table, vocabulary = asr.model.decoder.unembedding, np.unique(list(tokens))
    # The mean is subtracted, because all vectors share a large common component.
    rows = np.asarray(table[vocabulary] - table.mean(0), np.float32)
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)

    def compare(candidates: Int[np.ndarray, "L K"], token: int) -> Float[np.ndarray, "L K"]:
        return rows[np.searchsorted(vocabulary, candidates)] @ rows[vocabulary.searchsorted(token)]

    return compare


def phoneme_distance(asr: Recogniser, tokens: Iterable[int], code: str) -> Compare:
    """Returns a function that compares tokens by phoneme error rate.

    The rate is NaN if a token has no phonemes, and always if espeak-ng is not installed.

    Args:
        asr: the model.
        tokens: ids of all tokens that the function will be called with.
        code: language code, such as "en".
    """
    if not espeak_installed():
        return lambda candidates, token: np.full(candidates.shape, np.nan)
    vocabulary = sorted({int(token) for token in tokens})
    texts = [asr.tokenizer.token_texts([token])[0].strip() for token in vocabulary]
    sounds = dict(zip(vocabulary, phonemes(texts, code)))

    def rate(candidate: int, token: int) -> float:
        candidate_sounds, token_sounds = sounds[candidate], sounds[token]
        if not candidate_sounds or not token_sounds:
            return np.nan
        return phoneme_error_rate(candidate_sounds, token_sounds)

    def compare(candidates: Int[np.ndarray, "L K"], token: int) -> Float[np.ndarray, "L K"]:
        return np.array(
            [[rate(int(candidate), int(token)) for candidate in row] for row in candidates]
        )

    return compare
