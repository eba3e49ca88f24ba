"""Distinguishes types of loops by the attention of the decoder.

In an acoustic loop, cross-attention stands still, so that the decoder reads the same frames again.
In an induction loop, a self-attention head attends to the tokens that followed earlier copies of
the text, so that the decoder copies them. Both numbers come from one pass over the generated text.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

import jaxasr
from experiments.data.corpora import Utterance
from experiments.studies.loops.mining import prompt_of
from experiments.studies.selection import first_window
from interventions.generation.transcripts import Repeat, longest_loop, longest_repeat
from jaxasr import Recogniser
from jaxasr.config import FRAMES_PER_S

TYPES = ("acoustic", "induction", "both", "neither")
# The thresholds lie between loops and clean speech. In 12 clean texts of tiny.en, the frame moves
# 0.16 s per token or more, and the excess is at most 0.22. In 37 of 38 loops of tiny.en, the frame
# does not move, and the excess is 0.39 or more.
MOST_MOVEMENT = 0.02  # seconds per token, up to which the attended frame stands still
LEAST_COPYING = 0.3  # excess of attention from which a head copies
_SITES = ("decoder.cross_attn.pattern", "decoder.attn.pattern")
_LONGEST_PERIOD = 32  # tokens; the mass that clean speech has at longer distances is taken as 0


@dataclasses.dataclass(frozen=True)
class TextAttention:
    """Attention of the decoder while it generates a text.

    Attributes:
        frames: attended encoder frame per token, the maximum of the mean over alignment heads.
        self_attention: weights per layer, head, query and key. Queries and keys are the tokens of
            the text. Query t predicts token t + 1.
    """

    frames: Int[np.ndarray, "T"]
    self_attention: Float[np.ndarray, "L H T T"]


def read_attention(
    asr: Recogniser, clip: Utterance, ids: Sequence[int], max_new_tokens: int = 224
) -> TextAttention:
    """Captures the attention for the first tokens of a generated text, in one pass.

    Args:
        asr: the model.
        clip: the recording, with or without the label `prompt`.
        ids: the generated tokens.
        max_new_tokens: number of tokens to read.
    """
    prompt, ids = prompt_of(asr, clip), list(ids)[:max_new_tokens]
    memory, _ = asr.model.encode(jaxasr.log_mel(first_window(clip), asr.config.n_mels)[None])
    tokens = np.asarray([[*prompt, *ids]], np.int32)
    _, acts = asr.model.decode(tokens, memory, readout=jaxasr.select(*_SITES))
    cross, own = (np.asarray(acts[site])[:, 0] for site in _SITES)
    layers, heads = zip(*asr.alignment_heads)
    text = slice(len(prompt), None)
    # The query before a token predicts it, so frames belong to the tokens they are read for.
    queries = slice(len(prompt) - 1, len(prompt) + len(ids) - 1)
    return TextAttention(
        cross[list(layers), list(heads), queries].mean(0).argmax(-1), own[:, :, text, text]
    )


def find_loop(ids: Sequence[int]) -> tuple[int, Repeat]:
    """Finds the position of the first token of a loop, and its n-gram.

    If no n-gram is a loop, the longest repetition is returned.

    Example:
        >>> find_loop([9, 1, 2, 1, 2, 1, 2, 1, 2])
        (1, Repeat(n=2, k=4))
    """
    ids = [int(id_) for id_ in ids]
    loop = longest_loop(ids)
    loop = loop if loop.k else longest_repeat(ids)
    starts = range(len(ids) - loop.span + 1)
    copies = (i for i in starts if ids[i : i + loop.span] == ids[i : i + loop.n] * loop.k)
    return next(copies), loop


def movement(frames: Int[np.ndarray, "T"], n: int) -> float:
    """Returns how far the attended frame moves per token, in seconds.

    Args:
        frames: attended frame per token.
        n: period of the loop in tokens. The frame is compared with that of n tokens before.

    Returns:
        The median distance divided by n; NaN if the text is not longer than the period.

    Example:
        >>> movement(np.arange(0, 100, 10), n=2), movement(np.array([5, 9] * 4), n=2)
        (0.2, 0.0)
    """
    if not 0 < n < len(frames):
        return float("nan")
    return float(np.median(np.abs(frames[n:] - frames[:-n]))) / n / FRAMES_PER_S


def copied_mass(self_attention: Float[np.ndarray, "L H T T"], n: int) -> Float[np.ndarray, "L H"]:
    """Returns the attention on the tokens that followed earlier copies, per head.

    Args:
        self_attention: weights per layer, head, query and key, for the tokens of a loop.
        n: period of the loop in tokens.

    Returns:
        The mean over queries of the weights at distances n - 1, 2n - 1, and so on. NaN if the text
        is shorter than the period.

    Example:
        >>> weights = np.zeros((1, 1, 6, 6))
        >>> weights[0, 0, range(2, 6), range(4)] = 1  # attends to 2 tokens before
        >>> copied_mass(weights, n=3).tolist(), copied_mass(weights, n=2).tolist()
        ([[1.0]], [[0.0]])
    """
    size = self_attention.shape[-1]
    queries = np.arange(n - 1, size)
    if not len(queries):
        return np.full(self_attention.shape[:2], np.nan)
    distances = np.subtract.outer(np.arange(size), np.arange(size))  # [query, key]
    follows_copy = (distances >= 0) & ((distances + 1) % n == 0)
    return (self_attention * follows_copy).sum(-1)[:, :, queries].mean(-1)


def normal_mass(clean: Sequence[Float[np.ndarray, "L H T T"]], n: int) -> Float[np.ndarray, "L H"]:
    """Returns the mean of `copied_mass` over texts of clean speech, which have no copies.

    A head that always attends to the token before has mass at a distance of 1, with or without a
    loop. Texts shorter than the period are left out; 0 if all are.
    """
    masses = [copied_mass(weights, n) for weights in clean if weights.shape[-1] >= n + 4]
    return np.mean(masses, 0) if masses and n <= _LONGEST_PERIOD else np.zeros(clean[0].shape[:2])


def measure_type(
    attention: TextAttention, ids: Sequence[int], clean: Sequence[TextAttention]
) -> dict[str, float]:
    """Measures the two numbers that decide about the type of a loop.

    Args:
        attention: attention while the loop is generated.
        ids: the generated tokens, as many as in `attention`.
        clean: attention while texts of clean speech are generated.

    Returns:
        `period` in tokens, `movement` of the attended frame in seconds per token, and `copying`:
        the largest `copied_mass` of any head above its value for clean speech.
    """
    start, loop = find_loop(ids)
    part = slice(start, start + loop.span)
    mass = copied_mass(attention.self_attention[:, :, part, part], loop.n)
    excess = mass - normal_mass([text.self_attention for text in clean], loop.n)
    return {
        "period": float(loop.n),
        "movement": movement(attention.frames[part], loop.n),
        "copying": float(excess.max()),
    }


def type_of(movement: float, copying: float) -> str:
    """Returns the type of a loop from the numbers of `measure_type`.

    Args:
        movement: movement of the attended frame in seconds per token.
        copying: attention on the tokens that followed earlier copies, above that of clean speech.

    Returns:
        One of `TYPES`: "acoustic" if the frame stands still, "induction" if the decoder copies.

    Example:
        >>> type_of(0.0, 0.1), type_of(0.2, 0.6)
        ('acoustic', 'induction')
    """
    stands_still, copies = movement <= MOST_MOVEMENT, copying >= LEAST_COPYING
    if stands_still and copies:
        return "both"
    return "acoustic" if stands_still else "induction" if copies else "neither"
