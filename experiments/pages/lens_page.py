"""Renders both lenses of one recording as one HTML file. It opens from disk and needs no network.

Axis letters: L layers, T tokens, K candidates, M mel bins, F mel frames.
"""

import dataclasses
import itertools
import math
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from experiments.pages.data_uris import audio_uri, mel_uri
from experiments.pages.html_templates import environment, flat, policy, template
from experiments.pages.signs import Signs
from interventions.storage.text_files import to_json_types
from jaxasr.config import SAMPLE_RATE
from jaxasr.transcript import Word

SHADES = 10  # background colours of the table's cells, from LOWEST_LOGPROB to probability 1
LOWEST_LOGPROB = math.log(1e-3)  # natural log-probability of the palest cell
BLOCK_PX = 1290  # width of the page without the column of layer numbers; the table wraps there
_MIN_COLUMN_PX, _MAX_COLUMN_PX = 34, 92
_CHAR_PX, _MARGIN_PX = 7.4, 14  # one character of a cell, and its left and right margin together
_MAX_CANDIDATE_CHARS = 8  # further characters of a candidate do not widen its column


@dataclasses.dataclass(frozen=True)
class LogitTable:
    """Predictions of every decoder layer at every generated token.

    Attributes:
        tokens: texts of the generated tokens.
        times: start and end in seconds of each token's word, NaN if unknown.
        candidates: texts of the likeliest tokens, `[L][T][K]`.
        logprobs: natural-log probabilities of the candidates.
        rank: rank of the generated token, from 0.
        logprob: natural-log probability of the generated token.
        saturation: first layer from which the generated token stays the likeliest. L if it is not
            the likeliest in the last layer.
    """

    tokens: tuple[str, ...]
    times: Float[np.ndarray, "T 2"]
    candidates: tuple[tuple[tuple[str, ...], ...], ...]
    logprobs: Float[np.ndarray, "L T K"]
    rank: Int[np.ndarray, "L T"]
    logprob: Float[np.ndarray, "L T"]
    saturation: Int[np.ndarray, "T"]


@dataclasses.dataclass(frozen=True)
class EncoderRow:
    """Text that the decoder generates from one encoder layer.

    Attributes:
        text: the generated text.
        logprob: mean natural-log probability per token.
        category: kind of text, see `experiments.analyses.text_kinds`.
    """

    text: str
    logprob: float
    category: str


@dataclasses.dataclass(frozen=True)
class LensPage:
    """Content of a lens page.

    Attributes:
        model: name of the model.
        source: name of the recording.
        text: the generated text.
        language: code of the text's language.
        audio: at most 30 s at 16 kHz.
        mel: log-mel features of `audio`, without padding.
        logit: predictions of the decoder layers.
        encoder: text generated from each encoder layer.
        words: words of the text with their times.
        signs: signs that the text is not a transcript of speech.
        provenance: model, data, settings and versions that the page was made with.
    """

    model: str
    source: str
    text: str
    language: str
    audio: Float[np.ndarray, "n"]
    mel: Float[np.ndarray, "M F"]
    logit: LogitTable
    encoder: tuple[EncoderRow, ...]
    words: tuple[Word, ...]
    signs: Signs
    provenance: dict[str, Any]

    @property
    def seconds(self) -> float:
        """Length of the recording."""
        return len(self.audio) / SAMPLE_RATE


def render(page: LensPage, name: str = "lens.html", **more: Any) -> str:
    """Renders the page as one HTML file.

    All texts are escaped. A content security policy forbids the page to load anything, and allows
    only the script of `lens.js`.

    Args:
        page: content of the page.
        name: file name of the template, `lens.html` or one that extends it.
        more: further values for the template.
    """
    script, saturation = template("lens.js"), page.logit.saturation
    return (
        environment()
        .get_template(name)
        .render(
            **more,
            page=page,
            policy=policy(media=True, script=script),
            style=template("lens.css"),
            script=script,
            audio=audio_uri(page.audio),
            mel=mel_uri(page.mel),
            blocks=_blocks(page.logit),
            spans=_word_spans(page.logit),
            seconds_ticks=range(math.floor(page.seconds) + 1),
            data=to_json_types({**_card_values(page.logit), "seconds": page.seconds}),
            provenance=flat(page.provenance),
            shades=SHADES,
            mean_saturation=float(saturation.mean()) if len(saturation) else math.nan,
        )
    )


