"""Word times: the path that dynamic time warping finds through the cross-attention of heads that follow the speech.

Source: openai/whisper `timing.py`, without its rules of thumb that shorten words after pauses.
"""

import functools
import itertools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxasr import compiled
from jaxasr.alignment.released_heads import Heads, check_heads
from jaxasr.audio import frame_to_seconds
from jaxasr.cache import Memory
from jaxasr.model import Whisper
from jaxasr.taps import Edits, select
from jaxasr.tokenizer import Tokenizer
from jaxasr.transcript import Word

_BUCKET = 32  # tokens are padded to a multiple of this, so that few programs are compiled
_MEDIAN_WIDTH = 7  # frames
_PREPENDED = "\"'“¿([{-"
_APPENDED = "\"'.。,，!！?？:：”)]}、"
_CROSS = "decoder.cross_attn."
# Edits of these change the pattern in ways that the queries do not show.
_BEYOND_QUERIES = {_CROSS + site for site in ("k", "scores", "pattern")}


def align(
    model: Whisper,
    tokenizer: Tokenizer,
    memory: Memory,
    texts: Sequence[Sequence[int]],
    n_frames: Sequence[int],
    *,
    heads: Heads,
    language: str | None = None,
    task: str = "transcribe",
    edits: Edits | None = None,
    late_start: bool = False,
) -> list[list[Word]]:
    """When each word of `texts` was said: for every row of `memory` its words, with times in seconds from the start of the window.

    Args:
        model: the recogniser.
        tokenizer: its tokenizer.
        memory: of B windows.
        texts: B lists of text ids; control tokens and timestamps are left out.
        n_frames: B true lengths in encoder frames of 20 ms: attention to the padding after them does not count.
        heads: (layer, head) pairs, see `jaxasr.alignment.released_heads`.
        language: as in the prompt that the texts were written after.
        task: likewise.
        edits: of the decoder, in force while the texts are read.
        late_start: whether the first word may begin later than the window, after silence for example. If not, it begins
            at the first frame, as in openai/whisper and faster-whisper.

    Raises:
        ValueError: as many texts and lengths as windows are needed; a text too long for the context; a length outside the window;
            attention that is NaN.
    """
    texts, start = _read_as(tokenizer, texts, language, task)
    _check(model, heads, memory, texts, n_frames, len(start))
    if not any(texts):
        return [[] for _ in texts]
    scores, probabilities = _read(
        model, texts, start, tokenizer.special.eot, memory, edits or {}, heads
    )
    find = functools.partial(
        _words, tokenizer, language=language, n_start=len(start), late_start=late_start
    )
    return [
        find(ids, scores[:, row, : len(start) + len(ids) + 1, : n_frames[row]], probabilities[row])
        for row, ids in enumerate(texts)
    ]


def path_scores(
    model: Whisper,
    tokenizer: Tokenizer,
    memory: Memory,
    texts: Sequence[Sequence[int]],
    n_frames: Sequence[int],
    *,
    heads: Heads,
    language: str | None = None,
) -> Float[np.ndarray, "B N"]:
    """Returns how well each head alone follows the speech in each window; needs no reference times.

    The score of a head is the mean of its alignment matrix along the path that dynamic time warping finds through it.
    The matrix is standardised over tokens and the path moves forward only, so the score is high for a head that is
    concentrated on few frames, on different frames for different tokens, and in the order of the tokens.
    Takes the arguments of `align`; no text may be empty.
    """
    texts, start = _read_as(tokenizer, texts, language)
    _check(model, heads, memory, texts, n_frames, len(start))
    if not all(texts):
        raise ValueError(
            "texts: expected at least one text token in each window, got an empty text. Leave its window out."
        )
    scores, _ = _read(model, texts, start, tokenizer.special.eot, memory, {}, heads)
    return np.array(
        [
            [
                _path_score(
                    scores[[head], row, : len(start) + len(ids) + 1, : n_frames[row]], len(start)
                )
                for head in range(len(heads))
            ]
            for row, ids in enumerate(texts)
        ]
    )


