"""Renders the logit lens and the encoder lens of a recording as one HTML file.

The page contains its sound, picture and script, so it needs no other file and no network.

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

SHADES = 10  # number of background colours of cells, for probabilities from 0.001 to 1
LOWEST_LOGPROB = math.log(1e-3)  # natural log-probability; cells with less have the palest colour
# Lengths in pixels.
BLOCK_PX = 1290  # width of the page without the column of layer numbers; a longer table is cut
_MIN_COLUMN_PX, _MAX_COLUMN_PX = 34, 92
_CHAR_PX = 7.4  # width of a character in a cell
_MARGIN_PX = 14  # left and right margin of a cell together
_MAX_CANDIDATE_CHARS = 8  # only the first 8 characters of a candidate widen its column


@dataclasses.dataclass(frozen=True)
class LogitTable:
    """Predictions of every decoder layer at every generated token.

    Attributes:
        tokens: texts of the generated tokens.
        times: start and end in seconds of the word that a token belongs to, NaN if unknown.
        candidates: texts of the K likeliest tokens, `[L][T][K]`.
        logprobs: natural-log probabilities of the candidates.
        rank: rank of the generated token among all tokens. 0 is the likeliest.
        logprob: natural-log probability of the generated token.
        saturation: the first layer such that the generated token is the likeliest in this layer and
            in all later ones. L if the token is not the likeliest in the last layer.
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
        category: kind of text, such as "loop", from `experiments.analyses.text_kinds`.
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
        logit: the logit lens, predictions of the decoder layers.
        encoder: the encoder lens, the text generated from each encoder layer.
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
        """Length of `audio`."""
        return len(self.audio) / SAMPLE_RATE


def render(page: LensPage, name: str = "lens.html", **more: Any) -> str:
    """Renders the page as one HTML file.

    All texts are escaped. A content security policy forbids the page to load anything, and allows
    only the script of `lens.js`.

    Args:
        page: content of the page.
        name: file name of the template, `lens.html` or one that extends it.
        more: further values that the template needs.
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
            blocks=_cut_into_blocks(page.logit),
            spans=_group_word_spans(page.logit),
            seconds_ticks=range(math.floor(page.seconds) + 1),
            data=to_json_types({**_collect_card_values(page.logit), "seconds": page.seconds}),
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


def _cut_into_blocks(table: LogitTable) -> list[dict[str, Any]]:
    """Cuts the table into blocks of similar width, because a wider one would not fit the page."""
    widths = [_measure_column(table, t) for t in range(len(table.tokens))]
    return [_make_block(table, tokens, widths) for tokens in _group_columns(widths)]


def _group_columns(widths: list[int]) -> list[list[int]]:
    """Groups columns into as few blocks as needed.

    The table is divided into parts of equal width, one per block. A column belongs to the part that
    contains the middle of the column.
    """
    # A block may be wider than its part by half a column at both ends. So parts are narrower than
    # the page by the largest width of a column.
    n_blocks = math.ceil(sum(widths) / (BLOCK_PX - _MAX_COLUMN_PX))
    lefts = itertools.accumulate(widths, initial=0)
    middles = [left + width / 2 for left, width in zip(lefts, widths)]
    block_of_column = [int(middle * n_blocks / sum(widths)) for middle in middles]
    groups = itertools.groupby(range(len(widths)), key=block_of_column.__getitem__)
    return [list(columns) for _, columns in groups]


def _make_block(table: LogitTable, tokens: list[int], widths: list[int]) -> dict[str, Any]:
    return {
        "columns": [{"t": t, "token": table.tokens[t], "width": widths[t]} for t in tokens],
        "rows": [[_make_cell(table, layer, t) for t in tokens] for layer in range(len(table.rank))],
        "width": sum(widths[t] for t in tokens),
    }


def _measure_column(table: LogitTable, t: int) -> int:
    likeliest = [layer[t][0] for layer in table.candidates]
    lengths = [min(len(candidate), _MAX_CANDIDATE_CHARS) for candidate in likeliest]
    chars = max(len(table.tokens[t]), *lengths, 0)
    return round(min(max(chars * _CHAR_PX + _MARGIN_PX, _MIN_COLUMN_PX), _MAX_COLUMN_PX))


def _make_cell(table: LogitTable, layer: int, t: int) -> dict[str, Any]:
    return {
        "t": t,
        "text": table.candidates[layer][t][0],
        "shade": _choose_shade(table.logprobs[layer, t, 0]),
        "saturated": table.saturation[t] == layer,
        "final": table.rank[layer, t] == 0,
    }


def _choose_shade(logprob: float) -> int:
    """Returns the number of a cell's colour, from 0 (palest) to `SHADES - 1`."""
    share = 1 - min(max(float(logprob), LOWEST_LOGPROB), 0) / LOWEST_LOGPROB
    return min(int(share * SHADES), SHADES - 1)


def _group_word_spans(table: LogitTable) -> list[dict[str, Any]]:
    """Groups consecutive tokens with the same times, because these form one word."""
    spans = []
    times = [tuple(map(float, time)) for time in table.times]
    for (start, end), group in itertools.groupby(range(len(times)), key=times.__getitem__):
        if math.isfinite(start) and math.isfinite(end):
            tokens = list(group)
            text = "".join(table.tokens[t] for t in tokens)
            first, last = tokens[0], tokens[-1]
            spans.append({"first": first, "last": last, "start": start, "end": end, "text": text})
    return spans


def _collect_card_values(table: LogitTable) -> dict[str, Any]:
    """Returns the values that lens.js shows when the mouse points at a cell."""
    return {
        "tokens": table.tokens,
        "times": np.round(np.asarray(table.times, float), 3),
        "top": table.candidates,
        "percent": np.round(100 * np.exp(np.asarray(table.logprobs, float)), 2),
        "rank": table.rank,
        "token_percent": np.round(100 * np.exp(np.asarray(table.logprob, float)), 4),
    }
