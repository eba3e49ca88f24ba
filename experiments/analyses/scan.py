"""Analyses one recording: its sentences, and the heads that its text depends on."""

import dataclasses
import itertools
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from experiments.analyses.lens import Transcription
from experiments.pages import lens_page as pages
from experiments.pages.lens_page import LensPage
from interventions.edits import AtCell, Zero
from interventions.generation import text_logprobs
from interventions.storage.text_files import to_json_types
from jaxasr import Recogniser
from jaxasr.transcript import Word

SITE = "decoder.cross_attn.z"  # the output of every cross-attention head
METHOD = (
    "One cross-attention head at a time is ablated: its output z is set to zero at every position, "
    "and the decoder scores the same text again. The numbers are the exact changes of the text's "
    "log-probability (nats), under the rules with which it was generated."
)
LISTED_HEADS = 8  # number of heads that the page lists, beginning with the largest decrease
_PAUSE_S = 0.5  # shortest pause, in seconds, that ends a segment
_SENTENCE_END = re.compile(r"[.?!。？！]['\")\]]*$")
_UNSURE = 0.5  # the page marks words whose probability is lower


@dataclasses.dataclass(frozen=True)
class Segment:
    """A sentence, or a part of a sentence between long pauses.

    Attributes:
        start: start of the first word in seconds.
        end: end of the last word in seconds.
        probability: mean probability of the words.
        words: the words.
    """

    start: float
    end: float
    probability: float
    words: tuple[Word, ...]

    @property
    def text(self) -> str:
        """The text of the words."""
        return "".join(word.text for word in self.words).strip()


def segments(words: Sequence[Word]) -> list[Segment]:
    """Cuts words into segments, at the ends of sentences and at pauses of at least 0.5 s.

    Example:
        >>> words = [Word(" Yes.", 0.0, 0.4, 1.0, (1,)), Word(" No", 0.5, 0.9, 1.0, (2,))]
        >>> [segment.text for segment in segments(words)]
        ['Yes.', 'No']
    """
    pairs = enumerate(itertools.pairwise(words), start=1)
    cuts = [
        i
        for i, (word, following) in pairs
        if _SENTENCE_END.search(word.text) or following.start - word.end >= _PAUSE_S
    ]
    bounds = [0, *cuts, len(words)] if words else []
    return [_make_segment(tuple(words[a:b])) for a, b in itertools.pairwise(bounds)]


def _make_segment(words: tuple[Word, ...]) -> Segment:
    probability = float(np.mean([word.probability for word in words]))
    return Segment(words[0].start, words[-1].end, probability, words)


@dataclasses.dataclass(frozen=True)
class HeadEffects:
    """Changes of the text's log-probability when one cross-attention head is ablated.

    Attributes:
        change: change for the whole text by layer and head, in nats.
        token_changes: change for each token, in nats.
    """

    change: Float[np.ndarray, "L H"]
    token_changes: Float[np.ndarray, "L H T"]

    def order(self) -> list[tuple[int, int]]:
        """Returns (layer, head) of every head. The head with the largest decrease is first.

        Example:
            >>> HeadEffects(np.array([[-0.1, -2.0]]), np.zeros((1, 2, 0))).order()
            [(0, 1), (0, 0)]
        """
        ranking = np.argsort(self.change.ravel(), kind="stable")
        layers, heads = np.unravel_index(ranking, self.change.shape)
        return [(int(layer), int(head)) for layer, head in zip(layers, heads)]


def head_effects(asr: Recogniser, transcription: Transcription) -> HeadEffects:
    """Ablates one cross-attention head at a time, and computes how the text's score changes.

    Example:
        ```python
        effects = head_effects(asr, transcribe_window(asr, audio, Progress()))
        ```
    """
    n_layer, n_head = asr.config.n_text_layer, asr.config.n_text_head
    layers, heads = (axis.ravel().astype(np.int32) for axis in np.mgrid[:n_layer, :n_head])
    # The last cell is the baseline. Its layer does not exist, so that nothing is edited.
    cells = {"layer": np.append(layers, np.int32(n_layer)), "head": np.append(heads, np.int32(0))}
    n_prompt, n = len(transcription.prompt), len(transcription.ids)
    logprobs = text_logprobs(
        asr.model,
        transcription.run,
        cells,
        edits_of=AtCell(Zero(), SITE),
        rules=transcription.rules,
        prompt_len=n_prompt,
    )[:, 0, n_prompt - 1 : n_prompt - 1 + n]  # position t scores token t + 1
    change = (logprobs[:-1] - logprobs[-1]).reshape(n_layer, n_head, n)
    return HeadEffects(change.sum(-1), change)


def render(page: LensPage, heads: HeadEffects) -> str:
    """Renders the page of a scan, which is a lens page with segments and heads."""
    # The shades of the cells are relative to the largest decrease. The bound prevents 0 / 0.
    largest_decrease = float(max(-heads.change.min(initial=0.0), 1e-9))
    cells = [
        [
            {"text": _format_signed(value), "shade": _choose_shade(-value / largest_decrease)}
            for value in row
        ]
        for row in heads.change
    ]
    more = {
        "segments": segments(page.words),
        "unsure": _UNSURE,
        "method": METHOD,
        "cells": cells,
        "heads": _list_heads(page, heads),
    }
    return pages.render(page, "scan.html", **more)


def _format_signed(value: float) -> str:
    return f"{round(float(value), 1) + 0.0:+.1f}"  # adding 0.0 turns -0.0 into 0.0


def _choose_shade(share: float) -> int:
    """Returns the index of the shade for a share of the largest decrease."""
    return min(int(max(share, 0.0) * pages.SHADES), pages.SHADES - 1)


def _list_heads(page: LensPage, heads: HeadEffects, n: int = LISTED_HEADS) -> list[dict[str, Any]]:
    """Lists the heads with the largest decreases, each with the three words that decrease most."""
    rows = []
    for layer, head in heads.order()[:n]:
        word_change = _sum_by_word(page.words, heads.token_changes[layer, head])
        worst = [i for i in np.argsort(word_change, kind="stable")[:3] if word_change[i] < 0]
        words = [
            {
                "word": page.words[i].text.strip(),
                "start": page.words[i].start,
                "change": float(word_change[i]),
            }
            for i in worst
        ]
        rows.append(
            {
                "layer": layer,
                "head": head,
                "change": float(heads.change[layer, head]),
                "words": words,
            }
        )
    return rows


def _sum_by_word(words: Sequence[Word], changes: Float[np.ndarray, "T"]) -> Float[np.ndarray, "W"]:
    # `split` at the end of every word also returns the rest after the last word.
    ends = np.cumsum([len(word.tokens) for word in words], dtype=int)
    return np.array([part.sum() for part in np.split(changes, ends)[: len(words)]])


def summary(page: LensPage, heads: HeadEffects) -> dict[str, Any]:
    """Returns the content of scan.json, which has the numbers of the page."""
    probabilities = [word.probability for word in page.words]
    return pages.summary(page) | to_json_types(
        {
            "segments": [
                {key: getattr(segment, key) for key in ("start", "end", "probability", "text")}
                for segment in segments(page.words)
            ],
            "confidence": {"mean": np.mean(probabilities), "lowest": min(probabilities)}
            if probabilities
            else None,
            "heads": {
                "site": SITE,
                "method": METHOD,
                "change": heads.change,
                "largest": _list_heads(page, heads),
            },
        }
    )
