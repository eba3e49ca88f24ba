"""Finds word times from the cross-attention of heads that follow the speech.

Source: openai/whisper `timing.py`, except its heuristics that shorten words after pauses.
"""

import functools
import itertools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxasr import compiled
from jaxasr.alignment.punctuation import merge_punctuation
from jaxasr.alignment.released_heads import Heads, check_heads
from jaxasr.alignment.time_warping import alignment_matrix, dtw
from jaxasr.audio import frame_to_seconds
from jaxasr.cache import Memory
from jaxasr.model import Whisper
from jaxasr.taps import Edits, select
from jaxasr.tokenizer import Tokenizer
from jaxasr.transcript import Word

# Tokens are padded to a multiple of this number, so that few programs are compiled.
_PADDING_MULTIPLE = 32
_SITE_PREFIX = "decoder.cross_attn."
# Edits at these sites change the attention pattern, but not the queries.
_SITES_CHANGING_PATTERN = {_SITE_PREFIX + name for name in ("k", "scores", "pattern")}


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
    """Finds when each word of the given texts is spoken.

    Args:
        model: a Whisper, such as `asr.model`.
        tokenizer: the tokenizer of the same checkpoint, such as `asr.tokenizer`.
        memory: encoded audio of B windows.
        texts: B lists of token ids of all spoken words. Control tokens and timestamps are ignored.
        n_frames: B lengths in encoder frames of 20 ms. Later frames are padding and are ignored.
        heads: (layer, head) pairs of cross-attention heads, such as `asr.alignment_heads`.
        language: language of the prompt that precedes the texts. None: English.
        task: task of the prompt that precedes the texts.
        edits: edits of decoder sites, active while the decoder reads the texts.
        late_start: whether the first word may start after the first frame, for example after
            silence. False: it starts at the first frame, as in openai/whisper and faster-whisper.

    Returns:
        The words of each window, with times in seconds from the start of the window.

    Raises:
        ValueError: the numbers of texts, lengths and windows differ; a text is too long for the
            decoder's context; a length is below 1 or exceeds the window; attention is NaN.

    Example:
        ```python
        import jaxasr
        from jaxasr.alignment.words import align
        from jaxasr.audio import n_frames

        asr = jaxasr.load("tiny.en")
        audio = jaxasr.load_audio("experiments/assets/demo.flac")
        memory, _ = asr.model.encode(jaxasr.log_mel(audio, asr.config.n_mels)[None])
        ids = asr.tokenizer.encode(" " + asr.transcribe(audio).text)
        frames = n_frames(len(audio))
        heads = asr.alignment_heads
        [words] = align(asr.model, asr.tokenizer, memory, [ids], [frames], heads=heads)
        ```
    """
    texts, prompt = _prepare_texts(tokenizer, texts, language, task)
    _check_arguments(model, heads, memory, texts, n_frames, len(prompt))
    if not any(texts):
        return [[] for _ in texts]
    scores, probabilities = _compute_scores(
        model, texts, prompt, tokenizer.special.eot, memory, edits or {}, heads
    )
    find_words = functools.partial(
        _find_words, tokenizer, language=language, n_prompt=len(prompt), late_start=late_start
    )
    return [
        find_words(
            ids, _remove_padding(scores, row, len(prompt) + len(ids), n_frames), probabilities[row]
        )
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
    """Scores how well each single head follows the speech, without reference times.

    Dynamic time warping finds a path through the head's alignment matrix. The score is the mean of
    the matrix along this path. The matrix is standardised over tokens, and the path only moves
    forward. So the score is high if the head attends to few frames per token, to different frames
    for different tokens, and in the order of the tokens.

    Args:
        model: a Whisper, such as `asr.model`.
        tokenizer: the tokenizer of the same checkpoint, such as `asr.tokenizer`.
        memory: encoded audio of B windows.
        texts: B lists of token ids, each with at least one text token.
        n_frames: B lengths in encoder frames of 20 ms, without padding.
        heads: N (layer, head) pairs of cross-attention heads.
        language: language of the prompt. None: English.

    Raises:
        ValueError: a text is empty, or as in `align`.

    Example:
        ```python
        from jaxasr.alignment.words import path_scores

        ids, heads = asr.tokenizer.encode(" The captain read"), ((2, 0), (3, 1))
        path_scores(asr.model, asr.tokenizer, memory, [ids], [100], heads=heads)  # [1, 2]
        ```
    """
    texts, prompt = _prepare_texts(tokenizer, texts, language)
    _check_arguments(model, heads, memory, texts, n_frames, len(prompt))
    if not all(texts):
        raise ValueError(
            "texts: expected at least one text token in each window, got an empty text. "
            "Leave its window out."
        )
    scores, _ = _compute_scores(model, texts, prompt, tokenizer.special.eot, memory, {}, heads)
    rows = []
    for row, ids in enumerate(texts):
        window_scores = _remove_padding(scores, row, len(prompt) + len(ids), n_frames)
        rows.append([_score_path(window_scores[[head]], len(prompt)) for head in range(len(heads))])
    return np.array(rows)


def _remove_padding(
    scores: Float[np.ndarray, "N B T S"], row: int, n_tokens: int, n_frames: Sequence[int]
) -> Float[np.ndarray, "N Tr Sr"]:
    """Returns the scores of window `row` without padding tokens and without padding frames."""
    # There is one more row than tokens, because end-of-text follows them.
    return scores[:, row, : n_tokens + 1, : n_frames[row]]


def _score_path(scores: Float[np.ndarray, "1 T S"], n_prompt: int) -> float:
    matrix = alignment_matrix(scores)[n_prompt - 1 : -1]  # rows as in `_find_words`
    return float(matrix[dtw(-matrix)].mean())


def _prepare_texts(
    tokenizer: Tokenizer,
    texts: Sequence[Sequence[int]],
    language: str | None,
    task: str = "transcribe",
) -> tuple[list[list[int]], list[int]]:
    """Returns the text tokens of each window, and the prompt that precedes them."""
    prompt = [*tokenizer.sot_sequence(language, task), tokenizer.special.no_timestamps]
    return [[int(i) for i in ids if tokenizer.is_text(int(i))] for ids in texts], prompt


def _check_arguments(
    model: Whisper,
    heads: Heads,
    memory: Memory,
    texts: list[list[int]],
    n_frames: Sequence[int],
    n_prompt: int,
) -> None:
    check_heads(model.config, heads)
    batch, context = memory.xa.shape[0], model.config.n_text_ctx
    if not len(texts) == len(n_frames) == batch:
        raise ValueError(
            f"texts, n_frames: expected {batch} of each, one per window of memory, got "
            f"{len(texts)} and {len(n_frames)}."
        )
    invalid = [n for n in n_frames if not 0 < n <= model.config.n_audio_ctx]
    if invalid:
        raise ValueError(
            f"n_frames: expected 1 to {model.config.n_audio_ctx} encoder frames, got {invalid[0]}."
        )
    max_tokens, longest = context - n_prompt - 1, max(map(len, texts))
    if longest > max_tokens:
        raise ValueError(
            f"texts: expected at most {max_tokens} tokens, so that they fit the context, got "
            f"{longest}. Split the text."
        )


def _pad_rows(rows: list[list[int]], pad_id: int, context: int) -> Int[np.ndarray, "B T"]:
    longest = max(map(len, rows))
    width = min(context, -(-longest // _PADDING_MULTIPLE) * _PADDING_MULTIPLE)  # rounded up
    return np.array([row + [pad_id] * (width - len(row)) for row in rows], np.int32)


def _compute_scores(
    model: Whisper,
    texts: list[list[int]],
    prompt: list[int],
    eot: int,
    memory: Memory,
    edits: Edits,
    heads: Heads,
) -> tuple[Float[np.ndarray, "N B T S"], Float[np.ndarray, "B T"]]:
    """Returns attention scores of the heads, and the probability of each token after its prefix."""
    tokens = _pad_rows([prompt + ids + [eot] for ids in texts], eot, model.config.n_text_ctx)
    # The scores of a head are the products of its queries and the keys in `memory`. Attention
    # patterns are much larger than queries, so they are captured only if an edit changes them.
    site = _SITE_PREFIX + ("pattern" if _SITES_CHANGING_PATTERN & set(edits) else "q")
    logits, acts = model.decode(jnp.asarray(tokens), memory, edits=edits, readout=select(site))
    k = memory.stacked().k
    outputs = compiled.call(
        _score_heads, logits, jnp.asarray(tokens), acts[site], k, heads=heads, eot=eot, site=site
    )
    scores, probabilities = jax.device_get(outputs)
    if np.isnan(scores).any():
        raise ValueError(
            "align: expected finite attention scores, got NaN. Check the edits and the memory."
        )
    return scores, probabilities


def _score_heads(
    logits: Float[Array, "B T V"],
    tokens: Int[Array, "B T"],
    acts: Array,
    k: Array,
    *,
    heads: Heads,
    eot: int,
    site: str,
) -> tuple[Array, Array]:
    """Returns scores [N, B, T, S] of the heads and probabilities [B, T - 1] of the tokens."""
    layer, head = np.array(heads).T
    # A slice between the two index arrays moves the axis of the N heads to the front.
    if site.endswith("pattern"):
        # The softmax of log(pattern) is the pattern. 1e-30 stands for 0, whose log is infinite.
        scores = jnp.log(jnp.maximum(acts[layer, :, head].astype(jnp.float32), 1e-30))
    else:
        q, keys = acts[layer, :, :, head].astype(jnp.float32), k[layer, :, head].astype(jnp.float32)
        scores = jnp.einsum("nbtd,nbsd->nbts", q * q.shape[-1] ** -0.5, keys, precision="highest")
    # Probabilities are normalised over text tokens only, as in openai/whisper.
    probabilities = jax.nn.softmax(logits[:, :-1, :eot], axis=-1)
    # Control tokens become the last text token. Their probabilities are not used.
    next_tokens = jnp.minimum(tokens[:, 1:], eot - 1)[..., None]
    return scores, jnp.take_along_axis(probabilities, next_tokens, axis=-1)[..., 0]


def _find_words(
    tokenizer: Tokenizer,
    ids: list[int],
    scores: Float[np.ndarray, "N T S"],
    probabilities: Float[np.ndarray, "T"],
    *,
    n_prompt: int,
    language: str | None,
    late_start: bool,
) -> list[Word]:
    """Returns the words of one window with their times."""
    words = tokenizer.split_words(ids, language)
    if not words:
        return []
    matrix = alignment_matrix(scores)
    # The row of a token attends to the frames of the next token. So the rows of the text start at
    # <|notimestamps|>, which predicts the first text token, and exclude the row of end-of-text.
    text_rows = matrix[n_prompt - 1 : -1]
    # If the text may start late, one row of the prompt takes the frames before the text.
    prompt_rows = matrix[: n_prompt - 1].max(0, keepdims=True)[: int(late_start)]
    rows, columns = dtw(-np.concatenate([prompt_rows, text_rows]))
    # Where the row changes, the path enters the first frame of the next token.
    first_columns = columns[np.flatnonzero(np.diff(rows, prepend=-1))]
    times = frame_to_seconds(first_columns[len(prompt_rows) :])
    bounds = list(itertools.accumulate((len(tokens) for _, tokens in words), initial=0))
    token_probabilities = probabilities[n_prompt - 1 :]  # each belongs to the next token
    timed = [
        Word(
            text,
            float(times[i]),
            float(times[j]),
            float(token_probabilities[i:j].mean()),
            tuple(tokens),
        )
        for (text, tokens), (i, j) in zip(words, itertools.pairwise(bounds))
    ]
    return merge_punctuation(timed)