def _path_score(scores: Float[np.ndarray, "1 T S"], n_start: int) -> float:
    matrix = alignment_matrix(scores)[
        n_start - 1 : -1
    ]  # from <|notimestamps|>, which predicts the first token, to the last token
    return float(matrix[dtw(-matrix)].mean())


def _read_as(
    tokenizer: Tokenizer,
    texts: Sequence[Sequence[int]],
    language: str | None,
    task: str = "transcribe",
) -> tuple[list[list[int]], list[int]]:
    """Texts without control tokens and timestamps, and the prompt before each of them."""
    start = [*tokenizer.sot_sequence(language, task), tokenizer.special.no_timestamps]
    return [[int(i) for i in ids if i < tokenizer.special.eot] for ids in texts], start


def _check(
    model: Whisper,
    heads: Heads,
    memory: Memory,
    texts: list[list[int]],
    n_frames: Sequence[int],
    n_start: int,
) -> None:
    check_heads(model.config, heads)
    batch, context = memory.xa.shape[0], model.config.n_text_ctx
    if not len(texts) == len(n_frames) == batch:
        raise ValueError(
            f"texts, n_frames: expected {batch} of each, one a window of memory, got {len(texts)} and {len(n_frames)}."
        )
    bad = [n for n in n_frames if not 0 < n <= model.config.n_audio_ctx]
    if bad:
        raise ValueError(
            f"n_frames: expected 1 to {model.config.n_audio_ctx} encoder frames, got {bad[0]}."
        )
    room, longest = context - n_start - 1, max(map(len, texts))
    if longest > room:
        raise ValueError(
            f"texts: expected at most {room} tokens, so that they fit the context, got {longest}. Split the text."
        )