def summary(page: LensPage) -> dict[str, Any]:
    """Returns the content of the page as plain values, without sound and picture."""
    return to_json_types(
        {
            "model": page.model,
            "source": page.source,
            "seconds": page.seconds,
            "text": page.text,
            "language": page.language,
            "logit_lens": dataclasses.asdict(page.logit),
            "encoder_lens": [dataclasses.asdict(row) for row in page.encoder],
            "words": [dataclasses.asdict(word) for word in page.words],
            "signs": dataclasses.asdict(page.signs),
            "provenance": page.provenance,
        }
    )


def _blocks(table: LogitTable) -> list[dict[str, Any]]:
    """Cuts the table into blocks of similar width that fit the page."""
    widths = [_column_px(table, t) for t in range(len(table.tokens))]
    return [_block(table, tokens, widths) for tokens in _group_columns(widths)]


def _group_columns(widths: list[int]) -> list[list[int]]:
    """Groups columns into as few blocks as needed.

    The table is divided into equal parts, one per block. A column belongs to the part that contains
    the middle of the column.
    """
    n_blocks = math.ceil(sum(widths) / (BLOCK_PX - _MAX_COLUMN_PX))
    lefts = itertools.accumulate(widths, initial=0)
    middles = [left + width / 2 for left, width in zip(lefts, widths)]
    block_of_column = [int(middle * n_blocks / sum(widths)) for middle in middles]
    groups = itertools.groupby(range(len(widths)), key=block_of_column.__getitem__)
    return [list(columns) for _, columns in groups]


def _block(table: LogitTable, tokens: list[int], widths: list[int]) -> dict[str, Any]:
    return {
        "columns": [{"t": t, "token": table.tokens[t], "width": widths[t]} for t in tokens],
        "rows": [[_cell(table, layer, t) for t in tokens] for layer in range(len(table.rank))],
        "width": sum(widths[t] for t in tokens),
    }


def _column_px(table: LogitTable, t: int) -> int:
    likeliest = [layer[t][0] for layer in table.candidates]
    lengths = [min(len(candidate), _MAX_CANDIDATE_CHARS) for candidate in likeliest]
    chars = max(len(table.tokens[t]), *lengths, 0)
    return round(min(max(chars * _CHAR_PX + _MARGIN_PX, _MIN_COLUMN_PX), _MAX_COLUMN_PX))


def _cell(table: LogitTable, layer: int, t: int) -> dict[str, Any]:
    return {
        "t": t,
        "text": table.candidates[layer][t][0],
        "shade": _choose_shade(table.logprobs[layer, t, 0]),
        "saturated": table.saturation[t] == layer,
        "final": table.rank[layer, t] == 0,
    }


def _choose_shade(logprob: float) -> int:
    share = 1 - min(max(float(logprob), LOWEST_LOGPROB), 0) / LOWEST_LOGPROB
    return min(int(share * SHADES), SHADES - 1)


def _word_spans(table: LogitTable) -> list[dict[str, Any]]:
    """Groups the tokens of each word, which have the same times, into one span of the audio."""
    spans = []
    times = [tuple(map(float, time)) for time in table.times]
    for (start, end), group in itertools.groupby(range(len(times)), key=times.__getitem__):
        if math.isfinite(start) and math.isfinite(end):
            tokens = list(group)
            text = "".join(table.tokens[t] for t in tokens)
            first, last = tokens[0], tokens[-1]
            spans.append({"first": first, "last": last, "start": start, "end": end, "text": text})
    return spans


def _card_values(table: LogitTable) -> dict[str, Any]:
    """Returns the values that the script shows on the card of a cell."""
    return {
        "tokens": table.tokens,
        "times": np.round(np.asarray(table.times, float), 3),
        "top": table.candidates,
        "percent": np.round(100 * np.exp(np.asarray(table.logprobs, float)), 2),
        "rank": table.rank,
        "token_percent": np.round(100 * np.exp(np.asarray(table.logprob, float)), 4),
    }
