"""A first look at one recording: its text with times and confidence, both lenses, and the heads that its text depends on."""

import dataclasses
import itertools
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from experiments.analyses.lens import Transcribed
from experiments.pages import lens_page as pages
from experiments.pages.lens_page import LensPage
from interventions.edits import AtCell, Zero
from interventions.generation import text_logprobs
from interventions.storage.text_files import plain
from jaxasr.transcript import Word

SITE = "decoder.cross_attn.z"
METHOD = (
    "Exact: the output z of one cross-attention head at a time is set to zero at every position, and the decoder reads the same text "
    "again. The number is the change of the text's log-probability (nats), under the rules it was generated with."
)
SHOWN = 8  # heads in the list
_PAUSE_S = 0.5
_SENTENCE = re.compile(r"[.?!。？！]['\")\]]*$")
_UNSURE = 0.5  # words below this probability are marked


@dataclasses.dataclass(frozen=True)
class Segment:
    """Words up to the end of a sentence or a pause. `start`, `end` in seconds; `probability`, the mean over its words."""

    start: float
    end: float
    probability: float
    words: tuple[Word, ...]

    @property
    def text(self) -> str:
        return "".join(word.text for word in self.words).strip()


def segments(words: Sequence[Word]) -> list[Segment]:
    """Cuts words after the end of a sentence and before a pause of at least half a second."""
    pairs = enumerate(itertools.pairwise(words), start=1)
    cuts = [
        i
        for i, (one, after) in pairs
        if _SENTENCE.search(one.text) or after.start - one.end >= _PAUSE_S
    ]
    bounds = [0, *cuts, len(words)] if words else []
    parts = [tuple(words[a:b]) for a, b in itertools.pairwise(bounds)]
    return [
        Segment(p[0].start, p[-1].end, float(np.mean([word.probability for word in p])), p)
        for p in parts
    ]


@dataclasses.dataclass(frozen=True)
class Heads:
    """Change of the text's log-probability without each cross-attention head: `change` [L, H] in nats, `tokens` [L, H, T] by token."""

    change: Float[np.ndarray, "L H"]
    tokens: Float[np.ndarray, "L H T"]

    def order(self) -> list[tuple[int, int]]:
        """Returns (layer, head) of every head, in the order of what its removal costs."""
        flat = np.argsort(self.change.ravel(), kind="stable")
        return [tuple(map(int, np.unravel_index(i, self.change.shape))) for i in flat]


def head_effects(asr: Any, known: Transcribed) -> Heads:
    """Computes how the log-probability of the text changes when one cross-attention head at a time is set to zero."""
    n_layer, n_head = asr.config.n_text_layer, asr.config.n_text_head
    layers, heads = (axis.ravel().astype(np.int32) for axis in np.mgrid[:n_layer, :n_head])
    cells = {
        "layer": np.append(layers, np.int32(n_layer)),
        "head": np.append(heads, np.int32(0)),
    }  # no layer has the last number
    first, n = len(known.prompt) - 1, len(known.generated.ids)
    options = {
        "edits_of": AtCell(Zero(), SITE),
        "rules": known.rules,
        "prompt_len": len(known.prompt),
    }
    found = text_logprobs(asr.model, known.run, cells, **options)[:, 0, first : first + n]
    change = (found[:-1] - found[-1]).reshape(n_layer, n_head, n)
    return Heads(change.sum(-1), change)


def render(page: LensPage, heads: Heads) -> str:
    """Renders the page of a scan: a lens page with the words, and the heads that the text depends on."""
    largest = float(max(-heads.change.min(initial=0.0), 1e-9))
    cells = [
        [{"text": _signed(value), "shade": _shade(-value / largest)} for value in row]
        for row in heads.change
    ]
    more = {
        "segments": segments(page.words),
        "unsure": _UNSURE,
        "method": METHOD,
        "cells": cells,
        "heads": _listed(page, heads),
    }
    return pages.render(page, "scan.html", **more)


def _signed(value: float) -> str:
    return f"{round(float(value), 1) + 0.0:+.1f}"  # + 0.0: no negative zero


def _shade(share: float) -> int:
    return min(int(max(share, 0.0) * pages.SHADES), pages.SHADES - 1)


def _listed(page: LensPage, heads: Heads, n: int = SHOWN) -> list[dict[str, Any]]:
    """The first heads of the order, each with the words that lose most without it."""
    rows = []
    for layer, head in heads.order()[:n]:
        lost = _of_words(page.words, heads.tokens[layer, head])
        worst = [i for i in np.argsort(lost, kind="stable")[:3] if lost[i] < 0]
        words = [
            {
                "word": page.words[i].text.strip(),
                "start": page.words[i].start,
                "change": float(lost[i]),
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


def _of_words(words: Sequence[Word], tokens: Float[np.ndarray, "T"]) -> Float[np.ndarray, "W"]:
    """Sums over the tokens of each word."""
    ends = np.cumsum([len(word.tokens) for word in words], dtype=int)
    return np.array([part.sum() for part in np.split(tokens, ends)[: len(words)]])


def summary(page: LensPage, heads: Heads) -> dict[str, Any]:
    """Returns the numbers of the page as plain values for JSON."""
    parts = [dataclasses.asdict(part) | {"text": part.text} for part in segments(page.words)]
    probabilities = [word.probability for word in page.words]
    return pages.summary(page) | plain(
        {
            "segments": [
                {key: part[key] for key in ("start", "end", "probability", "text")}
                for part in parts
            ],
            "confidence": {"mean": np.mean(probabilities), "lowest": min(probabilities)}
            if probabilities
            else None,
            "heads": {
                "site": SITE,
                "method": METHOD,
                "change": heads.change,
                "largest": _listed(page, heads),
            },
        }
    )