def _padded(rows: list[list[int]], filler: int, context: int) -> Int[np.ndarray, "B T"]:
    longest = max(map(len, rows))
    width = min(context, -(-longest // _BUCKET) * _BUCKET)
    return np.array([row + [filler] * (width - len(row)) for row in rows], np.int32)


def _read(
    model: Whisper,
    texts: list[list[int]],
    start: list[int],
    eot: int,
    memory: Memory,
    edits: Edits,
    heads: Heads,
) -> tuple[Float[np.ndarray, "N B T S"], Float[np.ndarray, "B T"]]:
    """Attention scores of the N heads, and the probability of every token after those before it."""
    tokens = _padded([start + ids + [eot] for ids in texts], eot, model.config.n_text_ctx)
    # The queries and the keys that memory holds make the scores of any head: nothing as large as a pattern leaves the layer scan.
    site = _CROSS + ("pattern" if _BEYOND_QUERIES & set(edits) else "q")
    logits, acts = model.decode(jnp.asarray(tokens), memory, edits=edits, readout=select(site))
    k = memory.stacked().k
    outputs = compiled.call(
        _of_heads, logits, jnp.asarray(tokens), acts[site], k, heads=heads, eot=eot, site=site
    )
    scores, probabilities = jax.device_get(outputs)
    if np.isnan(scores).any():
        raise ValueError(
            "align: expected finite attention scores, got NaN. Check the edits and the memory."
        )
    return scores, probabilities


def _of_heads(
    logits: Float[Array, "B T V"],
    tokens: Int[Array, "B T"],
    acts: Array,
    k: Array,
    *,
    heads: Heads,
    eot: int,
    site: str,
) -> tuple[Array, Array]:
    layer, head = np.array(heads).T
    if site.endswith("pattern"):
        scores = jnp.log(jnp.maximum(acts[layer, :, head].astype(jnp.float32), 1e-30))
    else:
        q, keys = acts[layer, :, :, head].astype(jnp.float32), k[layer, :, head].astype(jnp.float32)
        scores = jnp.einsum("nbtd,nbsd->nbts", q * q.shape[-1] ** -0.5, keys, precision="highest")
    chances = jax.nn.softmax(
        logits[:, :-1, :eot], axis=-1
    )  # among text tokens, as the reference has it
    following = jnp.minimum(tokens[:, 1:], eot - 1)[..., None]
    return scores, jnp.take_along_axis(chances, following, axis=-1)[..., 0]


def _words(
    tokenizer: Tokenizer,
    ids: list[int],
    scores: Float[np.ndarray, "N T S"],
    probabilities: Float[np.ndarray, "T"],
    *,
    n_start: int,
    language: str | None,
    late_start: bool,
) -> list[Word]:
    words = tokenizer.split_words(ids, language)
    if not words:
        return []
    # From <|notimestamps|>, which predicts the first token, to the last token.
    matrix = alignment_matrix(scores)
    before = matrix[: n_start - 1].max(0, keepdims=True)[
        : int(late_start)
    ]  # the rest of the prompt attends to what precedes the text
    rows, columns = dtw(-np.concatenate([before, matrix[n_start - 1 : -1]]))
    times = frame_to_seconds(
        columns[np.flatnonzero(np.diff(rows, prepend=-1))][len(before) :]
    )  # each row's first frame on the path
    bounds = list(itertools.accumulate((len(tokens) for _, tokens in words), initial=0))
    chances = probabilities[n_start - 1 :]
    timed = [
        Word(text, float(times[i]), float(times[j]), float(chances[i:j].mean()), tuple(tokens))
        for (text, tokens), (i, j) in zip(words, itertools.pairwise(bounds))
    ]
    return merge_punctuation(timed)


def alignment_matrix(scores: Float[np.ndarray, "N T S"]) -> Float[np.ndarray, "T S"]:
    """Mean over heads of the attention to the true frames, standardised over tokens and median-filtered over 7 frames."""
    from scipy.ndimage import median_filter

    weights = np.exp(scores - scores.max(-1, keepdims=True), dtype=np.float64)
    weights /= weights.sum(-1, keepdims=True)
    weights = (weights - weights.mean(1, keepdims=True)) / np.maximum(
        weights.std(1, keepdims=True), 1e-30
    )
    if scores.shape[-1] > _MEDIAN_WIDTH // 2:
        weights = median_filter(weights, size=(1, 1, _MEDIAN_WIDTH), mode="mirror")
    return weights.mean(0)


def dtw(cost: Float[np.ndarray, "T S"]) -> tuple[Int[np.ndarray, "P"], Int[np.ndarray, "P"]]:
    """The cheapest path from the first cell to the last by steps down, right or both: its rows and its columns."""
    n, m = cost.shape
    total = np.full((n + 1, m + 1), np.inf)
    total[0, 0] = 0
    for i, row in enumerate(cost, start=1):
        # total[j] = row[j] + min(enter[j], total[j - 1]) has a closed form: a running minimum between running sums.
        enter = np.minimum(total[i - 1, :-1], total[i - 1, 1:])
        sums = np.cumsum(row)
        total[i, 1:] = sums + np.minimum.accumulate(enter - (sums - row))
    path = [(n, m)]
    while path[-1] != (1, 1):
        path.append(_back(total, *path[-1]))
    rows, columns = np.array(path[::-1]).T - 1
    return rows, columns


def _back(total: np.ndarray, i: int, j: int) -> tuple[int, int]:
    both, down, right = total[i - 1, j - 1], total[i - 1, j], total[i, j - 1]
    if both < min(down, right):
        return i - 1, j - 1
    return (i - 1, j) if down < min(both, right) else (i, j - 1)


def merge_punctuation(words: Sequence[Word]) -> list[Word]:
    """Opening marks join the word after them, closing marks the one before; the word keeps its own times."""
    opened: list[Word] = []
    for word in reversed(words):
        if opened and word.text.startswith(" ") and word.text.strip() in _PREPENDED:
            opened[-1] = _joined(opened[-1], word, opened[-1])
        else:
            opened.append(word)
    closed: list[Word] = []
    for word in reversed(opened):
        if closed and not closed[-1].text.endswith(" ") and word.text in _APPENDED:
            closed[-1] = _joined(closed[-1], closed[-1], word)
        else:
            closed.append(word)
    return closed


def _joined(timed: Word, left: Word, right: Word) -> Word:
    return Word(
        left.text + right.text,
        timed.start,
        timed.end,
        timed.probability,
        left.tokens + right.tokens,
    )
